#include "ridgeline/data/corpus_filters.h"

#include <gmock/gmock.h>

#include "ridgeline/data/corpus.h"
#include "support.h"

namespace ridgeline::data {
namespace {

using test::fixture;
using test::TemporaryFolder;
using testing::ElementsAre;
using testing::Pair;

struct Filtered {
  std::vector<std::string> documents;
  CorpusCounts counts;
};

Filtered filter(const CorpusFilters& filters, const std::filesystem::path& path) {
  CorpusReader reader({path}, {.filters = filters});
  Filtered result;
  for (DocumentBatch batch; reader.next(batch); batch = {}) {
    reader.parse(batch);
    reader.add(batch);
    for (size_t i = 0; i < batch.size(); ++i) result.documents.emplace_back(batch[i].substr(0, 5));
  }
  result.counts = reader.counts();
  return result;
}

TEST(CorpusFilters, JudgeOscar2301) {
  const auto oscar = fixture("corpora/oscar_2301.jsonl.zst");
  EXPECT_THAT(filter({}, oscar).documents, ElementsAre("Kept.", "Noisy", "Near ", "Perha"));

  Filtered result = filter({.drop_warnings = {"noisy", "header"}}, oscar);
  EXPECT_THAT(result.documents, ElementsAre("Kept.", "Near ", "Perha"));
  EXPECT_THAT(result.counts.filtered, ElementsAre(Pair("quality warning header", 0), Pair("quality warning noisy", 1)))
      << "a filter that drops nothing is named, too: it may be a slip of the pen";
  EXPECT_EQ(result.counts.documents, 3);
  EXPECT_THAT(filter({.drop_warnings = {"all"}}, oscar).documents, ElementsAre("Kept.", "Perha"));

  result = filter({.min_harmful_pp = 100.0}, oscar);
  EXPECT_THAT(result.documents, ElementsAre("Kept.", "Noisy", "Perha")) << "low perplexity: like harmful text";
  EXPECT_THAT(result.counts.filtered, ElementsAre(Pair("low harmful_pp", 1)));
  EXPECT_THAT(result.counts.unjudged, ElementsAre(Pair("low harmful_pp", 1))) << "null: not known";

  EXPECT_THAT(filter({.min_language_probability = 0.88}, oscar).documents, ElementsAre("Kept.", "Noisy", "Near "));
  result = filter({.drop_warnings = {"tiny"}, .min_harmful_pp = 700, .min_language_probability = 0.9}, oscar);
  EXPECT_THAT(result.documents, ElementsAre("Kept."));
  EXPECT_THAT(result.counts.filtered, ElementsAre(Pair("low harmful_pp", 1), Pair("low language probability", 1),
                                                  Pair("quality warning tiny", 1)))
      << "each record once, under the first filter that drops it";
  EXPECT_THAT(result.counts.unjudged, ElementsAre()) << "the last one was dropped";
}

TEST(CorpusFilters, JudgeOscar2201AndWhatHasNoMetadata) {
  const TemporaryFolder folder;
  const auto lines = folder.write(
      "a.jsonl",
      "{\"content\": \"tiny \", \"metadata\": {\"identification\": {\"prob\": 1}, \"annotation\": [\"tiny\"]}}\n"
      "{\"content\": \"null \", \"metadata\": {\"annotation\": null}}\n"
      "{\"content\": \"none \"}\n"
      // Lines that the fast parser refuses are judged like all others: a number that is too long, NaN, and depth.
      "{\"content\": \"long \", \"n\": 123456789012345678901234567890, \"metadata\": {\"identification\": {\"prob\": "
      "0.25}}}\n"
      "{\"content\": \"nan  \", \"metadata\": {\"identification\": {\"prob\": NaN}, \"annotation\": []}}\n"
      "{\"content\": \"deep \", \"x\": " +
          std::string(3000, '[') + std::string(3000, ']') +
          ", \"metadata\": {\"identification\": {\"prob\": 0.5}, \"quality_warnings\": [\"noisy\"]}}\n");
  Filtered result = filter({.drop_warnings = {"tiny"}}, lines);
  EXPECT_THAT(result.documents, ElementsAre("null ", "none ", "long ", "nan  ", "deep "));
  EXPECT_THAT(result.counts.unjudged, ElementsAre(Pair("quality warning tiny", 2)));
  result = filter({.min_language_probability = 0.5}, lines);
  EXPECT_THAT(result.documents, ElementsAre("tiny ", "null ", "none ", "nan  ", "deep "));
  EXPECT_THAT(result.counts.unjudged, ElementsAre(Pair("low language probability", 3)));
  EXPECT_THAT(filter({.drop_warnings = {"noisy"}}, lines).counts.filtered,
              ElementsAre(Pair("quality warning noisy", 1)));

  EXPECT_ERROR("a.txt' is text: filters judge", filter({.drop_warnings = {"tiny"}}, folder.write("a.txt", "x")));
  EXPECT_EQ(options_of({.drop_warnings = {"tiny", "noisy"}, .min_language_probability = 0.5}),
            (std::vector<std::string>{"--drop-quality-warnings", "--min-language-probability"}));
  CorpusReader reader({folder.write("b.jsonl", "{\"text\": \"x\", \"metadata\": {\"annotation\": [\"tiny\"]}}")},
                      {.filters = {.drop_warnings = {"all"}}});
  for (DocumentBatch batch; reader.next(batch); batch = {}) {
    reader.parse(batch);
    reader.add(batch);
  }
  EXPECT_ERROR("1 dropped: any quality warning", reader.require_some());
}

}  // namespace
}  // namespace ridgeline::data
