// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd_avx512.h"
#include "kernels/table_impl.h"

RILL_TARGET(kKernelsAvx512Bf16, "avx512bf16", cpu_avx512bf16)
