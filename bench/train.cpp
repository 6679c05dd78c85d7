#include "bench/train.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "bench/machine.h"
#include "bench/process.h"
#include "ridgeline/base/error.h"
#include "ridgeline/model/declarations.h"

namespace ridgeline::bench {
namespace {

// One mode in the race: the seconds of its steps, round by round.
struct Contender {
  std::string name;
  std::unique_ptr<Process> process;
  std::vector<double> seconds;
  int64_t tokens = 0;
  int64_t resident = 0;  // of its largest process
  int64_t planned = 0;
  std::string limited;  // why its steps have fewer tokens than asked for; "" when they have not

  void step(int count, bool keep) {
    process->write_line(std::to_string(count));
    const nlohmann::json row = nlohmann::json::parse(process->read_json_line());
    tokens = row.at("tokens").get<int64_t>();
    resident = row.at("peak_resident_bytes").get<int64_t>();
    if (row.contains("planned_bytes")) planned = row.at("planned_bytes").get<int64_t>();
    if (!keep) return;
    for (const nlohmann::json& value : row.at("step_seconds")) seconds.push_back(value.get<double>());
  }
};

// Floor of a step: its FLOPs at the measured peak plus the optimizer's 28 bytes per parameter at the measured bandwidth
// (fp32 weight, gradient and two moments read; weight and moments written).
double floor_seconds(const model::TransformerConfig& config, const WorkerOptions& work, DType dtype,
                     const Machine& machine) {
  const double tokens = static_cast<double>(work.batch * work.sequence);
  return model::training_flops(config, work.sequence).per_token() * tokens / machine.flops(dtype) +
         28.0 * static_cast<double>(config.parameters()) / machine.adam;
}

Contender start_ours(const TrainBenchOptions& options, const std::string& precision, int ranks, int threads,
                     const std::string& name) {
  const WorkerOptions& work = options.work;
  std::vector<std::string> command = {options.program,
                                      "bench",
                                      "worker",
                                      "--preset",
                                      work.preset,
                                      "--precision",
                                      precision,
                                      "--ranks",
                                      std::to_string(ranks),
                                      "--threads",
                                      std::to_string(threads),
                                      "--batch",
                                      std::to_string(work.batch),
                                      "--micro-batch",
                                      std::to_string(work.micro_batch),
                                      "--sequence",
                                      std::to_string(work.sequence),
                                      "--head-chunk",
                                      std::to_string(work.head_chunk)};
  return {.name = name, .process = std::make_unique<Process>(command)};
}

// "eager", "compile": one process with all threads; every other mode is a way of training on one process per CPU.
bool is_one_process(std::string_view mode) {
  return mode.starts_with("eager") || mode.starts_with("compile");
}

std::vector<std::string> peer_environment(bool one_process, bool tuned) {
  // The first two are set for older OpenBLAS builds on some machines; they would slow PyTorch's libraries down.
  std::vector<std::string> environment = {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_WAIT_POLICY=PASSIVE",
                                          "GLOO_SOCKET_IFNAME=lo", "DS_ACCELERATOR=cpu"};
  if (!one_process) environment.emplace_back("OMP_NUM_THREADS=1");
  if (!tuned) return environment;
  for (const char* const library :
       {"/usr/lib/x86_64-linux-gnu/libjemalloc.so.2", "/usr/lib/aarch64-linux-gnu/libjemalloc.so.2"}) {
    if (std::filesystem::exists(library)) environment.emplace_back(fmt::format("LD_PRELOAD={}", library));
  }
  environment.emplace_back("MALLOC_CONF=thp:always,metadata_thp:always,dirty_decay_ms:-1,muzzy_decay_ms:-1,narenas:1");
  return environment;
}

std::vector<std::string> peer_command(const TrainBenchOptions& options, const model::TransformerConfig& config,
                                      const std::string& precision, const std::string& mode) {
  const WorkerOptions& work = options.work;
  const bool one = is_one_process(mode);
  const std::string name = mode.substr(0, mode.find('-'));
  std::vector<std::string> command = {options.peers + "/bin/python"};
  if (!one) {
    command.insert(command.end(),
                   {"-m", "torch.distributed.run", "--standalone", "--nproc-per-node", std::to_string(options.cpus)});
  }
  const std::vector<std::pair<std::string, std::string>> values = {
      {one ? "--mode" : "--parallel", name},
      {"--precision", precision},
      {"--layers", std::to_string(config.layers)},
      {"--width", std::to_string(config.width)},
      {"--heads", std::to_string(config.heads)},
      {"--vocab", std::to_string(config.vocab)},
      {"--batch", std::to_string(one ? work.batch : work.batch / options.cpus)},
      {"--sequence", std::to_string(work.sequence)},
      {"--threads", std::to_string(one ? options.cpus : 1)},
      {"--limit", fmt::format("{}", options.peer_limit)},
      {"--steps", "1"},
      {"--warmup", "0"}};
  command.push_back(options.peer_script);
  for (const auto& [key, value] : values) command.insert(command.end(), {key, value});
  command.emplace_back("--interactive");
  return command;
}

Contender start_peer(const TrainBenchOptions& options, const model::TransformerConfig& config,
                     const std::string& precision, const std::string& mode) {
  Contender contender{
      .name = fmt::format("{} {}", mode.starts_with("deepspeed") ? "DeepSpeed" : "PyTorch", mode),
      .process = std::make_unique<Process>(peer_command(options, config, precision, mode),
                                           peer_environment(is_one_process(mode), mode.ends_with("-tuned")))};
  // Its own report after the first step.
  contender.limited = nlohmann::json::parse(contender.process->read_json_line()).value("limited", "");
  return contender;
}

// Interleaved rounds: slow minutes of the machine hit all contenders.
void race(const TrainBenchOptions& options, std::vector<Contender>& contenders) {
  for (Contender& contender : contenders) contender.step(1, false);
  for (int round = 0; round < options.rounds; ++round) {
    for (Contender& contender : contenders) contender.step(options.steps_per_round, true);
    if (!options.verbose) continue;
    fmt::print(stderr, "round {} of {}:", round + 1, options.rounds);
    for (const Contender& contender : contenders)
      fmt::print(stderr, "  {} {:.3f} s", contender.name, contender.seconds.back());
    fmt::print(stderr, "\n");
  }
}

// Median over rounds of our tokens per second over theirs: above 1 we are faster.
double speed_ratio(const Contender& ours, const Contender& theirs) {
  const double tokens = static_cast<double>(ours.tokens) / static_cast<double>(theirs.tokens);
  std::vector<double> ratios;
  for (size_t i = 0; i < std::min(ours.seconds.size(), theirs.seconds.size()); ++i)
    ratios.push_back(tokens * theirs.seconds[i] / ours.seconds[i]);
  return statistics(ratios).median;
}

std::string row_name(const TrainBenchOptions& options, const std::string& precision, std::string_view rest) {
  std::string preset = options.work.preset;
  std::replace(preset.begin(), preset.end(), '-', '_');
  return fmt::format("{}_{}{}", preset, precision, rest);
}

void add_speed(const TrainBenchOptions& options, const std::string& precision, const Machine& machine,
               const Contender& contender, std::string_view rest, std::vector<Row>& rows) {
  const double floor = floor_seconds(model::preset(options.work.preset), options.work,
                                     precision == "bf16" ? DType::bf16 : DType::f32, machine);
  const Statistics seconds = statistics(contender.seconds);
  const double tokens = static_cast<double>(contender.tokens);
  rows.push_back({.name = row_name(options, precision, rest),
                  .value = tokens / seconds.median,
                  .unit = "tokens/s",
                  .floor = tokens / floor,
                  .fraction = floor / seconds.median,
                  .spread = seconds.spread});
}

void add_own(const TrainBenchOptions& options, const std::string& precision, const Machine& machine,
             std::vector<Row>& rows) {
  std::vector<Contender> own;
  own.push_back(start_ours(options, precision, 1, options.cpus, "1 rank"));
  if (options.cpus > 1)
    own.push_back(start_ours(options, precision, options.cpus, 1, fmt::format("{} ranks", options.cpus)));
  race(options, own);
  add_speed(options, precision, machine, own[0], "", rows);
  rows.push_back({.name = row_name(options, precision, "_memory"),
                  .value = static_cast<double>(own[0].resident) * 1e-9,
                  .unit = "GB",
                  .floor = static_cast<double>(own[0].planned) * 1e-9,
                  .fraction = static_cast<double>(own[0].planned) / static_cast<double>(own[0].resident)});
  if (own.size() < 2) return;
  add_speed(options, precision, machine, own[1], fmt::format("_{}_ranks", options.cpus), rows);
  rows.back().peer = "1 rank, all threads";
  rows.back().ratio = speed_ratio(own[1], own[0]);
}

// We run as the peer does: one rank with all threads, or a rank per CPU.
void add_peer(const TrainBenchOptions& options, const std::string& precision, const Machine& machine,
              const std::string& mode, std::vector<Row>& rows) {
  const bool one = is_one_process(mode);
  std::vector<Contender> pair;
  pair.push_back(start_ours(options, precision, one ? 1 : options.cpus, one ? options.cpus : 1, "ours"));
  pair.push_back(start_peer(options, model::preset(options.work.preset), precision, mode));
  race(options, pair);
  const Contender& theirs = pair[1];
  const std::string less = theirs.limited.empty() ? "" : "; " + theirs.limited;
  add_speed(options, precision, machine, pair[0], fmt::format("_beside_{}", mode), rows);
  rows.back().peer = fmt::format("{} ({:.1f} tokens/s{})", theirs.name,
                                 static_cast<double>(theirs.tokens) / statistics(theirs.seconds).median, less);
  rows.back().ratio = speed_ratio(pair[0], theirs);
  // Per rank: ours are threads of one process.
  const double ours = static_cast<double>(pair[0].resident) / (one ? 1 : options.cpus);
  const auto their_bytes = static_cast<double>(theirs.resident);
  rows.push_back(
      {.name = row_name(options, precision, fmt::format("_memory_{}beside_{}", one ? "" : "per_rank_", mode)),
       .value = ours * 1e-9,
       .unit = "GB",
       .peer = fmt::format("{} ({:.2f} GB{})", theirs.name, their_bytes * 1e-9, less),
       .ratio = ours / their_bytes});
}

}  // namespace

std::vector<Row> train_rows(const TrainBenchOptions& options) {
  std::vector<Row> rows;
  Machine machine;
  {
    device::WorkerTeam team(options.cpus);
    machine = measure_machine(team);
  }
  for (const std::string& precision : options.precisions) {
    add_own(options, precision, machine, rows);
    if (options.peers.empty()) continue;
    for (const std::string& mode : options.peer_modes) add_peer(options, precision, machine, mode, rows);
  }
  return rows;
}

}  // namespace ridgeline::bench
