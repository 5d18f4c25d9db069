#!/usr/bin/env bash
# A reward model with the real programs at miniature size: pairs from CSV, trained, killed without warning and resumed to
# the same bytes, evaluated, applied to a database and to JSON lines; and what wrong inputs say.
# Usage: reward.sh BUILD_FOLDER
. tests/pipeline/lib.sh reward "$1" halter-reward halter-sft halter-annotations
reward=$bin/halter-reward
sft=$bin/halter-sft
annotations=$bin/halter-annotations

# --- data: in 120 safety pairs the polite answer is chosen; 20 helpfulness pairs beside them
awk 'BEGIN { print "prompt,chosen,rejected,rating,safety,batch,kind,split"; split("one two three four five six seven eight nine ten", w, " ");
    for (d = 0; d < 120; d++) { a = w[d % 10 + 1] " " w[int(d / 10) % 10 + 1] " " w[int(d / 100) + 1];
        printf "say %s,kindly said %s please,shouting %s badly,%d,chosen_safe,b%d,safety,%s\n", a, a, a, d % 4 + 1, d % 2,
            d % 5 == 4 ? "test" : "train" }
    for (d = 0; d < 20; d++) printf "count %s,it is %s,no,,,b0,helpfulness,train\n", w[d % 10 + 1] " " w[int(d / 2) + 1], w[d % 10 + 1] }' \
    > "$work/pairs.csv"
tail -n +2 "$work/pairs.csv" | tr ',' ' ' > "$work/text.txt"
expect 0 "140 taken" "$annotations" import --db "$work/p.db" "$work/pairs.csv"
expect 0 "model in" "$sft" --config tests/pipeline/sft-pretrain.yaml --text "$work/text.txt" --threads 1 --out "$work/base"

# --- training
train=("$reward" train --config tests/pipeline/reward-train.yaml --db "$work/p.db" --model "$work/base" --threads 1)
expect 0 "steps 42" "${train[@]}" --out "$work/rm" --dry-run
[ ! -e "$work/rm" ] || fail "a dry run wrote $work/rm"
expect 0 "96 own comparisons and 11 of 20 others" "${train[@]}" --out "$work/rm"
for file in config.json model.safetensors tokenizer.model halter.json metrics.jsonl; do
    [ -s "$work/rm/$file" ] || fail "rm/$file is missing"
done
grep -q LlamaForSequenceClassification "$work/rm/config.json" || fail "config.json names no reward model"
grep -q '"stage": "reward-safe"' "$work/rm/halter.json" || fail "halter.json names no stage"
expect 0 "finished" "${train[@]}" --out "$work/rm" --resume
for step in 2 9 30; do
    kill_at "$work/killed-$step" $step "${train[@]}"
    expect 2 "--resume" "${train[@]}" --out "$work/killed-$step"
    expect 2 "reward.margin" "${train[@]}" --out "$work/killed-$step" --resume --set reward.margin=large
    expect 0 "model in" "${train[@]}" --out "$work/killed-$step" --resume
    cmp "$work/rm/model.safetensors" "$work/killed-$step/model.safetensors" || fail "weights differ: step $step"
    cmp "$work/rm/metrics.jsonl" "$work/killed-$step/metrics.jsonl" || fail "metrics differ: step $step"
    [ ! -e "$work/killed-$step/state" ] || fail "killed-$step/state is left"
done

# the margin changes the loss; passes that hold one sequence, so that pairs are run in pieces, do not
expect 0 "model in" "${train[@]}" --out "$work/small-passes" --set train.micro_tokens=70
expect 0 "model in" "${train[@]}" --out "$work/no-margin" --set reward.margin=none
first_loss() { sed -n 's/^{"step":1,"loss":\([0-9.e-]*\),.*/\1/p' "$1/metrics.jsonl"; }
awk -v a="$(first_loss "$work/rm")" -v b="$(first_loss "$work/small-passes")" -v c="$(first_loss "$work/no-margin")" \
    'BEGIN { exit !(a - b < 1e-5 && b - a < 1e-5 && a > c + 0.1) }' || fail "first losses of margins and passes"

# --- evaluation: the rule is simple, so held-out pairs must come out right
evaluate=("$reward" evaluate --db "$work/p.db" --model "$work/rm" --threads 1)
"${evaluate[@]}" --json > "$work/report.json" 2> "$work/output" || fail "evaluate --json: $(cat "$work/output")"
awk -v a="$(number "$work/report.json" accuracy)" 'BEGIN { exit !(a > 0.9) }' || fail "held-out accuracy is $(number "$work/report.json" accuracy)"
[ "$(number "$work/report.json" pairs)" = 24 ] || fail "24 test pairs, not $(number "$work/report.json" pairs)"
grep -q '"recall"' "$work/report.json" || fail "no recall of unsafe responses"
# what training measured last is what evaluate measures
last=$(sed -n 's/.*"eval_accuracy":\([0-9.e-]*\),.*/\1/p' "$work/rm/metrics.jsonl" | tail -n 1)
[ "$last" = 1 ] || [ "$last" = "$(number "$work/report.json" accuracy)" ] || [ "$last" = "$(number "$work/report.json" accuracy).0" ] ||
    fail "accuracy $last in training, $(number "$work/report.json" accuracy) after it"
for text in "significantly" "chosen_safe" "b1" "sigmoid(r) < 0.15" "expected calibration error"; do
    expect 0 "$text" "${evaluate[@]}"
done
expect 0 "helpfulness" "${evaluate[@]}" --split all
expect 0 "       20" "${evaluate[@]}" --split train --kind helpfulness --last-round 0

# --- application
expect 0 "scored 280, already scored 0" "$reward" apply --db "$work/p.db" --model "$work/rm" --threads 1
expect 0 "scored 0, already scored 280" "$reward" apply --db "$work/p.db" --model "$work/rm" --threads 1
expect 0 '"already_scored": 48' "$reward" apply --db "$work/p.db" --model "$work/rm" --threads 1 --split test --json
printf '%s\n' '{"id": 7, "messages": [{"role": "user", "content": "say one two eight"}], "response": "kindly said one two eight please"}' \
    '' '{"messages": [{"role": "user", "content": "say one two eight"}], "response": "shouting one two eight badly"}' > "$work/in.jsonl"
"$reward" apply --model "$work/rm" --input "$work/in.jsonl" --threads 1 > "$work/out.jsonl" 2> "$work/output" || fail "apply --input"
[ "$(wc -l < "$work/out.jsonl")" = 2 ] || fail "two lines in, $(wc -l < "$work/out.jsonl") out"
head -n 1 "$work/out.jsonl" | grep -q '^{"id":7,' || fail "a line's own members are lost"
score() { sed -n "$1s/.*\"score\":\([-0-9.e]*\),.*/\1/p" "$work/out.jsonl"; }
awk -v a="$(score 1)" -v b="$(score 2)" 'BEGIN { exit !(a > b) }' || fail "the polite answer has $(score 1), the other $(score 2)"
"$reward" apply --model "$work/rm" --input - --threads 1 < "$work/in.jsonl" 2> "$work/output" | cmp - "$work/out.jsonl" || fail "apply --input -"

expect 0 '"scored": 280, "already_scored": 0, "mean": ' "$reward" apply --db "$work/p.db" --model "$work/no-margin" --threads 1 --json

# --- scores that are no numbers: what has one is named
cp -r "$work/rm" "$work/bad" && cp -r "$work/base" "$work/bad-base"
spoil "$work/bad"
spoil "$work/bad-base"
expect 1 "bad gives response 1 the score " "$reward" apply --db "$work/p.db" --model "$work/bad" --threads 1
expect 1 "in.jsonl: the score of line 1 is " "$reward" apply --model "$work/bad" --input "$work/in.jsonl" --threads 1
expect 1 ": the scores are " "$reward" evaluate --db "$work/p.db" --model "$work/bad" --threads 1
expect 1 "is not finite: " "${train[@]}" --model "$work/bad-base" --out "$work/x" --set train.eval_every=0
grep -q 'step 1 is made of .* rows; comparison: [0-9]' "$work/output" || fail "the rows of the bad step are not said: $(tail -n 3 "$work/output")"
rm -r "$work/x"

# --- nothing held out
sed 's/,test$/,train/' "$work/pairs.csv" > "$work/train.csv"
expect 0 "140 taken" "$annotations" import --db "$work/train.db" "$work/train.csv"
expect 0 "no own comparison is in the test split: nothing is evaluated during training" "${train[@]}" --db "$work/train.db" --out "$work/no-tests" \
    --set data.epochs=1 --set data.batch_size=140

# --- wrong inputs
: > "$work/empty.jsonl"
expect 3 "empty.jsonl: there is nothing to score" "$reward" apply --model "$work/rm" --input "$work/empty.jsonl"
expect 3 "in.jsonl:1: prompt and response have" "$reward" apply --model "$work/rm" --input "$work/in.jsonl" --pass-tokens 8
expect 3 "response 1: prompt and response have" "$reward" apply --db "$work/p.db" --model "$work/small-passes" --pass-tokens 8
printf '{"messages": [{"role": "user", "content": "x"}], "response": "y", "finish": "late"}\n' > "$work/late.jsonl"
expect 3 'late.jsonl:1: "finish" is neither "eos" nor "length"' "$reward" apply --model "$work/rm" --input "$work/late.jsonl"
expect 2 "reward.kind" "$reward" train --db "$work/p.db" --model "$work/base" --out "$work/x"
expect 2 "reward.own_share" "${train[@]}" --out "$work/x" --set reward.own_share=0
expect 2 "reward.margin_table has 3" "${train[@]}" --out "$work/x" --set reward.margin=table --set reward.margin_table=1,2,3
expect 2 "not \"table\"" "${train[@]}" --out "$work/x" --set reward.margin_table=0,1,2,3
expect 4 "missing.db" "${train[@]}" --db "$work/missing.db" --out "$work/x"
expect 3 "comparison 1: prompt and response have" "${train[@]}" --out "$work/x" --set data.max_tokens=10
expect 3 "own kind" "${train[@]}" --out "$work/x" --set data.max_tokens=10 --set data.too_long=skip
expect 2 "train.micro_tokens = 10" "${train[@]}" --out "$work/x" --set train.micro_tokens=10
expect 3 "own kind" "${train[@]}" --out "$work/x" --set data.first_round=5
expect 0 "the own share is" "${train[@]}" --out "$work/half" --set reward.own_share=0.5 --set train.eval_every=0 --set data.epochs=1
expect 3 "a language model" "$reward" evaluate --db "$work/p.db" --model "$work/base"
expect 3 "no comparison to evaluate on" "${evaluate[@]}" --kind helpfulness
expect 3 "tokens, above 12" "${evaluate[@]}" --pass-tokens 12
expect 2 "not both" "$reward" apply --db "$work/p.db" --input "$work/in.jsonl" --model "$work/rm"
expect 2 "give --db or --input" "$reward" apply --model "$work/rm"
expect 3 "there is no model \"nobody\"" "$reward" apply --db "$work/p.db" --model "$work/rm" --sampled-by nobody
expect 3 "no response that fits" "$reward" apply --db "$work/p.db" --model "$work/rm" --first-round 3
expect 4 "missing.jsonl" "$reward" apply --model "$work/rm" --input "$work/missing.jsonl"
printf '{"messages": [{"role": "user", "content": "x"}]}\n' > "$work/bad.jsonl"
expect 3 "bad.jsonl:1: \"response\" is missing" "$reward" apply --model "$work/rm" --input "$work/bad.jsonl"
printf '{"messages": [{"role": "user", "content": "x"}], "response": "y"\n' > "$work/bad.jsonl"
expect 3 "bad.jsonl:1: malformed JSON" "$reward" apply --model "$work/rm" --input "$work/bad.jsonl"
[ ! -e "$work/x/metrics.jsonl" ] || fail "a refused run left metrics"
finish
