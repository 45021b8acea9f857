#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every experiment of cluster/ in its reduced form: the rows that it must have, a plot and a record.
#   study_test.sh PROGRAMS        the folder of `rill`, built with MPI
set -eu
programs=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export RILL_PROGRAMS=$programs RILL_RESULTS=$work RILL_NODES="1 2" RILL_CORES=2 RILL_RANKS_PER_NODE=1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

failed=0
fail() {
  echo "FAILED: $1"
  failed=1
}

# table NAME ROWS COLUMN...: a CSV file with so many rows, all of them faster than nothing, and a plot.
table() {
  local name=$1 rows=$2 csv="$work/$1-here-local.csv" found column
  shift 2
  [ -s "$csv" ] || { fail "$name has no table"; return; }
  found=$(($(wc -l <"$csv") - 1))
  [ "$found" -eq "$rows" ] || fail "$name has $found rows, not $rows"
  for column in table run nodes ranks launcher n_threads avg_ts "$@"; do
    head -n 1 "$csv" | tr , '\n' | grep -qx "$column" || fail "$name has no column $column"
  done
  awk -F'","' 'NR == 1 { n = split($0, name, ","); for (i = 1; i <= n; i++) if (name[i] == "avg_ts") at = i; next }
               !($at > 0) { exit 1 }' "$csv" || fail "$name has a row without a speed"
  if command -v gnuplot >/dev/null; then
    grep -q '<svg' "${csv%.csv}.svg" || fail "$name has no plot"
    grep -q '<path' "${csv%.csv}.svg" || fail "the plot of $name has no curve"
  fi
}

experiment() { # NAME
  if ! bash "$root/cluster/$1.sbatch" --local >"$work/log" 2>&1; then
    fail "$1 ended with an error"
    tail -n 30 "$work/log"
  fi
  for word in date: rill: node: commands: "rill bench"; do
    grep -q "$word" "$work/$1-here-local.txt" || fail "the record of $1 lacks '$word'"
  done
}

experiment 01-serial
table 01-serial 18 isa attention tp sp # 3 instruction sets, 2 attentions, alone, tp, sp
experiment 02-one-node
table 02-one-node 12 n_prompt # 2 counts of threads, 2 attentions, 3 lengths
experiment 03-batches
table 03-batches 9 n_sequences tp sp # 1 process, 2 shapes of 2 ranks; 3 batches
experiment 04-threads
table 04-threads 4 # 2 counts of threads, prompt and tokens
experiment 05-nodes
table 05-nodes-strong 6 speedup efficiency # 3 shapes, prompt and tokens
table 05-nodes-weak 3 speedup efficiency
experiment 06-blocks
table 06-blocks 6 block # 3 sizes, prompt and tokens
experiment 07-operator
table 07-operator-threads 4 n_tokens speedup # 2 counts of threads, 2 attentions
table 07-operator-ranks 4 n_ranks
table 07-operator-lengths 8 n_ranks
table 07-operator-blocks 2 block

# Wrong words are refused, and an experiment whose measurements fail says so.
refused() { # WHAT COMMAND...
  local what=$1
  shift
  if "$@" >"$work/log" 2>&1; then fail "$what was accepted"; fi
}
refused "an unknown option" bash "$root/cluster/04-threads.sbatch" --small
refused "a full run without a job" env -u SLURM_JOB_ID bash "$root/cluster/04-threads.sbatch"
refused "an unknown launcher" env RILL_LAUNCHER=ssh bash "$root/cluster/04-threads.sbatch" --local
printf '#!/bin/sh\ncase $1 in --version) echo rill;; *) exit 1;; esac\n' >"$work/rill"
chmod +x "$work/rill"
refused "a program that fails" env RILL_PROGRAMS="$work" bash "$root/cluster/04-threads.sbatch" --local
grep -q "measurements failed" "$work/log" || fail "failed measurements are not told"

[ "$failed" -eq 0 ] && echo "every experiment ran"
exit "$failed"
