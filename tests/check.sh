# SPDX-License-Identifier: Apache-2.0
# For scripts that test, to be sourced: `check` says what holds and what does not, with the output of what was
# tried; `failed` is 1 once something did not. $work is the script's own folder.
# shellcheck shell=bash disable=SC2034,SC2154  # read and set by the script
failed=0
check() { # WHAT COMMAND...
  local what=$1
  shift
  if "$@" >"$work/log" 2>&1; then
    echo "ok: $what"
  else
    echo "FAILED: $what"
    cat "$work/log"
    failed=1
  fi
}
