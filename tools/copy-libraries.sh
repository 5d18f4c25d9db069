#!/usr/bin/env bash
# Copies the shared libraries that programs need into a folder, all but the C library's own and those that are there. It fails
# where a program would still take one from elsewhere: a library with a RUNPATH of its own looks for its needs there alone.
# Usage: bash tools/copy-libraries.sh FOLDER PROGRAM...
set -euo pipefail

folder=${1:?usage: copy-libraries.sh FOLDER PROGRAM...}
shift
mkdir -p "$folder"
folder=$(realpath "$folder")

# elsewhere PROGRAM...: the libraries that are not taken from the folder
elsewhere() {
    local library
    ldd "$@" | awk '/not found/ { print > "/dev/stderr"; missing = 1 } $2 == "=>" && $3 ~ /^\// { print $3 } END { exit missing }' | sort -u |
        while read -r library; do
            case ${library##*/} in libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | ld-linux*) continue ;; esac
            [ "$(realpath "${library%/*}")" = "$folder" ] || echo "$library"
        done
}

for library in $(elsewhere "$@"); do cp -L "$library" "$folder/"; done
left=$(elsewhere "$@")
[ -z "$left" ] || { echo "$0: not taken from $folder:" $left >&2; exit 1; }
