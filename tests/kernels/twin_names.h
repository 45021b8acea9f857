// SPDX-License-Identifier: Apache-2.0
// The twin's names for what kernels and the model call otherwise.
#pragma once
#include "kernels/table.h"
#include "reference/arithmetic.h"

namespace rill {

inline reference::ComputeType twin_compute(Operand operand) {
  return operand == Operand::BF16      ? reference::ComputeType::kBf16
         : operand == Operand::BF16X32 ? reference::ComputeType::kBf16x32
                                       : reference::ComputeType::kF32;
}

inline reference::KvType twin_kv(Format format) {
  return format == Format::F32    ? reference::KvType::kF32
         : format == Format::F16  ? reference::KvType::kF16
         : format == Format::INT8 ? reference::KvType::kInt8
                                  : reference::KvType::kBf16;
}

}  // namespace rill
