#include "ridgeline/device/huge_pages.h"

#include <sys/mman.h>

#include <cstdint>

namespace ridgeline::device {

void prefer_huge_pages(void* begin, size_t bytes) {
  // The system asks for whole small pages, and leaves out by itself what is no whole huge one.
  constexpr uintptr_t kSmallPage = 4096, kHugePage = uintptr_t{2} << 20;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + kSmallPage - 1) / kSmallPage * kSmallPage;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(begin) + bytes) / kSmallPage * kSmallPage;
  if (last < first + kHugePage) return;
  ::madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

}  // namespace ridgeline::device
