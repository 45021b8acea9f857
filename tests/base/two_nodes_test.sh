#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What needs several memories, in a virtual machine of two NUMA nodes: QEMU emulates its processors, and Debian's
# kernel runs test_base and rill there. Under a minute; needs `tools/install-deps.sh vm`, but not root.
#   two_nodes_test.sh PROGRAMS [FOLDER]     PROGRAMS: the folder of `test_base` and `rill`; FOLDER (build-vm)
#                                           keeps the kernel. Exit status 77: cannot run here.
# shellcheck disable=SC2317  # functions are called through `check`
set -eu
programs=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "${2:-$root/build-vm}"
folder=$(cd "${2:-$root/build-vm}" && pwd)
work=$(mktemp -d "$folder/work.XXXXXX")
trap 'rm -rf "$work"' EXIT

cannot() {
  echo "two_nodes_test.sh cannot run here: $1" >&2
  exit 77
}
[ "$(uname -m)" = x86_64 ] || cannot "its machine has x86-64 processors, for which the programs here are not built"
"$root/tools/install-deps.sh" --check vm 2>"$work/log" ||
  cannot "QEMU or busybox-static is missing; run tools/install-deps.sh vm"

# Debian's kernel for virtual machines, taken out of its package: installed, it would be what this machine boots
# next. The lists of packages may be absent or old; then a copy of them is fetched.
download_kernel() { # APT_OPTIONS...
  local package
  package=$(apt-cache "$@" depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\)$/\1/p')
  [ -n "$package" ] && (cd "$work/package" && apt-get "$@" download "$package")
}
fetch_kernel() {
  local own=(-o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache")
  mkdir -p "$work/package" "$work/lists/partial" "$work/cache/archives/partial"
  download_kernel || { apt-get "${own[@]}" update && download_kernel "${own[@]}"; } || return 1
  dpkg-deb -x "$work"/package/*.deb "$work/package" && mv "$work"/package/boot/vmlinuz-* "$folder/vmlinuz"
}
if [ ! -f "$folder/vmlinuz" ] && ! fetch_kernel >"$work/log" 2>&1; then
  tail -n 5 "$work/log" >&2
  cannot "apt-get does not provide linux-image-cloud-amd64; give a kernel for virtual machines as $folder/vmlinuz"
fi

# The file system, in memory: the programs, the libraries that they name, a model and a shell.
files=$work/files
mkdir -p "$files"/{bin,lib64,dev,proc,sys,tmp,out,model}
cp "$(command -v busybox)" "$files/bin/busybox"
ln -s busybox "$files/bin/sh"
cp "$programs/test_base" "$programs/rill" "$files/bin/"
ldd "$programs/test_base" "$programs/rill" | sed -n 's/^[^/:]*\(\/[^ ]*\) (0x.*/\1/p' | sort -u |
  xargs cp -L -t "$files/lib64"
cp "$root"/models/rill-demo/*.json "$root"/models/rill-demo/*.safetensors "$files/model/"

# What the machine does. All that steps print goes into files of /out, and these leave over the second serial
# line. pages-*: how many the kernel gave to each node because it was their turn.
answer=(--greedy --max-tokens 8)
cat >"$files/init" <<INIT
#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
export LD_LIBRARY_PATH=/lib64 HOME=/tmp
cd /out
step() { # NAME COMMAND...
  name=\$1
  shift
  echo "step: \$name"
  "\$@" >\$name 2>\$name.notes
  echo \$? >\$name.status
}
pages() { sed -n 's/^interleave_hit //p' /sys/devices/system/node/node*/numastat; }
step tests test_base --gtest_filter='Pages.*:Machine.*:Hwloc.*:Sys.*:Placement.*:PlacedTeam.*'
for numa in auto off interleave; do
  step info-\$numa rill info /model --numa \$numa
  pages >pages-before-\$numa
  step run-\$numa rill run /model "Who are you?" ${answer[*]} --threads 4 --numa \$numa
  pages >pages-after-\$numa
done
stty -F /dev/ttyS1 raw
tar -c . >/dev/ttyS1
poweroff -f
INIT
chmod +x "$files/init"
(cd "$files" && find . | busybox cpio -o -H newc >"$work/initrd") 2>"$work/log"

# Two processors and half of the memory on each node. Emulated even where the hardware could help: it is fast
# enough, and the same everywhere.
status=0
timeout 300 qemu-system-x86_64 -accel tcg -machine q35 -cpu max -smp 4 -m 1G \
  -object memory-backend-ram,id=first,size=512M -numa node,nodeid=0,cpus=0-1,memdev=first \
  -object memory-backend-ram,id=second,size=512M -numa node,nodeid=1,cpus=2-3,memdev=second \
  -nodefaults -no-user-config -display none -no-reboot \
  -kernel "$folder/vmlinuz" -initrd "$work/initrd" -append "console=ttyS0 panic=-1" \
  -serial "file:$work/console" -serial "file:$work/out.tar" </dev/null >"$work/qemu" 2>&1 || status=$?

# shellcheck source=tests/check.sh
source "$root/tests/check.sh"
out=$work/out
mkdir "$out"

ended() {
  [ "$status" -eq 0 ] && tar -x -C "$out" -f "$work/out.tar" && [ -f "$out/pages-after-interleave" ] && return
  echo "QEMU: exit status $status"
  tail -n 40 "$work/qemu" "$work/console"
  return 1
}
finds() { # FILE EXPRESSION: a step that succeeded, and printed that
  cat "$out/$1" "$out/$1.notes" "$out/$1.status"
  [ "$(cat "$out/$1.status")" = 0 ] && cat "$out/$1" "$out/$1.notes" | grep -q "$2"
}
passed() { # TEST: it ran, and passed
  grep -F "[       OK ] $1 " "$out/tests" || {
    grep -F " $1 " "$out/tests"
    return 1
  }
}
pages_of() { # POLICY: how many went to each node in turn while rill ran
  paste "$out/pages-before-$1" "$out/pages-after-$1" | awk '{ printf "%d ", $2 - $1 }'
}
in_turn() {
  local first second
  read -r first second < <(pages_of interleave)
  echo "auto: $(pages_of auto); off: $(pages_of off); interleave: $first $second"
  [ "$(pages_of auto)" = "0 0 " ] && [ "$(pages_of off)" = "0 0 " ] && [ "$first" -gt 0 ] && [ "$second" -gt 0 ]
}

check "the virtual machine ran to its end" ended
[ "$failed" -eq 0 ] || exit 1
check "it has two NUMA nodes" finds info-auto 'this machine  *2 NUMA nodes ([a-z/]*), 2 + 2 cores$'
check "test_base passes" finds tests '^\[  PASSED  \]'
tests=$("$programs/test_base" --gtest_filter='Pages.*' --gtest_list_tests | sed -n 's/^  //p')
check "it has tests of pages" [ -n "$tests" ]
for name in $tests; do
  check "Pages.$name passes and is not skipped" passed "Pages.$name"
done
by_node="threads, weights and KV by node (2 + 2 threads)"
turns="weights and KV over 2 nodes in turn"
check "rill info: by node" finds info-auto "placement  *4 threads; $by_node\$"
check "rill info --numa off" finds info-off 'placement  *4 threads; nothing placed'
check "rill info --numa interleave" finds info-interleave "placement  *4 threads; $turns\$"
check "rill run: by node" finds run-auto "; $by_node; greedy\$"
check "rill run --numa off" finds run-off '; nothing placed (--numa off); greedy$'
check "rill run --numa interleave" finds run-interleave "; $turns; greedy\$"
check "pages take turns with --numa interleave, and only then" in_turn
"$programs/rill" run "$root/models/rill-demo" "Who are you?" "${answer[@]}" >"$work/here" 2>"$work/log"
for numa in auto off interleave; do
  check "--numa $numa: the answer of this machine" cmp "$work/here" "$out/run-$numa"
done
exit $failed
