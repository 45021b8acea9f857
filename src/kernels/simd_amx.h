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

}  // namespace
}  // namespace rill
