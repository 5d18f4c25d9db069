#!/usr/bin/env bash
# Each stage on the GPU and on the CPU, with the real programs at miniature size: losses and texts that agree, a run that is killed and
# resumed on the GPU to the same bytes, and a model that a GPU has no room for.
# Usage: stages.sh BUILD_FOLDER
# RANKS (1): with more, the stages run in so many processes, too, each with a GPU of its own
. tests/pipeline/lib.sh stages "$1" halter-annotations halter-sft halter-reward halter-rejection halter-ppo halter-evaluate halter-chat
small_data
import() { expect 0 "$2" "$bin/halter-annotations" import --db "$work/p.db" --kind helpfulness "$1"; }
import "$work/pairs.csv" "36 taken"
awk -F, 'NR > 1 && NR < 14 { print (NR == 2 ? "prompt,response\n" : "") $1 "," $2 }' "$work/pairs.csv" > "$work/demonstrations.csv"
import "$work/demonstrations.csv" "12 taken"
sft=("$bin/halter-sft" --threads 1 --config tests/pipeline/sft-pretrain.yaml --text "$work/text.txt" --set data.batch_size=8 --set data.epochs=2
    --set init.dim=64 --set init.heads=1 --set init.layers=1)
"${sft[@]}" --backend cuda --out "$work/none" --dry-run 2>&1 | grep -E 'no usable NVIDIA GPU|not built into' > "$work/output" && { sed 's/^/skipped: /' "$work/output"; exit 77; }

# both FOLDER TOLERANCE COMMAND...: the same on both, into FOLDER-cpu and FOLDER-cuda
both() {
    local folder=$work/$1 most=$2 backend
    shift 2
    for backend in cpu cuda; do
        expect 0 "model in" "$@" --backend $backend --out "$folder-$backend"
    done
    losses_alike "$folder-cpu" "$folder-cuda" "$most"
}

# resumed FOLDER STEP COMMAND...: FOLDER-cuda again, killed at that step
resumed() {
    local folder=$work/$1 step=$2
    shift 2
    kill_at "$folder-killed" "$step" "$@" --backend cuda --set train.save_every=1
    expect 0 "going on from step" "$@" --backend cuda --out "$folder-killed" --resume --set train.save_every=1
    same "$folder-cuda" "$folder-killed"
}

# texts_alike TEXT COMMAND...: what both print, up to TEXT
texts_alike() {
    local text=$1 backend
    shift
    for backend in cpu cuda; do
        expect 0 "$text" "$@" --backend $backend
        sed "s/$text.*//" "$work/output" > "$work/$backend.txt"
    done
    cmp "$work/cpu.txt" "$work/cuda.txt" || fail "other texts: $*"
}

# --- f32: the tolerance of its operations; PPO's losses are of whitened advantages, which divide by what is small
both base 1e-5 "${sft[@]}"
resumed base 3 "${sft[@]}"
model=(--threads 1 --db "$work/p.db" --model "$work/base-cuda")
both tuned 1e-5 "$bin/halter-sft" --config tests/pipeline/sft-tune.yaml "${model[@]}" --set data.epochs=1
reward=("$bin/halter-reward" train --config tests/pipeline/reward-train.yaml "${model[@]}" --set data.epochs=1 --set reward.own_share=1)
for kind in helpfulness safety; do
    both $kind 1e-5 "${reward[@]}" --set reward.kind=$kind
done
judges=(--helpful "$work/helpfulness-cuda" --safe "$work/safety-cuda")
expect 0 "chosen" "$bin/halter-rejection" --backend cuda --config tests/pipeline/rejection-sample.yaml "${model[@]}" "${judges[@]}" --set sample.k=2 \
    --set sample.max_new_tokens=8
ppo=("$bin/halter-ppo" --config tests/pipeline/ppo.yaml "${model[@]}" "${judges[@]}" --set ppo.iterations=2 --set ppo.batch=4 --set ppo.mini_batch=2
    --set ppo.eval_prompts=2 --set train.eval_every=2)
both ppo 1e-3 "${ppo[@]}"
resumed ppo 3 "${ppo[@]}"
texts_alike "tokens, ended" "$bin/halter-chat" --threads 1 --model "$work/ppo-cuda" --template none --prompt "say one" --max-new-tokens 12 --no-sample
texts_alike "tokens, ended" "$bin/halter-chat" --threads 1 --model "$work/ppo-cuda" --template none --prompt "say one" --max-new-tokens 12 --seed 3 \
    --prompt-lookup 4
for backend in cpu cuda; do
    expect 0 nll "$bin/halter-evaluate" perplexity --backend $backend --threads 1 --model "$work/ppo-cuda" --text "$work/text.txt" --json
    cp "$work/output" "$work/$backend.json"
done
holds "($(number "$work/cpu.json" nll) / $(number "$work/cuda.json" nll) - 1) ^ 2 < 1e-10" "perplexities"

# --- bf16: a rounding is 2^-8
both bf16 0.004 "${sft[@]}" --set train.dtype=bf16
expect 0 "model in" "${ppo[@]}" --model "$work/bf16-cuda" --backend cuda --set train.dtype=bf16 --out "$work/ppo-bf16"
grep '"step":1,' "$work/ppo-bf16/metrics.jsonl" > "$work/first"
holds "$(number "$work/first" log_ratio_max) < 1e-4" "the first ratio is not 1"
holds "$(number "$work/first" sampler_gap_max) < 0.1" "sampler and trainer disagree"

# --- several GPUs: one's losses to rounding
if [ "${RANKS:-1}" -gt 1 ]; then
    # alike FOLDER TOLERANCE COMMAND...: the same as FOLDER-cuda
    alike() {
        local folder=$work/$1 most=$2
        shift 2
        expect 0 "model in" mpirun -n "$RANKS" "$@" --backend cuda --out "$folder-ranks"
        losses_alike "$folder-cuda" "$folder-ranks" "$most"
    }
    alike base 1e-5 "${sft[@]}"
    alike helpfulness 1e-5 "${reward[@]}" --set reward.kind=helpfulness
    alike ppo 1e-3 "${ppo[@]}"
fi

# --- no GPU has room for this
expect 5 "of device memory are available" "${sft[@]}" --backend cuda --out "$work/huge" --set init.dim=8192 --set init.layers=80 --set init.heads=64
[ ! -e "$work/huge" ] || fail "a model that has no room has a folder"
finish
