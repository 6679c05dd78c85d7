// Register-resident multiply-add loops. All in assembler, so that nothing is left to a register allocator, and so that
// one file serves every level: no compiler flag is needed for an instruction that is written out.
#include "ridgeline/ops/cpu/peak_kernel.h"

namespace ridgeline::ops::cpu {
namespace {

#define RL_REPEAT_12(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define RL_REPEAT_24(X) RL_REPEAT_12(X) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)
#define RL_LOOP(...) "1:\n" __VA_ARGS__ "dec %0\njnz 1b\n"

#define RL_CLEAR_YMM(r) "vpxor %%xmm" #r ", %%xmm" #r ", %%xmm" #r "\n"
#define RL_FMA_YMM(r) "vfmadd231ps %%ymm12, %%ymm13, %%ymm" #r "\n"

// Twelve sums cover a latency of four to five cycles at two instructions per cycle; zeros run at the speed of any data.
void multiply_add_avx2(int64_t rounds) {
  __asm__ volatile(RL_REPEAT_12(RL_CLEAR_YMM) RL_CLEAR_YMM(12) RL_CLEAR_YMM(13)
                       RL_LOOP(RL_REPEAT_12(RL_FMA_YMM)) "vzeroupper\n"
                   : "+r"(rounds)
                   :
                   : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                     "xmm11", "xmm12", "xmm13");
}

#define RL_CLEAR_ZMM(r) "vpxord %%zmm" #r ", %%zmm" #r ", %%zmm" #r "\n"
#define RL_FMA_ZMM(r) "vfmadd231ps %%zmm24, %%zmm25, %%zmm" #r "\n"
#define RL_DOT_ZMM(r) "vdpbf16ps %%zmm24, %%zmm25, %%zmm" #r "\n"
// xmm16 and above are no clobbers for a compiler that does not use AVX-512, and need be none.
#define RL_ZMM_BODY(OP)                                                                                             \
  __asm__ volatile(RL_REPEAT_24(RL_CLEAR_ZMM) RL_CLEAR_ZMM(24) RL_CLEAR_ZMM(25)                                     \
                       RL_LOOP(RL_REPEAT_24(OP)) "vzeroupper\n"                                                     \
                   : "+r"(rounds)                                                                                   \
                   :                                                                                                \
                   : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
                     "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

void multiply_add_avx512(int64_t rounds) {
  RL_ZMM_BODY(RL_FMA_ZMM);
}
void multiply_add_avx512_bf16(int64_t rounds) {
  RL_ZMM_BODY(RL_DOT_ZMM);
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

#define RL_DOT_TILE(r) "tdpbf16ps %%tmm6, %%tmm7, %%tmm" #r "\n"
void multiply_add_amx(int64_t rounds) {
  const TileConfig config;  // loading it clears all tiles
  __asm__ volatile("ldtilecfg %1\n" RL_LOOP(RL_DOT_TILE(0) RL_DOT_TILE(1) RL_DOT_TILE(2) RL_DOT_TILE(3) RL_DOT_TILE(4)
                                                RL_DOT_TILE(5)) "tilerelease\n"
                   : "+r"(rounds)
                   : "m"(config)
                   : "cc");
}

constexpr PeakKernel kAvx2{multiply_add_avx2, 12 * 8 * 2};
constexpr PeakKernel kAvx512{multiply_add_avx512, 24 * 16 * 2};
constexpr PeakKernel kAvx512Bf16{multiply_add_avx512_bf16, 24 * 32 * 2};
constexpr PeakKernel kAmx{multiply_add_amx, 6 * 16 * 16 * 32 * 2};

}  // namespace

const PeakKernel& peak_kernel_avx2() {
  return kAvx2;
}
const PeakKernel& peak_kernel_avx512() {
  return kAvx512;
}
const PeakKernel& peak_kernel_avx512_bf16() {
  return kAvx512Bf16;
}
const PeakKernel& peak_kernel_amx_bf16() {
  return kAmx;
}

}  // namespace ridgeline::ops::cpu
