#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command whose programs were built with clang's ThreadSanitizer. Archer tells it how the
# OpenMP runtime (which is not instrumented itself) synchronises; without Archer it would report
# races that are none, so its absence is an error.
set -eu
archer=$(clang++ -print-resource-dir)/../../libarcher.so
if [ ! -f "$archer" ]; then
  echo "libarcher.so is not beside clang++; install libomp-dev of clang's version" >&2
  exit 1
fi
export OMP_TOOL_LIBRARIES=$archer
export TSAN_OPTIONS="ignore_noninstrumented_modules=1 halt_on_error=0 exitcode=66 ${TSAN_OPTIONS:-}"
exec "$@"
