#include "ridgeline/data/piece_lookup.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "ridgeline/data/piece_cache.h"

namespace ridgeline::data {
namespace {

struct KnownPiece {
  std::string bytes;
  std::vector<int32_t> ids;  // none: not in the cache
};

class PieceLookup : public testing::TestWithParam<int32_t> {
 protected:
  // Many enough that two share most pairs of slots, and some have found no place in theirs.
  PieceLookup() : cache_(1000, static_cast<size_t>(GetParam())) {
    for (int i = 0; i < 4000; ++i) {
      std::string bytes(1 + random_() % 18, '\0');
      for (char& c : bytes) c = static_cast<char>("ab\0\xFF"[random_() % 4]);
      if (std::any_of(pieces_.begin(), pieces_.end(), [&](const auto& p) { return p.bytes == bytes; })) continue;
      KnownPiece piece{bytes, {}};
      if (bytes.size() <= PieceCache::kLongestKey && i % 8 != 0) {
        for (size_t k = random_() % bytes.size() + 1; k > 0; --k)
          piece.ids.push_back(static_cast<int32_t>(random_() % static_cast<uint32_t>(GetParam())));
        const PieceKey key = PieceCache::key_of(bytes, bytes.data() + bytes.size());
        cache_.insert(key, PieceCache::hash_of(key), piece.ids);
      }
      pieces_.push_back(piece);
    }
  }

  std::mt19937 random_{11};
  PieceCache cache_;
  std::vector<KnownPiece> pieces_;
};

TEST_P(PieceLookup, GivesTheIdsOfEveryPieceInItsPair) {
  std::string text;
  std::vector<size_t> ends;
  for (const KnownPiece& piece : pieces_) ends.push_back((text += piece.bytes).size());
  text.append(16, 'x');
  for (const device::Isa isa : {device::Isa::portable, device::isa()}) {
    const LookupFunctions& lookups = lookup_functions(isa);
    std::vector<PiecePlace> places(ends.size());
    std::vector<uint32_t> longs(ends.size() + 1), expected_longs;
    const PieceTable table = cache_.table();
    longs.resize(lookups.places(text.data(), 0, ends.data(), ends.size(), table, places.data(), longs.data()));
    size_t alone = 0, found = 0, known = 0;
    for (size_t i = 0; i < pieces_.size(); ++i) {
      if (pieces_[i].bytes.size() > PieceCache::kLongestKey) expected_longs.push_back(static_cast<uint32_t>(i));
      if (!pieces_[i].ids.empty()) ++known;
    }
    EXPECT_EQ(longs, expected_longs);
    // 16 bytes of room behind what is known are written, no more.
    const auto memory = std::make_unique<int32_t[]>(pieces_.size() * 16 + 16);
    int32_t* to = memory.get();
    for (size_t i = 0; i < pieces_.size(); ++i) {
      int32_t* const begin = to;
      const size_t count = lookups.ids(places.data() + i, pieces_.size() - i, table, to);
      for (int32_t* at = begin; at != to; ++i) {
        ASSERT_LT(i, pieces_.size());
        const std::vector<int32_t>& ids = pieces_[i].ids;
        ASSERT_FALSE(ids.empty()) << device::name_of(isa) << " knows " << testing::PrintToString(pieces_[i].bytes);
        ASSERT_EQ(std::vector<int32_t>(at, at + ids.size()), ids) << testing::PrintToString(pieces_[i].bytes);
        at += ids.size();
        ++found;
      }
      alone += count;
    }
    EXPECT_EQ(alone, found);
    // The others are in other pairs.
    EXPECT_GT(found, known * 9 / 10) << device::name_of(isa) << ", of " << known;
  }
}

INSTANTIATE_TEST_SUITE_P(PieceLookup, PieceLookup, testing::Values(1 << 16, std::numeric_limits<int32_t>::max()));

}  // namespace
}  // namespace ridgeline::data
