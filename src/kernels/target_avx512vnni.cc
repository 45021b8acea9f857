// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd_avx512.h"
#include "kernels/table_impl.h"

RILL_TARGET(kKernelsAvx512Vnni, "avx512vnni", cpu_avx512vnni)
