#!/usr/bin/env bash
# Checks every #include "..." of core/ and the stages against the floors of the house, and that no word of the GPU
# libraries is said outside their folders. Proves first, on planted files, that it would see a wrong one.
# Usage: bash tests/checks/includes.sh [BUILD_DIR]   (from the root; the build folder is not needed)
set -euo pipefail
export LC_ALL=C

# Who may include whom; every module may include itself. A stage may include all of core and itself.
allowed='
base:
config:     base
tensor:     base
backend:    base config tensor
comm:       base config tensor
tokenizer:  base config tensor backend comm
batch:      base config tensor backend comm tokenizer
model:      base config tensor backend comm tokenizer batch
checkpoint: base config tensor backend comm tokenizer batch model
optim:      base config tensor backend comm tokenizer batch model checkpoint
store:      base
generate:   store base config tensor backend comm tokenizer batch model checkpoint
train:      base config tensor backend comm tokenizer batch model checkpoint optim store generate
'
stages='annotations sft reward rejection ppo evaluate chat rounds'

# Where a GPU library may be named: its own folders, and the files that choose a backend by name.
gpu_files='^core/(backend/cuda/|comm/nccl/|backend/(backend\.[ch]|ops\.h):|comm/(comm|internal)\.h:)'
# Elsewhere only the choice itself: the name a user types, and its enum.
gpu_words='"cuda"|HT_BACKEND_CUDA|HT_COMM_NCCL|"nccl"|auto\|cpu\|cuda|auto, cpu, cuda'

# Prints one line a violation found under the folder $1.
violations() {
    (
        cd "$1"
        # shellcheck disable=SC2086 # the stages are words
        find core $stages -type f \( -name '*.[ch]' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null |
            sort > "$list" || true
        [ -s "$list" ] || { echo "no sources under $1"; exit; }
        xargs -a "$list" grep -HnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' /dev/null |
            awk -v allowed="$allowed" -v stages="$stages" '
            BEGIN {
                lines = split(allowed, line, "\n")
                for (i = 1; i <= lines; i++) {
                    words = split(line[i], word, /[: ]+/)
                    if (line[i] == "") continue
                    core[word[1]] = may[word[1], word[1]] = 1
                    for (k = 2; k <= words; k++) may[word[1], word[k]] = 1
                }
                count = split(stages, name, " ")
                for (i = 1; i <= count; i++) stage[name[i]] = 1
            }
            # "core/base/log.h" -> "base", "sft/sft.h" -> "sft", anything else -> ""
            function module(path,   part) {
                if (split(path, part, "/") < 2) return ""
                if (part[1] == "core") return part[2] in core ? part[2] : ""
                return part[1] in stage ? part[1] : ""
            }
            {
                match($0, /:[0-9]+:/)
                file = substr($0, 1, RSTART - 1)
                where = file ":" substr($0, RSTART + 1, RLENGTH - 2)
                path = $0
                sub(/^[^"]*"/, "", path)
                sub(/".*/, "", path)
                from = module(file)
                to = module(path)
                if (from == "")
                    print where ": \"" file "\" is in no module of the table"
                else if (to == "")
                    print where ": \"" path "\" is not a path from the root to a module of core or to a stage"
                else if (from in stage ? (to in stage && to != from) : !((from, to) in may))
                    print where ": " from " may not include " to " (\"" path "\")"
            }'
        # What remains of a line without the permitted words must not name a GPU library.
        xargs -a "$list" grep -HniE 'cuda|cublas|nccl' /dev/null | grep -vE "$gpu_files" |
            sed -E "s/$gpu_words//g" | grep -E '^[^:]*:[0-9]+:' |
            awk '{ rest = $0; sub(/^[^:]*:[0-9]+:/, "", rest) }
                 tolower(rest) ~ /cuda|cublas|nccl/ { match($0, /:[0-9]+:/)
                     print substr($0, 1, RSTART + RLENGTH - 2) ": names a GPU library outside its folder:" rest }' || true
    )
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
list=$work/list

# expect WANTED FILE LINE: a tree with only this line in FILE has WANTED violations (0 or 1).
expect() {
    rm -rf "$work/tree"
    mkdir -p "$work/tree/core/base" "$work/tree/$(dirname "$2")"
    echo 'int planted;' > "$work/tree/core/base/planted.c"
    printf '%s\n' "$3" > "$work/tree/$2"
    local found
    found=$(violations "$work/tree" | wc -l)
    if [ "$found" -ne "$1" ]; then
        echo "self-test: $2 with '$3' has $found violations, expected $1" >&2
        exit 1
    fi
}
expect 0 core/model/a.c '#include "core/base/log.h"'
expect 0 core/model/a.c '#include "core/model/llama.h"'
expect 0 sft/main.c '#include "core/train/train.h"'
expect 0 sft/main.c '#include "sft/sft.h"'
expect 0 core/model/a.c '#include <stdio.h>'
expect 1 core/base/a.c '#include "core/tensor/dtype.h"'
expect 1 core/base/a.h '  #  include "core/tensor/dtype.h"'
expect 1 core/model/a.c '#include "core/train/train.h"'
expect 1 core/config/a.c '#include "core/tensor/dtype.h"'
expect 1 core/backend/cpu/a.c '#include "core/comm/comm.h"'
expect 1 core/backend/cuda/a.cu '#include "core/model/llama.h"'
expect 0 core/generate/a.c '#include "core/store/store.h"'
expect 1 core/store/a.c '#include "core/generate/generate.h"'
expect 1 core/train/a.c '#include "sft/sft.h"'
expect 1 sft/main.c '#include "ppo/ppo.h"'
expect 1 rounds/main.c '#include "sft/sft.h"'
expect 1 core/model/a.c '#include "llama.h"'
expect 1 core/model/a.c '#include "tests/op/reference.h"'
expect 1 core/extra/a.c '#include "core/base/log.h"'
expect 0 core/backend/cuda/a.c 'cublasLtHandle_t handle;'
expect 0 core/train/a.c 'static const char *const names[] = {"auto", "cpu", "cuda"};'
expect 0 core/comm/nccl/a.cu 'ncclGroupStart();'
expect 1 core/comm/a.c 'ncclGroupStart();'
expect 1 core/train/a.c 'cudaMalloc(&pointer, bytes);'
expect 1 sft/sft.c '/* faster with CUDA */'

found=$(violations .)
if [ -n "$found" ]; then
    printf '%s\n' "$found" >&2
    echo "$(printf '%s\n' "$found" | wc -l) include or naming violations" >&2
    exit 1
fi
echo "$(xargs -a "$list" grep -hE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' | wc -l) includes in $(wc -l < "$list") files keep to the floors"
