#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `make demo`: the built-in model answers a question about a story that it was not trained on, with
# both attentions. Exit status 1 if their answers differ.
set -eu -o pipefail
cd "$(dirname "$0")/.."
rill=build/bin/rill
model=models/rill-demo
story="One day, Oscar, Clara and Tim met. They talked about the melon and the pie. Oscar stood in the \
studio. At first Clara was in the bedroom. Tim was in the studio. The melon was with Oscar. There was \
the pie in the church. Clara left the bedroom for the church. In the church, Clara took the pie. Oscar \
ran to the bedroom. Tim walked to the market. Oscar was very happy. Tim dreamed of the market. The \
rain fell on the roof. Clara moved to the market. The wind was cold. Tim liked Clara. After that, Tim \
walked to the bedroom. Everything was quiet. Clara left the market and went to the bedroom. It was a \
sunny day. Clara said nothing. Tim walked to the attic. Oscar got the pie from Clara."
question="Where is the pie now?"

bold=$(test -t 1 && tput bold 2>/dev/null || true)
plain=$(test -t 1 && tput sgr0 2>/dev/null || true)

echo "${bold}A story that the model has not seen:${plain}"
fold -s -w 96 <<<"$story"
echo
echo "${bold}$question${plain}"
echo
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Standard error is shown behind the answer: through tee the two would mix.
ask() { # ATTENTION
  echo "${bold}With $1 attention:${plain}"
  "$rill" run "$model" "$story $question" --attention "$1" 2>"$work/notes" | tee "$work/$1" || {
    cat "$work/notes" >&2
    exit 1
  }
  echo
  cat "$work/notes"
  echo
}
ask streaming
ask standard
if ! cmp -s "$work/streaming" "$work/standard"; then
  echo "The two attentions gave different answers; 'build/bin/rill verify $model' shows where they part" >&2
  exit 1
fi
cat <<END
Both attentions gave the same answer.

${bold}Next:${plain}
  build/bin/rill chat $model                  ask your own questions about your own story
  build/bin/rill verify $model --quick        the same bits from every instruction set and thread count
  build/bin/rill bench --shape qwen3-0.6b --weights bf16 -p 128 -n 16 -r 2
                                                        how near this machine comes to its own limits
  build/bin/rill chat FOLDER                            a Qwen3 folder downloaded from Hugging Face
END
