#include "ridgeline/data/piece_lookup.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "ridgeline/data/piece_cache.h"

namespace ridgeline::data {
namespace {

template <typename Id>
class PieceLookup : public testing::Test {
 protected:
  struct KnownPiece {
    std::string bytes;
    std::vector<Id> ids;  // none: not in the cache
  };

  // Many enough that two share most pairs of slots, and some have found no place in theirs.
  PieceLookup() : cache_(1000) {
    for (int i = 0; i < 4000; ++i) {
      std::string bytes(1 + random_() % 18, '\0');
      for (char& c : bytes) c = static_cast<char>("ab\0\xFF"[random_() % 4]);
      if (std::any_of(pieces_.begin(), pieces_.end(), [&](const auto& p) { return p.bytes == bytes; })) continue;
      KnownPiece piece{bytes, {}};
      if (bytes.size() <= kLongestPieceKey && i % 8 != 0) {
        for (size_t k = random_() % bytes.size() + 1; k > 0; --k) piece.ids.push_back(static_cast<Id>(random_() >> 1));
        const PieceKey key = key_of_piece(bytes, bytes.data() + bytes.size());
        cache_.insert(key, hash_of_key(key), piece.ids);
      }
      pieces_.push_back(piece);
    }
  }

  std::mt19937 random_{11};
  PieceCache<Id> cache_;
  std::vector<KnownPiece> pieces_;
};

using Ids = testing::Types<uint16_t, int32_t>;
TYPED_TEST_SUITE(PieceLookup, Ids);

TYPED_TEST(PieceLookup, GivesTheIdsOfEveryPieceInItsPair) {
  using Id = TypeParam;
  const auto& pieces = this->pieces_;
  std::string text;
  std::vector<uint32_t> ends;
  for (const auto& piece : pieces) ends.push_back(static_cast<uint32_t>((text += piece.bytes).size()));
  text.append(16, 'x');
  for (const device::Isa isa : {device::Isa::portable, device::isa()}) {
    const LookupFunctions<Id>& lookups = lookup_functions<Id>(isa);
    std::vector<PiecePlace> places(ends.size());
    std::vector<uint32_t> longs(ends.size() + 1), expected_longs;
    const PieceTable<Id> table = this->cache_.table();
    longs.resize(lookups.places(text.data(), 0, ends.data(), ends.size(), table, places.data(), longs.data()));
    size_t alone = 0, found = 0, known = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (pieces[i].bytes.size() > kLongestPieceKey) expected_longs.push_back(static_cast<uint32_t>(i));
      if (!pieces[i].ids.empty()) ++known;
    }
    EXPECT_EQ(longs, expected_longs);
    // 16 bytes of room behind what is known are written, no more.
    const auto memory = std::make_unique<Id[]>(pieces.size() * 16 + 16);
    Id* to = memory.get();
    for (size_t i = 0; i < pieces.size(); ++i) {
      Id* const begin = to;
      const size_t count = lookups.ids(places.data() + i, pieces.size() - i, table, to);
      for (Id* at = begin; at != to; ++i) {
        ASSERT_LT(i, pieces.size());
        const std::vector<Id>& ids = pieces[i].ids;
        ASSERT_FALSE(ids.empty()) << device::name_of(isa) << " knows " << testing::PrintToString(pieces[i].bytes);
        ASSERT_EQ(std::vector<Id>(at, at + ids.size()), ids) << testing::PrintToString(pieces[i].bytes);
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

}  // namespace
}  // namespace ridgeline::data
