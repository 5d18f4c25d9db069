#!/usr/bin/env bash
# PPO with the real programs at miniature size: the ratio before the first update, a rate of 0, micro-batches, kill and resume, samples in the
# database, and what wrong inputs say.
# Usage: ppo.sh BUILD_FOLDER
. tests/pipeline/lib.sh ppo "$1" halter-ppo halter-reward halter-sft halter-annotations

# --- data and models
small_data
expect 0 "36 taken" "$bin/halter-annotations" import --db "$work/p.db" "$work/pairs.csv"
expect 0 "model in" "$bin/halter-sft" --config tests/pipeline/sft-pretrain.yaml --text "$work/text.txt" --threads 1 --out "$work/policy"
reward=("$bin/halter-reward" train --config tests/pipeline/reward-train.yaml --db "$work/p.db" --model "$work/policy" --threads 1
    --set train.eval_every=0 --set data.epochs=1 --set reward.own_share=1)
expect 0 "model in" "${reward[@]}" --set reward.kind=helpfulness --out "$work/helpful"
expect 0 "model in" "${reward[@]}" --set reward.kind=safety --out "$work/safe"
ppo=("$bin/halter-ppo" --config tests/pipeline/ppo.yaml --db "$work/p.db" --model "$work/policy" --helpful "$work/helpful" --safe "$work/safe"
    --threads 1)

# --- a run
expect 0 "steps 12" "${ppo[@]}" --out "$work/dry" --dry-run
[ ! -e "$work/dry" ] || fail "a dry run wrote a folder"
expect 0 "model in" "${ppo[@]}" --out "$work/ppo"
grep '"step":1,' "$work/ppo/metrics.jsonl" > "$work/first"
# the trainer's own log-probabilities: the first ratio is 1 to rounding, and the sampler's agree with them
holds "$(number "$work/first" log_ratio_max) < 1e-4" "the first ratio is not 1"
holds "$(number "$work/first" ratio_mean) > 0.9999 && $(number "$work/first" ratio_mean) < 1.0001" "the first ratio is not 1"
holds "$(number "$work/first" sampler_gap_max) < 1e-3" "sampler and trainer disagree"
holds "$(number "$work/first" kl) < 1e-3 && $(number "$work/first" kl) > -1e-3" "the first KL is not 0"
grep '"step":12,' "$work/ppo/metrics.jsonl" > "$work/last"
holds "$(number "$work/last" log_ratio_max) > 1e-4" "nothing was learned"
grep -q '"stage": "ppo"' "$work/ppo/halter.json" || fail "halter.json names no stage"
samples=$(sqlite3 "$work/p.db" 'select count(*) from response where step is not null and run_id is not null and model_id is not null')
[ "$samples" -eq 12 ] || fail "$samples samples in the database, not 4 of each of 3 iterations"

# --- rate 0: the ratio stays 1, and the weights stay
expect 0 "model in" "${ppo[@]}" --out "$work/still" --set optim.lr=0
cmp "$work/policy/model.safetensors" "$work/still/model.safetensors" || fail "rate 0 changed weights"
holds "$(grep -o '"log_ratio_max":[^,]*' "$work/still/metrics.jsonl" | sed 's/.*://' | sort -g | tail -n 1) < 1e-4" "rate 0 moved the ratio"

# --- micro-batches change rounding and nothing else
expect 0 "model in" "${ppo[@]}" --out "$work/micro" --set train.micro_tokens=64
for key in loss value_loss grad_norm; do
    a=$(number "$work/ppo/metrics.jsonl" $key) b=$(number "$work/micro/metrics.jsonl" $key)
    holds "($a - $b) * ($a - $b) < 1e-8 * (1 + $a * $a)" "$key depends on the micro-batch"
done

# --- kill and resume: the same bytes
for step in 2 6 11; do
    kill_at "$work/killed-$step" $step "${ppo[@]}"
    expect 2 "ppo.kl_coef" "${ppo[@]}" --out "$work/killed-$step" --resume --set ppo.kl_coef=0.5
    expect 0 "model in" "${ppo[@]}" --out "$work/killed-$step" --resume
    same "$work/ppo" "$work/killed-$step"
done

# --- a reward that is not a number
cp -r "$work/safe" "$work/bad"
spoil "$work/bad"
expect 1 'step 1: model "policy", whose weights are all finite: the loss is nan' "${ppo[@]}" --out "$work/x" --safe "$work/bad"
grep -q 'the response to dialog [0-9]* has rewards .* (helpful) and -\?nan (safe)' "$work/output" || fail "the bad reward is not named"
rm -r "$work/x"

# --- early stop on the KL divergence
expect 0 "stopped early" "${ppo[@]}" --out "$work/early" --set ppo.max_kl=1e-9 --set optim.lr=1e-2 --set train.eval_every=1

expect 0 "the held-out reward" "${ppo[@]}" --out "$work/patient" --set ppo.patience=1 --set optim.lr=0 --set train.eval_every=1
grep -q "has not passed .* for 1 evaluations" "$work/output" || fail "not said why it stopped: $(tail -n 3 "$work/output")"

# --- a safety model of another shape, prompts of the training split alone, nothing to do
expect 0 "model in" "$bin/halter-sft" --config tests/pipeline/sft-pretrain.yaml --text "$work/text.txt" --threads 1 --set init.dim=16 \
    --set init.tokenizer="$work/policy/tokenizer.model" --set data.max_steps=1 --out "$work/small"
expect 0 "model in" "${reward[@]}" --model "$work/small" --set reward.kind=safety --out "$work/safe-small"
sed 's/,test$/,train/' "$work/pairs.csv" > "$work/train.csv"
expect 0 "36 taken" "$bin/halter-annotations" import --db "$work/train.db" "$work/train.csv"
expect 0 "train.db has no prompts of split test: no held-out evaluation" "${ppo[@]}" --db "$work/train.db" --safe "$work/safe-small" \
    --set ppo.iterations=1 --out "$work/no-tests"
expect 0 "is finished: nothing to do" "${ppo[@]}" --out "$work/ppo" --resume

# --- wrong inputs
expect 2 "ppo.cache_tokens = 32 is below data.max_prompt_tokens + ppo.max_new_tokens = 52" "${ppo[@]}" --out "$work/x" --set ppo.cache_tokens=32
expect 2 "is not a multiple of ppo.mini_batch = 5" "${ppo[@]}" --out "$work/x" --set ppo.mini_batch=5
expect 2 "train.micro_tokens = 32 is below" "${ppo[@]}" --out "$work/x" --set train.micro_tokens=32
expect 2 "above the 64 positions" "${ppo[@]}" --out "$work/x" --set data.max_prompt_tokens=60
expect 3 "tokens, above 4" "${ppo[@]}" --out "$work/x" --set data.max_prompt_tokens=4
expect 3 "no prompt fits" "${ppo[@]}" --out "$work/x" --set data.first_round=7
expect 4 "missing" "${ppo[@]}" --out "$work/x" --helpful "$work/missing"
expect 3 "a language model" "${ppo[@]}" --out "$work/x" --helpful "$work/policy"
expect 2 "ppo.clip" "${ppo[@]}" --out "$work/x" --set ppo.clip=-1
cp -r "$work/safe" "$work/other" && cp "$work/other/tokenizer.model" "$work/t" && head -c 3000 "$work/t" > "$work/other/tokenizer.model"
expect 3 "the tokenizer differs" "${ppo[@]}" --out "$work/x" --safe "$work/other"
[ ! -e "$work/x/metrics.jsonl" ] || fail "a refused run left metrics"
finish
