// How fast corpora are read and prepared, each stage beside what bounds it: unpacking alone, which one thread does per
// file, the tools that unpack, and encoding alone.
#pragma once

#include <filesystem>
#include <vector>

#include "bench/report.h"

namespace ridgeline::bench {

struct ReadOptions {
  std::vector<std::filesystem::path> inputs;  // as `prepare` takes them, without standard input
  std::filesystem::path tokenizer = "tests/data/gpt2_tokenizer";
  std::filesystem::path folder;  // where datasets are written, and removed; "": the system's for temporary files
  int threads = 1;
  int rounds = 5;  // whose median counts, after one that brings the files into memory
};

// For every file, in MB/s of what is in it, unpacked:
//   unpack_FILE    its bytes alone, beside every tool that is installed
//   read_FILE_N    its documents on N threads; the floor is the former
// and in MB/s of the text of its documents:
//   encode_FILE_N  their ids alone, by new encoders, from documents that lie in memory
//   prepare_FILE_N all of `prepare`, its dataset on the device. The floor is the slower one of unpacking and encoding
//                  alone, the ratios are to each of them. Both need processors: two of them cannot reach a floor that
//                  encoding sets with both.
std::vector<Row> read_rows(const ReadOptions& options);

}  // namespace ridgeline::bench
