// A corpus as parts that can be prepared apart from each other, one after another or at once, and kept.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ridgeline/data/corpus.h"

namespace ridgeline::data {

// About as much input as is prepared again after a kill, in seconds.
inline constexpr int64_t kPartBytes = int64_t{256} << 20;

struct CorpusPart {
  std::vector<CorpusRange> ranges;  // a piece of one file, or whole files
  int64_t bytes = 0;                // of the files, as they lie there
  int64_t work = 0;                 // a measure of it: bytes, those that are compressed weighed by what they become
};

// All of `inputs`, in order: consecutive files until a part would have more than `part_bytes`, and a file that is
// longer in pieces that begin with a document (a compressed one is a part). Depends on the files alone. With standard
// input among them all is one part.
std::vector<CorpusPart> parts_of(const CorpusInputs& inputs, int64_t part_bytes);

// For each of `count` processes the numbers of the parts that it prepares, ascending: of those listed in `parts` the
// largest first, each to the process that has least to do.
std::vector<std::vector<size_t>> share_parts(std::span<const CorpusPart> all, std::span<const size_t> parts, int count);

}  // namespace ridgeline::data
