// How fast corpora are read, without what is then done with their documents: beside unpacking alone, which one thread
// does per file, and beside the tools that unpack.
#pragma once

#include <filesystem>
#include <vector>

#include "bench/report.h"

namespace ridgeline::bench {

// Of every file of `inputs` (as `prepare` takes them, without standard input), in MB/s of what is in it, unpacked:
// unpack_FILE, its bytes alone, beside every tool that is installed; read_FILE, its documents on `threads` threads,
// whose floor is the former. Median of `rounds`, after one that brings the files into memory.
std::vector<Row> read_rows(const std::vector<std::filesystem::path>& inputs, int threads, int rounds);

}  // namespace ridgeline::bench
