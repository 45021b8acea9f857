// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd_amx.h"
#include "kernels/table_impl.h"

RILL_TARGET(kKernelsAmx, "amx", cpu_amx)
