#include "bench/operators/measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::operators {

Measurement::Measurement(device::Stream& stream, device::Arena& memory) : stream_(stream), memory_(memory) {
  auto* const values = reinterpret_cast<float*>(memory.data());
  stream.team().parallel_for(memory.size() / 4, 1 << 16, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i += 4) {
      const Philox4 bits = philox(1, {static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), 0, 0});
      for (int64_t j = i; j < std::min(i + 4, last); ++j) {
        // 0.75 … 1.5 with a random sign, and the same when its halves are read as bf16.
        const uint32_t word = bits[static_cast<size_t>(j - i)];
        values[j] = std::bit_cast<float>((word & 0x80FF80FFU) | 0x3F003F00U);
      }
    }
  });
}

int Measurement::team_size() const {
  return stream_.team().size();
}

Ref Measurement::buffer(int64_t elements, DType dtype) {
  const int64_t bytes = (elements * size_of(dtype) + 4095) / 4096 * 4096;
  RL_CHECK(bytes, <=, memory_.size());
  if (used_ + bytes > memory_.size()) used_ = 0;
  std::byte* const address = memory_.data() + used_;
  used_ += bytes;
  return {address, dtype};
}

const int32_t* Measurement::numbers(int64_t count, int64_t limit) {
  std::vector<int32_t>& values = numbers_.emplace_back();
  for (int64_t i = 0; i < count; ++i)
    values.push_back(
        static_cast<int32_t>(philox(2, {static_cast<uint32_t>(i), 0, 0, 0})[0] % static_cast<uint64_t>(limit)));
  return values.data();
}

const int32_t* Measurement::numbers(std::vector<int32_t> values) {
  return numbers_.emplace_back(std::move(values)).data();
}

void Measurement::add(const std::string& name, DType dtype, double flops, double bytes, std::function<void()> run) {
  calls_.push_back({fmt::format("{}_{}", name, name_of(dtype)), dtype, flops, bytes, std::move(run)});
}

}  // namespace ridgeline::operators
