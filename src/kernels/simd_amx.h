// SPDX-License-Identifier: Apache-2.0
// Registers of AVX-512 with VNNI and BF16, and AMX's eight tile registers: sixteen rows of 64 bytes
// each. Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
#pragma once
#define RILL_AMX 1
#include "kernels/inline.h"
#include "kernels/simd_avx512.h"
#include "kernels/tile_config.h"

namespace rill {
namespace {

// The tiles of this thread, from their first configuration on; given back at the end, so that
// nothing else meets them and no switch of threads saves them.
class Tiles {
 public:
  Tiles() = default;
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
  ~Tiles() {
    if (configured_) asm volatile("tilerelease" : : : "memory");
  }
  void configure(const TileConfig& config) {
    asm volatile("ldtilecfg %0" : : "m"(config));
    configured_ = true;
  }

 private:
  bool configured_ = false;
};

// Asm, not intrinsics: those of GCC 12 do not say that they read and write memory.
template <int kTile>
RILL_INLINE void load_tile(const void* rows, size_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(rows), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
RILL_INLINE void store_tile(void* rows, size_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(rows), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
RILL_INLINE void zero_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// sums += x * w: of 16 rows and 16 outputs a run of up to 32 bf16.
template <int kSums, int kX, int kW>
RILL_INLINE void dot_bf16_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kX), "i"(kW));
}
// sums += x * w: of 16 rows and 16 outputs a run of up to 64 int8, exact in int32.
template <int kSums, int kX, int kW>
RILL_INLINE void dot_int8_tiles() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kX), "i"(kW));
}

inline V to_float(const int32_t* p) {
  return _mm512_cvtepi32_ps(_mm512_loadu_si512(p));
}
// int8 codes of weights from their unsigned ones, of four inputs and a panel's outputs.
inline void store_signed_u8(char* to, const char* codes) {
  _mm512_storeu_si512(to, _mm512_xor_si512(_mm512_loadu_si512(codes), _mm512_set1_epi8(-128)));
}
// The same from nibbles: the low ones, and the high ones.
inline void store_signed_u4(char* low, char* high, const char* codes) {
  const W4 l = load_u4<0>(codes), h = load_u4<1>(codes);
  _mm512_storeu_si512(low, _mm512_sub_epi8(l.bytes, _mm512_set1_epi8(8)));
  _mm512_storeu_si512(high, _mm512_sub_epi8(h.bytes, _mm512_set1_epi8(8)));
}

}  // namespace
}  // namespace rill
