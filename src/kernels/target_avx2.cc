// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd_avx2.h"
#include "kernels/table_impl.h"

RILL_TARGET(kKernelsAvx2, "avx2", cpu_avx2)
