#include "ridgeline/train/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numbers>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/random.h"
#include "ridgeline/base/words.h"
#include "ridgeline/checkpoint/lineage.h"
#include "ridgeline/comm/failure.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/observe/format.h"
#include "ridgeline/parallel/diagnosis.h"
#include "ridgeline/parallel/executor.h"
#include "ridgeline/train/evaluator.h"
#include "ridgeline/train/output_folder.h"
#include "ridgeline/train/rank_log.h"
#include "ridgeline/train/run_folder.h"
#include "ridgeline/train/signals.h"
#include "ridgeline/train/state.h"
#include "ridgeline/train/step_log.h"
#include "ridgeline/train/time_limit.h"
#include "ridgeline/train/verify_data.h"

namespace ridgeline::train {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

parallel::Executor::Options executor_options(const Job& job) {
  const std::string& folder = job.config.optimizer.offload_directory;
  return {.packing = job.options.guard ? parallel::Packing::separate : parallel::Packing::shared,
          .guard = job.options.guard,
          .overlap = job.config.parallel.overlap,
          .offload_folder = folder.empty() ? job.options.out / "offload" : fs::path(folder),
          .processors = job.machine.processors};
}

// Processes are placed by their launcher, threads of one process by us.
device::WorkerTeam::Place place_of(const Job& job, const comm::World& world) {
  if (std::string_view(world.backend()) != "threads") return {};
  return job.machine.place_of_rank(world.rank(), world.size(), job.threads_per_rank);
}

// What begins, before memory is taken and weights are made or read, which takes minutes for a large model.
void announce(const Job& job, int ranks) {
  const Config& config = job.config;
  const Config::Train& train = config.train;
  fmt::print(job.options.console, "{}: {} parameters in {} on {} of {}; {} of {}{} of {} tokens; {}\n",
             config.model.transformer.family, observe::format_integer(config.model.transformer.parameters()),
             word_of(train.precision), observe::format_counted(ranks, "rank"),
             observe::format_counted(job.threads_per_rank, "thread"), observe::format_counted(train.steps, "step"),
             train.batch_ramp_start > 0 ? "up to " : "", observe::format_counted(train.global_batch, "sequence"),
             train.sequence,
             train.save_every > 0
                 ? fmt::format("checkpoints every {} and at the end", observe::format_counted(train.save_every, "step"))
                 : "a checkpoint at the end only (train.save_every = 0)");
  std::fflush(job.options.console);
}

class Trainer {
 public:
  Trainer(const Job& job, comm::World& world)
      : job_(job),
        world_(world),
        place_(job.mesh, world.rank()),
        programs_(run_programs(job.config, place_)),
        team_(job.threads_per_rank, place_of(job, world)),
        stream_(team_),
        begin_(Clock::now()),
        executor_(run_shape(job.config, job.machine, place_), programs_, world, stream_, executor_options(job)),
        timer_(programs_, world.rank(), job.options.trace.has_value()),
        tokens_(static_cast<size_t>(job.config.train.sequence) + 1),
        begins_(tokens_.size()) {
    memory_seconds_ = seconds_since(begin_);
    executor_.observe(&timer_);
  }

  TrainingResult run() {
    start();
    StepRecord record;
    const int64_t steps = job_.config.train.steps;
    bool stopped = state_.evaluation_due && !make_up_evaluation(record);
    while (state_.step < steps && !stopped) {
      record = step();
      if (rank_log_) rank_log_->record(record);
      if (prune_due_) prune();
      const bool last = state_.step == steps;
      stopped = record.result.stop && !last;
      if (job_.valid && due(job_.config.train.eval_every, last)) {
        // A stop does not wait for it.
        state_.evaluation_due = record.result.stop || !evaluate(record);
        stopped = state_.evaluation_due;
      }
      const bool new_best = job_.config.train.keep_best && record.validation_loss && state_.best_step == state_.step;
      if (due(job_.config.train.save_every, last) || stopped || new_best) {
        save(record);
        // Whether the next step is finite shows only there; until then the checkpoint before stays.
        if (last || stopped) {
          prune();
        } else {
          prune_due_ = true;
        }
      } else if (log_) {
        log_->record(record);
      }
      if (log_ && record.result.overflow) {
        log_->message(
            fmt::format("step {}: a gradient overflowed, first in {}; skipped, the loss scale goes from {} to {}",
                        state_.step, executor_.segments()[static_cast<size_t>(record.result.overflow_segment)].name,
                        *record.loss_scale, scaler_->scale()));
      }
      if (first_) report_start();
    }
    if (prune_due_ && !stopped) prune();  // an evaluation that was made up was all that was left
    if (job_.options.trace) write_trace_file();
    if (log_) {
      if (stopped) {
        log_->message(fmt::format("stopped {} after step {}; go on with --resume{}",
                                  stops_for_time_ ? "before the time limit" : "by signal", state_.step,
                                  state_.evaluation_due ? ", which begins with the evaluation of this step" : ""));
      }
      log_->finish();
      // A rank that died late may have left one.
      clear_failure(job_.options.out);
      if (stopped && stops_for_time_ && started_steps_ <= 1) require_first_start();
    }
    TrainingResult result{.step = state_.step, .stopped = stopped, .validation_loss = record.validation_loss};
    if (started_steps_ > 0) result.loss = record.result.loss;
    return result;
  }

 private:
  bool due(int64_t every, bool last) const { return last || (every > 0 && state_.step % every == 0); }

  void start() {
    const Clock::time_point begin = Clock::now();
    const bool resume = job_.from.has_value();
    if (resume) {
      const fs::path& folder = job_.from->folder;
      if (world_.rank() == 0) checkpoint::verify(folder);
      const Config now = job_.config;
      state_ = load_state(executor_, folder);
      differences_ = differences(config_of(state_), now);
    } else if (!job_.config.train.init_from.empty()) {
      load_hugging_face(executor_, job_.config.train.init_from);
    } else {
      initialize(executor_, static_cast<uint64_t>(job_.config.train.seed));
    }
    if (const std::optional<optim::LossScaleRule> rule = loss_scale_of(job_.config)) {
      scaler_ = state_.loss_scale.is_null()
                    ? optim::LossScaler(*rule)
                    : optim::LossScaler::from_json(*rule, state_.loss_scale, "the checkpoint's loss scale");
    }
    state_.order = job_.order;
    if (job_.validation_differs) {
      state_.best_validation_loss.reset();
      state_.best_step = 0;
    }
    state_.config = to_toml(job_.config, Detail::values);
    // What the configuration no longer names, a resumed run still has.
    if (!job_.tokenizer.files.empty()) state_.tokenizer = job_.tokenizer.files;
    if (job_.tokenizer.end_of_document) state_.end_of_document = job_.tokenizer.end_of_document;
    // One that another run owed is none of this one's.
    if (!job_.valid || !resume || !is_own(job_.options.out, job_.from->folder)) state_.evaluation_due = false;
    prune_due_ = resume;  // of a run that died before it could
    weights_seconds_ = seconds_since(begin);
    std::vector<std::string> notes;
    if (world_.rank() == 0) notes = enter_folder();
    find_best(notes);
    if (job_.options.logs) rank_log_.emplace(job_.options.out, world_);
    if (world_.rank() != 0) return;
    if (job_.train->datasets() > 1) {
      dataset_tokens_.resize(job_.train->datasets());
      count_datasets(job_.train->begin(), state_.consumed_samples);
    }
    log_.emplace(job_, executor_.run_shape(), state_.step, resume);
    if (const device::FileStream* const stream = executor_.offload_file()) {
      log_->message(fmt::format(
          "optimizer state: {} per rank in a file in '{}', {}",
          observe::format_bytes(static_cast<double>(stream->file().size())), stream->file().folder().string(),
          stream->file().direct() ? "past the page cache"
                                  : "through the page cache: this file system has no direct I/O"));
    }
    if (job_.options.guard) log_->message("guard mode: every buffer is watched, which takes time and memory");
    if (resume) {
      log_->message(fmt::format("resumed at step {}", state_.step));
      for (const std::string& line : notes) log_->message(line);
      for (const std::string& line : differences_) log_->message("changed since: " + line);
    }
    for (const std::string& line : job_.data_messages) log_->message(line);
  }

  std::vector<std::string> enter_folder() {
    const fs::path& out = job_.options.out;
    clear_leftovers(out);
    std::vector<std::string> notes;
    if (job_.from) {
      notes = enter_branch(out, job_.from->folder);
      state_.descent = {.branch = checkpoint::read_lineage(checkpoints_of(out)).branch, .parent = state_.step};
    }
    write_atomically(out / "config.toml", std::string(kRunConfigMark) + to_toml(job_.config, Detail::documented));
    return notes;
  }

  // A best whose checkpoint is not there, since the run comes from another folder, is not the one to beat. Collective.
  void find_best(std::vector<std::string>& notes) {
    if (!state_.best_validation_loss || !job_.config.train.keep_best) return;
    int64_t found = 1;
    if (world_.rank() == 0) found = has_checkpoint(job_.options.out, state_.best_step) ? 1 : 0;
    comm::Communicator& ranks = executor_.ranks();
    if (ranks.size() > 1) ranks.wait(ranks.broadcast(Ref(&found), 1, 0, {"the best checkpoint", -1, state_.step}));
    if (found != 0) return;
    notes.push_back(
        fmt::format("the best validation loss so far, {:.4f} at step {}, has no checkpoint here: the best "
                    "is looked for anew",
                    *state_.best_validation_loss, state_.best_step));
    state_.best_validation_loss.reset();
    state_.best_step = 0;
  }

  void report_start() {
    first_ = false;
    if (!log_) return;
    log_->message(fmt::format(
        "start-up: {} to the end of the first step: data {}, memory {} ({} planned per rank; {} operations and "
        "{} buffers proved in {}), weights {}, first step {}",
        observe::format_duration(start_up_seconds_), observe::format_duration(job_.prepare_seconds),
        observe::format_duration(memory_seconds_),
        observe::format_bytes(static_cast<double>(executor_.inventory().total_bytes())),
        observe::format_integer(executor_.proof().operations), observe::format_integer(executor_.proof().buffers),
        observe::format_duration(executor_.proof().seconds), observe::format_duration(weights_seconds_),
        observe::format_duration(first_step_seconds_)));
  }

  // The program for the batch of the step that begins now.
  int step_program() const {
    const Config::Train& train = job_.config.train;
    const int64_t batch = optim::batch_at(batch_ramp_of(job_.config), state_.consumed_samples);
    const int64_t micro_batches = batch / (train.micro_batch * place_.data_ranks());
    for (size_t i = kFirstStepProgram; i < programs_.size(); ++i) {
      if (programs_[i].micro_batches == micro_batches) return static_cast<int>(i);
    }
    RL_REQUIRE(false, "no program for {} micro-batches", micro_batches);
    return -1;
  }

  // Of a step's program.
  int64_t samples_of(int program) const {
    return int64_t{programs_[static_cast<size_t>(program)].micro_batches} * place_.data_ranks() *
           job_.config.train.micro_batch;
  }

  // The samples of this rank: in each micro-batch the ranks take consecutive slices.
  void write_batch() {
    const int program = step_program();
    const int micro_batches = programs_[static_cast<size_t>(program)].micro_batches;
    for (int m = 0; m < micro_batches; ++m) write_micro_batch(program, m, state_.consumed_samples, m);
  }

  // Micro-batch `m` of the batch that begins with sample `first`, as micro-batch `place` of a program.
  void write_micro_batch(int program, int place, int64_t first, int m) {
    const int64_t micro = job_.config.train.micro_batch, t = job_.config.train.sequence;
    const parallel::BatchBuffers buffers = executor_.batch(program, place);
    for (int64_t b = 0; b < micro; ++b) {
      const int64_t sample = first + (int64_t{m} * place_.data_ranks() + place_.data_rank()) * micro + b;
      job_.train->sample(sample, tokens_);
      std::copy_n(tokens_.begin(), t, buffers.inputs + b * t);
      std::copy_n(tokens_.begin() + 1, t, buffers.labels + b * t);
      place_row(buffers, b, t, static_cast<uint32_t>(sample));
      const data::DocumentRules& rules = job_.train->rules();
      if (buffers.first_keys == nullptr && !rules.eod_mask_loss) continue;
      job_.train->document_begins(sample, begins_);
      place_documents(buffers, b, std::span(begins_).first(static_cast<size_t>(t)), rules);
      for (int64_t i = 0; rules.eod_mask_loss && i < t; ++i) {
        if (begins_[static_cast<size_t>(i) + 1] == i + 1) buffers.labels[b * t + i] = data::kIgnoredLabel;
      }
    }
  }

  // Of a blend, on rank 0: which datasets samples [first, last) were of.
  void count_datasets(int64_t first, int64_t last) {
    if (dataset_tokens_.empty()) return;
    for (int64_t i = first; i < last; ++i) {
      const size_t dataset = job_.train->dataset_of(i);
      dataset_tokens_[dataset] += job_.train->dataset(dataset).predictions();
    }
  }

  // The forward pass of the batch of the step that begins now; past the end of the data, of the one before.
  void require_finite_forward() {
    const int program = step_program();
    const int64_t samples = samples_of(program);
    const bool more = state_.consumed_samples + samples <= job_.train->end();
    const int64_t first = more ? state_.consumed_samples : std::max<int64_t>(0, state_.consumed_samples - samples);
    const parallel::StepInput input{.step = state_.step};
    for (int m = 0; m < programs_[static_cast<size_t>(program)].micro_batches; ++m) {
      write_micro_batch(kEvaluationProgram, 0, first, m);
      if (!executor_.run(kEvaluationProgram, input).finite)
        fail_non_finite(kEvaluationProgram, input, "the loss after the update");
    }
  }

  // Asked by a signal, or, which rank 0 decides, for lack of time.
  bool has_to_stop() {
    const bool by_signal = StopSignals::requested() != 0;
    if (!by_signal && log_ && limit_.is_near()) stops_for_time_ = true;
    return by_signal || stops_for_time_;
  }

  // A job that is queued again for a step a start does little but start. Its first start may have been slow.
  void require_first_start() const {
    if (restarts_of_job() == 0) return;
    throw comm::Refusal(
        fmt::format("the time limit leaves room for {} in a start of this job, which was queued again before: {} were "
                    "over after it, and train.stop_before_limit keeps {}",
                    started_steps_ == 0 ? "no step" : "one step",
                    observe::format_duration(seconds_since(job_.options.began)),
                    observe::format_duration(job_.config.train.stop_before_limit)),
        fmt::format("Give the job more time. Step {} is saved; --resume goes on with it.", state_.step));
  }

  parallel::StepInput step_input() {
    const Config::Optimizer& optimizer = job_.config.optimizer;
    const int64_t t = state_.step + 1;
    const auto updates = static_cast<double>(state_.successful_steps + 1);
    const auto seed = static_cast<uint64_t>(job_.config.train.seed);
    parallel::StepInput input;
    input.step = t;
    input.random = {random_key(seed, static_cast<uint64_t>(t), Purpose::dropout),
                    random_key(seed, static_cast<uint64_t>(t), Purpose::attention_dropout)};
    input.optimizer = {.beta1 = optimizer.beta1,
                       .beta2 = optimizer.beta2,
                       .epsilon = static_cast<float>(optimizer.epsilon),
                       .weight_decay = static_cast<float>(optimizer.weight_decay),
                       .decoupled = optimizer.form == AdamForm::adamw};
    input.learning_rate = static_cast<float>(optim::learning_rate(
        schedule_of(job_.config),
        {.step = t, .successful_steps = state_.successful_steps, .successful_samples = state_.successful_samples}));
    input.correction1 = static_cast<float>(1.0 - std::pow(optimizer.beta1, updates));
    input.correction2 = static_cast<float>(1.0 - std::pow(optimizer.beta2, updates));
    input.loss_scale = scaler_ ? static_cast<float>(scaler_->scale()) : 1.0F;
    input.rounding_key = random_key(seed, static_cast<uint64_t>(t), Purpose::rounding);
    input.clip = static_cast<float>(optimizer.clip);
    input.stop_requested = has_to_stop();
    return input;
  }

  StepRecord step() {
    if (observe::Trace* trace = timer_.trace()) {
      trace->enable(started_steps_ >= job_.options.trace_first - 1 && started_steps_ < job_.options.trace_last);
    }
    const Clock::time_point begin = Clock::now();
    timer_.reset();
    write_batch();
    StepRecord record;
    record.data_seconds = seconds_since(begin);
    const parallel::StepInput input = step_input();
    const int program = step_program();
    record.result = executor_.run(program, input);
    if (!record.result.finite) fail_non_finite(program, input, "the loss or a gradient");
    if (scaler_) {
      record.loss_scale = scaler_->scale();
      scaler_->update(record.result.overflow);
    }
    record.step_seconds = seconds_since(begin);
    limit_.step_took(record.step_seconds);
    record.phases = timer_.phases();
    if (started_steps_++ == 0) {
      first_step_seconds_ = record.step_seconds;
      start_up_seconds_ = seconds_since(job_.options.began);
    }
    ++state_.step;
    const int64_t samples = samples_of(program);
    count_datasets(state_.consumed_samples, state_.consumed_samples + samples);
    state_.consumed_samples += samples;
    if (!record.result.overflow) {
      ++state_.successful_steps;
      state_.successful_samples += samples;
    }
    state_.consumed_tokens += record.result.tokens;
    record.step = state_.step;
    record.learning_rate = static_cast<double>(input.learning_rate);
    record.consumed_tokens = state_.consumed_tokens;
    record.dataset_tokens = dataset_tokens_;
    return record;
  }

  // A checkpoint is good when what follows from it is finite: nothing that led to this is offered.
  [[noreturn]] void fail_non_finite(int program, const parallel::StepInput& input, std::string_view what) {
    const std::string first = parallel::first_non_finite(executor_, program, input);
    const bool training = program != kEvaluationProgram;
    const std::optional<checkpoint::CheckpointEntry> good = last_good(job_.options.out, state_.step);
    const char* const now = training                                        ? "weights were not updated"
                            : has_checkpoint(job_.options.out, state_.step) ? "the checkpoint of this step is not good"
                                                                            : "no checkpoint of this step was written";
    throw Error(
        fmt::format("step {}: {} is not finite; first seen in {}; {}", input.step, what,
                    first.empty() ? "the sum over ranks" : first, now),
        good ? fmt::format("The last good checkpoint is '{0}'. Go on from it, with --resume-from {0}, with a lower "
                           "optimizer.learning_rate or tighter optimizer.clip.",
                           good->folder.string())
             : "Start again with a lower optimizer.learning_rate or a longer optimizer.warmup_steps.");
  }

  // False when it was interrupted by a stop.
  bool evaluate(StepRecord& record) {
    const int64_t all = job_.valid->size();
    const int64_t limit = job_.config.train.eval_samples > 0 ? std::min(job_.config.train.eval_samples, all) : all;
    const Evaluation evaluation = evaluate_windows(executor_, kEvaluationProgram, *job_.valid, limit, state_.step,
                                                   [this] { return has_to_stop(); });
    if (evaluation.not_finite) fail_non_finite(kEvaluationProgram, {.step = state_.step}, "the validation loss");
    if (evaluation.stopped) return false;
    record.validation_loss = evaluation.loss;
    record.validation_datasets = evaluation.datasets;
    if (job_.bytes_per_token > 0)
      record.validation_bits_per_byte = *record.validation_loss / std::numbers::ln2 / job_.bytes_per_token;
    if (!state_.best_validation_loss || *record.validation_loss < *state_.best_validation_loss) {
      state_.best_validation_loss = record.validation_loss;
      state_.best_step = state_.step;
    }
    return true;
  }

  // The evaluation that a stop interrupted. False when that happened again.
  bool make_up_evaluation(StepRecord& record) {
    record.step = state_.step;
    if (!evaluate(record)) return false;
    state_.evaluation_due = false;
    if (!log_) return true;
    log_->amend(record);
    save_evaluation(job_.from->folder, state_);
    return true;
  }

  // The record is on disk before the checkpoint that it belongs to.
  void save(StepRecord& record) {
    const Clock::time_point begin = Clock::now();
    if (!record.validation_loss) require_finite_forward();
    if (scaler_) state_.loss_scale = scaler_->to_json();
    save_state(executor_, checkpoints_of(job_.options.out), state_, [&] {
      record.save_seconds = seconds_since(begin);
      log_->record(record);
      log_->sync();
    });
    state_.descent.parent = state_.step;
    limit_.save_took(seconds_since(begin));
  }

  void prune() {
    prune_due_ = false;
    if (world_.rank() != 0) return;
    keep_newest(job_.options.out, job_.config.train.keep_last, state_.best_step, state_.descent.parent.value_or(0));
  }

  // The ranks' events, gathered on rank 0.
  void write_trace_file() {
    comm::Communicator* const ranks = &executor_.ranks();
    const observe::Trace& trace = *timer_.trace();
    const int64_t clock_offset = observe::steady_to_wall();
    int64_t origin = trace.earliest(clock_offset), lost = trace.lost();
    if (ranks->size() > 1) {
      ranks->wait(ranks->all_reduce(Ref(&origin), 1, comm::ReduceOp::min, {"begin of the trace", -1, -1}));
      ranks->wait(ranks->all_reduce(Ref(&lost), 1, comm::ReduceOp::sum, {"losses of the trace", -1, -1}));
    }
    const std::string mine = trace.events_json(origin, clock_offset);
    int64_t longest = static_cast<int64_t>(mine.size());
    if (ranks->size() > 1)
      ranks->wait(ranks->all_reduce(Ref(&longest), 1, comm::ReduceOp::max, {"size of the trace", -1, -1}));
    std::vector<char> all(static_cast<size_t>(longest * ranks->size()), ' ');
    std::memcpy(all.data() + longest * ranks->rank(), mine.data(), mine.size());
    if (ranks->size() > 1 && longest > 0) {
      ranks->wait(ranks->all_gather(Ref(all.data(), DType::u8), longest, {"trace", -1, -1}));
    }
    if (world_.rank() != 0) return;
    std::vector<std::string> events;
    for (int rank = 0; rank < ranks->size(); ++rank) {
      std::string text(all.data() + longest * rank, static_cast<size_t>(longest));
      text.erase(text.find_last_not_of(' ') + 1);
      events.push_back(std::move(text));
    }
    observe::write_trace(*job_.options.trace, events);
    log_->message(fmt::format("trace: '{}' (open it at ui.perfetto.dev)", job_.options.trace->string()));
    if (lost > 0) {
      log_->message(
          fmt::format("trace: the earliest {} operations are missing, more than fit; trace fewer steps (--trace-first, "
                      "--trace-last)",
                      observe::format_integer(lost)));
    }
  }

  const Job& job_;
  comm::World& world_;
  const comm::Placement place_;
  const std::vector<parallel::Program> programs_;
  device::WorkerTeam team_;
  device::Stream stream_;
  const Clock::time_point begin_;
  parallel::Executor executor_;
  OpTimer timer_;
  std::vector<int32_t> tokens_, begins_;  // [T+1] of a sample
  std::vector<int64_t> dataset_tokens_;
  RunState state_;
  std::optional<optim::LossScaler> scaler_;  // fp16
  std::vector<std::string> differences_;
  std::optional<StepLog> log_;
  std::optional<RankLog> rank_log_;
  TimeLimit limit_ = time_limit(job_.options.began, job_.options.max_time, job_.config.train.stop_before_limit);
  bool first_ = true;
  bool prune_due_ = false;
  bool stops_for_time_ = false;
  int64_t started_steps_ = 0;
  double memory_seconds_ = 0, weights_seconds_ = 0, first_step_seconds_ = 0, start_up_seconds_ = 0;
};

}  // namespace

TrainingResult run_training(const Job& job, comm::World& world) {
  if (job.finished) {
    // All that is left to do is what the run did not live to tidy.
    if (world.rank() == 0) tidy_finished(job.options.out);
    return {.step = job.from->step, .nothing_to_do = true};
  }
  if (world.rank() == 0 && job.options.console != nullptr) announce(job, world.size());
  if (job.options.verify_data) verify_data(world, job.config, job.options.console);
  return Trainer(job, world).run();
}

}  // namespace ridgeline::train
