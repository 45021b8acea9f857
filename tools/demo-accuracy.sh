#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `make demo-accuracy`: how many of its held-out questions the built-in model answers right, with both
# attentions, in each type of weights, and with an int8 KV cache. models/rill-demo/README.md says what the questions are.
#   tools/demo-accuracy.sh [options of rill accuracy, for instance --limit 100]
set -eu
cd "$(dirname "$0")/.."
questions=$(mktemp)
trap 'rm -f "$questions"' EXIT
xz -dc models/rill-demo/held-out.jsonl.xz >"$questions"
for arithmetic in "bf16 streaming auto" "bf16 standard auto" "int8 streaming auto" "int4 streaming auto" \
  "bf16 streaming int8"; do
  read -r weights attention kv <<<"$arithmetic"
  echo "== --weights $weights --attention $attention --kv $kv"
  build/bin/rill accuracy models/rill-demo --questions "$questions" --weights "$weights" \
    --attention "$attention" --kv "$kv" "$@"
  echo
done
