// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd_avx512.h"
#include "kernels/table_impl.h"

RILL_TARGET(kKernelsAvx512, "avx512", cpu_avx512)
