#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the build into an empty folder and builds and runs the example against that copy.
#   example_test.sh SOURCE BUILD COMPILER SANITIZERS
set -eu
source=$1 build=$2 compiler=$3 sanitizers=${4:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$build" --prefix "$work/installed" >"$work/install.log"
flags=()
[ -z "$sanitizers" ] || flags+=("-DCMAKE_CXX_FLAGS=-fsanitize=$sanitizers")
cmake -S "$source/examples/minimal" -B "$work/minimal" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_PREFIX_PATH="$work/installed" \
  ${flags[@]+"${flags[@]}"} >"$work/configure.log"
cmake --build "$work/minimal" >"$work/build.log" || { cat "$work/build.log"; exit 1; }

out=$("$work/minimal/minimal" "$source/models/rill-demo" "Where is the lamp?")
echo "$out"
grep -q 'rows of 1536 logits' <<<"$out"
# One query and one key: the value itself. Two: e^(1/sqrt 2) to 1 between the values.
grep -q 'attention: 1.000 2.000, 2.340 3.340' <<<"$out"

status=0
message=$("$work/minimal/minimal" "$work/nowhere" "?" 2>&1) || status=$?
[ "$status" = 1 ] && grep -q nowhere <<<"$message"
"$work/installed/bin/rill" --version | grep -q '^[0-9]*\.[0-9]*\.[0-9]*$'
