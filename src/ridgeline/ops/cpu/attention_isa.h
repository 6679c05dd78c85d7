// CPU attention with the instruction set chosen by the caller: for tests, which run every level the machine has.
#pragma once

#include <cstdint>

#include "ridgeline/device/cpu/features.h"
#include "ridgeline/ops/attention.h"

namespace ridgeline::ops::cpu {

// As the functions of ops/attention.h, with the kernels of `isa` (<= device::isa()).
int64_t attention_workspace_bytes(const Attention& shape, DType dtype, int team_size, device::Isa isa);
void attention_forward(device::WorkerTeam& team, const Attention& shape, ConstRef q, ConstRef k, ConstRef v, Ref out,
                       float* lse, Workspace workspace, device::Isa isa);
void attention_backward(device::WorkerTeam& team, const Attention& shape, ConstRef q, ConstRef k, ConstRef v,
                        ConstRef out, ConstRef dout, const float* lse, Ref dq, Ref dk, Ref dv, Workspace workspace,
                        device::Isa isa);

}  // namespace ridgeline::ops::cpu
