// A checkpoint knows nothing of the layout that wrote it.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "draws.h"
#include "layout.h"
#include "ridgeline/base/file.h"
#include "ridgeline/train/state.h"

namespace ridgeline::layouts {
namespace {

// A folder of its own, gone at the end.
class Folder {
 public:
  Folder() { std::filesystem::remove_all(path_); }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  const std::filesystem::path path_ =
      std::filesystem::path(testing::TempDir()) / fmt::format("ridgeline_layouts_{}", getpid());
};

// Steps [first, last), from what `from` holds or from the first weights, and a checkpoint behind them; its folder and
// the outcome.
struct Stretch {
  std::filesystem::path folder;
  Outcome outcome;
};
Stretch train(const Layout& layout, int first, int last, const std::filesystem::path& parent,
              const std::filesystem::path& from = {}) {
  Stretch stretch;
  comm::run_threads(layout.sharding.mesh.world_size(), {.timeout = layout.timeout}, [&](comm::World& world) {
    Training training(layout, world);
    if (from.empty())
      train::initialize(training.executor(), kInitialSeed);
    else
      EXPECT_EQ(train::load_state(training.executor(), from).step, first);
    Outcome outcome;
    for (int step = first; step < last; ++step) {
      const parallel::StepResult result = training.step(step);
      outcome.losses.push_back(result.loss);
      outcome.norms.push_back(result.gradient_norm);
    }
    outcome.weights = training.collect(parallel::BufferKind::master);
    train::RunState state;
    state.step = last;
    const std::filesystem::path folder = train::save_state(training.executor(), parent, state);
    if (world.rank() == 0) stretch = {folder, std::move(outcome)};
  });
  return stretch;
}

// What files of tensors hold, by their name.
std::map<std::string, std::string> tensor_files(const std::filesystem::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") files[entry.path().filename()] = read_text(entry.path());
  }
  return files;
}

// The next draw that takes so many rows in so many micro-batches in a step, and is of this family in fp32.
Layout next_of(Draws& draws, const std::string& family) {
  constexpr int kMicroBatches = 12;
  for (;;) {
    Layout layout = draws.next();
    const int data = layout.sharding.ranks(), each = kMicroBatches / data;
    const parallel::Pipeline& pipeline = layout.sharding.pipeline;
    if (kMicroBatches % data != 0) continue;
    if (pipeline.kind == parallel::ScheduleKind::interleaved && each % pipeline.stages() != 0) continue;
    if (layout.family != family) continue;
    layout.precision = layout.moments = DType::f32;
    layout.pure = false;
    layout.dropout = 0.1F;
    layout.documents = true;
    layout.micro_batch = 1;
    layout.sharding.micro_batches = each;
    return layout;
  }
}

constexpr int kPairsOfFamily = 8;

TEST(checkpoints, of_any_layout_are_read_by_any_other) {
  Draws draws(4);
  for (const std::string_view name : model::family_names()) {
    const std::string family(name);
    Outcome one;
    for (int pair = 0; pair < kPairsOfFamily; ++pair) {
      const Folder folder;
      const Layout before = next_of(draws, family), after = next_of(draws, family);
      if (one.losses.empty()) one = run(one_rank(before), 4);
      const Stretch first = train(before, 0, 2, folder.path());
      const Stretch second = train(after, 2, 4, folder.path() / "second", first.folder);
      for (size_t step = 0; step < 4; ++step) {
        const double loss = step < 2 ? first.outcome.losses[step] : second.outcome.losses[step - 2];
        EXPECT_NEAR(loss, one.losses[step], 1e-5 * one.losses[step])
            << "step " << step << "\n"
            << before.describe() << "\nthen " << after.describe();
      }
    }
  }
}

TEST(checkpoints, change_no_bit_of_a_run_that_goes_on_on_the_same_layout) {
  Draws draws(5);
  for (int i = 0; i < 16; ++i) {
    const Folder folder;
    const Layout layout = draws.next();
    const Stretch first = train(layout, 0, 2, folder.path());
    const Stretch second = train(layout, 2, 4, folder.path() / "second", first.folder);
    Outcome resumed = second.outcome;
    resumed.losses.insert(resumed.losses.begin(), first.outcome.losses.begin(), first.outcome.losses.end());
    resumed.norms.insert(resumed.norms.begin(), first.outcome.norms.begin(), first.outcome.norms.end());
    EXPECT_EQ(bitwise_difference(resumed, run(layout, 4)), "") << layout.describe();
  }
}

TEST(checkpoints, of_the_same_weights_are_the_same_files_on_any_layout) {
  Draws draws(6);
  std::map<std::string, std::map<std::string, std::string>> of_family;  // and what its tensors are stored in
  for (int i = 0; i < 40; ++i) {
    const Folder folder;
    const Layout layout = draws.next();
    const std::string stored = layout.family + (layout.pure ? " bf16" : " f32") + std::string(name_of(layout.moments));
    const auto files = tensor_files(train(layout, 0, 0, folder.path()).folder);
    ASSERT_FALSE(files.empty());
    const auto [found, is_first] = of_family.try_emplace(stored, files);
    EXPECT_TRUE(found->second == files) << layout.describe();
  }
  EXPECT_LT(of_family.size(), 20U) << "nothing was compared";
}

}  // namespace
}  // namespace ridgeline::layouts
