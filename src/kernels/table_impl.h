// SPDX-License-Identifier: Apache-2.0
// Ends a target: all algorithms, compiled for the instruction set whose simd_*.h came before, and
// the table of them. RILL_TARGET(symbol, name, supported) defines `const Kernels symbol`.
#pragma once
#include "kernels/angles_impl.h"
#include "kernels/attention_impl.h"
#include "kernels/cache_impl.h"
#include "kernels/linear_blocks_impl.h"
#include "kernels/pack_impl.h"
#if defined(RILL_AMX)
#include "kernels/tile_linear_impl.h"
#define RILL_LINEAR linear_on_tiles
#else
#define RILL_LINEAR linear
#endif

#define RILL_TARGET(symbol, isa_name, supported_function)      \
  namespace rill {                                             \
  bool supported_function();                                   \
  extern const Kernels symbol;                                 \
  constexpr Kernels symbol = {isa_name,    supported_function, \
                              kFloatRows,  activation_bytes,   \
                              convert,     converts_in_place,  \
                              RILL_LINEAR, rms_norm,           \
                              rotations,   rope,               \
                              store_k,     store_v,            \
                              attend,      merge,              \
                              scores,      accumulate,         \
                              add_states,  finish,             \
                              pack};                           \
  }
