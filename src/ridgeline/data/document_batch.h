// Several documents in one buffer: the unit of work when a corpus goes through all cores. Internal to the room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/data/corpus.h"

namespace ridgeline::data {

struct DocumentBatch {
  std::string text;
  std::vector<size_t> ends;  // of each document in `text`
  int64_t bytes_done = 0;    // CorpusReader::bytes_done() after reading it

  size_t size() const { return ends.size(); }
  std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends[i - 1];
    return std::string_view(text).substr(begin, ends[i] - begin);
  }
};

// About a megabyte: large against the cost of handing over, small against a core's share of any corpus worth preparing.
inline constexpr size_t kBatchBytes = size_t{1} << 20;

// False when the corpus has ended.
inline bool read_batch(CorpusReader& reader, DocumentBatch& batch) {
  while (batch.text.size() < kBatchBytes && reader.next(batch.text)) batch.ends.push_back(batch.text.size());
  batch.bytes_done = reader.bytes_done();
  return !batch.ends.empty();
}

}  // namespace ridgeline::data
