#!/usr/bin/env bash
# Every stage's program, for a step or two on the smallest models, under valgrind's memcheck: reads of memory that is not there or that
# nobody has written, and leaks, also inside the libraries, which the sanitizers do not look into. (valgrind shows programs a processor without
# AVX-512 and AMX; the instruction sets below run.)
# Usage: valgrind.sh BUILD_FOLDER
. tests/pipeline/lib.sh valgrind "$1" halter-annotations halter-sft halter-reward halter-rejection halter-ppo halter-chat
command -v valgrind > /dev/null || { echo "skipped: valgrind is not installed"; exit 77; }

# A leak is what no pointer leads to at the end. Suppressions, each with the reason: none are needed.
check=(valgrind -q --error-exitcode=99 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite)

# proves that it would see one: a program that reads beyond the end of what it has
printf '#include <stdlib.h>\nint main(void) {\n    volatile char *p = calloc(3, 1);\n    int code = p ? p[3] : 1;\n    free((void *)p);\n    return code;\n}\n' > "$work/planted.c"
cc -g -o "$work/planted" "$work/planted.c"
expect 99 "Invalid read of size 1" "${check[@]}" "$work/planted"

small_data
run() { # PROGRAM OPTION...: one thread, no error
    local program=$1
    shift
    expect 0 "" "${check[@]}" "$bin/$program" "$@"
}
run halter-annotations import --db "$work/p.db" "$work/pairs.csv"
run halter-sft --config tests/pipeline/sft-pretrain.yaml --text "$work/text.txt" --threads 1 --set data.max_steps=2 --set train.save_every=1 \
    --set train.eval_every=2 --out "$work/sft"
run halter-reward train --config tests/pipeline/reward-train.yaml --db "$work/p.db" --model "$work/sft" --threads 1 --set reward.own_share=1 \
    --set data.epochs=1 --set data.batch_size=32 --out "$work/safe"
run halter-rejection --config tests/pipeline/rejection-sample.yaml --db "$work/p.db" --model "$work/sft" --helpful "$work/safe" --safe "$work/safe" \
    --threads 1 --round 1 --set sample.k=2
run halter-ppo --config tests/pipeline/ppo.yaml --db "$work/p.db" --model "$work/sft" --helpful "$work/safe" --safe "$work/safe" --threads 1 \
    --set ppo.iterations=1 --set ppo.batch=4 --out "$work/ppo"
run halter-chat --model "$work/ppo" --prompt "say one" --max-new-tokens 8 --threads 1
finish
