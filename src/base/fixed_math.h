// SPDX-License-Identifier: Apache-2.0
// Double-precision functions with fixed operations: libm's differ by version and processor, and
// these stand on the path to a result (RoPE tables, sampling). docs/arithmetic.md gives the steps.
#pragma once

namespace rill::fixed {

double sin(double x);
double cos(double x);
double log(double x);
double exp(double x);
double pow(double x, double y);  // x > 0

}  // namespace rill::fixed
