#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the programs and the tests of ranks with MPICH, in a build folder of its own, and runs them
# under its launcher. Usage: mpich_test.sh BUILD_FOLDER [CMAKE_OPTIONS...]
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1/launcher"
build=$(cd "$1" && pwd)
shift
# Scripts, as the launcher looks for its helper beside itself.
for program in mpirun mpiexec mpicxx; do
  printf '#!/bin/sh\nexec %s "$@"\n' "$(command -v "$program.mpich")" >"$build/launcher/$program"
  chmod +x "$build/launcher/$program"
done
export PATH="$build/launcher:$PATH"
cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DRILL_MPI=ON \
  -DMPI_CXX_COMPILER="$build/launcher/mpicxx" --log-level=WARNING "$@"
tests=(mpi_test failure_test plan_mpi_test launcher_test comm_test fault_test handshake_test)
cmake --build "$build" --parallel "$(nproc)" --target programs "${tests[@]}"
# Were they really built with it?
ldd "$build/bin/rill" | grep -q libmpich || {
  echo "$build/bin/rill is not linked with MPICH:" >&2
  ldd "$build/bin/rill" >&2
  exit 1
}
ctest --test-dir "$build" --output-on-failure --no-tests=error -j "$(nproc)" \
  -R "^($(IFS='|' && echo "${tests[*]}"))[.]"
