#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fills FOLDER with the source archives of the libraries that Rill needs, for a machine without
# them and without a network: run this where there is one, copy the folder, and there
#   cmake -S . -B build -DRILL_SOURCES=FOLDER
# Usage: tools/fetch-sources.sh FOLDER. It needs curl or wget, and sha256sum (or shasum).
# What cmake/library-sources.txt lists is taken from the pool of a Debian mirror: RILL_DEBIAN_MIRROR
# (the address of the pool's parent folder; any mirror, or a dated copy of Debian's snapshot archive
# once the pool has moved on), or else the mirrors that apt-get uses here. An archive that is there
# and has the right checksum stays; one with a wrong checksum is never left in FOLDER.
# Exit status 0: FOLDER is complete.
set -u -o pipefail
if [ $# -ne 1 ] || [ "${1#-}" != "$1" ]; then
  echo "usage: tools/fetch-sources.sh FOLDER (one folder, found $# arguments: $*)" >&2
  exit 2
fi
folder=$1
list=$(cd "$(dirname "$0")/.." && pwd)/cmake/library-sources.txt
mirrors=(${RILL_DEBIAN_MIRROR:+"${RILL_DEBIAN_MIRROR%/}"})
if command -v apt-get >/dev/null; then
  # shellcheck disable=SC2016  # apt-get expands it
  mapfile -t -O "${#mirrors[@]}" mirrors < <(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null |
    sed 's:/$::' | sort -u)
fi

fail() {
  echo "tools/fetch-sources.sh: $*" >&2
  exit 1
}

checksum() { # FILE
  if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1
}

download() { # ADDRESS FILE
  if command -v curl >/dev/null; then
    curl -fsSL --connect-timeout 20 --max-time 600 -o "$2" "$1"
  else
    wget -q -T 60 -t 2 -O "$2" "$1"
  fi
}

[ ${#mirrors[@]} -gt 0 ] || fail "knows no Debian mirror: there is no apt-get here; set RILL_DEBIAN_MIRROR to the address of one, the folder that holds pool/"
command -v curl >/dev/null || command -v wget >/dev/null || fail "needs curl or wget; neither is in PATH"
mkdir -p "$folder" || fail "cannot make the folder $folder"
partial=$(mktemp "$folder/.partial.XXXXXX") || fail "cannot write in $folder; give a folder that is yours"
trap 'rm -f "$partial"' EXIT

while read -r library archive pool expected; do
  case "$library" in '' | '#'*) continue ;; esac
  if [ -f "$folder/$archive" ] && [ "$(checksum "$folder/$archive")" = "$expected" ]; then
    echo "$archive: is there"
    continue
  fi
  tried=()
  for mirror in "${mirrors[@]}"; do
    if ! download "$mirror/pool/$pool/$archive" "$partial" 2>/dev/null; then
      tried+=("$mirror: not to be had")
    elif found=$(checksum "$partial") && [ "$found" != "$expected" ]; then
      tried+=("$mirror: SHA-256 $found")
    else
      if ! chmod 644 "$partial" || ! mv "$partial" "$folder/$archive"; then
        fail "cannot write $folder/$archive; is there space?"
      fi
      echo "$archive: from $mirror"
      continue 2
    fi
  done
  printf '  %s\n' "${tried[@]}" >&2
  fail "found no $archive with SHA-256 $expected; is there a network? RILL_DEBIAN_MIRROR names another mirror, or put the file into $folder by hand"
done <"$list"
