// SPDX-License-Identifier: Apache-2.0
// What this process has used so far.
#pragma once
#include <cstddef>

namespace rill {

/// Seconds since this process began (the system counts it in hundredths); 0 if unknown.
double process_age();

/// Bytes of memory that this process holds, and the most that it ever held at once (since
/// reset_peak_memory); 0 if unknown.
size_t resident_memory();
size_t peak_memory();

/// peak_memory() counts anew from here. False if this system cannot do that.
bool reset_peak_memory();

}  // namespace rill
