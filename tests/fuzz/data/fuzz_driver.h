// Between libFuzzer and CTest. A target defines LLVMFuzzerTestOneInput and seeds(). With clang's -fsanitize=fuzzer it
// is a libFuzzer program (tools/fuzz); otherwise fuzz_driver.cpp feeds it its seeds and the committed inputs of
// corpus/TARGET beside it, cut and mutated the same way on every run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);  // NOLINT(readability-identifier-naming)

// Well-formed inputs to start from.
std::vector<std::string> seeds();
