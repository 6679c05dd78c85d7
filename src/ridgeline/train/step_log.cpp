#include "ridgeline/train/step_log.h"

#include <fmt/format.h>

#include <cmath>

#include "ridgeline/device/arena.h"
#include "ridgeline/model/declarations.h"
#include "ridgeline/train/peak_cache.h"

namespace ridgeline::train {
namespace {

constexpr int kIndexOffset = 1;  // element -1 is the embedding

observe::Lane lane_of(parallel::StreamId stream) {
  switch (stream) {
    case parallel::StreamId::compute:
      return observe::Lane::compute;
    case parallel::StreamId::gather:
      return observe::Lane::gather;
    case parallel::StreamId::reduce:
      return observe::Lane::reduce;
    case parallel::StreamId::exchange:
      return observe::Lane::exchange;
    case parallel::StreamId::copy:
      return observe::Lane::copy;
  }
  return observe::Lane::compute;
}

observe::MetricsLog open_metrics(const Job& job, int64_t first_step, bool resumed) {
  const auto path = job.options.out / "metrics.jsonl";
  return resumed ? observe::MetricsLog::resume(path, first_step) : observe::MetricsLog::create(path);
}

// A run that begins anew where one died before its first checkpoint hides that one's events, too.
std::optional<int64_t> begins_at(const std::filesystem::path& folder, int64_t first_step, bool resumed) {
  std::error_code code;
  const bool fresh = !std::filesystem::exists(folder, code) || std::filesystem::is_empty(folder, code);
  return resumed || !fresh ? std::optional<int64_t>(first_step) : std::nullopt;
}

}  // namespace

OpTimer::OpTimer(const std::vector<parallel::Program>& programs, int rank, bool with_trace) {
  if (!with_trace) return;
  trace_.emplace(rank);
  names_.resize(parallel::kOpKinds);
  for (const parallel::Program& program : programs) {
    for (const parallel::Op& op : program.ops) {
      std::vector<std::vector<uint32_t>>& of_kind = names_[static_cast<size_t>(op.kind)];
      const auto index = static_cast<size_t>(op.index + kIndexOffset), micro = static_cast<size_t>(op.micro);
      if (of_kind.size() <= index) of_kind.resize(index + 1);
      if (of_kind[index].size() <= micro) of_kind[index].resize(micro + 1);
      of_kind[index][micro] = trace_->intern(op.name());
    }
  }
}

void OpTimer::operation(const parallel::Op& op, int64_t begin, int64_t end) {
  nanoseconds_[static_cast<size_t>(parallel::traits_of(op.kind).phase)] += end - begin;
  if (trace_ && trace_->enabled()) {
    const auto index = static_cast<size_t>(op.index + kIndexOffset), micro = static_cast<size_t>(op.micro);
    trace_->record(lane_of(op.stream()), names_[static_cast<size_t>(op.kind)][index][micro], begin, end, op.micro);
  }
}

StepLog::StepLog(const Job& job, const parallel::RunShape& shape, int64_t first_step, bool resumed)
    : job_(job),
      flops_per_token_(model::training_flops(shape.config, shape.batch.sequence).per_token()),
      peak_flops_(job.peak_flops),
      metrics_(open_metrics(job, first_step, resumed)),
      events_(job.options.out / "tensorboard", begins_at(job.options.out / "tensorboard", first_step, resumed)) {
  for (size_t i = 0; i < job.train->datasets(); ++i)
    dataset_keys_.push_back(fmt::format("tokens_of_dataset_{}", i + 1));
  for (size_t i = 0; job.valid && i < job.valid->datasets(); ++i)
    validation_keys_.push_back(fmt::format("validation_loss_of_dataset_{}", i + 1));
  if (job.options.console != nullptr) {
    progress_ = std::make_unique<observe::Progress>(observe::ProgressOptions{.label = "train",
                                                                             .total = job.config.train.steps,
                                                                             .unit = "steps",
                                                                             .start = first_step,
                                                                             .output = job.options.console});
    progress_->update(first_step);
  }
}

StepLog::~StepLog() = default;

// A step faster than the peak shows that something beside this run (another guest of the host, say) slowed the cores
// down when the peak was measured.
double StepLog::model_flops_utilization(double flops) {
  constexpr int kTimes = 5;
  if (flops > peak_flops_ && measured_again_ < kTimes) {
    ++measured_again_;
    peak_flops_ = peak_flops_per_thread(job_.arithmetic, job_.machine, true) * job_.threads;
  }
  return flops / peak_flops_;
}

void StepLog::record(const StepRecord& record) {
  using parallel::Phase;
  const double tokens_per_second = static_cast<double>(record.result.tokens) / record.step_seconds;
  const double flops = tokens_per_second * flops_per_token_, mfu = model_flops_utilization(flops);
  const int64_t memory = device::resident_memory().now;
  const auto phase = [&](Phase which) { return static_cast<double>(record.phases[static_cast<size_t>(which)]) * 1e-9; };
  fields_.assign({{"step", record.step},
                  {"loss", record.result.loss},
                  {"grad_norm", record.result.gradient_norm},
                  {"learning_rate", record.learning_rate},
                  {"tokens", record.consumed_tokens},
                  {"step_seconds", record.step_seconds},
                  {"tokens_per_second", tokens_per_second},
                  {"tflops", flops * 1e-12},
                  {"mfu", mfu},
                  {"memory_bytes", memory},
                  {"data_seconds", record.data_seconds},
                  {"gather_seconds", phase(Phase::gather)},
                  {"forward_seconds", phase(Phase::forward)},
                  {"loss_seconds", phase(Phase::loss)},
                  {"backward_seconds", phase(Phase::backward)},
                  {"reduce_seconds", phase(Phase::reduce)},
                  {"update_seconds", phase(Phase::update)}});
  const auto add = [&](std::string_view key, auto value) { fields_.emplace_back(key, value); };
  for (size_t i = 0; i < record.dataset_tokens.size(); ++i) add(dataset_keys_[i], record.dataset_tokens[i]);
  if (record.loss_scale) {
    add("loss_scale", *record.loss_scale);
    add("overflow", record.result.overflow ? 1 : 0);
  }
  if (job_.config.optimizer.offload == Offload::file) {
    add("offload_read_bytes", record.result.offload_read_bytes);
    add("offload_written_bytes", record.result.offload_written_bytes);
  }
  add_validation(record, fields_);
  if (record.save_seconds) add("save_seconds", *record.save_seconds);
  metrics_.write(fields_);

  events_.scalar("train/loss", record.step, record.result.loss);
  events_.scalar("train/grad_norm", record.step, record.result.gradient_norm);
  events_.scalar("train/learning_rate", record.step, record.learning_rate);
  events_.scalar("speed/tokens_per_second", record.step, tokens_per_second);
  events_.scalar("speed/mfu", record.step, mfu);
  events_.scalar("memory/resident_bytes", record.step, static_cast<double>(memory));
  log_validation(record);
  events_.flush();

  if (!progress_) return;
  char note[96];
  const auto end = fmt::format_to_n(note, sizeof note, "loss {:.4f}, {:.0f} tokens/s, {:.1f} % MFU", record.result.loss,
                                    tokens_per_second, 100.0 * mfu);
  progress_->note({note, end.size < sizeof note ? end.size : sizeof note});
  progress_->update(record.step);
  show_validation(record);
}

void StepLog::log_validation(const StepRecord& record) {
  if (record.validation_loss) events_.scalar("validation/loss", record.step, *record.validation_loss);
  if (record.validation_bits_per_byte)
    events_.scalar("validation/bits_per_byte", record.step, *record.validation_bits_per_byte);
  for (size_t i = 0; i < record.validation_datasets.size(); ++i) {
    const Evaluation::Part& part = record.validation_datasets[i];
    if (part.tokens > 0) events_.scalar(fmt::format("validation/loss_of_dataset_{}", i + 1), record.step, part.loss);
  }
}

void StepLog::add_validation(const StepRecord& record, std::vector<observe::Field>& fields) const {
  if (record.validation_loss) fields.emplace_back("validation_loss", *record.validation_loss);
  if (record.validation_bits_per_byte)
    fields.emplace_back("validation_bits_per_byte", *record.validation_bits_per_byte);
  for (size_t i = 0; i < record.validation_datasets.size(); ++i) {
    const Evaluation::Part& part = record.validation_datasets[i];
    if (part.tokens > 0) fields.emplace_back(validation_keys_[i], part.loss);
  }
}

void StepLog::show_validation(const StepRecord& record) {
  if (!record.validation_loss) return;
  std::string text =
      fmt::format("step {}: validation loss {:.4f} nats per token", record.step, *record.validation_loss);
  if (record.validation_bits_per_byte) text += fmt::format(", {:.4f} bits per byte", *record.validation_bits_per_byte);
  const DatasetList& named = job_.config.data.valid.empty() ? job_.config.data.train : job_.config.data.valid;
  for (size_t i = 0; i < record.validation_datasets.size(); ++i) {
    const Evaluation::Part& part = record.validation_datasets[i];
    text += fmt::format("{}{} of '{}'", i == 0 ? "; " : ", ",
                        part.tokens > 0 ? fmt::format("{:.4f}", part.loss) : "none", named.entries[i].prefix);
  }
  message(text);
}

void StepLog::amend(const StepRecord& record) {
  std::vector<observe::Field> fields;
  add_validation(record, fields);
  metrics_.amend(record.step, fields);
  log_validation(record);
  sync();
  show_validation(record);
}

void StepLog::sync() {
  metrics_.sync();
  events_.sync();
}

void StepLog::message(const std::string& text) {
  if (progress_) progress_->print_line(text);
}

void StepLog::finish() {
  if (progress_) progress_->finish();
}

}  // namespace ridgeline::train
