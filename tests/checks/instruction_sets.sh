#!/usr/bin/env bash
# Runs the tables of operations and of decoding with every instruction set that this processor has, not only the best one. Where a set has
# products of bf16, oneDNN, which has them, is held to the set, too; where it has none, oneDNN uses what it finds, so that the rest of bf16 is tested.
# Usage: bash tests/checks/instruction_sets.sh BUILD_DIR
set -euo pipefail
build=${1:?usage: instruction_sets.sh BUILD_DIR}

# "NAME" is not one that this processor has: NAME, NAME, ...
present=$(HALTER_CPU_ISA=? "$build/tests/op_test_operations" 2>&1 || true)
present=${present##*has: }
[ -n "$present" ] || { echo "the programs do not say which instruction sets there are" >&2; exit 1; }

best=1
declare -A onednn=([avx512_bf16]=AVX512_CORE_BF16 [avx512]=AVX512_CORE)
for isa in ${present//,/}; do
    if [ -n "$best" ]; then best= ; continue; fi # the tests themselves run with it
    for program in op_test_operations op_test_decoding; do
        output=$(HALTER_CPU_ISA=$isa ONEDNN_MAX_CPU_ISA=${onednn[$isa]:-ALL} "$build/tests/$program" 2>&1) || { echo "$output"; echo "$program fails with $isa" >&2; exit 1; }
    done
    echo "$isa: passed"
done
