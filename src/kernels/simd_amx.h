// SPDX-License-Identifier: Apache-2.0
// Registers of AVX-512 with VNNI and BF16, and AMX's eight tile registers: sixteen rows of 64 bytes
// each. Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
#pragma once
#define RILL_AMX 1
#include "kernels/inline.h"
#include "kernels/simd_avx512.h"

namespace rill {
namespace {

constexpr size_t kTileRows = 16, kTileRowBytes = 64;

// Tiles 0 to 3 hold sums: 0 and 1 of the upper rows with the left and the right panel, 2 and 3 of
// the lower rows. 4 and 5 hold the upper and the lower rows of activations, 6 and 7 the weights of
// the left and the right panel.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  // `upper` and `lower` rows of activations, of them `bytes` at once: four for each row of weights.
  TileConfig(size_t upper, size_t lower, size_t bytes) {
    set(0, upper, kTileRowBytes), set(1, upper, kTileRowBytes), set(4, upper, bytes);
    set(2, lower, kTileRowBytes), set(3, lower, kTileRowBytes), set(5, lower, bytes);
    set(6, bytes / 4, kTileRowBytes), set(7, bytes / 4, kTileRowBytes);
  }

 private:
  void set(size_t tile, size_t height, size_t bytes) {  // no rows: the tile is not used
    rows[tile] = static_cast<uint8_t>(height);
    row_bytes[tile] = static_cast<uint16_t>(height ? bytes : 0);
  }
};

// The tiles of this thread, from their first configuration on; given back at the end, so that
// nothing else meets them and no switch of threads saves them.
class Tiles {
 public:
  Tiles() = default;
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
  ~Tiles() { asm volatile("tilerelease" : : : "memory"); }
  void configure(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
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
