// Register-resident multiply-add loops. All in assembler, so that nothing is left to a register allocator, and so that
// one file serves every level: no compiler flag is needed for an instruction that is written out.
#include "ridgeline/ops/cpu/peak_kernel.h"

namespace ridgeline::ops::cpu {
namespace {

#define RL_LOOP(...) "1:\n" __VA_ARGS__ "dec %0\njnz 1b\n"

// Twelve sums cover a latency of four to five cycles at two instructions per cycle.
#define RL_CLEAR_YMM(r) "vpxor %%xmm" #r ", %%xmm" #r ", %%xmm" #r "\n"
#define RL_FMA_YMM(x, y, sum) "vfmadd231ps %%ymm" #x ", %%ymm" #y ", %%ymm" #sum "\n"
#define RL_ALL_YMM(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

void multiply_add_avx2(int64_t rounds, const void* data) {
  __asm__ volatile(
      RL_ALL_YMM(RL_CLEAR_YMM) "vmovups (%1), %%ymm12\nvmovups 64(%1), %%ymm13\nvmovups 128(%1), %%ymm14\n"
      "vmovups 192(%1), %%ymm15\n"
      RL_LOOP(RL_FMA_YMM(12, 14, 0) RL_FMA_YMM(13, 15, 1) RL_FMA_YMM(12, 15, 2) RL_FMA_YMM(13, 14, 3)
              RL_FMA_YMM(12, 14, 4) RL_FMA_YMM(13, 15, 5) RL_FMA_YMM(12, 15, 6) RL_FMA_YMM(13, 14, 7)
              RL_FMA_YMM(12, 14, 8) RL_FMA_YMM(13, 15, 9) RL_FMA_YMM(12, 15, 10) RL_FMA_YMM(13, 14, 11))
      "vzeroupper\n"
      : "+r"(rounds)
      : "r"(data)
      : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
        "xmm12", "xmm13", "xmm14", "xmm15");
}

#define RL_CLEAR_ZMM(r) "vpxord %%zmm" #r ", %%zmm" #r ", %%zmm" #r "\n"
#define RL_FMA_ZMM(x, y, sum) "vfmadd231ps %%zmm" #x ", %%zmm" #y ", %%zmm" #sum "\n"
#define RL_DOT_ZMM(x, y, sum) "vdpbf16ps %%zmm" #x ", %%zmm" #y ", %%zmm" #sum "\n"
#define RL_ALL_ZMM(X) RL_ALL_YMM(X) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)
#define RL_LOAD_ZMM(r, at) "vmovups " #at "(%1), %%zmm" #r "\n"
// xmm16 and above are no clobbers for a compiler that does not use AVX-512, and need be none.
#define RL_ZMM_BODY(OP)                                                                                              \
  __asm__ volatile(                                                                                                  \
      RL_ALL_ZMM(RL_CLEAR_ZMM) RL_LOAD_ZMM(24, 0) RL_LOAD_ZMM(25, 64) RL_LOAD_ZMM(26, 128) RL_LOAD_ZMM(27, 192)      \
          RL_LOAD_ZMM(28, 256) RL_LOAD_ZMM(29, 320) RL_LOAD_ZMM(30, 384) RL_LOOP(                                    \
              OP(24, 28, 0) OP(24, 29, 1) OP(24, 30, 2) OP(25, 28, 3) OP(25, 29, 4) OP(25, 30, 5) OP(26, 28, 6)      \
                  OP(26, 29, 7) OP(26, 30, 8) OP(27, 28, 9) OP(27, 29, 10) OP(27, 30, 11) OP(24, 28, 12)             \
                      OP(24, 29, 13) OP(24, 30, 14) OP(25, 28, 15) OP(25, 29, 16) OP(25, 30, 17) OP(26, 28, 18)      \
                          OP(26, 29, 19) OP(26, 30, 20) OP(27, 28, 21) OP(27, 29, 22) OP(27, 30, 23)) "vzeroupper\n" \
      : "+r"(rounds)                                                                                                 \
      : "r"(data)                                                                                                    \
      : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",     \
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

void multiply_add_avx512(int64_t rounds, const void* data) {
  RL_ZMM_BODY(RL_FMA_ZMM);
}
void multiply_add_avx512_bf16(int64_t rounds, const void* data) {
  RL_ZMM_BODY(RL_DOT_ZMM);
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

#define RL_DOT_TILE(x, y, sum) "tdpbf16ps %%tmm" #y ", %%tmm" #x ", %%tmm" #sum "\n"
void multiply_add_amx(int64_t rounds, const void* data) {
  const TileConfig config;  // loading it clears all tiles
  int64_t stride = 64;
  __asm__ volatile(
      "ldtilecfg %2\n"
      "tileloadd (%1,%3,1), %%tmm4\ntileloadd 1024(%1,%3,1), %%tmm5\n"
      "tileloadd 2048(%1,%3,1), %%tmm6\ntileloadd 3072(%1,%3,1), %%tmm7\n" RL_LOOP(
          RL_DOT_TILE(4, 6, 0) RL_DOT_TILE(4, 7, 1) RL_DOT_TILE(5, 6, 2) RL_DOT_TILE(5, 7, 3)) "tilerelease\n"
      : "+r"(rounds)
      : "r"(data), "m"(config), "r"(stride)
      : "cc", "memory");
}

constexpr PeakKernel kAvx2{multiply_add_avx2, 12 * 8 * 2};
constexpr PeakKernel kAvx512{multiply_add_avx512, 24 * 16 * 2};
constexpr PeakKernel kAvx512Bf16{multiply_add_avx512_bf16, 24 * 32 * 2};
constexpr PeakKernel kAmx{multiply_add_amx, 4 * 16 * 16 * 32 * 2};

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
