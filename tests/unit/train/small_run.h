// A tiny corpus that can be learnt, and runs on it.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ridgeline/base/random.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/data/indexed_dataset.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::train {

class SmallRun : public testing::Test {
 protected:
  static constexpr int64_t kVocabulary = 61;

  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("ridgeline_train_" + std::to_string(::getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    data::IndexedDatasetWriter writer(folder_ / "data", kVocabulary);
    for (uint32_t document = 0; document < 40; ++document) {
      // The next token is mostly a fixed function of the one before.
      std::vector<int32_t> tokens(120 + document);
      int32_t token = static_cast<int32_t>(document % kVocabulary);
      for (size_t i = 0; i < tokens.size(); ++i) {
        const Philox4 bits = philox(7, {document, static_cast<uint32_t>(i), 0, 0});
        token = bits[0] % 8 == 0 ? static_cast<int32_t>(bits[1] % kVocabulary)
                                 : static_cast<int32_t>((token * 5 + 3) % kVocabulary);
        tokens[i] = token;
      }
      writer.add_document(tokens);
    }
    writer.finish(std::nullopt);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Config config(std::vector<std::string> overrides = {}) const {
    const std::string text =
        "[model]\nlayers = 2\nwidth = 32\nheads = 4\nvocab = 61\ncontext = 24\n"
        "[data]\ntrain = \"" +
        (folder_ / "data").string() +
        "\"\nsplit = \"90,10,0\"\n"
        "[train]\nsteps = 8\nglobal_batch = 8\nmicro_batch = 2\nsequence = 24\nsave_every = 4\nkeep_last = 5\nthreads "
        "= 1\nhead_chunk = 17\n"
        "[optimizer]\nlearning_rate = 0.01\nwarmup_steps = 2\n";
    return parse_config_text(text, "test", overrides);
  }

  // Runs on thread ranks; every rank's result must be the same, that of rank 0 is returned.
  TrainingResult run(const Config& run_config, int ranks, const std::string& name, bool resume = false,
                     const std::function<void(Config&)>& after_check = {}) {
    check(run_config, ranks);
    JobOptions options;
    options.out = folder_ / name;
    options.resume = resume;
    Job job = prepare_job(run_config, options, device::Machine::read(), mesh_of(run_config, ranks));
    if (after_check) after_check(job.config);
    TrainingResult result;
    comm::run_threads(ranks, {.timeout = std::chrono::seconds(60)}, [&](comm::World& world) {
      const TrainingResult mine = run_training(job, world);
      if (world.rank() == 0) result = mine;
    });
    return result;
  }

  // Of every step.
  std::vector<double> metric(const std::string& name, const std::string& key) const {
    std::vector<double> values;
    std::ifstream file(folder_ / name / "metrics.jsonl");
    for (std::string line; std::getline(file, line);)
      values.push_back(nlohmann::json::parse(line).at(key).get<double>());
    return values;
  }
  std::vector<double> losses(const std::string& name) const { return metric(name, "loss"); }

  // All tensors of a checkpoint, as bytes.
  std::string state(const std::string& name, int step) const {
    std::ifstream file(folder_ / name / "checkpoints" / ("step_0000000" + std::to_string(step)) / "state.safetensors",
                       std::ios::binary);
    EXPECT_TRUE(file.good());
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::filesystem::path folder_;
};

}  // namespace ridgeline::train
