// Cuts one block of memory into named buffers. With a null base it only counts, so that the same function that hands a
// layer its buffers also tells the planner their names and bytes: the two cannot disagree.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "ridgeline/base/dtype.h"
#include "ridgeline/ops/workspace.h"

namespace ridgeline::model {

struct NamedBytes {
  std::string_view name;  // a string literal
  int64_t bytes = 0;
};

class Carver {
 public:
  static constexpr int64_t kAlignment = 64;

  // `base`: 64-byte aligned memory, or null to count. `names`: receives every buffer, or null.
  explicit Carver(void* base, std::vector<NamedBytes>* names = nullptr)
      : base_(static_cast<char*>(base)), names_(names) {}

  void* bytes(std::string_view name, int64_t size) {
    const int64_t rounded = (size + kAlignment - 1) / kAlignment * kAlignment;
    if (names_ != nullptr) names_->push_back({name, rounded});
    void* address = base_ == nullptr ? nullptr : base_ + used_;
    used_ += rounded;
    return address;
  }
  Ref take(std::string_view name, int64_t elements, DType dtype) {
    return {bytes(name, elements * size_of(dtype)), dtype};
  }
  // Operators are told the bytes asked for, not the rounded ones.
  ops::Workspace workspace(std::string_view name, int64_t size) { return {bytes(name, size), size}; }
  float* floats(std::string_view name, int64_t elements) { return static_cast<float*>(bytes(name, elements * 4)); }

  int64_t used() const { return used_; }

 private:
  char* base_;
  std::vector<NamedBytes>* names_;
  int64_t used_ = 0;
};

}  // namespace ridgeline::model
