// The measured half of an operator's entry (operator.h): calls on the shapes of GPT-2 124M, each with the least work
// that its result takes.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/arena.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/ops/workspace.h"

namespace ridgeline::operators {

// The shapes: B = 4 sequences of 1024 tokens.
inline constexpr int64_t kB = 4, kT = 1024, kN = kB * kT, kC = 768, kH = 12, kF = 3072, kD = kC / kH, kV = 50257,
                         kLd = 50272,  // of the logits
    kChunk = 1024,                     // rows of logits at once
    kParameters = 12 * 7'087'872;      // of the blocks: what one pass of the optimizer sees at most here

// What calls are measured in where they take activations and weights; f16 costs what bf16 does.
inline constexpr DType kMeasured[] = {DType::f32, DType::bf16};

// The name of a row, the work that bounds it from below, and how to make the call.
struct MeasuredCall {
  std::string name;
  DType dtype = DType::f32;
  double flops = 0, bytes = 0;
  std::function<void()> run;
};

// The calls, and memory for their operands.
class Measurement {
 public:
  // Both must outlive it. The arena's contents are overwritten with random ones: zero pages and zero operands are
  // faster than real ones.
  Measurement(device::Stream& stream, device::Arena& memory);

  device::Stream& stream() const { return stream_; }
  int team_size() const;

  // A buffer of `elements`, fresh for every operand, so that data come from memory as in a step. Where the arena is at
  // its end its beginning is given out again.
  Ref buffer(int64_t elements, DType dtype);
  float* floats(int64_t elements) { return buffer(elements, DType::f32).as<float>(); }
  ops::Workspace workspace(int64_t bytes) { return {buffer(bytes, DType::u8).data, bytes}; }
  // In [0, limit), nobody else's ever: an operator would refuse a token out of range.
  const int32_t* numbers(int64_t count, int64_t limit);
  const int32_t* numbers(std::vector<int32_t> values);  // these

  // A row "<name>_<dtype>".
  void add(const std::string& name, DType dtype, double flops, double bytes, std::function<void()> run);
  const std::vector<MeasuredCall>& calls() const { return calls_; }

 private:
  device::Stream& stream_;
  device::Arena& memory_;
  int64_t used_ = 0;
  std::deque<std::vector<int32_t>> numbers_;
  std::vector<MeasuredCall> calls_;
};

// Elements of a matrix, for floors.
inline double elements(int64_t rows, int64_t columns) {
  return static_cast<double>(rows) * static_cast<double>(columns);
}

}  // namespace ridgeline::operators
