#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Names the C++ files that clang-format would change. Versions of clang-format differ in details;
# 14, Debian 12's, is the one that counts.
set -u
cd "$(dirname "$0")/.." || exit 1
format=$(command -v clang-format-14 || command -v clang-format) || {
  echo "clang-format is missing; 'tools/install-deps.sh tools' installs it" >&2
  exit 1
}
wrong=0
while IFS= read -r -d '' file; do
  if ! "$format" --dry-run -Werror "$file" 2>/dev/null; then
    echo "$file"
    wrong=$((wrong + 1))
  fi
done < <(find src include apps tests bench tools -name '*.cc' -print0 -o -name '*.h' -print0 2>/dev/null | sort -z)
[ "$wrong" -eq 0 ] || {
  echo "$wrong files differ from .clang-format; 'make format' mends them" >&2
  exit 1
}
