// SPDX-License-Identifier: Apache-2.0
// Double-precision functions with fixed operations: libm's differ by version and processor, and
// these stand on the path to a result (RoPE frequencies, sampling). docs/arithmetic.md gives the
// steps.
#pragma once

namespace rill::fixed {

double log(double x);
double exp(double x);
double pow(double x, double y);  // x > 0

}  // namespace rill::fixed
