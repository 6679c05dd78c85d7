// The order of samples over the life of a run: made longer, shorter, moved to other data, gone on with from old
// checkpoints; and which documents an evaluation is about.
#include "ridgeline/train/sample_order.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>

#include "../train_config/expect_error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/train/held_out.h"
#include "ridgeline/train/sample_listing.h"
#include "ridgeline/train/state.h"
#include "small_run.h"

namespace ridgeline::train {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::HasSubstr;

class OrderOfSamples : public SmallRun {
 protected:
  Job resumed(const Config& run_config, const std::string& name, bool other_data = false) const {
    JobOptions options;
    options.out = folder_ / name;
    options.resume = true;
    options.other_data = other_data;
    return prepare_job(run_config, options, device::Machine::read(), mesh_of(run_config, 1));
  }
  std::vector<std::string> listing(const fs::path& path, int64_t first, int64_t count) const {
    std::vector<std::string> lines;
    list_samples({.path = path, .overrides = {}, .ranks = 1, .first = first, .count = count},
                 [&](const std::string& line) { lines.push_back(line); });
    return lines;
  }
  // The state in which a run of this configuration stands after so many steps.
  RunState state_of(const Config& run_config, int64_t step) const {
    RunState state;
    state.step = step;
    state.consumed_samples = step * run_config.train.global_batch;
    state.config = to_toml(run_config, Detail::values);
    state.order = new_order(run_config, open_documents(run_config));
    return state;
  }
  void write_data(const std::string& name, int documents, int32_t token) const {
    data::IndexedDatasetWriter writer(folder_ / name, kVocabulary);
    for (int d = 0; d < documents; ++d) writer.add_document(std::vector<int32_t>(100, token));
    writer.finish(std::nullopt);
  }
  void flip_a_byte() const {
    std::string bytes = read_text(folder_ / "data.bin");
    bytes[2000] = static_cast<char>(bytes[2000] ^ 1);
    write_atomically(folder_ / "data.bin", bytes);
  }
};

std::string without_rule(std::string toml) {
  const size_t at = toml.find("split_rule");
  return toml.erase(at, toml.find('\n', at) + 1 - at);
}

TEST_F(OrderOfSamples, a_run_made_longer_goes_on_as_one_that_was_made_longer_at_once) {
  const auto of = [&](int steps) {
    return config({"optimizer.schedule=constant", "train.keep_last=0", "train.steps=" + std::to_string(steps)});
  };
  run(of(8), 1, "twice");
  fs::copy(folder_ / "twice", folder_ / "once", fs::copy_options::recursive);
  const std::vector<std::string> before = listing(folder_ / "twice", 0, 64);
  ASSERT_EQ(before.size(), 64U);
  run(of(40), 1, "twice", true);
  const std::vector<std::string> longer = listing(folder_ / "twice", 0, 320);
  run(of(60), 1, "twice", true);
  run(of(60), 1, "once", true);
  const std::vector<std::string> longest = listing(folder_ / "twice", 0, 480);
  EXPECT_TRUE(std::equal(before.begin(), before.end(), longer.begin()));
  EXPECT_TRUE(std::equal(longer.begin(), longer.end(), longest.begin()));
  EXPECT_EQ(longest, listing(folder_ / "once", 0, 480));
  const auto bytes = [&](const std::string& name) {
    return read_text(folder_ / name / "checkpoints" / "step_00000060" / "state.safetensors");
  };
  EXPECT_EQ(bytes("twice"), bytes("once"));
}

TEST_F(OrderOfSamples, every_token_is_predicted_as_often_as_every_other_after_two_extensions) {
  const Config begun = config({"train.steps=10"});
  const RunDocuments documents = open_documents(begun);
  RunState state = state_of(begun, 10);
  const data::IndexedDataset& dataset = *documents.train.front().dataset;
  const int64_t tokens = dataset.begin(documents.train.front().documents.last);
  for (const int64_t epochs : {2, 5}) {
    Config longer = begun;
    // Whole epochs, as nearly as steps of 8 samples can.
    longer.train.steps = (epochs * tokens - 1) / 24 / 8;
    const ContinuedOrder continued = continued_order(longer, documents, state, false);
    ASSERT_EQ(continued.wanted, longer.train.steps * 8);
    EXPECT_THAT(continued.messages, Contains(HasSubstr("is kept: after sample")));
    const auto samples = make_samples(longer, documents, continued.order, continued.wanted);
    std::vector<int64_t> seen(static_cast<size_t>(tokens));
    for (int64_t i = 0; i < continued.wanted; ++i) {
      bool first = true;  // is context only
      for (const data::GptDataset::Part& part : samples->parts(i)) {
        for (int64_t t = first ? 1 : 0; t < part.tokens; ++t)
          ++seen[static_cast<size_t>(dataset.begin(part.document) + part.offset + t)];
        first = false;
      }
    }
    const int64_t missing = epochs * tokens - continued.wanted * 24;
    EXPECT_LE(missing, 8 * 24 + 1);
    EXPECT_EQ(*std::max_element(seen.begin(), seen.end()), epochs);
    EXPECT_LE(std::count_if(seen.begin(), seen.end(), [&](int64_t n) { return n != epochs; }), missing);
    state = state_of(longer, longer.train.steps);
    state.order = continued.order;
  }
}

TEST_F(OrderOfSamples, a_shorter_run_and_another_batch_keep_the_order_too) {
  const Config begun = config({"train.steps=60"});
  const RunDocuments documents = open_documents(begun);
  const RunState state = state_of(begun, 60);
  for (const char* const change : {"train.steps=61", "train.steps=20", "train.global_batch=2"}) {
    Config now = config({"train.steps=62", change});
    const ContinuedOrder continued = continued_order(now, documents, state, false);
    EXPECT_EQ(continued.order, *state.order) << change;
    const auto samples = make_samples(now, documents, continued.order, continued.wanted);
    EXPECT_GE(samples->end(), std::max<int64_t>(continued.wanted, 480)) << change;
  }
  run(begun, 1, "batch");
  // Fewer samples in all than were consumed already, by steps times batch.
  EXPECT_EQ(run(config({"train.steps=62", "train.global_batch=2"}), 1, "batch", true).step, 62);
}

TEST_F(OrderOfSamples, other_data_is_an_error_unless_asked_for) {
  run(config(), 1, "run");
  const Config longer = config({"train.steps=12"});
  flip_a_byte();
  expect_error([&] { resumed(longer, "run"); }, {"--resume", "data.train: ", "content", "--other-data"});
  {
    const Job job = resumed(longer, "run", true);  // which holds the folder's lock
    EXPECT_EQ(job.order.first, 64);
    EXPECT_EQ(job.order.samples, 32);
    EXPECT_THAT(job.data_messages, Contains(HasSubstr("begins anew: sample 64")));
  }
  JobOptions options;
  options.out = folder_ / "run";
  options.resume = options.other_data = true;
  SampleOrder meant;
  {
    const Job job = prepare_job(longer, options, device::Machine::read(), mesh_of(longer, 1));
    comm::run_threads(1, {}, [&](comm::World& world) { run_training(job, world); });
    meant = job.order;
  }
  // From now on that is its data.
  EXPECT_EQ(resumed(config({"train.steps=14"}), "run").order, meant);
  expect_error([&] { listing(folder_ / "run", 63, 1); }, {"--first-sample 63", "samples 64 to 95"});
  EXPECT_EQ(listing(folder_ / "run", 64, 100).size(), 32U);
}

TEST_F(OrderOfSamples, other_documents_seeds_and_lengths_are_other_data) {
  const Config begun = config();
  const RunState state = state_of(begun, 8);
  for (const auto& [change, named] :
       {std::pair{"data.split=80,20,0", "documents that train (data.split): 0 to 35 -> 0 to 31"},
        {"train.seed=5", "train.seed: 1234 -> 5"},
        {"train.sequence=12", "train.sequence: 24 -> 12"}}) {
    const Config now = config({change});
    expect_error([&] { continued_order(now, open_documents(now), state, false); }, {named, "--other-data"});
    EXPECT_EQ(continued_order(now, open_documents(now), state, true).order.first, 64) << change;
  }
}

TEST_F(OrderOfSamples, other_validation_data_is_an_error_unless_asked_for) {
  write_data("valid", 3, 7);
  const std::string valid = "data.valid=" + (folder_ / "valid").string();
  const Config begun = config({valid});
  const RunState state = state_of(begun, 8);
  write_data("valid", 3, 8);
  expect_error([&] { continued_order(begun, open_documents(begun), state, false); },
               {"validation data", "--other-data"});
  const ContinuedOrder meant = continued_order(begun, open_documents(begun), state, true);
  EXPECT_TRUE(meant.validation_differs);
  EXPECT_EQ(meant.order.first, 0) << "the training data is the same: so is its order";
}

TEST_F(OrderOfSamples, checkpoints_of_before_keep_their_rule_and_their_order) {
  write_data("uneven", 67, 3);
  const std::string data = "data.train=" + (folder_ / "uneven").string();
  const Config given = config({data, "data.split=90,8,2", "data.split_rule=per_share", "train.steps=60"});
  RunState state = state_of(given, 8);
  const SampleOrder recorded = *state.order;
  state.order.reset();
  state.config = without_rule(state.config);
  EXPECT_EQ(config_of(state).data.split_rule, data::SplitRule::per_share);

  const Config now = with_split_rule(config({data, "data.split=90,8,2", "train.steps=70"}), state);
  EXPECT_EQ(now.data.split_rule, data::SplitRule::per_share);
  const ContinuedOrder continued = continued_order(now, open_documents(now), state, false);
  EXPECT_EQ(continued.order, recorded);
  EXPECT_EQ(continued.order.train.front().documents.last, 61);
  EXPECT_THAT(continued.messages, Contains(HasSubstr("does not record which data")));

  const Config other = with_split_rule(config({data, "data.split=90,8,2", "data.split_rule=cumulative"}), state);
  expect_error([&] { continued_order(other, open_documents(other), state, false); }, {"0 to 60 -> 0 to 59"});
}

TEST_F(OrderOfSamples, goes_through_json) {
  SampleOrder order{.train = {{1, data::DatasetFingerprint{1, 2, 3, 4}, {5, 6}, 0}},
                    .sequence = 7,
                    .seed = 8,
                    .samples = 9,
                    .first = 10};
  EXPECT_EQ(sample_order_from_json(to_json(order), "x"), order);
  order.valid = {{1, data::DatasetFingerprint{11, 12, 13, 14}, {15, 16}, 0}};
  EXPECT_EQ(sample_order_from_json(to_json(order), "x"), order);
  // As checkpoints had it before there were blends.
  const nlohmann::json one = to_json(order);
  EXPECT_EQ(one.at("dataset"), data::to_json(*order.train.front().dataset));
  EXPECT_EQ(one.at("documents"), nlohmann::json({5, 6}));
  EXPECT_EQ(one.at("validation").at("documents"), nlohmann::json({15, 16}));
  order.train.front().dataset.reset();
  EXPECT_EQ(sample_order_from_json(to_json(order), "x"), order);
  order.train = {{0.1 + 0.2, data::DatasetFingerprint{1, 2, 3, 4}, {5, 6}, 0},
                 {1 - (0.1 + 0.2), data::DatasetFingerprint{5, 6, 7, 8}, {0, 3}, 128}};
  order.valid = order.train;
  order.valid[1].documents = {3, 4};
  EXPECT_EQ(sample_order_from_json(nlohmann::json::parse(to_json(order).dump()), "x"), order);
  expect_error([] { sample_order_from_json(nlohmann::json::parse(R"({"documents": [1]})"), "m.json"); }, {"m.json"});
}

TEST_F(OrderOfSamples, a_new_run_says_when_the_rule_of_before_splits_otherwise) {
  write_data("uneven", 67, 3);
  const std::string data = "data.train=" + (folder_ / "uneven").string();
  const Config uneven = config({data, "data.split=90,8,2"});
  EXPECT_THAT(split_rule_message(uneven, open_documents(uneven)).value_or(""),
              testing::AllOf(HasSubstr("60, 6 and 1"), HasSubstr("per_share"), HasSubstr("61, 5 and 1")));
  const Config even = config({data, "data.split=1,1,1"}),
               chosen = config({data, "data.split=90,8,2", "data.split_rule=cumulative"});
  EXPECT_FALSE(split_rule_message(chosen, open_documents(chosen)).has_value());
  EXPECT_FALSE(split_rule_message(config(), open_documents(config())).has_value());
}

TEST_F(OrderOfSamples, what_it_takes_is_known_before_it_is_built) {
  const Config small = config();
  const OrderSize planned = planned_order(small);
  ASSERT_EQ(planned.datasets.size(), 1U);
  EXPECT_EQ(planned.datasets.front().epochs, 1);
  EXPECT_EQ(planned.bytes, 36 * 4 + (planned.samples + 1) * 16);
  const OrderSize without_data = planned_order(config({"data.train=/nowhere/data"}));
  EXPECT_TRUE(without_data.datasets.empty());
  EXPECT_EQ(without_data.bytes, 4 + 65 * 16);
  expect_error(
      [&] {
        check(config({"train.steps=9000000000000000", "train.global_batch=1024"}), 1);
      },
      {"train.steps = 9000000000000000", "2^62", "nearest valid value is 187649984473770"});
  // More epochs than 32 bits count.
  for (const char* const steps : {"train.steps=100000000000", "train.steps=100000000000000000"}) {
    JobOptions options;
    options.out = folder_ / "never";
    expect_error([&] { prepare_job(config({steps}), options, device::Machine::read(), mesh_of(config({steps}), 1)); },
                 {"train.steps"});
  }
  expect_error([&] { require_index_fits(config({"train.steps=1000"}), 3'000'000'000'000, 1'500'000'000'000, "host"); },
               {"train.steps = 1000", "the host's", "About 500 steps fit"});
}

TEST(PlaceOfSample, IsThatOfTakingEachStep) {
  for (const optim::BatchRamp& ramp :
       {optim::BatchRamp{.global = 24}, optim::BatchRamp{.global = 24, .start = 6, .increment = 6, .samples = 100}}) {
    for (const int64_t micro : {1, 3}) {
      for (const int64_t ranks : {1, 2}) {
        int64_t consumed = 0;
        for (int64_t step = 1; step <= 20; ++step) {
          const int64_t batch = optim::batch_at(ramp, consumed);
          for (int64_t m = 0; m < batch / (micro * ranks); ++m) {
            for (int64_t rank = 0; rank < ranks; ++rank) {
              for (int64_t row = 0; row < micro; ++row) {
                const int64_t sample = consumed + (m * ranks + rank) * micro + row;
                EXPECT_EQ(place_of_sample(ramp, micro, comm::Mesh::of_data(static_cast<int>(ranks)), sample),
                          (SamplePlace{step, m, rank, row}))
                    << sample;
              }
            }
          }
          consumed += batch;
        }
      }
    }
  }
  EXPECT_EQ(place_of_sample({.global = 8}, 2, comm::Mesh::of_data(1), 100 + 11, 7, 100), (SamplePlace{9, 1, 0, 1}));
}

TEST_F(OrderOfSamples, an_evaluation_is_about_what_the_run_held_out) {
  const auto dataset = data::IndexedDataset::open(folder_ / "data");
  const RunState state = state_of(config({"data.split=75,25,0"}), 8);
  const DocumentsChosen own = choose_documents(*dataset, state, {});
  EXPECT_EQ(own.documents, (data::DocumentRange{30, 40}));
  EXPECT_EQ(own.train, (data::DocumentRange{0, 30}));
  EXPECT_EQ(own.trained, 0);
  EXPECT_THAT(own.text,
              HasSubstr("documents 30 to 39 of 40: the validation part of the run's split 75,25,0 (cumulative)"));
  // What it trained on is counted, whatever is asked for.
  EXPECT_EQ(choose_documents(*dataset, state, {.split = "50,50", .split_rule = "", .whole = false}).trained, 10);
  EXPECT_EQ(choose_documents(*dataset, state, {.split = "", .split_rule = "", .whole = true}).trained, 30);
  // A model of other tools.
  EXPECT_THAT(choose_documents(*dataset, std::nullopt, {}).text,
              HasSubstr("documents 39 to 39 of 40: the validation part of the default split"));
  // Other data: none of it was trained on.
  write_data("foreign", 40, 1);
  const auto foreign = data::IndexedDataset::open(folder_ / "foreign");
  EXPECT_EQ(choose_documents(*foreign, state, {.split = "", .split_rule = "", .whole = true}).trained, 0);
  // A checkpoint of before says by name which data it is of, and cuts by the rule of then.
  RunState old = state;
  old.order.reset();
  old.config = without_rule(old.config);
  EXPECT_EQ(choose_documents(*dataset, old, {.split = "", .split_rule = "", .whole = true}).trained, 30);
  EXPECT_THAT(choose_documents(*dataset, old, {}).text, HasSubstr("(per_share)"));
}

TEST_F(OrderOfSamples, an_evaluation_without_held_out_documents_is_an_error) {
  const auto dataset = data::IndexedDataset::open(folder_ / "data");
  expect_error([&] { choose_documents(*dataset, state_of(config({"data.split=1"}), 8), {}); },
               {"the run's split 1 ", "--whole"});
  write_data("valid", 3, 7);
  const RunState state = state_of(config({"data.valid=" + (folder_ / "valid").string()}), 8);
  expect_error([&] { choose_documents(*dataset, state, {}); }, {"trained on all 40 documents", "--data"});
  const auto valid = data::IndexedDataset::open(folder_ / "valid");
  EXPECT_EQ(choose_documents(*valid, state, {}).documents, (data::DocumentRange{0, 3}));
  expect_error([&] { choose_documents(*valid, state, {.split = "", .split_rule = "per_share", .whole = false}); },
               {"--split-rule", "no split"});
}

}  // namespace
}  // namespace ridgeline::train
