#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The communication model over a real network stack: two hosts, links of two rates.
#   network_test.sh PROGRAMS      the folder of `rill`. Exit status 77: cannot run here.
set -u
programs=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$root/cluster/local-network.sh" --programs "$programs" --rates "500 100" --csv "$work/csv"
status=$?
[ "$status" -eq 0 ] || exit "$status"

# Two rates, two shapes, a prompt and tokens. A prompt's communication is bound by the rate, which
# tc keeps to within the headers of TCP and IP (5 %). A factor of 2 leaves room for two ranks that wait for
# each other on a machine whose cores have other work. Tokens' messages fit the burst that tc lets through
# at once, so that only their presence is asked for.
awk -F, '
  NR > 1 { rows++; ratio = $7
    if ($4 ~ /^pp/ && (ratio < 0.5 || ratio > 2)) { print "FAILED: a prompt took " ratio " times what was predicted: " $0; bad = 1 }
    if ($4 ~ /^tg/ && !($6 > 0)) { print "FAILED: no communication for tokens: " $0; bad = 1 }
    if ($4 ~ /^pp/) time[$1, $2] = $6 }
  END {
    if (rows != 8) { print "FAILED: " rows " rows, not 8"; bad = 1 }
    for (tp = 1; tp <= 2; tp++) if (time[100, tp] < 3 * time[500, tp]) { print "FAILED: a fifth of the rate did not make tp " tp " three times slower"; bad = 1 }
    exit bad }' "$work/csv" || exit 1
# The prompt is long enough to go through the layers in two pieces, one of which computes while the other's sums
# or states travel: ranks must wait for less than what they send keeps the link busy.
"$root/cluster/local-network.sh" --programs "$programs" --rates 500 --prompt 512 --csv "$work/overlap" || exit 1
awk -F, '
  NR > 1 && $4 ~ /^pp/ { rows++; if (!($6 < 0.8 * $8)) { print "FAILED: waited " $6 " s for what keeps the link busy for " $8 " s: " $0; bad = 1 } }
  END { if (rows != 2) { print "FAILED: " rows " prompts, not 2"; bad = 1 }; exit bad }' "$work/overlap" || exit 1
if ip netns list 2>/dev/null | grep -q '^rill-'; then
  echo "FAILED: namespaces are left"
  exit 1
fi
