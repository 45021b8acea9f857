#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `make demo-accuracy`: how many of its held-out questions the built-in model answers right, with both
# attentions and in each type of weights. models/rill-demo/README.md says what the questions are.
#   tools/demo-accuracy.sh [options of rill accuracy, for instance --limit 100]
set -eu
cd "$(dirname "$0")/.."
questions=$(mktemp)
trap 'rm -f "$questions"' EXIT
xz -dc models/rill-demo/held-out.jsonl.xz >"$questions"
for arithmetic in "bf16 streaming" "bf16 standard" "int8 streaming" "int4 streaming"; do
  read -r weights attention <<<"$arithmetic"
  echo "== --weights $weights --attention $attention"
  build/bin/rill accuracy models/rill-demo --questions "$questions" --weights "$weights" \
    --attention "$attention" "$@"
  echo
done
