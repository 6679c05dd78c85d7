// What a run tells about its steps: time by phase and a trace on every rank; metrics, events and progress on rank 0.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ridgeline/observe/metrics.h"
#include "ridgeline/observe/progress.h"
#include "ridgeline/observe/tensorboard.h"
#include "ridgeline/observe/trace.h"
#include "ridgeline/parallel/executor.h"
#include "ridgeline/train/evaluator.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::train {

// Nanoseconds by parallel::Phase.
using PhaseTimes = std::array<int64_t, parallel::kPhases>;

// Times every operation of the executor; records a trace while that is enabled.
class OpTimer : public parallel::OpObserver {
 public:
  OpTimer(const std::vector<parallel::Program>& programs, int rank, bool with_trace);
  void operation(const parallel::Op& op, int64_t begin, int64_t end) override;

  void reset() { nanoseconds_ = {}; }
  // Since the last reset.
  const PhaseTimes& phases() const { return nanoseconds_; }
  observe::Trace* trace() { return trace_ ? &*trace_ : nullptr; }

 private:
  PhaseTimes nanoseconds_{};
  std::optional<observe::Trace> trace_;
  std::vector<std::vector<std::vector<uint32_t>>> names_;  // [kind][index + 1][micro-batch]
};

struct StepRecord {
  int64_t step = 0;
  parallel::StepResult result;
  double learning_rate = 0;
  int64_t consumed_tokens = 0;
  std::span<const int64_t> dataset_tokens;  // of a blend: predicted of each dataset since its order began
  double step_seconds = 0;                  // from the first token written to the last weight updated
  double data_seconds = 0;
  PhaseTimes phases{};               // of the step alone, without evaluation
  std::optional<double> loss_scale;  // fp16: of this step
  std::optional<double> validation_loss, validation_bits_per_byte;
  std::vector<Evaluation::Part> validation_datasets;  // of several
  std::optional<double> save_seconds;  // how long training stood still for the checkpoint before this record
};

// Rank 0's files and console.
class StepLog {
 public:
  StepLog(const Job& job, const parallel::RunShape& shape, int64_t first_step, bool resumed);
  ~StepLog();
  void record(const StepRecord& record);
  // What was evaluated after all, of the last step recorded.
  void amend(const StepRecord& record);
  // On return all of it is on disk.
  void sync();
  void message(const std::string& text);
  void finish();

 private:
  // Of a step at `flops` per second.
  double model_flops_utilization(double flops);
  void log_validation(const StepRecord& record);
  void show_validation(const StepRecord& record);
  void add_validation(const StepRecord& record, std::vector<observe::Field>& fields) const;

  const Job& job_;
  double flops_per_token_;
  double peak_flops_;
  int measured_again_ = 0;
  observe::MetricsLog metrics_;
  std::vector<observe::Field> fields_;  // of the record being written; grows once
  std::vector<std::string> dataset_keys_, validation_keys_;
  observe::TensorBoardLog events_;
  std::unique_ptr<observe::Progress> progress_;
};

}  // namespace ridgeline::train
