// SPDX-License-Identifier: Apache-2.0
#pragma once

#define RILL_INLINE inline __attribute__((always_inline))
#define RILL_INLINE_LAMBDA __attribute__((always_inline))
