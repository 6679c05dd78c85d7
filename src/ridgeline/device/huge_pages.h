// Huge pages for memory that others have taken.
#pragma once

#include <cstddef>

namespace ridgeline::device {

// Asks the system to back what of these bytes was not touched yet with huge pages, where it has them: a first touch
// then takes 2 MiB at a time. Worth it for memory of which much will be written; up to 2 MiB more than is written may
// be taken. Never fails.
void prefer_huge_pages(void* begin, size_t bytes);

}  // namespace ridgeline::device
