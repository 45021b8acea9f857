#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `make demo-cluster`: the built-in model on four ranks (tp 2 x sp 2) and in one process: the same
# logits to the bit, and what the ranks told each other. Exit status 1 if a bit differs.
set -eu -o pipefail
cd "$(dirname "$0")/.."
rill=build/bin/rill
model=models/rill-demo
command -v mpirun >/dev/null || {
  echo "there is no mpirun; install MPI ('tools/install-deps.sh ranks') and build again" >&2
  exit 1
}
# As root and with more ranks than cores, for a demonstration.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
$rill tokenize $model "$(sed -n 1,40p README.md)" 2>/dev/null | tr -s '[] \n' ',' | sed 's/^,*//; s/,*$//' >"$work/ids"
on_ranks="mpirun -n 4 $rill"

echo "One process:"
$rill logits $model --ids-file "$work/ids" --hidden --out "$work/one"
echo
echo "Four ranks, tp 2 x sp 2:"
OMP_NUM_THREADS=1 $on_ranks logits $model --ids-file "$work/ids" --hidden --out "$work/four" \
  --tp 2 --sp 2 --profile-comm
echo
if ! cmp "$work/one" "$work/four"; then
  echo "The logits and the residual stream DIFFER." >&2
  exit 1
fi
echo "The logits and the residual stream are the same to the bit ($(stat -c %s "$work/one") bytes)."
echo
OMP_NUM_THREADS=1 $on_ranks run $model "Who are you?" --greedy --max-tokens 60 --tp 2 --sp 2
