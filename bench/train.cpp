#include "bench/train.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "bench/contender.h"
#include "bench/disk.h"
#include "bench/machine.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/model/declarations.h"
#include "ridgeline/plan/pipeline_use.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::bench {
namespace {

model::TransformerConfig model_of(const TrainBenchOptions& options) {
  return config_of(options.work).model.transformer;
}

// Floor of a step: its FLOPs at the measured peak plus the optimizer's 28 bytes per parameter at the measured bandwidth
// (fp32 weight, gradient and two moments read; weight and moments written).
double floor_seconds(const model::TransformerConfig& config, const WorkerOptions& work, DType dtype,
                     const Machine& machine) {
  const double tokens = static_cast<double>(work.batch * work.sequence);
  return model::training_flops(config, work.sequence).per_token() * tokens / machine.flops(dtype) +
         28.0 * static_cast<double>(config.parameters()) / machine.adam;
}

Contender start_ours(const TrainBenchOptions& options, const std::string& precision, int ranks, int threads,
                     const std::string& name, const std::vector<std::string>& set = {}) {
  WorkerOptions work = options.work;
  work.precision = precision;
  work.ranks = ranks;
  work.threads = threads;
  work.set.insert(work.set.end(), set.begin(), set.end());
  return start_worker(options.program, work, name);
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
  const std::vector<std::string> libraries = {"/usr/lib/x86_64-linux-gnu/libjemalloc.so.2",
                                              "/usr/lib/aarch64-linux-gnu/libjemalloc.so.2"};
  const auto library =
      std::find_if(libraries.begin(), libraries.end(), [](const std::string& l) { return std::filesystem::exists(l); });
  if (library == libraries.end())
    throw Error(fmt::format("tuned peers run with jemalloc, and there is no {}", libraries.front()),
                "Install it (tools/install_packages peers), or leave the tuned modes out of --peer-modes.");
  environment.emplace_back("LD_PRELOAD=" + *library);
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
  contender.limited = parse_json(contender.process->read_json_line()).value("limited", "");
  return contender;
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
  const double floor =
      floor_seconds(model_of(options), options.work, precision == "bf16" ? DType::bf16 : DType::f32, machine);
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
  race(options.race, own);
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

// key = value beside key = none, a rank of one thread per CPU.
void add_choice(const TrainBenchOptions& options, const std::string& precision, const Machine& machine,
                const std::string& key, const std::string& value, std::vector<Row>& rows) {
  const std::string name = key.substr(key.find('.') + 1);
  std::vector<Contender> pair;
  for (const std::string& choice : {value, std::string("none")}) {
    pair.push_back(start_ours(options, precision, options.cpus, 1, fmt::format("{} {}", name, choice),
                              {fmt::format("{}={}", key, choice)}));
  }
  race(options.race, pair);
  add_speed(options, precision, machine, pair[0], fmt::format("_{}_{}", name, value), rows);
  rows.back().peer = pair[1].name;
  rows.back().ratio = speed_ratio(pair[0], pair[1]);
  rows.push_back({.name = row_name(options, precision, fmt::format("_{}_{}_memory", name, value)),
                  .value = static_cast<double>(pair[0].resident) * 1e-9,
                  .unit = "GB",
                  .floor = static_cast<double>(pair[0].planned) * 1e-9,
                  .fraction = static_cast<double>(pair[0].planned) / static_cast<double>(pair[0].resident),
                  .peer = pair[1].name,
                  .ratio = static_cast<double>(pair[0].resident) / static_cast<double>(pair[1].resident)});
}

// The same micro-batches of one sequence on a rank of one thread per CPU, cut as `set` says, beside one rank with all
// threads that is not.
void add_cut(const TrainBenchOptions& options, const std::string& precision, const Machine& machine,
             const std::string& name, const std::vector<std::string>& set, std::vector<Row>& rows) {
  TrainBenchOptions single = options;
  single.work.micro_batch = 1;
  single.work.batch = options.cut_batch;
  std::vector<Contender> pair;
  pair.push_back(start_ours(single, precision, options.cpus, 1, name, set));
  pair.push_back(start_ours(single, precision, 1, options.cpus, "1 rank, all threads"));
  race(options.race, pair);
  add_speed(single, precision, machine, pair[0], "_" + name, rows);
  rows.back().peer = pair[1].name;
  rows.back().ratio = speed_ratio(pair[0], pair[1]);
}

// What keeps a pipeline from all of it: stages that wait for each other, apart from those that have less to do.
void add_pipeline(const TrainBenchOptions& options, const std::string& precision, const Machine& machine,
                  const std::string& schedule, std::vector<Row>& rows) {
  const std::string name = fmt::format("pipeline_{}_{}", options.cpus, schedule);
  const std::vector<std::string> set = {fmt::format("parallel.pipeline={}", options.cpus),
                                        "parallel.schedule=" + schedule};
  add_cut(options, precision, machine, name, set, rows);
  WorkerOptions work = options.work;
  work.ranks = options.cpus;
  work.micro_batch = 1;
  work.batch = options.cut_batch;
  work.set.insert(work.set.end(), set.begin(), set.end());
  const train::Config config = config_of(work);
  const comm::Placement place(train::mesh_of(config, work.ranks), 0);
  const parallel::RunShape run = train::run_shape(config, device::Machine::read(), place);
  const plan::PipelineUse use =
      plan::pipeline_use(run.sharding.pipeline.shape(run.sharding.micro_batches), plan::stage_costs(run));
  rows.push_back({.name = row_name(options, precision, "_" + name + "_imbalance"),
                  .value = use.imbalance,
                  .unit = "of the time: stages with less to do"});
  rows.push_back({.name = row_name(options, precision, "_" + name + "_idle"),
                  .value = use.timeline.idle_share,
                  .unit = "of the time, imbalance and bubble"});
}

void add_bandwidth(const std::string& name, const std::vector<double>& bandwidth, std::vector<Row>& rows) {
  const Statistics all = statistics(bandwidth);
  rows.push_back({.name = name, .value = all.median * 1e-9, .unit = "GB/s", .spread = all.spread});
}

// Optimizer state in a file beside the same in memory, one rank with all threads; and what the disk allows of that, by
// its bandwidth before and after the race: an update takes no less than its arithmetic, nor than its bytes take to pass
// beyond those that the window reads ahead and writes behind.
void add_offload(const TrainBenchOptions& options, const std::string& precision, const Machine& machine,
                 std::vector<Row>& rows) {
  const std::string folder =
      options.offload_directory.empty() ? std::filesystem::temp_directory_path().string() : options.offload_directory;
  std::vector<Contender> pair;
  pair.push_back(start_ours(options, precision, 1, options.cpus, "offload file",
                            {"optimizer.offload=file", "optimizer.offload_directory=" + folder,
                             fmt::format("optimizer.offload_buffer={}", options.offload_buffer)}));
  pair.push_back(start_ours(options, precision, 1, options.cpus, "offload none"));
  pair[0].step(1, false);
  const int64_t window = options.offload_buffer, bytes = pair[0].offloaded;
  Disk disk;
  measure_disk(folder, bytes, disk);
  race(options.race, pair);
  measure_disk(folder, bytes, disk);

  const double step = statistics(pair[1].seconds).median, update = statistics(pair[1].update_seconds).median;
  const double passing = static_cast<double>(std::max<int64_t>(bytes - window, 0)) / statistics(disk.together).median;
  const double allowed = step / (step - update + std::max(update, passing));
  const double reached = speed_ratio(pair[0], pair[1]);
  add_speed(options, precision, machine, pair[0], "_offload_file", rows);
  rows.back().peer = pair[1].name;
  rows.back().ratio = reached;
  rows.push_back({.name = row_name(options, precision, "_offload_file_of_none"),
                  .value = reached,
                  .unit = "of none",
                  .floor = allowed,
                  .fraction = reached / allowed});
  rows.push_back({.name = row_name(options, precision, "_offload_file_memory"),
                  .value = static_cast<double>(pair[0].resident) * 1e-9,
                  .unit = "GB",
                  .floor = static_cast<double>(pair[0].planned) * 1e-9,
                  .fraction = static_cast<double>(pair[0].planned) / static_cast<double>(pair[0].resident),
                  .peer = pair[1].name,
                  .ratio = static_cast<double>(pair[0].resident) / static_cast<double>(pair[1].resident)});
  rows.push_back({.name = row_name(options, precision, "_offload_file_state"),
                  .value = static_cast<double>(bytes) * 1e-9,
                  .unit = "GB"});
  const std::string cached = disk.direct ? "" : "_through_the_page_cache";
  add_bandwidth("disk_read" + cached, disk.read, rows);
  add_bandwidth("disk_write" + cached, disk.write, rows);
  add_bandwidth("disk_read_while_writing" + cached, disk.together, rows);
}

// What we cut when a peer cuts in its mode.
std::string shard_of_mode(std::string_view mode) {
  const std::string_view name = mode.substr(0, mode.find('-'));
  if (name == "zero_redundancy" || name == "deepspeed_zero1") return "optimizer";
  if (name == "deepspeed_zero2") return "gradients";
  if (name == "fsdp2" || name == "deepspeed_zero3") return "parameters";
  return "none";
}

// We run as the peer does: one rank with all threads, or a rank per CPU; the same things cut.
void add_peer(const TrainBenchOptions& options, const std::string& precision, const Machine& machine,
              const std::string& mode, std::vector<Row>& rows) {
  const bool one = is_one_process(mode);
  std::vector<Contender> pair;
  pair.push_back(start_ours(options, precision, one ? 1 : options.cpus, one ? options.cpus : 1, "ours",
                            {"parallel.shard=" + shard_of_mode(mode)}));
  pair.push_back(start_peer(options, model_of(options), precision, mode));
  race(options.race, pair);
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

// Rows that come of one race; `name` is what --rows looks for.
struct NamedRace {
  std::string name;
  std::function<void(std::vector<Row>&)> run;
};

// `options` and `machine`, which may be measured later, outlive the result.
void add_races(const TrainBenchOptions& options, const std::string& precision, const Machine& machine,
               std::vector<NamedRace>& races) {
  using Rows = std::vector<Row>&;
  const auto add = [&](const std::string& name, std::function<void(Rows)> run) {
    races.push_back({fmt::format("{}_{}", precision, name), std::move(run)});
  };
  add("own", [&options, &machine, precision](Rows rows) { add_own(options, precision, machine, rows); });
  struct Choice {
    std::string group, key, value;
  };
  for (const Choice& choice : {Choice{"parallel", "shard", "optimizer"},
                               {"parallel", "shard", "gradients"},
                               {"parallel", "shard", "parameters"},
                               {"train", "recompute", "selective"},
                               {"train", "recompute", "full"}}) {
    if (options.cpus == 1 && choice.key == "shard") continue;  // nothing to cut
    add(fmt::format("{}_{}", choice.key, choice.value), [&options, &machine, precision, choice](Rows rows) {
      add_choice(options, precision, machine, fmt::format("{}.{}", choice.group, choice.key), choice.value, rows);
    });
  }
  if (options.cpus > 1) {
    add("tensor", [&options, &machine, precision](Rows rows) {
      add_cut(options, precision, machine, fmt::format("tensor_{}", options.cpus),
              {fmt::format("parallel.tensor={}", options.cpus)}, rows);
    });
    for (const std::string schedule : {"1f1b", "zero-bubble"}) {
      add("pipeline_" + schedule, [&options, &machine, precision, schedule](Rows rows) {
        add_pipeline(options, precision, machine, schedule, rows);
      });
    }
  }
  add("offload_file", [&options, &machine, precision](Rows rows) { add_offload(options, precision, machine, rows); });
  if (options.peers.empty() || precision == "fp16") return;  // the peers' program has no fp16
  for (const std::string& mode : options.peer_modes) {
    add("beside_" + mode,
        [&options, &machine, precision, mode](Rows rows) { add_peer(options, precision, machine, mode, rows); });
  }
}

// Those of which a piece of the name is wanted; without any piece, all.
void choose(const std::vector<std::string>& pieces, std::vector<NamedRace>& races) {
  if (pieces.empty()) return;
  const auto has = [](const NamedRace& race, const std::string& piece) {
    return race.name.find(piece) != std::string::npos;
  };
  for (const std::string& piece : pieces) {
    if (std::any_of(races.begin(), races.end(), [&](const NamedRace& race) { return has(race, piece); })) continue;
    std::vector<std::string> names;
    for (const NamedRace& race : races) names.push_back(race.name);
    throw Error(fmt::format("--rows: no race's name contains '{}'", piece),
                fmt::format("With these options there are {}.", fmt::join(names, ", ")));
  }
  std::erase_if(races, [&](const NamedRace& race) {
    return std::none_of(pieces.begin(), pieces.end(), [&](const std::string& piece) { return has(race, piece); });
  });
}

}  // namespace

std::vector<Row> train_rows(const TrainBenchOptions& options) {
  Machine machine;
  std::vector<NamedRace> races;
  for (const std::string& precision : options.precisions) add_races(options, precision, machine, races);
  choose(options.rows, races);
  {
    device::WorkerTeam team(options.cpus);
    machine = measure_machine(team);
  }
  std::vector<Row> rows;
  for (const NamedRace& race : races) race.run(rows);
  return rows;
}

}  // namespace ridgeline::bench
