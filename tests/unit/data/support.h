#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "../bytes_read.h"
#include "../error_of.h"
#include "../temporary_folder.h"
#include "memory_bytes.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/data/bpe_model.h"
#include "ridgeline/data/byte_source.h"
#include "ridgeline/data/tokenizer.h"

namespace ridgeline::data::test {

inline std::filesystem::path fixture(const std::string& name) {
  return std::filesystem::path(RIDGELINE_TEST_DATA) / name;
}

inline nlohmann::json json_fixture(const std::string& name) {
  return nlohmann::json::parse(read_text(fixture(name)));
}

inline const Tokenizer& gpt2() {
  static const Tokenizer tokenizer = Tokenizer::load(fixture("gpt2_tokenizer"));
  return tokenizer;
}

// As the definition says: the pair of the lowest rank, the first of several, until none merges.
inline void merge_all(const BpeModel& model, std::vector<int32_t>& ids) {
  for (;;) {
    PairTable::Merge best{PairTable::kNone, -1};
    size_t place = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const PairTable::Merge merge = model.pairs.find(ids[i], ids[i + 1]);
      if (merge.rank < best.rank) best = merge, place = i;
    }
    if (best.rank == PairTable::kNone) return;
    ids[place] = best.merged;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

using ridgeline::bytes_read;
using ridgeline::error_of;

class TemporaryFolder : public ridgeline::TemporaryFolder {
 public:
  std::filesystem::path write(const std::string& name, std::string_view bytes) const {
    std::ofstream(path() / name, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return path() / name;
  }
  std::string name() const { return path().filename().string(); }
  size_t files() const { return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path()), {})); }
};

}  // namespace ridgeline::data::test

// f must throw an Error whose text contains `part`.
#define EXPECT_ERROR(part, ...)                                                             \
  do {                                                                                      \
    const std::string error_text = ::ridgeline::data::test::error_of([&] { __VA_ARGS__; }); \
    EXPECT_NE(error_text.find(part), std::string::npos) << "error: '" << error_text << "'"; \
  } while (false)
