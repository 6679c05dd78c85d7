// What processes of a host read for each other, and the facts of a run that follow from it. Ranks here are threads of
// one process, which counts what they read together.
#include "ridgeline/train/host_work.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>

#include "../bytes_read.h"
#include "ridgeline/base/file.h"
#include "ridgeline/train/agreement.h"
#include "ridgeline/train/find_documents.h"
#include "small_run.h"

namespace ridgeline::train {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;
using Values = std::vector<std::optional<std::string>>;

constexpr int kReaders = 4;

// What each rank gets for its readings.
std::array<Values, kReaders> values_of(const std::function<std::vector<Reading>(int rank)>& readings) {
  std::array<Values, kReaders> values;
  comm::run_threads(kReaders, {.timeout = std::chrono::seconds(20)}, [&](comm::World& world) {
    values[static_cast<size_t>(world.rank())] = read_once(world, readings(world.rank()));
  });
  return values;
}

TEST(ReadOnce, EachIsReadByOneWhoWantsIt) {
  std::array<std::atomic<int>, kReaders> read{};
  std::array<std::atomic<int>, 3> read_of{};
  const std::array<std::string, 3> results = {"", "seven b", std::string(1000, 'x')};
  // Rank 0 wants nothing, the others some, in orders of their own.
  const std::array<std::vector<size_t>, kReaders> wanted = {{{}, {2, 0, 1}, {1}, {0, 2}}};
  const std::array<Values, kReaders> values = values_of([&](int rank) {
    std::vector<Reading> readings;
    for (const size_t what : wanted[static_cast<size_t>(rank)]) {
      readings.push_back({.of = "file " + std::to_string(what), .read = [&read, &read_of, &results, rank, what] {
                            ++read[static_cast<size_t>(rank)];
                            ++read_of[what];
                            return results[what];
                          }});
    }
    return readings;
  });
  EXPECT_THAT(values[0], ElementsAre());
  EXPECT_THAT(values[1], ElementsAre(results[2], results[0], results[1]));
  EXPECT_THAT(values[2], ElementsAre(results[1]));
  EXPECT_THAT(values[3], ElementsAre(results[0], results[2]));
  for (const std::atomic<int>& count : read_of) EXPECT_EQ(count, 1);
  for (size_t rank = 1; rank < kReaders; ++rank) EXPECT_EQ(read[rank], 1) << "they share the work";
}

TEST(ReadOnce, OtherFilesAreReadByThoseWhoseTheyAre) {
  std::atomic<int> read = 0;
  const std::array<Values, kReaders> values = values_of([&](int rank) {
    std::string own = rank == 2 ? "its own" : "the shared one";
    return std::vector<Reading>{{.of = own, .read = [&read, own] {
                                   ++read;
                                   return own;
                                 }}};
  });
  EXPECT_EQ(read, 2);
  for (size_t rank = 0; rank < kReaders; ++rank)
    EXPECT_THAT(values[rank], ElementsAre(rank == 2 ? "its own" : "the shared one"));
}

TEST(ReadOnce, WhatCannotBeReadIsNothingAndHoldsNobodyUp) {
  const std::array<Values, kReaders> values = values_of([&](int) {
    return std::vector<Reading>{{.of = "bad", .read = []() -> std::string { throw Error("unreadable"); }},
                                {.of = "good", .read = [] { return std::string("good"); }}};
  });
  for (const Values& each : values) EXPECT_THAT(each, ElementsAre(std::nullopt, "good"));
  for (const Values& each : values_of([](int) { return std::vector<Reading>(); })) EXPECT_TRUE(each.empty());
}

TEST(ReadOnce, MayTakeLongerThanTheTimeout) {
  comm::run_threads(2, {.timeout = milliseconds(200)}, [&](comm::World& world) {
    const std::array<Reading, 1> slow = {{{.of = "slow", .read = [] {
                                             std::this_thread::sleep_for(milliseconds(500));
                                             return std::string("read");
                                           }}}};
    EXPECT_THAT(read_once(world, slow), ElementsAre("read"));
  });
}

class FactsOfARun : public SmallRun {
 protected:
  static constexpr int64_t kBytes = int64_t{8} << 20;

  // A dataset of kBytes, all tokens the same but the first.
  void write_large(const std::string& name, int32_t first) const {
    data::IndexedDatasetWriter writer(folder_ / name, kVocabulary);
    std::vector<int32_t> document(kBytes / 8, 5);
    document[0] = first;
    for (int i = 0; i < 4; ++i) writer.add_document(document);
    writer.finish(std::nullopt);
  }
  Config config_on(const std::string& name) const { return config({"data.train=" + (folder_ / name).string()}); }

  JobOptions options_of(const comm::World& world) const {
    JobOptions options;
    options.out = folder_ / "run";
    options.writes = world.rank() == 0;
    return options;
  }

  // Ranks with these configurations agree and prepare; the message of the error.
  std::string start(const std::vector<Config>& configs) const {
    const auto ranks = static_cast<int>(configs.size());
    try {
      comm::run_threads(ranks, {.timeout = std::chrono::seconds(20)}, [&](comm::World& world) {
        const Config& mine = configs[static_cast<size_t>(world.rank())];
        RunData opened;
        agree(world, facts_of(world, mine, options_of(world), opened));
        const Job job =
            prepare_job(mine, options_of(world), device::Machine::read(), mesh_of(mine, ranks), std::move(opened));
        EXPECT_EQ(job.order, new_order(mine, open_documents(mine))) << "as if this rank had read all itself";
      });
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
};

TEST_F(FactsOfARun, SamplesAreReadByOneOfAllAndOncePerStart) {
  write_large("large", 1);
  const Config all = config_on("large");
  const int64_t before = bytes_read();
  if (before < 0) GTEST_SKIP() << "no /proc/self/io";
  int64_t facts = 0, start = 0;
  comm::run_threads(kReaders, {.timeout = std::chrono::seconds(20)}, [&](comm::World& world) {
    RunData opened;
    agree(world, facts_of(world, all, options_of(world), opened));
    if (world.rank() == 0) facts = bytes_read() - before;
    agree(world, {});
    prepare_job(all, options_of(world), device::Machine::read(), mesh_of(all, kReaders), std::move(opened));
    agree(world, {});
    if (world.rank() == 0) start = bytes_read() - before;
  });
  EXPECT_GE(facts, kBytes);
  EXPECT_LT(facts, kBytes + kBytes / 4);
  EXPECT_LT(start, kBytes + kBytes / 4);
}

TEST_F(FactsOfARun, InitialWeightsAreReadByOneOfAll) {
  Config all = config();
  const std::filesystem::path model = std::filesystem::path(RIDGELINE_TEST_DATA) / "reference" / "gpt2";
  all.train.init_from = model.string();
  int64_t bytes = 0;
  for (const char* name : {"model.safetensors", "grads.safetensors"})
    bytes += static_cast<int64_t>(std::filesystem::file_size(model / name));
  const int64_t before = bytes_read();
  if (before < 0) GTEST_SKIP() << "no /proc/self/io";
  comm::run_threads(kReaders, {.timeout = std::chrono::seconds(20)}, [&](comm::World& world) {
    RunData opened;
    agree(world, facts_of(world, all, options_of(world), opened));
  });
  const int64_t read = bytes_read() - before;
  EXPECT_GE(read, bytes);
  EXPECT_LT(read, bytes + bytes / 4);
}

TEST_F(FactsOfARun, ATokenizerThatCannotBeReadIsComparedByItsBytes) {
  for (const char* name : {"one", "same", "other"}) {
    std::filesystem::create_directory(folder_ / name);
    write_atomically(folder_ / name / "tokenizer.json", R"({"model": {"type": "Unigram", "vocab": []}})");
  }
  write_atomically(folder_ / "other" / "tokenizer_config.json", "{}");
  const auto with = [&](const std::string& name) { return config({"data.tokenizer=" + (folder_ / name).string()}); };
  EXPECT_EQ(start({with("one"), with("same")}), "");
  EXPECT_THAT(
      start({with("one"), with("other")}),
      testing::AllOf(HasSubstr("data.tokenizer (content): 1 file, content "), HasSubstr("; 2 files, content ")));
}

TEST_F(FactsOfARun, WhatOnlyTheWriterSaysOnlyItFindsOut) {
  data::IndexedDatasetWriter writer(folder_ / "noted", kVocabulary);
  for (int i = 0; i < 40; ++i) writer.add_document(std::vector<int32_t>(100, 5));
  writer.finish(data::DatasetNote{.tokens = 4000, .documents = 40, .text_bytes = 12000, .vocabulary = kVocabulary});
  const Config noted = config_on("noted");
  for (const bool writes : {false, true}) {
    JobOptions options;
    options.out = folder_ / "run";
    options.writes = writes;
    const Job job = prepare_job(noted, options, device::Machine::read(), mesh_of(noted, 1));
    ASSERT_TRUE(job.valid);
    EXPECT_EQ(job.bytes_per_token, writes ? 3.0 : 0.0);
    EXPECT_EQ(job.peak_flops > 0, writes);
  }
}

TEST_F(FactsOfARun, OtherDataOnOneRankAreNamed) {
  write_large("large", 1);
  write_large("same", 1);
  write_large("other", 2);
  const Config all = config_on("large");
  EXPECT_EQ(start({all, config_on("same"), all}), "") << "the same in another place";
  EXPECT_THAT(start({all, all, config_on("other")}),
              testing::AllOf(HasSubstr("data.train (content): 4 documents"), HasSubstr(" on ranks 0, 1; 4 documents"),
                             HasSubstr(" on rank 2 (host ")));
  EXPECT_THAT(start({all, config_on("nowhere"), all}), HasSubstr("rank 1: no dataset at"));
}

TEST_F(FactsOfARun, OnlyFilesOfLlmcHaveDocumentsToBeFound) {
  EXPECT_FALSE(any_of_llmc(config()));
  EXPECT_FALSE(any_of_llmc(config_on("nowhere")));
  std::string tokens(1024 + 2 * 100, '\0');
  const std::array<int32_t, 3> header = {20240520, 1, 100};
  std::copy_n(reinterpret_cast<const char*>(header.data()), sizeof header, tokens.begin());
  write_atomically(folder_ / "llmc_1.bin", tokens);
  EXPECT_TRUE(any_of_llmc(config_on("llmc_1.bin")));
  EXPECT_TRUE(any_of_llmc(config_on("llmc_*.bin")));
  EXPECT_TRUE(any_of_llmc(config({"data.valid=" + (folder_ / "llmc_1.bin").string()})));
}

}  // namespace
}  // namespace ridgeline::train
