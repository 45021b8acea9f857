// SPDX-License-Identifier: Apache-2.0
// Which tables of functions a target of AVX-512 takes from another one. It differs from the one
// below it in a few products; to compile all the others again takes minutes and changes nothing.
// A target only takes from one whose instructions every processor has that runs it (dispatch.cc).
// What is taken is data with a name for the linker; functions stay in anonymous namespaces.
#pragma once

// TABLES(type, name, value): constants of this target alone, or that others take, or another's.
#define RILL_OWN(type, name, ...) constexpr type name = __VA_ARGS__;
#define RILL_GIVEN(type, name, ...) \
  extern const type name;           \
  constexpr type name = __VA_ARGS__;
#define RILL_TAKEN(type, name, ...) extern const type name;

// Products of floats; of bf16 activations, the odd element first; of runs of bf16; of codes.
#if !defined(__AVX512F__)
#define RILL_FLOATS RILL_OWN
#define RILL_ODD_FIRST RILL_OWN
#define RILL_RUNS RILL_OWN
#define RILL_CODES RILL_OWN
#elif !defined(__AVX512VNNI__)
#define RILL_FLOATS RILL_GIVEN
#define RILL_ODD_FIRST RILL_GIVEN
#define RILL_RUNS RILL_GIVEN
#define RILL_CODES RILL_OWN
#else
#define RILL_FLOATS RILL_TAKEN
#if defined(RILL_BF16_DOT)
#define RILL_ODD_FIRST RILL_OWN
#else
#define RILL_ODD_FIRST RILL_TAKEN
#endif
#if defined(RILL_AMX)
#define RILL_RUNS RILL_OWN
#else
#define RILL_RUNS RILL_TAKEN
#endif
#if defined(__AVX512BF16__)
#define RILL_CODES RILL_TAKEN
#else
#define RILL_CODES RILL_GIVEN
#endif
#endif
