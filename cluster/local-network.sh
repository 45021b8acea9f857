#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Two hosts that are network namespaces of this machine, TCP between them at a rate that `tc` limits:
# measures what ranks' communication takes there, beside what `rill plan` predicts.
#   cluster/local-network.sh [--programs FOLDER] [--rates "1000 200"] [--prompt TOKENS] [--csv FILE]
# Rates are in Mbit/s. The shape of Qwen3-0.6B, a prompt (of 64 tokens, too few to overlap; 512 do) and 8 tokens more.
# Needs root, Open MPI, iproute2 (ip, tc). Exit status 77: cannot run here, and why; 1: a command failed.
set -eu -o pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
programs=$root/build/bin rates="1000 200" csv=/dev/null
hosts="rill-a rill-b" prompt=64 generated=8 turns=3

refuse() {
  echo "cluster/local-network.sh: $1" >&2
  exit 77
}
usage() {
  echo "cluster/local-network.sh: $1" >&2
  sed -n '5s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case "$1" in
    --programs) programs=${2:?--programs needs a folder} && shift 2 ;;
    --rates) rates=${2:?--rates needs numbers} && shift 2 ;;
    --prompt) prompt=${2:?--prompt needs a number} && shift 2 ;;
    --csv) csv=${2:?--csv needs a file} && shift 2 ;;
    *) usage "'$1' is unknown; use --programs, --rates, --prompt or --csv" ;;
  esac
done
[ -x "$programs/rill" ] || usage "there is no program $programs/rill; build Rill (make), or name its folder with --programs"
programs=$(cd "$programs" && pwd)
for rate in $rates; do
  case "$rate" in *[!0-9]* | 0*) usage "a rate is '$rate'; give whole numbers of Mbit/s from 1 on" ;; esac
done
case "$prompt" in *[!0-9]* | 0*) usage "--prompt is '$prompt'; give a whole number from 1 on" ;; esac
[ "$(id -u)" = 0 ] || refuse "only root can make network namespaces; run it as root or with sudo"
for program in ip tc unshare mpirun; do
  command -v "$program" >/dev/null || refuse "$program is not installed; run tools/install-deps.sh ranks network"
done
mpirun --version | grep -q 'Open MPI' || refuse "mpirun is not Open MPI's, whose launcher this script directs into the namespaces"
ip netns add rill-try 2>/dev/null || refuse "the kernel allows no network namespaces here"
ip netns delete rill-try

work=$(mktemp -d)
clean() {
  for host in $hosts; do ip netns delete "$host" 2>/dev/null || true; done
  rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM

# The hosts

make_network() {
  local number=0 host
  ip link add rill-a type veth peer name rill-b
  for host in $hosts; do
    number=$((number + 1))
    ip netns add "$host"
    ip link set "$host" netns "$host"
    ip -n "$host" address add "10.77.0.$number/24" dev "$host"
    # As clusters have it; cutting bytes into packets of 1500 would take most of the processors' time.
    ip -n "$host" link set "$host" mtu 9000 up
    ip -n "$host" link set lo up
  done
  printf '127.0.0.1 localhost\n10.77.0.1 rill-a\n10.77.0.2 rill-b\n' >"$work/hosts"
  # What Open MPI calls instead of ssh: HOST COMMAND...
  # A host has its own processors, name, names of others, temporary files and shared memory, as real ones do.
  cat >"$work/enter" <<ENTER
#!/bin/sh
host=\$1
shift
half=\$((\$(nproc --all) / 2))
case "\$host" in
  rill-a) processors=0-\$((half > 0 ? half - 1 : 0)) ;;
  *) processors=\$half-\$((half > 0 ? 2 * half - 1 : 0)) ;;
esac
exec taskset -c "\$processors" ip netns exec "\$host" unshare --mount --uts sh -c 'hostname "\$1"
  mount --bind "$work/hosts" /etc/hosts
  mount -t tmpfs shm /dev/shm
  export TMPDIR=$work/\$1
  mkdir -p "\$TMPDIR"
  shift
  exec sh -c "\$*"' enter "\$host" "\$@"
ENTER
  chmod +x "$work/enter"
}

# RATE in Mbit/s: what leaves each host. The queue holds a second's worth, so that nothing is lost; up to
# 64 KiB that wait while ranks compute go at once, which makes small messages faster than the rate.
limit() {
  local host
  for host in $hosts; do
    tc -n "$host" qdisc replace dev "$host" root tbf rate "$1mbit" burst 64kb latency 1000ms
  done
}

# COMMAND... on a rank of one thread on each host.
on_hosts() {
  cat >"$work/job" <<JOB
exec mpirun --allow-run-as-root -n 2 --host rill-a:1,rill-b:1 --bind-to none \\
  --mca plm rsh --mca plm_rsh_agent $work/enter --mca plm_rsh_no_tree_spawn 1 \\
  --mca oob_tcp_if_include 10.77.0.0/24 --mca btl self,vader,tcp --mca btl_tcp_if_include 10.77.0.0/24 --mca pml ob1 \\
  $*
JOB
  "$work/enter" rill-a sh "$work/job"
}

# The measurements

column() { # NUMBER ROW: a cell of `rill plan`'s table
  grep "^| $2 " "$work/plan" | cut -d'|' -f"$1" | tr -d ' ' | sed 's/ms$/ 1e-3/; s/µs$/ 1e-6/; s/\([0-9]\)s$/\1 1/' | awk '{ print $1 * $2 }'
}

compare() { # RATE TP SP TEST ARGUMENTS ROW STEPS
  local shares measured predicted busy
  on_hosts "$programs/rill" bench --shape qwen3-0.6b "$5" -t 1 -r "$turns" --no-warmup --tp "$2" --sp "$3" --profile-comm -o csv \
    >"$work/out" 2>"$work/err" || { cat "$work/err" >&2; exit 1; }
  # Seconds in communication of the rank that waited less: the rest is waiting for the other one. And the
  # seconds for which what a rank sent keeps the link busy.
  shares=$(awk 'NF == 9 && $9 == "%" { s = $4 + $7; if (!n++ || s < least) least = s } END { print least }' "$work/err")
  measured=$(awk -v s="$shares" -v n="$7" -v r="$turns" 'BEGIN { print s / r / n }')
  busy=$(awk -v n="$7" -v r="$turns" -v rate="$1" 'NF == 9 && $9 == "%" { b = $3 + $6; if (b > most) most = b }
    END { print most * 8 / (rate * 1e6) / r / n }' "$work/err")
  "$programs/rill" plan --shape qwen3-0.6b --tp "$2" --sp "$3" --nodes 2 --ranks-per-node 1 -p "$prompt" -d 0 \
    --constants "$work/constants" >"$work/plan"
  predicted=$(column 6 "$6")
  printf '%s,%s,%s,%s,%s,%s,%s,%s\n' "$1" "$2" "$3" "$4" "$predicted" "$measured" \
    "$(awk -v p="$predicted" -v m="$measured" 'BEGIN { printf "%.2f", m / p }')" "$busy" | tee -a "$csv" |
    awk -F, '{ printf "%9s  %2s  %2s  %-6s  %12.2f  %12.2f  %11.2f  %20s\n", $1, $2, $3, $4, 1e3 * $8, 1e3 * $5, 1e3 * $6, $7 }'
}

make_network
printf 'mbit,tp,sp,test,predicted_seconds,measured_seconds,measured_over_predicted,link_seconds\n' >>"$csv"
for rate in $rates; do
  limit "$rate"
  on_hosts "$programs/rill" bench --comm -t 1 -o json >"$work/constants" 2>"$work/err" || { cat "$work/err" >&2; exit 1; }
  echo "Links of $rate Mbit/s; measured between the hosts:"
  sed -n '/between_nodes/,/}/p' "$work/constants"
  echo "   Mbit/s  tp  sp  test    link busy ms  predicted ms  measured ms  measured / predicted   (waiting in a step)"
  for shape in "2 1" "1 2"; do
    # shellcheck disable=SC2086  # two words
    set -- $shape
    compare "$rate" "$1" "$2" "pp$prompt" "-p $prompt -n 0" "prompt of $prompt" 1
    compare "$rate" "$1" "$2" "tg$generated" "-p 0 -n $generated" "a token" "$generated"
  done
done
