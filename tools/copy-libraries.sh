#!/usr/bin/env bash
# Copies the shared libraries that programs need into a folder: all but the C library's own and those that are there.
# Usage: bash tools/copy-libraries.sh FOLDER PROGRAM...
set -euo pipefail

folder=${1:?usage: copy-libraries.sh FOLDER PROGRAM...}
shift
mkdir -p "$folder"
folder=$(realpath "$folder")
needed=$(ldd "$@" | awk '/not found/ { print > "/dev/stderr"; missing = 1 } $2 == "=>" && $3 ~ /^\// { print $3 } END { exit missing }' | sort -u)
for library in $needed; do
    case ${library##*/} in libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | ld-linux*) continue ;; esac
    [ "$(realpath "${library%/*}")" = "$folder" ] || cp -L "$library" "$folder/"
done
