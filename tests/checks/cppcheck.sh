#!/usr/bin/env bash
# Static analysis by cppcheck of all C that is not a test: its errors, warnings, performance and portability checks. Left out are
# "style" (clang-format and the compiler's warnings have it) and "information"; tests, whose fixtures need not be freed when a test
# could not be prepared; C++ and CUDA, which it parses only in part. What it is wrong about is in cppcheck.suppress, with the reason.
# Proves first, on a planted file, that it would see something.
# Usage: bash tests/checks/cppcheck.sh [BUILD_DIR]   (from the root; the build folder is not needed)
set -euo pipefail
export LC_ALL=C
command -v cppcheck > /dev/null || { echo "skipped: cppcheck is not installed"; exit 77; }

check() {
    cppcheck -j "$(nproc)" -q --std=c11 --language=c --enable=warning,performance,portability --error-exitcode=1 --library=posix \
        --library=tests/checks/cppcheck.cfg --suppressions-list=tests/checks/cppcheck.suppress -I. -D_GNU_SOURCE '-DHALTER_VERSION="0"' \
        -DHT_ISA=generic --template='{file}:{line}: {severity}: {id}: {message}' "$@" 2>&1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '#include <stdlib.h>\nint planted(int n) {\n    int *p = malloc(sizeof *p);\n    if (n) return 1;\n    free(p);\n    return 0;\n}\n' > "$work/planted.c"
if check "$work/planted.c" > "$work/found" || ! grep -q 'memleak' "$work/found"; then
    echo "self-test: the planted leak is not seen" >&2
    exit 1
fi

find core annotations sft reward rejection ppo evaluate chat rounds bench -name '*.c' | sort > "$work/files"
check --file-list="$work/files"
echo "$(wc -l < "$work/files") files are clean"
