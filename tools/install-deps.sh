#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Finds what Rill needs and this machine lacks, and installs it with apt-get (Debian, Ubuntu).
#   tools/install-deps.sh [--check] [build] [compiler] [ranks] [tools] [plots] [slurm] [mpich] [network] [vm] [cache]
# build: what compiling and testing take (the default). compiler: of that, what remains where the
# libraries come from a folder of source archives (tools/fetch-sources.sh). tools: clang with its sanitizers, libFuzzer
# and OpenMP, clang-format, shellcheck, and valgrind, which counts instructions. ranks: MPI, to run one model on several processes or
# machines, and hwloc, which knows the memories of a machine. plots: gnuplot, which draws what benchmarks measured. slurm: what
# cluster/local-slurm.sh starts. mpich: the other MPI, to test with it. network: what
# cluster/local-network.sh makes hosts with. vm: what tests/base/two_nodes_test.sh makes a machine of two NUMA
# nodes with. cache: ccache, with which CI compiles once what two of its builds share. --check: install nothing, only say what is missing.
# Silent when nothing is missing. Exit status 0: all there; 1: something is missing.
set -u

check_only=no
groups=()
for argument in "$@"; do
  case "$argument" in
    --check) check_only=yes ;;
    build | compiler | ranks | tools | plots | slurm | mpich | network | vm | cache) groups+=("$argument") ;;
    *)
      echo "tools/install-deps.sh: '$argument' is unknown; use --check, build, compiler, ranks, tools, plots, slurm, mpich, network, vm or cache" >&2
      exit 2
      ;;
  esac
done
[ ${#groups[@]} -gt 0 ] || groups=(build)

missing=()
need() { # PACKAGE PROBE...: remembers PACKAGE unless the probe succeeds
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}

has() { command -v "$1"; }

# The compiler that CMake will take decides what counts: libraries of CPATH or of
# CMAKE_PREFIX_PATH (a conda environment, a home folder) are as good as Debian's.
compiler() {
  if [ -n "${CXX:-}" ]; then echo "$CXX"; else command -v c++ || command -v g++ || command -v clang++; fi
}

new_enough_compiler() { # C++20 as GCC 11 and clang 14 have it
  echo '#include <bit>
        #include <span>
        #if __cplusplus < 202002L || !(__GNUC__ >= 11 || __clang_major__ >= 14)
        #error too old
        #endif' |
    $(compiler) -std=c++20 -fsyntax-only -x c++ -
}

has_openmp() { echo '#include <omp.h>' | $(compiler) -fopenmp -fsyntax-only -x c++ -; }

has_header() { # HEADER [DEFINITION]
  local folders=() folder
  IFS=':;' read -r -a prefixes <<<"${CMAKE_PREFIX_PATH:-}"
  for folder in ${prefixes[@]+"${prefixes[@]}"}; do folders+=("-I$folder/include"); done
  echo "#include <$1>" | $(compiler) ${2:+"-D$2"} ${folders[@]+"${folders[@]}"} -std=c++20 -E -x c++ -
}

new_enough_cmake() { # 3.20, which may come from pip as well
  local version
  version=$(cmake --version 2>/dev/null | sed -n '1s/^cmake version //p') && [ -n "$version" ] &&
    [ "$(printf '%s\n' 3.20 "$version" | sort -V | head -n 1)" = 3.20 ]
}

clang_links() { # SANITIZER
  local out status
  out=$(mktemp) || return 1
  echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }
        #ifndef FUZZ
        int main() {}
        #endif' | clang++ -x c++ ${2:+"-D$2"} "-fsanitize=$1" - -o "$out"
  status=$?
  rm -f "$out"
  return $status
}

clang_openmp() {
  local out status
  out=$(mktemp) || return 1
  echo '#include <omp.h>
        int main() { return omp_get_max_threads() < 1; }' | clang++ -x c++ -fopenmp - -o "$out"
  status=$?
  rm -f "$out"
  return $status
}

# Debian keeps clang's sanitizers in a package that carries clang's version.
clang_runtime_package() {
  local version
  version=$(apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p' | head -n 1)
  echo "libclang-rt-${version:-14}-dev"
}

static_busybox() { has busybox && ! ldd "$(command -v busybox)"; }

need_compiler() {
  need g++ new_enough_compiler
  if [ ${#missing[@]} -eq 0 ] && ! has_openmp >/dev/null 2>&1; then missing+=(libomp-dev); fi
  need make has make
  need cmake new_enough_cmake
}

find_missing() {
  missing=()
  local group
  for group in "${groups[@]}"; do
    case "$group" in
      compiler) need_compiler ;;
      build)
        need_compiler
        need ninja-build has ninja
        need binutils has nm
        need pkg-config has pkg-config
        need xz-utils has xz
        if [ -n "$(compiler)" ]; then
          need nlohmann-json3-dev has_header nlohmann/json.hpp
          need libcli11-dev has_header CLI/CLI.hpp
          need libpcre2-dev has_header pcre2.h PCRE2_CODE_UNIT_WIDTH=8
          need libutf8proc-dev has_header utf8proc.h
          need libedit-dev has_header histedit.h
          need libgtest-dev has_header gtest/gtest.h
        else
          missing+=(nlohmann-json3-dev libcli11-dev libpcre2-dev libutf8proc-dev libedit-dev
            libgtest-dev)
        fi
        ;;
      tools)
        need clang has clang++
        need "$(clang_runtime_package)" clang_links fuzzer FUZZ
        need libomp-dev clang_openmp
        need clang-format has clang-format
        need shellcheck has shellcheck
        need valgrind has valgrind
        need python3 has python3
        ;;
      ranks)
        need libopenmpi-dev has mpicxx
        need openmpi-bin has mpirun
        [ -z "$(compiler)" ] || need libhwloc-dev has_header hwloc.h
        ;;
      cache) need ccache has ccache ;;
      plots) need gnuplot-nox has gnuplot ;;
      slurm)
        need slurmctld has slurmctld
        need slurmd has slurmd
        need slurm-client has sbatch
        need munge has munged
        ;;
      network) need iproute2 has tc ;;
      vm)
        need qemu-system-x86 has qemu-system-x86_64
        need busybox-static static_busybox
        ;;
      mpich)
        need mpich has mpirun.mpich
        need libmpich-dev has mpicxx.mpich
        ;;
    esac
  done
}

find_missing
[ ${#missing[@]} -gt 0 ] || exit 0

by_hand="as root: apt-get install --no-install-recommends ${missing[*]}"
if [ "$check_only" = yes ]; then
  echo "Rill needs packages that are missing; 'make deps' installs them, or $by_hand" >&2
  exit 1
fi
if ! command -v apt-get >/dev/null; then
  echo "Rill needs what Debian calls ${missing[*]}, and this system has no apt-get; install them with its own package manager, or see 'Building without root' in README.md" >&2
  exit 1
fi
root=()
if [ "$(id -u)" != 0 ]; then
  if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    root=(sudo)
  else
    echo "Rill needs packages that are missing and cannot install them (not root, and sudo asks for a password or is absent); $by_hand, or see 'Building without root' in README.md" >&2
    exit 1
  fi
fi

echo "Installing with apt-get: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
  ${root[@]+"${root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=300 "$@" \
    >>"$log" 2>&1 </dev/null
}
# The package lists of a fresh machine are empty or old; they are fetched only if needed.
if ! apt install --no-install-recommends "${missing[@]}"; then
  echo "Fetching the lists of packages (apt-get update) and trying again"
  apt update
  if ! apt install --no-install-recommends "${missing[@]}"; then
    tail -n 20 "$log" >&2
    echo "apt-get could not install ${missing[*]}; its last lines stand above; mend what they name, then $by_hand" >&2
    exit 1
  fi
fi
wanted="${missing[*]}"
find_missing
if [ ${#missing[@]} -gt 0 ]; then
  echo "apt-get installed $wanted, but what ${missing[*]} should provide is still not found; is another compiler first in PATH, or CXX set?" >&2
  exit 1
fi
