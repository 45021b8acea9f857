#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Rill as jobs of a real SLURM with four nodes: 8 ranks by mpirun and by srun, same bits as alone.
#   slurm_test.sh PROGRAMS        the folder of `rill`. Exit status 77: cannot run here.
# shellcheck disable=SC2317  # functions are called through `check`
set -eu
programs=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/../.." && pwd)
slurm=$root/cluster/local-slurm.sh
work=$(mktemp -d)
export RILL_SLURM=$work/slurm OMP_NUM_THREADS=1
trap '"$slurm" stop || true; rm -rf "$work"' EXIT
"$slurm" start 4

# shellcheck source=tests/check.sh
source "$root/tests/check.sh"

model=$root/tests/golden/tied-gqa-bf16
ids=5,1,7,3,9,11,2,8,6,5,4,3,2,1,9,8,7,1,2,3
logits=("$programs/rill" logits "$model" --ids "$ids" --hidden --threads 1)
"${logits[@]}" --out "$work/alone" 2>"$work/log"

same_bits() { # COMMAND...: writes the file of ranks; it must be the file of one process
  rm -f "$work/ranks"
  "$@" && cmp "$work/alone" "$work/ranks" && grep -q 'each of 8 ranks (tp 2 x sp 4)' "$work"/job
}
job() { # LAUNCHER: an sbatch script
  cat >"$work/job.sh" <<SCRIPT
#!/bin/bash
#SBATCH --nodes=4 --ntasks=8
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
$1 ${logits[*]} --tp 2 --sp 4 --out $work/ranks
SCRIPT
}
batch() {
  "$slurm" batch "$work/job.sh" >"$work/job" 2>&1 || { cat "$work/job"; return 1; }
}
by_srun() {
  "$slurm" run srun --nodes=4 --ntasks=8 --mpi=pmix "${logits[@]}" --tp 2 --sp 4 --out "$work/ranks" >"$work/job" 2>&1
}
one_task() { # a task by itself is a process by itself
  "$slurm" run srun --ntasks=1 "$programs/rill" info "$model" | diff - <("$programs/rill" info "$model")
}
without_mpi() {
  ! "$slurm" run srun --ntasks=2 --mpi=none "$programs/rill" info "$model" 2>"$work/refused" &&
    grep -q 'srun started 2 tasks of this program without MPI' "$work/refused"
}
spread() { # the eight ranks are on four nodes, two on each
  [ "$("$slurm" run srun --nodes=4 --ntasks-per-node=2 uname -n | sort | uniq -c | awk '{ printf "%s %s,", $1, $2 }')" = \
    "2 node1,2 node2,2 node3,2 node4," ]
}

# An experiment of the study, on 1, 2 and 4 nodes, each with a rank of one thread.
study() { # LAUNCHER
  rm -rf "$work/results"
  RILL_LAUNCHER=$1 RILL_RESULTS=$work/results RILL_PROGRAMS=$programs RILL_CORES=1 RILL_RANKS_PER_NODE=1 \
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
    "$slurm" batch --nodes=4 --chdir="$root" "$root/cluster/03-batches.sbatch" --local &&
    [ "$(cat "$work"/results/03-batches-*.csv | grep -c "\"$1\"")" -eq 12 ] && # 2 shapes of 3 batches on 2 nodes and on 4
    [ "$(cat "$work"/results/03-batches-*.csv | wc -l)" -eq 16 ] && ls "$work"/results/03-batches-*.txt
}

check "srun --nodes=4 spreads tasks over four nodes" spread
check "srun --mpi=pmix, 8 ranks on 4 nodes" same_bits by_srun
job "srun --mpi=pmix"
check "sbatch, srun --mpi=pmix in the script" same_bits batch
job "mpirun"
check "sbatch, mpirun in the script" same_bits batch
check "an experiment of the study, by srun" study srun
check "an experiment of the study, by mpirun" study mpirun
check "srun --ntasks=1 is a process by itself" one_task
check "srun --mpi=none with two tasks is refused" without_mpi
exit $failed
