#include "bench/disk.h"

#include <algorithm>
#include <chrono>
#include <future>

#include "ridgeline/device/arena.h"
#include "ridgeline/device/state_file.h"

namespace ridgeline::bench {
namespace {

constexpr int64_t kTransfer = int64_t{16} << 20;

template <typename F>
double seconds_of(F&& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

void measure_disk(const std::filesystem::path& folder, int64_t bytes, Disk& disk) {
  // Two halves of whole transfers.
  const int64_t half = std::max<int64_t>(bytes / 2 / kTransfer, 1) * kTransfer;
  device::StateFile file(folder, 2 * half, "the benchmark");
  const device::Arena memory(2 * kTransfer, nullptr);
  const auto buffer = [&](int64_t number) {
    return std::span(memory.data() + number * kTransfer, static_cast<size_t>(kTransfer));
  };
  const auto read = [&](int64_t first, int64_t last) {
    for (int64_t at = first; at < last; at += kTransfer) file.read(at, buffer(0));
  };
  const auto write = [&](int64_t first, int64_t last) {
    for (int64_t at = first; at < last; at += kTransfer) file.write(at, buffer(1));
  };
  write(0, 2 * half);  // the first time, the file system notes which blocks are in use
  const auto bandwidth = [](int64_t moved, double seconds) { return static_cast<double>(moved) / seconds; };
  disk.write.push_back(bandwidth(2 * half, seconds_of([&] { write(0, 2 * half); })));
  disk.read.push_back(bandwidth(2 * half, seconds_of([&] { read(0, 2 * half); })));
  disk.together.push_back(bandwidth(half, seconds_of([&] {
                                      std::future<void> writer =
                                          std::async(std::launch::async, [&] { write(half, 2 * half); });
                                      read(0, half);
                                      writer.get();
                                    })));
  disk.direct = file.direct();
}

}  // namespace ridgeline::bench
