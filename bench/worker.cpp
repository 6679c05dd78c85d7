#include "bench/worker.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <utility>

#include "ridgeline/base/json.h"
#include "ridgeline/base/random.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/device/arena.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/parallel/executor.h"
#include "ridgeline/train/evaluator.h"
#include "ridgeline/train/state.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::bench {
namespace {

// Random tokens: speed does not depend on them.
void write_batch(parallel::Executor& executor, int micro_batches, int64_t step) {
  const model::BatchShape& shape = executor.run_shape().batch;
  const auto vocab = static_cast<uint32_t>(executor.run_shape().config.vocab);
  for (int micro = 0; micro < micro_batches; ++micro) {
    const parallel::BatchBuffers buffers = executor.batch(0, micro);
    for (int64_t b = 0; b < shape.batch; ++b) train::place_row(buffers, b, shape.sequence, static_cast<uint32_t>(b));
    for (int64_t i = 0; i < shape.tokens(); ++i) {
      const Philox4 bits =
          philox(static_cast<uint64_t>(step), {static_cast<uint32_t>(i), static_cast<uint32_t>(micro), 0, 0});
      buffers.inputs[i] = static_cast<int32_t>(bits[0] % vocab);
      buffers.labels[i] = static_cast<int32_t>(bits[1] % vocab);
    }
  }
}

class UpdateTimer : public parallel::OpObserver {
 public:
  void operation(const parallel::Op& op, int64_t begin, int64_t end) override {
    if (op.kind == parallel::OpKind::update) nanoseconds_ += end - begin;
  }
  // Since the last call.
  double seconds() { return static_cast<double>(std::exchange(nanoseconds_, 0)) * 1e-9; }

 private:
  int64_t nanoseconds_ = 0;
};

}  // namespace

train::Config config_of(const WorkerOptions& options) {
  const int64_t share = options.batch / options.ranks;
  const auto number = [](std::string_view key, int64_t value) { return fmt::format("{}={}", key, value); };
  std::vector<std::string> set;
  if (!options.preset.empty()) set.push_back("model.preset=" + options.preset);
  set.insert(set.end(), {"train.precision=" + options.precision, number("train.global_batch", options.batch),
                         number("train.micro_batch", options.micro_batch > 0 ? options.micro_batch : share),
                         number("train.sequence", options.sequence), number("train.threads", options.threads),
                         number("train.head_chunk", options.head_chunk)});
  set.insert(set.end(), options.set.begin(), options.set.end());
  train::Config config = train::parse_config({}, set);
  train::check(config, options.ranks);
  return config;
}

void run_worker(const WorkerOptions& options) {
  const train::Config config = config_of(options);
  const device::Machine machine = device::Machine::read();
  const comm::Mesh mesh = train::mesh_of(config, options.ranks);
  const comm::WorldOptions world_options{.timeout = std::chrono::hours(24),
                                         .processors = machine.processors,
                                         .link = {.bytes_per_second = options.link_bytes_per_second,
                                                  .latency = std::chrono::nanoseconds(options.link_nanoseconds)}};
  const auto body = [&](comm::World& world) {
    const bool threads = std::string_view(world.backend()) == "threads";
    device::WorkerTeam team(options.threads, threads
                                                 ? machine.place_of_rank(world.rank(), world.size(), options.threads)
                                                 : device::WorkerTeam::Place{});
    device::Stream stream(team);
    const comm::Placement place(mesh, world.rank());
    const parallel::RunShape run = train::run_shape(config, machine, place);
    const std::vector<parallel::Program> programs = {train::run_programs(config, place).back()};  // the step
    parallel::Executor executor(run, programs, world, stream,
                                {.overlap = config.parallel.overlap,
                                 .offload_folder = config.optimizer.offload_directory,
                                 .processors = machine.processors});
    UpdateTimer timer;
    executor.observe(&timer);
    train::initialize(executor, 1);
    const std::unique_ptr<comm::Communicator> ranks = world.communicator("bench");
    const bool first = world.rank() == 0;
    float loss_scale = 4096.0F;  // fp16; halved when it overflows, which the steps before the first round see to
    for (int64_t step = 0;;) {
      int64_t count = 0;
      if (first) {
        std::string line;
        count = std::getline(std::cin, line) ? std::max(0, std::atoi(line.c_str())) : 0;
      }
      ranks->wait(ranks->broadcast(Ref(&count), 1, 0, {"how many steps", -1, step}));
      if (count == 0) return;
      nlohmann::json seconds = nlohmann::json::array(), update_seconds = seconds;
      double loss = 0;
      for (int64_t i = 0; i < count; ++i) {
        ranks->wait(ranks->barrier({"begin of a step", -1, step}));
        const auto begin = std::chrono::steady_clock::now();
        write_batch(executor, run.sharding.micro_batches, step++);
        const float t = static_cast<float>(step);
        const parallel::StepResult result = executor.run(0, {.step = step,
                                                             .optimizer = {.weight_decay = 0.1F},
                                                             .learning_rate = 1e-4F,
                                                             .correction1 = 1.0F - std::pow(0.9F, t),
                                                             .correction2 = 1.0F - std::pow(0.999F, t),
                                                             .clip = 1.0F,
                                                             .loss_scale = loss_scale});
        loss = result.loss;
        if (result.overflow) loss_scale *= 0.5F;
        seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
        update_seconds.push_back(timer.seconds());
      }
      if (!first) continue;
      const nlohmann::json row = {{"step_seconds", seconds},
                                  {"update_seconds", update_seconds},
                                  {"loss", loss},
                                  {"tokens", options.batch * options.sequence},
                                  {"peak_resident_bytes", device::resident_memory().peak},
                                  {"planned_bytes", executor.inventory().total_bytes() * options.ranks},
                                  {"offloaded_bytes", executor.inventory().file_bytes * options.ranks}};
      fmt::print("{}\n", json_text(row));
      std::fflush(stdout);
    }
  };
  if (comm::launched()) {
    comm::run_launched(world_options, {}, body);
  } else {
    comm::run_threads(options.ranks, world_options, body);
  }
}

}  // namespace ridgeline::bench
