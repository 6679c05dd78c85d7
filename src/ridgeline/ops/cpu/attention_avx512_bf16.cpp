// Attention kernels compiled for AVX512-BF16; see attention_kernels.h for what this unit may include.
#include "ridgeline/ops/cpu/attention_backward.h"

namespace ridgeline::ops::cpu {

const AttentionTable kAttentionAvx512Bf16 = {
    {forward<float, float>, decode<float>, backward<float, float>, 4},
    {forward<bf16_t, bf16_t>, decode<bf16_t>, backward<bf16_t, bf16_t>, sizeof(bf16_t)},
    {},
};

}  // namespace ridgeline::ops::cpu
