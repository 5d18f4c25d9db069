#!/usr/bin/env bash
# The memory plan with the real programs: full-size models, of which there is only a config.json, are planned; a plan that does
# not fit this machine is refused with its numbers, before anything is loaded or written; the plans of 7B fit one GPU of 141 GB.
# Usage: memory.sh BUILD_FOLDER
. tests/pipeline/lib.sh memory "$1" halter-sft halter-reward halter-ppo halter-rejection halter-evaluate halter-chat halter-annotations

# --- data, and folders of models without weights
small_data
awk 'BEGIN { print "prompt,response"; for (d = 0; d < 600; d++) print "say " d ",the llama says " d }' > "$work/demonstrations.csv"
expect 0 "36 taken" "$bin/halter-annotations" import --db "$work/p.db" "$work/pairs.csv"
expect 0 "" "$bin/halter-annotations" import --kind helpfulness --db "$work/p.db" "$work/demonstrations.csv"
expect 0 "model in" "$bin/halter-sft" --config tests/pipeline/sft-pretrain.yaml --text "$work/text.txt" --threads 1 --out "$work/base"

# model FOLDER HEAD DIM LAYERS HEADS KV_HEADS FFN
model() {
    mkdir -p "$work/$1"
    cp "$work/base/tokenizer.model" "$work/$1"
    cat > "$work/$1/config.json" << END
{"architectures": ["$2"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 32000, "hidden_size": $3, "num_hidden_layers": $4,
 "num_attention_heads": $5, "num_key_value_heads": $6, "intermediate_size": $7, "max_position_embeddings": 4096, "rms_norm_eps": 1e-05,
 "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
 "id2label": {"0": "LABEL_0"}}
END
}
for kind in LlamaForCausalLM LlamaForSequenceClassification; do
    [ $kind = LlamaForCausalLM ] && suffix= || suffix=-rm
    model 7b$suffix $kind 4096 32 32 32 11008
    model 13b$suffix $kind 5120 40 40 40 13824
    model 70b$suffix $kind 8192 80 64 8 28672
    model huge$suffix $kind 8192 4096 64 8 28672
done

# stages MODEL CONFIGS: the commands of a size's configurations, without their output folder
stages() {
    local models=(--db "$work/p.db" --model "$work/$1" --threads 1 --backend cpu) judges=(--helpful "$work/$1-rm" --safe "$work/$1-rm")
    sft=("$bin/halter-sft" --config "configs/$2/sft.yaml" "${models[@]}")
    reward=("$bin/halter-reward" train --config "configs/$2/reward-helpfulness.yaml" "${models[@]}")
    ppo=("$bin/halter-ppo" --config "configs/$2/ppo.yaml" "${models[@]}" "${judges[@]}")
    rejection=("$bin/halter-rejection" --config "configs/$2/rejection.yaml" "${models[@]}" "${judges[@]}")
}

# planned ROW COMMAND...: bytes in that row of the plan
planned() {
    local row=$1
    shift
    "$@" --out "$work/none" --dry-run 2> /dev/null | sed -nE "s/^$row +([0-9]+) bytes.*/\1/p"
}

# --- far too large: the last for every machine, the first two for those with less memory than their smallest plan takes
before=$(sqlite3 "$work/p.db" .dump | cksum)
for size in 13b:13b:76e9 70b:70b:180e9 huge:70b:1e99; do
    IFS=: read -r folder configs least <<< "$size"
    stages "$folder" "$configs"
    available=$(planned available "${sft[@]}")
    awk "BEGIN { exit !(${available:-1e99} < $least) }" || continue
    expect 5 "GiB of host memory are available" "${sft[@]}" --out "$work/none"
    expect 5 "gradients" "${sft[@]}" --out "$work/none"
    expect 5 "optimizer state" "${reward[@]}" --out "$work/none"
    expect 5 "KV cache" "${ppo[@]}" --out "$work/none"
    expect 5 "KV cache" "${rejection[@]}" --out "$work/none"
    [ -z "$(ls -A "$work/none")" ] || fail "a plan that was refused has written $work/none"
done
expect 5 "KV cache" "$bin/halter-chat" --model "$work/huge" --backend cpu --prompt hello
expect 5 "weights" "$bin/halter-evaluate" perplexity --model "$work/huge" --backend cpu --text "$work/text.txt"
[ "$before" = "$(sqlite3 "$work/p.db" .dump | cksum)" ] || fail "a plan that was refused has written to the database"

# --- 7B on one GPU of 141 GB
stages 7b 7b
for stage in sft reward ppo; do
    declare -n command=$stage
    bytes=$(planned total "${command[@]}")
    holds "${bytes:-0} > 6e10 && ${bytes:-0} < 141e9" "the plan of 7b/$stage"
done
# bytes a parameter of the optimizer: 10 (low bits of the weights, moments), 4, and 2 and a scale for 256
for state in f32:10 bf16:4 8bit:2.03; do
    bytes=$(planned "optimizer state" "${sft[@]}" --set "optim.state=${state%:*}")
    holds "${bytes:-0} / 6738415616 > 0.99 * ${state#*:} && ${bytes:-0} / 6738415616 < 1.01 * ${state#*:}" "optimizer state"
done
finish
