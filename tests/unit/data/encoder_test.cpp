// The fast encoder against the plain meaning of byte-level BPE.
#include <gmock/gmock.h>

#include <limits>
#include <map>
#include <set>
#include <unordered_map>

#include "../many_cases.h"
#include "any_text.h"
#include "ridgeline/data/bpe_model.h"
#include "ridgeline/data/piece_cache.h"
#include "ridgeline/data/piece_hash.h"
#include "ridgeline/data/tokenizer_json.h"
#include "support.h"

namespace ridgeline::data {
namespace {

using test::any_text;
using test::fixture;
using test::json_fixture;

// Piece by piece, merge by merge, as the definition says.
std::vector<int32_t> plain_ids(const BpeModel& model, std::string_view text) {
  std::vector<int32_t> all;
  std::unordered_map<std::string_view, int32_t> whole;
  for (size_t id = 0; model.ignore_merges && id < model.tokens.size(); ++id) {
    const auto is_added = [&](const AddedToken& token) { return token.id == static_cast<int32_t>(id); };
    if (std::none_of(model.added_tokens.begin(), model.added_tokens.end(), is_added))
      whole.emplace(model.tokens[id], static_cast<int32_t>(id));
  }
  for_each_piece(model.pre_tokenizer, text, [&](std::string_view piece) {
    std::vector<int32_t> ids;
    if (const auto found = whole.find(piece); found != whole.end()) return all.push_back(found->second);
    for (const char byte : piece) ids.push_back(model.byte_ids[static_cast<uint8_t>(byte)]);
    test::merge_all(model, ids);
    all.insert(all.end(), ids.begin(), ids.end());
  });
  return all;
}

class EveryTokenizer : public testing::TestWithParam<const char*> {
 protected:
  EveryTokenizer()
      : files_(TokenizerFiles::read(fixture(GetParam()))),
        model_(read_bpe_model(files_, "fixture")),
        tokenizer_(Tokenizer::from_files(files_, "fixture")) {}

  TokenizerFiles files_;
  BpeModel model_;
  Tokenizer tokenizer_;
};

TEST_P(EveryTokenizer, GivesThePlainIdsWithAndWithoutMemory) {
  std::mt19937 random(5);
  Encoder encoder(tokenizer_);
  EncoderOf<uint16_t> narrow_encoder(tokenizer_);
  std::vector<int32_t> ids;
  std::vector<uint16_t> narrow;
  for (size_t i = 0; i < 700; ++i) {
    const std::string text = any_text(random, i < 300 ? i : random() % 2000);
    const std::vector<int32_t> expected = plain_ids(model_, text);
    ids.clear();
    encoder.encode(text, ids);
    ASSERT_EQ(ids, expected) << testing::PrintToString(text);
    ids.clear();
    encoder.encode(text, ids);
    ASSERT_EQ(ids, expected) << "again: " << testing::PrintToString(text);
    for (int pass = 0; pass < 2; ++pass) {
      narrow.clear();
      narrow_encoder.encode(text, narrow);
      ASSERT_EQ(std::vector<int32_t>(narrow.begin(), narrow.end()), expected) << testing::PrintToString(text);
    }
    ASSERT_EQ(tokenizer_.encode(text), expected) << testing::PrintToString(text);
  }
}

TEST_P(EveryTokenizer, GivesThePlainIdsOfRunsOfEveryLength) {
  Encoder encoder(tokenizer_);
  EncoderOf<uint16_t> narrow_encoder(tokenizer_);
  for (const std::string_view part : {"a", "ab", " ", "\n", "漢字", "0", "=-", "\xFF", "the"}) {
    for (size_t length = 1; length <= 600; length += length < 70 ? 1 : 97) {
      std::string text;
      while (text.size() < length) text += part;
      std::vector<int32_t> ids;
      encoder.encode(text, ids);
      std::vector<uint16_t> narrow;
      narrow_encoder.encode(text, narrow);
      ASSERT_EQ(ids, std::vector<int32_t>(narrow.begin(), narrow.end()));
      ASSERT_EQ(ids, plain_ids(model_, text)) << length << " bytes of " << testing::PrintToString(part);
    }
  }
}

TEST_P(EveryTokenizer, TakesAQuarterOfAMegabyteWithoutASpace) {
  std::mt19937 random(6);
  Encoder encoder(tokenizer_);
  for (const std::string_view letters : {"a", "ab", "aeioulmnrst"}) {
    std::string text(1 << 18, ' ');
    for (char& c : text) c = letters[random() % letters.size()];
    std::vector<int32_t> ids;
    encoder.encode(text, ids);
    EXPECT_TRUE(tokenizer_.decode(ids) == text);
    EXPECT_LT(ids.size(), text.size());
  }
}

TEST_P(EveryTokenizer, MayBeCutWhereNextCutSays) {
  std::mt19937 random(7);
  Encoder encoder(tokenizer_);
  for (int i = 0; i < 200; ++i) {
    const std::string text = any_text(random, 3000);
    std::vector<int32_t> parts;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = next_cut(text, begin + 100);
      encoder.encode(std::string_view(text).substr(begin, end - begin), parts);
      begin = end;
    }
    ASSERT_EQ(parts, tokenizer_.encode(text)) << testing::PrintToString(text);
  }
}

INSTANTIATE_TEST_SUITE_P(Encoder, EveryTokenizer, testing::Values("gpt2_tokenizer", "data/llama3_style"));

// Tokens that merges do not give, as whole pieces, as parts of others (between Chinese characters) and within parts.
TEST(Encoder, WithIgnoreMergesTokensThatNoMergesGiveAreFoundAsWholePiecesAlone) {
  nlohmann::json json = json_fixture("data/llama3_style/tokenizer.json");
  std::mt19937 random(21);
  std::vector<std::string> words = {"q", "the", "\u4e2d", "\u4e2d\u6587", " the", "0 "};
  for (int i = 0; i < 200; ++i) {
    std::string word;
    for (size_t n = 2 + random() % 4; n > 0; --n) word += "aeinorsth"[random() % 9];
    words.push_back(word);
  }
  auto& vocabulary = json["model"]["vocab"];
  auto next = static_cast<int32_t>(vocabulary.size() + json["added_tokens"].size());
  for (size_t i = 0; i < words.size(); i += 2) {
    const std::string token = to_printable(words[i]);
    if (!vocabulary.contains(token)) vocabulary[token] = next++;
  }
  TokenizerFiles files;
  files.set("tokenizer.json", json.dump());
  const BpeModel model = read_bpe_model(files, "test");
  EXPECT_GE(model.unmerged.size(), 50U);
  Encoder encoder(Tokenizer::from_files(files, "test"));
  for (int i = 0; i < 300; ++i) {
    std::string text;
    for (size_t n = random() % 12; n > 0; --n) {
      text += words[random() % words.size()];
      if (random() % 2 == 0) text += random() % 3 == 0 ? " " : "\u4e2d";
    }
    if (i % 20 == 0) {  // pieces that are not kept
      for (int k = 0; k < 200; ++k) text += words[random() % words.size()];
    }
    std::vector<int32_t> ids;
    encoder.encode(text, ids);
    ASSERT_EQ(ids, plain_ids(model, text)) << text;
  }
}

struct TableOf {
  int64_t ids;
  uint32_t merges, shared;  // merges of a rank
};

class PairTableOf : public testing::TestWithParam<TableOf> {};

TEST_P(PairTableOf, FindsEveryRuleInTheOrderOfRanks) {
  const auto [ids, merges, shared] = GetParam();
  const auto highest = static_cast<int32_t>(ids - 1);
  const int32_t some = std::min(highest, 400);  // of which most pairs are made
  std::mt19937 random(12);
  std::vector<MergeRule> rules;
  std::map<std::pair<int32_t, int32_t>, MergeRule> last;
  for (uint32_t i = 0; i < merges; ++i) {
    // Some pairs come again; the first of all is what a free slot could be taken for, as are the greatest ids.
    const auto left = i == 0 ? 0 : static_cast<int32_t>(random() % (some + 1)),
               right = i == 0 ? 0 : static_cast<int32_t>(random() % (some + 1));
    rules.push_back({left, right, static_cast<int32_t>(random() % 100'000), i / shared});
  }
  if (merges > 0) rules.push_back({highest, highest, 7, merges});
  // As SentencePiece's models give them.
  if (shared > 1) std::reverse(rules.begin(), rules.end());
  for (const MergeRule& rule : rules) last[{rule.left, rule.right}] = rule;
  PairTable table;
  table.build(rules, ids);
  std::map<uint32_t, uint32_t> order;  // what the table says, by rank
  const auto check = [&](int32_t left, int32_t right) {
    const auto rule = last.find({left, right});
    const PairTable::Merge found = table.find(left, right);
    ASSERT_EQ(table.find_rule_if(false, left, right), PairTable::kNone);
    ASSERT_EQ(found.rank == PairTable::kNone, rule == last.end());
    ASSERT_EQ(found.merged, rule == last.end() ? -1 : rule->second.merged);
    if (rule == last.end()) return;
    const auto [known, is_new] = order.emplace(rule->second.rank, found.rank);
    ASSERT_EQ(known->second, found.rank);
  };
  for (int32_t left = 0; left <= std::min(highest, some + 1); ++left) {
    for (int32_t right = 0; right <= std::min(highest, some + 1); ++right) check(left, right);
  }
  for (const int32_t id : {-1, 0, highest}) {
    check(id, -1);
    check(-1, id);
  }
  check(highest, highest);
  check(highest, 0);
  check(0, highest);
  const auto falls = [](const auto& a, const auto& b) { return a.second >= b.second; };
  EXPECT_EQ(std::adjacent_find(order.begin(), order.end(), falls), order.end());
}

// No rules, one, and all that there can be; of 32 bits a slot, up to the last with them, and of 64.
INSTANTIATE_TEST_SUITE_P(PairTable, PairTableOf,
                         testing::Values(TableOf{1, 1, 1}, TableOf{2, 0, 1}, TableOf{2, 1, 1}, TableOf{2, 60, 1},
                                         TableOf{5, 200, 3}, TableOf{300, 300, 1}, TableOf{300, 900'000, 1},
                                         TableOf{50'257, 70'000, 1}, TableOf{65'535, 50'000, 3},
                                         TableOf{65'536, 50'000, 1}, TableOf{PairTable::kMostIds, 70'000, 1},
                                         TableOf{PairTable::kMostIds, 3, 1}, TableOf{PairTable::kMostIds, 70'000, 3}));

TEST(PairTable, WithoutRulesFindsNone) {
  EXPECT_EQ(PairTable().find(0, 0).rank, PairTable::kNone);
}

TEST(PairTable, TokenizersWithMoreIdsThanItHoldsAreRefused) {
  BpeModel model;
  model.tokens.resize(static_cast<size_t>(PairTable::kMostIds) + 1);
  for (int32_t byte = 0; byte < 256; ++byte) model.byte_ids[byte] = byte;
  try {
    model.finish("big/tokenizer.json");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("big/tokenizer.json: 2097152 tokens and 0 merges"), std::string::npos)
        << error.what();
  }
}

TEST(Encoder, RefusesIdsThatItsTypeCannotHold) {
  TokenizerParts parts;
  for (int byte = 0; byte < 256; ++byte) parts.tokens.emplace_back(1, static_cast<char>(byte));
  for (int i = 0; std::ssize(parts.tokens) < 65'536; ++i) parts.tokens.push_back("token " + std::to_string(i));
  const Tokenizer one_too_many = Tokenizer::from_parts(parts);  // the end of a document is one more
  EXPECT_DEATH(EncoderOf<uint16_t>{one_too_many}, "65536 against 65535");
  parts.tokens.pop_back();
  const Tokenizer all = Tokenizer::from_parts(parts);
  EncoderOf<uint16_t> encoder(all);
  std::vector<uint16_t> ids;
  encoder.encode("a<|endoftext|>", ids, Specials::recognise);
  EXPECT_THAT(ids, testing::ElementsAre('a', 65'535));
}

// Many merges of few letters: long chains of them, in every order.
TEST(PairTable, DenseMergesGiveTheIdsOfTheDefinition) {
  std::mt19937 random(13);
  TokenizerParts parts;
  for (int byte = 0; byte < 256; ++byte) parts.tokens.emplace_back(1, static_cast<char>(byte));
  std::set<std::string> known;
  std::vector<int32_t> pool;
  for (int32_t letter = 'a'; letter < 'i'; ++letter) pool.push_back(letter);
  const ManyCases cases(5);
  while (static_cast<int>(parts.merges.size()) < cases.share(60'000)) {
    const int32_t left = pool[random() % pool.size()], right = pool[random() % pool.size()];
    const std::string token = parts.tokens[left] + parts.tokens[right];
    if (token.size() > 12 || !known.insert(token).second) continue;
    pool.push_back(static_cast<int32_t>(parts.tokens.size()));
    parts.merges.emplace_back(left, right);
    parts.tokens.push_back(token);
  }
  const Tokenizer tokenizer = Tokenizer::from_parts(parts);
  TokenizerFiles files;
  files.set("tokenizer.json", tokenizer.to_json());
  const BpeModel model = read_bpe_model(files, "test");
  Encoder encoder(tokenizer);
  for (int i = 0; i < cases.share(1200); ++i) {
    std::string word(1 + random() % 70, ' ');
    for (char& c : word) c = static_cast<char>('a' + random() % 8);
    std::vector<int32_t> ids;
    encoder.encode(word, ids);
    ASSERT_EQ(ids, plain_ids(model, word)) << word;
  }
}

template <typename Id>
std::vector<Id> ids_in(const PieceCache<Id>& cache, std::string_view piece, uint64_t hash) {
  std::vector<Id> ids(kLongestKeptPiece);  // at least kRoom
  ids.resize(piece.size() <= kLongestPieceKey
                 ? cache.find(key_of_piece(piece, piece.data() + piece.size()), hash, ids.data())
                 : cache.find_long(piece, hash, ids.data()));
  return ids;
}

template <typename Id>
void put(PieceCache<Id>& cache, std::string_view piece, uint64_t hash, const std::vector<Id>& ids) {
  if (piece.size() <= kLongestPieceKey) {
    cache.insert(key_of_piece(piece, piece.data() + piece.size()), hash, ids);
  } else {
    cache.insert_long(piece, hash, ids);
  }
}

uint64_t own_hash(std::string_view piece) {
  return piece.size() <= kLongestPieceKey ? hash_of_key(key_of_piece(piece, piece.data() + piece.size()))
                                          : hash_piece(piece);
}

template <typename Id>
class PieceCacheOfIds : public testing::Test {};
using BothIds = testing::Types<uint16_t, int32_t>;
TYPED_TEST_SUITE(PieceCacheOfIds, BothIds);

TYPED_TEST(PieceCacheOfIds, KeepsPiecesOfEveryLengthWithUpToOneIdPerByte) {
  using Id = TypeParam;
  PieceCache<Id> cache;
  std::vector<std::pair<std::string, std::vector<Id>>> pieces;
  std::mt19937 random(8);
  for (size_t length = 1; length <= kLongestKeptPiece; ++length) {
    for (size_t count = 1; count <= length; count += length < 16 ? 1 : 50) {
      std::string piece(length, '\0');
      for (char& c : piece) c = static_cast<char>(random());
      // Zero bytes are bytes like others: the length tells apart what they end.
      if (length > 1 && length <= kLongestPieceKey) piece.back() = '\0';
      if (std::any_of(pieces.begin(), pieces.end(), [&](const auto& p) { return p.first == piece; })) continue;
      std::vector<Id> ids(count);
      for (Id& id : ids) id = static_cast<Id>(random() >> 1);
      EXPECT_TRUE(ids_in(cache, piece, own_hash(piece)).empty());
      put(cache, piece, own_hash(piece), ids);
      pieces.emplace_back(piece, ids);
    }
  }
  const PieceCache<Id> moved = std::move(cache);
  cache = PieceCache<Id>();
  for (const auto& [piece, ids] : pieces) {
    EXPECT_EQ(ids_in(moved, piece, own_hash(piece)), ids) << testing::PrintToString(piece);
    EXPECT_TRUE(ids_in(cache, piece, own_hash(piece)).empty());
  }
}

TEST(PieceCache, PiecesOfOneHashAreForgottenButNeverTakenForEachOther) {
  for (const std::string_view stem : {"p", "a longer piece, number "}) {
    PieceCache<int32_t> cache(1024);  // one that does not grow
    size_t found = 0;
    for (int32_t i = 0; i < 1000; ++i)
      put(cache, std::string(stem) + std::to_string(i), 12345, std::vector<int32_t>{i, i + 1});
    for (int32_t i = 0; i < 1000; ++i) {
      const std::vector<int32_t> ids = ids_in(cache, std::string(stem) + std::to_string(i), 12345);
      if (ids.empty()) continue;
      ++found;
      EXPECT_THAT(ids, testing::ElementsAre(i, i + 1));
    }
    EXPECT_GE(found, 16U) << stem;
    EXPECT_LE(found, 32U) << stem;
  }
}

// In place, with many pieces that lie behind their homes, also around the end of the table.
TEST(PieceCache, GrowsWithoutForgettingAnything) {
  std::mt19937_64 random(9);
  for (const size_t begin : {0, 1, 5, 40}) {
    PieceCache<int32_t> cache(begin);
    std::vector<std::string> pieces;
    for (int32_t i = 0; i < 5000; ++i) {
      std::string piece = std::to_string(random() % 1'000'000'000);
      if (!ids_in(cache, piece, own_hash(piece)).empty()) continue;
      put(cache, piece, own_hash(piece), std::vector<int32_t>{static_cast<int32_t>(pieces.size())});
      pieces.push_back(std::move(piece));
    }
    for (size_t i = 0; i < pieces.size(); ++i)
      ASSERT_THAT(ids_in(cache, pieces[i], own_hash(pieces[i])), testing::ElementsAre(static_cast<int32_t>(i)));
  }
}

TEST(PieceCache, SaysWhenItIsFull) {
  PieceCache<int32_t> shorts, longs;
  int32_t n = 0;
  for (; n < 2'000'000 && !shorts.full(); ++n)
    put(shorts, std::to_string(n), own_hash(std::to_string(n)), std::vector<int32_t>{n});
  // Every piece, or nearly, has found a place.
  EXPECT_GE(n, 1 << 19);
  EXPECT_LE(n, (1 << 19) + 1000);
  for (n = 0; n < 2'000'000 && !longs.full(); ++n) {
    const std::string piece = std::to_string(n) + " and fifteen more";
    put(longs, piece, own_hash(piece), std::vector<int32_t>{n});
  }
  EXPECT_GE(n, 1 << 17);
  EXPECT_LE(n, (1 << 18) + 1000);
}

}  // namespace
}  // namespace ridgeline::data
