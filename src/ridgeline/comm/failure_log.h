// What a failure leaves in files: who failed, where and why; and what the ranks of a host did last, of the culprit and
// of the ranks nearest to it by number, which share a model's slices and stages with it. Ten thousand ranks write no
// more files than twenty.
#pragma once

#include <cstdint>
#include <string>

#include "ridgeline/comm/host.h"

namespace ridgeline::comm::detail {

constexpr int kLogsOfFailure = 16;

// Whether a failure of `culprit` (-1: unknown, as rank 0) is one of those that `rank` of `ranks` writes a log of: true
// for at most kLogsOfFailure of them, the culprit included.
bool is_logged(int rank, int culprit, int ranks);

// Appends to rank_log_path of each rank of the host that is_logged, or of all with WorldOptions::log_every_rank: the
// failure, whether the rank waits, and the operations that it started last. Makes the folder where only that is
// missing. What cannot be written is left out. For any process of the host.
void write_failure_logs(const Host& host, const Failure& failure);

// WorldOptions::failure_file. One that was written since this run `began` (wall clock, seconds), by the other side of a
// network that fell apart, stays. Plain write(2): also called where memory may be short and a half-finished process is
// all there is.
void write_failure_file(const std::string& path, const Failure& failure, int64_t began);
bool written_since(const std::string& path, int64_t began);

}  // namespace ridgeline::comm::detail
