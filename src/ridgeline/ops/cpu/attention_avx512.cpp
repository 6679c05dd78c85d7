// Attention kernels compiled for AVX-512; see attention_kernels.h for what this unit may include.
#include "ridgeline/ops/cpu/attention_backward.h"

namespace ridgeline::ops::cpu {

const AttentionTable kAttentionAvx512 = {
    {forward<float, float>, decode<float>, backward<float, float>, 4},
    {forward<bf16_t, float>, decode<bf16_t>, backward<bf16_t, float>, sizeof(float)},
    {forward<f16_t, float>, decode<f16_t>, backward<f16_t, float>, sizeof(float)},
};

}  // namespace ridgeline::ops::cpu
