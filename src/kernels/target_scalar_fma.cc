// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd_scalar.h"
#include "kernels/table_impl.h"

RILL_TARGET(kKernelsScalarFma, "scalar", cpu_scalar_fma)
