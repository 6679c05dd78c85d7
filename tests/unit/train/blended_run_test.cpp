// Runs on several datasets, and on blocks of documents.
#include <gmock/gmock.h>

#include <array>
#include <cmath>

#include "../train_config/expect_error.h"
#include "ridgeline/train/evaluator.h"
#include "ridgeline/train/sample_order.h"
#include "ridgeline/train/state.h"
#include "small_run.h"

namespace ridgeline::train {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

class SeveralDatasets : public SmallRun {
 protected:
  // Counts by `step`: learnt at once, and unlike what "data" holds.
  void write_counting(const std::string& name, int documents, int length, int32_t step, int64_t block = 0,
                      const std::string& tokenizer_hash = "") const {
    data::IndexedDatasetWriter writer(folder_ / name, kVocabulary);
    for (int document = 0; document < documents; ++document) {
      std::vector<int32_t> tokens(static_cast<size_t>(length));
      for (int i = 0; i < length; ++i)
        tokens[static_cast<size_t>(i)] = static_cast<int32_t>((document + i * step) % kVocabulary);
      writer.add_document(tokens);
    }
    data::DatasetNote note{.tokens = writer.tokens(),
                           .documents = documents,
                           .blocks = {.tokens = block, .corpus_documents = documents},
                           .vocabulary = kVocabulary,
                           .tokenizer_hash = tokenizer_hash};
    writer.finish(block > 0 || !tokenizer_hash.empty() ? std::optional(note) : std::nullopt);
  }
  std::string blend(const std::string& first, double weight, const std::string& second) const {
    return fmt::format("data.train=[[{}, \"{}\"], [{}, \"{}\"]]", weight, (folder_ / first).string(), 1 - weight,
                       (folder_ / second).string());
  }
  // None where the last line has no such key.
  std::optional<double> metric_of_last(const std::string& name, const std::string& key) const {
    std::ifstream file(folder_ / name / "metrics.jsonl");
    std::string line;
    for (std::string next; std::getline(file, next);) line = next;
    const nlohmann::json json = nlohmann::json::parse(line);
    return json.contains(key) ? std::optional(json.at(key).get<double>()) : std::nullopt;
  }
  std::string only(const std::string& key, const std::string& name) const {
    return fmt::format("data.{}={}", key, (folder_ / name).string());
  }
};

TEST_F(SeveralDatasets, are_trained_on_by_weight_and_resumed_with_the_same_bits) {
  write_counting("other", 20, 90, 7);
  const Config blended = config({blend("data", 0.75, "other"), "train.eval_every=4"});
  run(blended, 2, "whole");
  fs::create_directories(folder_ / "stopped" / "checkpoints");
  fs::copy(folder_ / "whole" / "checkpoints" / "step_00000004", folder_ / "stopped" / "checkpoints" / "step_00000004",
           fs::copy_options::recursive);
  run(blended, 2, "stopped", true);
  EXPECT_EQ(state("whole", 8), state("stopped", 8));
  run(blended, 1, "alone");
  EXPECT_EQ(losses("whole").size(), 8U);

  const std::vector<double> first = metric("whole", "tokens_of_dataset_1"),
                            second = metric("whole", "tokens_of_dataset_2"), all = metric("whole", "tokens");
  ASSERT_EQ(first.size(), 8U);
  for (size_t step = 0; step < 8; ++step) {
    EXPECT_EQ(first[step] + second[step], all[step]);
    EXPECT_LE(std::abs(first[step] - 0.75 * all[step]), 24) << "a sample more or less";
  }
  EXPECT_EQ(std::vector<double>(first.begin() + 4, first.end()), metric("stopped", "tokens_of_dataset_1"));
  EXPECT_EQ(first, metric("alone", "tokens_of_dataset_1")) << "however many ranks there are";
  EXPECT_NE(losses("whole"), [&] {
    run(config(), 2, "one");
    return losses("one");
  }()) << "the other dataset made a difference";
}

TEST_F(SeveralDatasets, have_validation_losses_of_their_own) {
  write_counting("other", 20, 90, 7);
  run(config({blend("data", 0.75, "other"), "train.eval_every=8"}), 2, "run");
  // data.split leaves 4 of the 40 and 2 of the 20 documents, of 630 and 180 tokens.
  const double first = metric_of_last("run", "validation_loss_of_dataset_1").value(),
               second = metric_of_last("run", "validation_loss_of_dataset_2").value();
  EXPECT_NEAR(metric_of_last("run", "validation_loss").value(), (629 * first + 179 * second) / (629 + 179), 1e-9);
  const ModelSource source = ModelSource::open(folder_ / "run");
  EvaluationSettings settings{.sequence = 24};
  settings.sharding.mesh = comm::Mesh::of_data(1);
  const auto alone = [&](const char* name, data::DocumentRange documents) {
    return evaluate(source, data::IndexedDataset::open(folder_ / name), documents, settings).loss;
  };
  // In micro-batches of another size: the last bits may differ.
  EXPECT_NEAR(first, alone("data", {36, 40}), 1e-5);
  EXPECT_NEAR(second, alone("other", {18, 20}), 1e-5);
  EXPECT_GT(std::abs(first - second), 1e-3) << "a test of nothing";
  // Of three windows in all, 0.75 and 0.25 of them: one dataset has two.
  run(config({blend("data", 0.75, "other"), "train.eval_every=8", "train.eval_samples=3"}), 2, "few");
  EXPECT_NE(metric_of_last("few", "validation_loss_of_dataset_1"), first);
  // None of a dataset without a window, nor of one alone.
  run(config({blend("data", 0.75, "other"), "train.eval_every=8", "train.eval_samples=1"}), 2, "one");
  EXPECT_EQ(metric_of_last("one", "validation_loss_of_dataset_1"), metric_of_last("one", "validation_loss"));
  EXPECT_FALSE(metric_of_last("one", "validation_loss_of_dataset_2"));
  run(config({"train.eval_every=8"}), 2, "alone");
  EXPECT_TRUE(metric_of_last("alone", "validation_loss"));
  EXPECT_FALSE(metric_of_last("alone", "validation_loss_of_dataset_1"));
}

TEST_F(SeveralDatasets, without_weights_are_taken_by_their_sizes) {
  write_counting("other", 20, 90, 7);
  const std::string key =
      fmt::format("data.train=[\"{}\", \"{}\"]", (folder_ / "data").string(), (folder_ / "other").string());
  const Config by_size = config({key, "train.steps=4", "train.eval_every=4"});
  ASSERT_TRUE(by_size.data.train.by_size);
  const RunDocuments documents = open_documents(by_size);
  // 4,950 and 1,620 tokens train, 630 and 180 validate: samples of 24 tokens and one that is predicted only.
  EXPECT_DOUBLE_EQ(documents.train[0].weight, 206.0 / (206 + 67));
  EXPECT_DOUBLE_EQ(documents.train[1].weight, 67.0 / (206 + 67));
  EXPECT_DOUBLE_EQ(documents.valid[0].weight, 26.0 / (26 + 7));
  EXPECT_EQ(planned_order(by_size).weights, (std::vector<double>{206.0 / 273, 67.0 / 273}));
  run(by_size, 2, "run");
  run(config({key, "train.steps=8", "train.eval_every=4"}), 2, "run", true);
  EXPECT_EQ(losses("run").size(), 8U);
  run(config({fmt::format("data.train=[[206, \"{}\"], [67, \"{}\"]]", (folder_ / "data").string(),
                          (folder_ / "other").string()),
              "train.steps=4"}),
      2, "weighed");
  std::vector<double> begun = losses("run");
  begun.resize(4);
  EXPECT_EQ(losses("weighed"), begun);
  EXPECT_FALSE(config({fmt::format("data.train=[\"{}\"]", (folder_ / "data").string())}).data.train.by_size);
}

TEST_F(SeveralDatasets, are_both_learnt) {
  write_counting("other", 20, 90, 7);
  const std::vector<std::string> slow = {"train.steps=60", "train.save_every=0", "train.eval_every=60"};
  const auto loss_on = [&](const std::string& train, const std::string& valid, const std::string& name) {
    std::vector<std::string> keys = slow;
    keys.push_back(train);
    keys.push_back(only("valid", valid));
    return run(config(keys), 2, name).validation_loss.value();
  };
  const double blended = loss_on(blend("data", 0.5, "other"), "other", "blended"),
               without = loss_on(only("train", "data"), "other", "without");
  EXPECT_LT(blended, without - 1) << "nats per token on the dataset that only the blend has";
}

TEST_F(SeveralDatasets, the_order_is_recorded_kept_and_compared) {
  write_counting("other", 20, 90, 7);
  const Config begun = config({blend("data", 0.75, "other")});
  run(begun, 1, "run");
  const auto order_of = [&](const Config& now, bool other_data) {
    JobOptions options;
    options.out = folder_ / "run";
    options.resume = true;
    options.other_data = other_data;
    return prepare_job(now, options, device::Machine::read(), mesh_of(now, 1));
  };
  const Config longer = config({blend("data", 0.75, "other"), "train.steps=100"});
  {
    const Job job = order_of(longer, false);
    ASSERT_EQ(job.order.train.size(), 2U);
    EXPECT_EQ(job.order.train[1].documents, (data::DocumentRange{0, 18})) << "data.split is of each dataset";
    EXPECT_EQ(job.order.samples, 64) << "as it was begun";
    EXPECT_THAT(job.data_messages, testing::Contains(HasSubstr("the run takes 800 now")));
    EXPECT_GE(job.train->end(), 800);
    // What was consumed is as it was.
    const auto shorter = make_samples(begun, open_documents(begun), job.order, 64);
    for (int64_t i = 0; i < 64; ++i) {
      EXPECT_EQ(job.train->dataset_of(i), shorter->dataset_of(i));
      EXPECT_EQ(job.train->place(i), shorter->place(i));
    }
  }
  expect_error(
      [&] {
        order_of(config({blend("data", 0.7, "other"), "train.steps=10"}), false);
      },
      {"weight of data.train[1]: 0.75 -> 0.7", "--other-data"});
  expect_error([&] { order_of(config({"train.steps=10"}), false); }, {"datasets in data.train: 2 -> 1"});
  expect_error(
      [&] {
        order_of(config({blend("other", 0.25, "data"), "train.steps=10"}), false);
      },
      {"data.train[1]: ", "-> 20 documents"});
  EXPECT_EQ(order_of(config({"train.steps=10"}), true).order.first, 64);
}

TEST_F(SeveralDatasets, say_how_often_each_is_read) {
  write_counting("other", 20, 90, 7);
  const Config blended = config({blend("data", 0.75, "other"), "train.steps=100"});
  const RunDocuments documents = open_documents(blended);
  // 800 samples of 24 tokens: 14,400 of 4,950 tokens of data, 4,800 of 1,620.
  const std::string text = blend_message(blended, documents, 800).value_or("");
  EXPECT_THAT(text, HasSubstr("75.0 % '" + (folder_ / "data").string() + "' (2.91 epochs), 25.0 % '"));
  EXPECT_THAT(text, HasSubstr("other' (2.96 epochs)"));
  EXPECT_EQ(blend_message(config(), open_documents(config()), 800), std::nullopt);
  const OrderSize size = planned_order(blended);
  ASSERT_EQ(size.datasets.size(), 2U);
  EXPECT_EQ(size.datasets[0].epochs, 3);
  EXPECT_EQ(size.samples, 800);
  EXPECT_EQ(size.bytes, size.datasets[0].bytes + size.datasets[1].bytes + 800 * 8);
  EXPECT_TRUE(planned_order(config({blend("data", 0.75, "nowhere")})).datasets.empty());
}

TEST_F(SeveralDatasets, must_go_together) {
  write_counting("other", 20, 90, 7);
  const auto refused = [&](const std::string& key, std::initializer_list<std::string> parts) {
    expect_error([&] { run(config({key}), 1, "refused"); }, parts);
  };
  refused(blend("data", 0.5, "./data"), {"data.train[1] and data.train[2] are the same dataset"});
  refused(blend("data", 0.5, "nowhere"), {"no dataset at", "nowhere"});
  write_counting("first", 20, 90, 7, 0, "aa");
  write_counting("second", 20, 90, 7, 0, "bb");
  refused(blend("first", 0.5, "second"), {"data.train[1] was prepared with tokenizer", "data.train[2] with"});
  write_counting("empty", 1, 90, 7);
  expect_error(
      [&] {
        run(config({blend("data", 0.5, "empty"), "data.split=50,50,0"}), 1, "refused");
      },
      {"data.train[2]", "hold no tokens", "data.split"});
}

TEST_F(SeveralDatasets, files_of_llm_c_are_trained_on_as_they_are) {
  constexpr int32_t kSeparator = 50256;
  data::IndexedDatasetWriter writer(folder_ / "pair", kSeparator + 1);
  std::vector<int32_t> all;
  for (int32_t document = 0; document < 12; ++document) {
    std::vector<int32_t> tokens = {kSeparator};
    for (int32_t i = 0; i < 40 + document; ++i) tokens.push_back((document + 7 * i) % kVocabulary);
    writer.add_document(tokens);
    all.insert(all.end(), tokens.begin(), tokens.end());
  }
  writer.finish(std::nullopt);
  const auto write = [&](const char* name, size_t first, size_t last) {
    std::array<int32_t, 256> header = {20240520, 1, static_cast<int32_t>(last - first)};
    const std::vector<uint16_t> ids(all.begin() + static_cast<std::ptrdiff_t>(first),
                                    all.begin() + static_cast<std::ptrdiff_t>(last));
    std::ofstream(folder_ / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(header.data()), sizeof header)
        .write(reinterpret_cast<const char*>(ids.data()), static_cast<std::streamsize>(2 * ids.size()));
  };
  write("shard_000001.bin", 0, 200);
  write("shard_000002.bin", 200, all.size());
  const auto of = [&](const std::string& name, const std::string& run_name, int steps, bool resume) {
    run(config({only("train", name), "model.vocab=50257", "model.width=16", "train.eval_every=2", "train.save_every=2",
                "optimizer.warmup_steps=1", fmt::format("train.steps={}", steps)}),
        2, run_name, resume);
    return losses(run_name);
  };
  const std::vector<double> expected = of("pair", "of_pair", 2, false);
  EXPECT_EQ(of("shard_*.bin", "of_shards", 2, false), expected);
  EXPECT_EQ(state("of_shards", 2), state("of_pair", 2));
  EXPECT_EQ(of("shard_*.bin", "of_pair", 3, true).size(), 3U) << "goes on with the same data";
  expect_error([&] { of("shard_000002.bin", "of_pair", 4, true); }, {"not the data of the checkpoint"});
  expect_error([&] { run(config({blend("shard_*.bin", 0.5, "shard_000002.bin")}), 1, "twice"); },
               {"data.train[1] and data.train[2] are the same dataset", "shard_000002.bin"});
  expect_error([&] { of("nothing_*.bin", "none", 2, false); }, {"no file matches"});
  const OrderSize size = planned_order(config({only("train", "shard_*.bin")}));
  EXPECT_EQ(size.datasets.size(), 1U);
  EXPECT_TRUE(planned_order(config({only("train", "nothing_*.bin")})).datasets.empty());
}

TEST_F(SeveralDatasets, a_block_is_a_sample_of_its_own) {
  write_counting("blocks", 30, 24, 7, 24);
  const Config of_blocks = config({only("train", "blocks"), "train.eval_every=8"});
  run(of_blocks, 2, "blocks");
  EXPECT_THAT(metric("blocks", "tokens"),
              ElementsAre(8 * 23, 16 * 23, 24 * 23, 32 * 23, 40 * 23, 48 * 23, 56 * 23, 64 * 23))
      << "23 predictions of 24 tokens";
  fs::create_directories(folder_ / "stopped" / "checkpoints");
  fs::copy(folder_ / "blocks" / "checkpoints" / "step_00000004", folder_ / "stopped" / "checkpoints" / "step_00000004",
           fs::copy_options::recursive);
  run(of_blocks, 2, "stopped", true);
  EXPECT_EQ(state("blocks", 8), state("stopped", 8));

  expect_error(
      [&] {
        run(config({only("train", "blocks"), "train.sequence=12"}), 1, "refused");
      },
      {"blocks of 24 tokens, but train.sequence = 12", "train.sequence=24", "--blocks 12"});
  write_counting("short", 30, 12, 7, 12);
  expect_error([&] { run(config({only("valid", "short")}), 1, "refused"); }, {"data.valid", "blocks of 12"});
  // Without its note the same file is another order of samples.
  fs::remove(folder_ / "blocks.json");
  expect_error(
      [&] {
        run(config({only("train", "blocks"), "train.steps=9"}), 1, "blocks", true);
      },
      {"data.train: blocks of 24 -> whole documents"});
}

TEST_F(SeveralDatasets, blocks_are_evaluated_by_themselves) {
  write_counting("blocks", 30, 24, 7, 24);
  run(config({only("train", "blocks"), "data.split=50,50,0", "train.eval_every=8"}), 1, "run");
  const auto dataset = data::IndexedDataset::open(folder_ / "blocks");
  const ModelSource source = ModelSource::open(folder_ / "run");
  EvaluationSettings settings{.sequence = 16};
  settings.sharding.mesh = comm::Mesh::of_data(1);
  const Evaluation evaluation = evaluate(source, dataset, {15, 30}, settings);
  EXPECT_EQ(evaluation.tokens, 15 * 23);
  const std::vector<double> losses_of_run = [&] {
    std::ifstream file(folder_ / "run" / "metrics.jsonl");
    std::vector<double> values;
    for (std::string line; std::getline(file, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json.contains("validation_loss")) values.push_back(json["validation_loss"].get<double>());
    }
    return values;
  }();
  ASSERT_EQ(losses_of_run.size(), 1U);
  // The same predictions in micro-batches of another size: the last bits may differ.
  EXPECT_NEAR(evaluation.loss, losses_of_run.front(), 1e-5);
}

}  // namespace
}  // namespace ridgeline::train
