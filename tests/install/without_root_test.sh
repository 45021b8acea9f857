#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A build as on a cluster where nobody is root: by an unprivileged user in a home folder of its own,
# the libraries from a folder of source archives. As root it becomes `nobody`.
# Usage: without_root_test.sh SOURCES (tools/fetch-sources.sh filled it). About five minutes.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
sources=$(cd "$1" && pwd)
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
mkdir "$home/rill" "$home/sources"
cp "$sources"/*.tar.* "$home/sources/"
# What git would clone, and what is not committed yet.
(cd "$root" && git ls-files -z --cached --others --exclude-standard | xargs -0 -r ls -d 2>/dev/null |
  tar -c -T -) | tar -x -C "$home/rill"

user=()
if [ "$(id -u)" = 0 ]; then
  chown -R 65534:65534 "$home"
  user=(setpriv --reuid=65534 --regid=65534 --clear-groups)
fi
run() {
  (cd "$home/rill" && ${user[@]+"${user[@]}"} env -i HOME="$home" LANG=C.UTF-8 \
    PATH=/usr/local/bin:/usr/bin:/bin "$@")
}
run sh -c 'test "$(id -u)" != 0 && ! test -w /usr/include'

# An archive that is not what it should be is refused, in one sentence that says what to do.
run sh -c 'mkdir ../damaged && cp ../sources/*.tar.* ../damaged &&
  for archive in ../damaged/pcre2_*; do echo >>"$archive"; done'
if run make SOURCES=../damaged build >"$home/damaged.log" 2>&1; then
  echo "a damaged archive was taken" >&2
  exit 1
fi
tr -s ' \n' ' ' <"$home/damaged.log" | grep -q 'pcre2_.*has SHA-256 .*expected .*fetch-sources' || {
  cat "$home/damaged.log" >&2
  exit 1
}
run rm -rf build

# Without precompiled headers, which would hide that a file does not include what it uses.
run make SOURCES=../sources demo \
  CMAKE_ARGS="-DRILL_LIBEDIT=OFF -DRILL_HWLOC=OFF -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON"
run cmake --build build --parallel "$(nproc)" --target text_test rill
run build/bin/text_test --gtest_brief=1
printf 'Who are you?\n' | run build/bin/rill chat models/rill-demo --greedy --max-tokens 8
run cmake --install build --prefix "$home/local" >/dev/null
run "$home/local/bin/rill" --version

# Were the libraries of this folder compiled in, and nothing of the system's of the same names?
if from=$(grep -rlE '/usr/(local/)?include/(nlohmann|CLI|gtest|pcre2|utf8proc|histedit|hwloc)' \
  --include='*.d' "$home/rill/build"); then
  echo "these were compiled with the system's headers: $from" >&2
  exit 1
fi
# What the program itself names: MPI's own library may well need the system's hwloc.
if readelf -d "$home/local/bin/rill" | grep -E 'NEEDED.*(pcre2|utf8proc|libedit|hwloc)'; then
  echo "the program is linked with these libraries of the system" >&2
  exit 1
fi
