// Which Highway targets vectors are compiled for; included before hwy/foreach_target.h.
// One for every level of device::Isa below the matrix units: scalars (plain C++; or emulated 128-bit vectors, which GCC
// before 12.3 gets wrong), AVX2 and AVX-512.
// The others are left out: they would add compile time and no speed (vectors of variable length would need other
// loops).
#pragma once

// Defined before any Highway header; expanded where its names are known.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
