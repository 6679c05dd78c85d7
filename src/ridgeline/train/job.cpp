// What a configuration means before any rank runs: shapes, programs, and everything outside opened and checked once.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "ridgeline/base/error.h"
#include "ridgeline/checkpoint/lineage.h"
#include "ridgeline/plan/memory_report.h"
#include "ridgeline/train/evaluator.h"
#include "ridgeline/train/peak_cache.h"
#include "ridgeline/train/run_folder.h"
#include "ridgeline/train/sample_order.h"
#include "ridgeline/train/state.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::train {
namespace {

namespace fs = std::filesystem;

int micro_batches(const Config& config, int64_t batch, const comm::Mesh& mesh) {
  return static_cast<int>(batch / (config.train.micro_batch * mesh.size(comm::kDataAxes)));
}

// A new run does not write over an old one.
void check_output(const JobOptions& options) {
  if (options.resume || !checkpoint::newest(checkpoints_of(options.out))) return;
  throw Error(fmt::format("'{}' already holds a run", options.out.string()),
              "Add --resume to go on with it, or choose another --out.");
}

void open_data(Job& job, const RunDocuments& documents) {
  const Config& config = job.config;
  const int64_t vocabulary = config.model.transformer.vocab;
  job.tokenizer = open_tokenizer(config, documents);
  if (!job.tokenizer.message.empty()) job.data_messages.push_back(job.tokenizer.message);
  if (documents.validates()) {
    job.valid = std::make_shared<data::EvaluationWindows>(documents.valid, config.train.sequence, vocabulary,
                                                          config.data.rules);
    require_predictions(*job.valid);
    if (job.options.writes) job.bytes_per_token = text_bytes_per_prediction(documents.valid, job.tokenizer.tokenizer);
  }
  if (config.train.eval_every > 0 && !job.valid) {
    throw Error(fmt::format("train.eval_every = {}, but there is no validation data", config.train.eval_every),
                "Name some with data.valid, or let data.split leave documents for it (\"98,2,0\"); or set it to 0.");
  }
}

// Decides the order of samples, or takes the checkpoint's, and builds it if there is room for it.
void order_samples(Job& job, const RunDocuments& documents, const std::optional<RunState>& state) {
  int64_t wanted = 0;
  if (state) {
    ContinuedOrder continued = continued_order(job.config, documents, *state, job.options.other_data);
    job.order = continued.order;
    job.data_messages.insert(job.data_messages.end(), continued.messages.begin(), continued.messages.end());
    job.validation_differs = continued.validation_differs;
    wanted = continued.wanted;
  } else {
    job.order = new_order(job.config, documents);
    wanted = job.order.samples;
    for (std::optional<std::string> message :
         {split_rule_message(job.config, documents), blend_message(job.config, documents, wanted)}) {
      if (message) job.data_messages.push_back(std::move(*message));
    }
  }
  const int64_t bytes = order_size(documents, job.order, wanted).bytes;
  if (job.options.admit_order) {
    job.options.admit_order(bytes);
  } else {
    require_index_fits(job.config, bytes, plan::host_limit(job.machine, 1).bytes, "host");
  }
  job.train = make_samples(job.config, documents, job.order, wanted);
}

// What a checkpoint says of its run; none without --resume.
std::optional<RunState> state_to_resume(const Job& job) {
  if (!job.from) return std::nullopt;
  const fs::path& folder = job.from->folder;
  checkpoint::verify(folder, checkpoint::Check::sizes);
  const fs::path file = folder / checkpoint::kManifestName;
  const checkpoint::Manifest manifest = checkpoint::parse_manifest(read_text(file), file.string());
  RunState state = run_state_from_json(manifest.extra, folder.string());
  state.step = manifest.step;
  return state;
}

std::string named_run(const fs::path& out) {
  return fmt::format("the run in '{}'", out.string());
}

}  // namespace

int threads_per_rank(const Config& config, const device::Machine& machine, int ranks_of_machine) {
  if (config.train.threads > 0) return static_cast<int>(config.train.threads);
  return machine.threads_per_rank(ranks_of_machine);
}

parallel::Sharding sharding_of(const Config& config, const comm::Mesh& mesh) {
  const Config::Parallel& parallel = config.parallel;
  // From level `gradients` on memory is what one shards for; below it only traffic counts.
  const bool every = parallel.reduce == Cadence::every ||
                     (parallel.reduce == Cadence::automatic && parallel.shard >= parallel::Shard::gradients);
  return {.level = parallel.shard,
          .mesh = mesh,
          .reduce = every ? parallel::Reduce::every : parallel::Reduce::last,
          .gather = parallel.gather,
          .prefetch = static_cast<int>(parallel.prefetch),
          .wire = dtype_of(parallel.reduce_dtype),
          .weights = activation_dtype(config),
          .masters = config.train.precision == Precision::pure_bf16 ? DType::bf16 : DType::f32,
          .moments = dtype_of(config.optimizer.state),
          .micro_batches = micro_batches(config, config.train.global_batch, mesh),
          .pipeline = pipeline_of(config),
          .sequence = parallel.sequence};
}

parallel::RunShape run_shape(const Config& config, const device::Machine& machine, const comm::Placement& place) {
  model::BatchShape batch{
      .batch = config.train.micro_batch,
      .sequence = config.train.sequence,
      .dtype = activation_dtype(config),
      .head_chunk = std::min(config.train.head_chunk, config.train.micro_batch * config.train.sequence),
      .team_size = threads_per_rank(config, machine, place.mesh().world_size()),
      .dropout = config.model.transformer.dropout > 0.0F,
      .documents = config.data.rules.reset_attention_mask || config.data.rules.reset_position_ids};
  model::BatchShape evaluation = batch;
  evaluation.dropout = false;
  return {.config = config.model.transformer,
          .batch = batch,
          .evaluation_batch = evaluation,
          .sharding = sharding_of(config, place.mesh()),
          .rank = place.rank(),
          .recompute = config.train.recompute,
          .recompute_every = static_cast<int>(config.train.recompute_every),
          .offload_window = config.optimizer.offload == Offload::file ? config.optimizer.offload_buffer : 0};
}

std::vector<parallel::Program> run_programs(const Config& config, const comm::Placement& place) {
  const model::TransformerConfig& model = config.model.transformer;
  const parallel::Sharding sharding = sharding_of(config, place.mesh());
  const int stage = place.stage();
  std::vector<bool> recomputed;  // blocks whose backward has no parts
  for (int64_t layer = 0; layer < model.layers; ++layer)
    recomputed.push_back(config.train.recompute == ridgeline::model::Recompute::full &&
                         layer % config.train.recompute_every == 0);
  // As many micro-batches as there are stages, so that all have something to do.
  std::vector<parallel::Program> programs = {parallel::evaluation(model, sharding.pipeline.stages(), sharding, stage)};
  for (const int64_t batch : optim::batch_sizes(batch_ramp_of(config))) {
    const int count = micro_batches(config, batch, place.mesh());
    const std::vector<std::vector<parallel::ScheduleEntry>> schedule =
        parallel::schedule(sharding.pipeline.shape(count));
    programs.push_back(parallel::lower(model, schedule[static_cast<size_t>(stage)], sharding, stage, recomputed));
  }
  return programs;
}

std::shared_ptr<const LockFile> lock_run(const fs::path& out) {
  return LockFile::of_folder(out, named_run(out), "ridgeline train");
}

void require_no_first_run(const fs::path& out) {
  if (!has_checkpoints(out)) LockFile::require_free(lock_file_of(out), named_run(out));
}

Job prepare_job(const Config& config, JobOptions options, const device::Machine& machine, const comm::Mesh& mesh,
                RunData opened) {
  const auto begin = std::chrono::steady_clock::now();
  Job job{.config = config, .options = std::move(options), .machine = machine, .mesh = mesh};
  require_data(config);
  check_output(job.options);
  if (job.options.writes && !job.options.lock) {
    job.options.lock = lock_run(job.options.out);
    check_output(job.options);  // a run that ended meanwhile
  }
  job.from = resumed_checkpoint(job.options);
  job.finished = job.from && is_finished(*job.from, config.train.steps);
  if (job.finished) return job;
  const std::optional<RunState> state = state_to_resume(job);
  if (state) job.config = with_split_rule(std::move(job.config), *state);
  const RunDocuments documents = open_documents(job.config, std::move(opened));
  open_data(job, documents);
  order_samples(job, documents, state);
  // Products of fp16 are computed in fp32.
  job.arithmetic = activation_dtype(config) == DType::bf16 ? DType::bf16 : DType::f32;
  job.threads_per_rank = threads_per_rank(config, machine, mesh.world_size());
  job.threads = job.threads_per_rank * mesh.world_size();
  if (job.options.writes) job.peak_flops = peak_flops_per_thread(job.arithmetic, machine) * job.threads;
  job.prepare_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return job;
}

}  // namespace ridgeline::train
