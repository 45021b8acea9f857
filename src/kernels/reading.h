// SPDX-License-Identifier: Apache-2.0
// How this processor reads memory fastest where there is little to compute.
#pragma once

namespace rill {

/// Whether a thread that does little but read is left to the processor's own prefetching, with two
/// streams, instead of asking ahead in four. Reading alone does not tell the two apart: both are as
/// fast as memory. With the products of one row between the loads a Zen 5 reads 4 to 15 % faster
/// unaided, an Intel Granite Rapids 3 to 14 % faster with help, so the vendor decides.
bool reads_best_unaided();

}  // namespace rill
