// The CPU matrix product with the instruction set chosen by the caller: for tests, which run every level the machine
// has.
#pragma once

#include <cstdint>

#include "ridgeline/device/cpu/features.h"
#include "ridgeline/ops/matmul.h"

namespace ridgeline::ops::cpu {

// As matmul_workspace_bytes and matmul, with the kernel of `isa` (<= device::isa()).
int64_t matmul_workspace_bytes(const Matmul& product, int team_size, device::Isa isa);
void matmul(device::WorkerTeam& team, const Matmul& product, Workspace workspace, device::Isa isa);

}  // namespace ridgeline::ops::cpu
