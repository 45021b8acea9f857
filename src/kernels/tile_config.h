// SPDX-License-Identifier: Apache-2.0
// What AMX's eight tile registers are told of their shapes: LDTILECFG's operand (Intel 64 and IA-32
// Architectures Software Developer's Manual, volume 1, chapter 18). C headers only.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace rill {
namespace {

constexpr size_t kTiles = 8, kTileRows = 16, kTileRowBytes = 64;

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  constexpr TileConfig() = default;
  // All of them whole.
  static constexpr TileConfig whole() {
    TileConfig config;
    for (size_t tile = 0; tile < kTiles; ++tile) config.set(tile, kTileRows);
    return config;
  }
  constexpr void set(size_t tile, size_t height, size_t bytes = kTileRowBytes) {
    rows[tile] = static_cast<uint8_t>(height);  // none: the tile is not used
    row_bytes[tile] = static_cast<uint16_t>(height ? bytes : 0);
  }
};

}  // namespace
}  // namespace rill
