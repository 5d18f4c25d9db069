#!/usr/bin/env bash
# Versions evaluated, compared and tabled with the real programs at miniature size: the same seed gives the same numbers,
# responses of equal settings are not sampled twice, what is missing is null; and what wrong inputs say.
# Usage: evaluate.sh BUILD_FOLDER
. tests/pipeline/lib.sh evaluate "$1" halter-evaluate halter-reward halter-sft halter-annotations
evaluate=$bin/halter-evaluate
reward=$bin/halter-reward
sft=$bin/halter-sft
annotations=$bin/halter-annotations

# --- data: pairs of both kinds, and the chosen answers as demonstrations
awk 'BEGIN { print "prompt,chosen,rejected,rating,safety,kind,split"; split("one two three four five six seven eight nine ten", w, " ");
    for (d = 0; d < 60; d++) { a = w[d % 10 + 1] " " w[int(d / 10) % 10 + 1]; safety = d % 3 == 0;
        printf "say %s,kindly said %s please,shouting %s badly,%d,%s,%s,%s\n", a, a, a, d % 4 + 1, safety ? "chosen_safe" : "",
            safety ? "safety" : "helpfulness", d % 4 == 3 ? "test" : "train" } }' > "$work/pairs.csv"
tail -n +2 "$work/pairs.csv" | cut -d, -f1-3 | tr ',' ' ' > "$work/text.txt"
awk -F, 'NR == 1 { print "prompt,response,kind,split" } NR > 1 { print $1 "," $2 "," $6 "," $7 }' "$work/pairs.csv" > "$work/demonstrations.csv"
expect 0 "60 taken" "$annotations" import --db "$work/p.db" "$work/pairs.csv"
expect 0 "60 taken" "$annotations" import --db "$work/p.db" "$work/demonstrations.csv"
expect 0 "model in" "$sft" --config tests/pipeline/sft-pretrain.yaml --text "$work/text.txt" --threads 1 --out "$work/base"
tune=("$sft" --config tests/pipeline/sft-tune.yaml --db "$work/p.db" --model "$work/base" --threads 1 --set train.eval_every=0)
expect 0 "model in" "${tune[@]}" --out "$work/sft" --set data.max_steps=1
expect 0 "model in" "${tune[@]}" --out "$work/rlhf-v1" --round 1
for kind in helpfulness safety; do
    expect 0 "model in" "$reward" train --db "$work/p.db" --model "$work/base" --out "$work/rm-$kind" --round 1 --threads 1 \
        --set reward.kind=$kind --set data.batch_size=8 --set data.epochs=3 --set optim.lr=1e-2 --set train.micro_tokens=256
    expect 0 "all" "$reward" evaluate --db "$work/p.db" --model "$work/rm-$kind" --kind $kind --threads 1
done
expect 3 "no version was evaluated" "$evaluate" table --db "$work/p.db"

# --- models: the same numbers again, in other batches too
judges=(--db "$work/p.db" --helpful "$work/rm-helpfulness" --safe "$work/rm-safety" --max-new-tokens 16 --threads 1)
expect 0 "helpfulness_reward" "$evaluate" model --model "$work/sft" "${judges[@]}"
"$evaluate" model --model "$work/sft" "${judges[@]}" --json > "$work/first.json" 2> "$work/output" || fail "model --json: $(cat "$work/output")"
"$evaluate" model --model "$work/sft" "${judges[@]}" --json > "$work/second.json" 2> "$work/output" || fail "model --json: $(cat "$work/output")"
diff <(grep -v '"run"' "$work/first.json") <(grep -v '"run"' "$work/second.json") || fail "two evaluations with one seed differ"
"$evaluate" model --model "$work/sft" "${judges[@]}" --json --sequences 3 2> "$work/output" | grep -v '"run"' |
    diff - <(grep -v '"run"' "$work/first.json") > /dev/null || fail "the batch changes the numbers"
[ "$(number "$work/first.json" prompts)" = 15 ] || fail "15 held-out prompts, not $(number "$work/first.json" prompts)"
grep -q '"sampled": true' "$work/first.json" || fail "responses were not sampled"

"$evaluate" model --model "$work/rlhf-v1" --against "$work/sft" "${judges[@]}" --json > "$work/against.json" 2> "$work/output" ||
    fail "--against: $(cat "$work/output")"
grep -q "have these settings and are taken" "$work/output" || fail "--against sampled what was there: $(cat "$work/output")"
awk -v w="$(number "$work/against.json" wins)" -v t="$(number "$work/against.json" ties)" -v l="$(number "$work/against.json" losses)" \
    'BEGIN { exit !(w + t + l == 15 && w > l) }' || fail "the tuned model does not win: $(cat "$work/against.json")"

# fewer prompts: other settings, so both are sampled anew; then both are there
compare=("$evaluate" compare --model "$work/rlhf-v1" --against "$work/sft" "${judges[@]}" --prompts 6)
"${compare[@]}" --json > "$work/compare.json" 2> "$work/output" || fail "compare: $(cat "$work/output")"
grep -q "are taken" "$work/output" && fail "compare took responses of other settings"
[ "$(number "$work/compare.json" prompts)" = 6 ] || fail "6 prompts, not $(number "$work/compare.json" prompts)"
expect 0 "sft: the 6 responses of run" "${compare[@]}"
expect 0 "rlhf-v1: the 6 responses of run" "${compare[@]}"
expect 0 "win rate of rlhf-v1 against rlhf-v1" "$evaluate" compare --model "$work/rlhf-v1" --against "$work/rlhf-v1" "${judges[@]}" --prompts 6
expect 0 "0 wins, 6 ties, 0 losses" "$evaluate" compare --model "$work/rlhf-v1" --against "$work/rlhf-v1" "${judges[@]}" --prompts 6

# --- the table
expect 0 "rlhf-v1" "$evaluate" table --db "$work/p.db" --out "$work/summary.json"
grep -q "^version .*true helpful" "$work/output" || fail "no table beside --out: $(cat "$work/output")"
"$evaluate" table --db "$work/p.db" --json > "$work/table.json" 2> "$work/output" || fail "table --json: $(cat "$work/output")"
diff "$work/table.json" "$work/summary.json" > /dev/null || [ "$(tr -d ' \n' < "$work/table.json")" = "$(tr -d ' \n' < "$work/summary.json")" ] ||
    fail "--json and --out differ"
[ "$(grep -o '"name": "[^"]*"' "$work/summary.json" | tr '\n' ' ')" = '"name": "sft" "name": "rlhf-v1" ' ] || fail "versions: $(grep '"name"' "$work/summary.json")"
[ "$(number "$work/summary.json" win_rate)" = 0.5 ] || fail "the baseline's own win rate is not 0.5"
[ "$(number "$work/summary.json" win_rate 2)" = "$(grep -A 6 '"all"' "$work/compare.json" | number /dev/stdin value)" ] || fail "the win rate of rlhf-v1 is not compare's"
grep -q '"true_helpfulness": null' "$work/summary.json" || fail "a true score that nobody gave"
[ "$(grep -c '"reward_accuracy_safety": null' "$work/summary.json")" -ge 1 ] || fail "round 0 has no reward models"
[ -n "$(number "$work/summary.json" reward_accuracy_safety)" ] || fail "round 1 has reward models"
expect 0 '"baseline": "sft"' "$evaluate" table --db "$work/p.db" --json --models rlhf-v1
[ "$(grep -c '"name"' "$work/output")" = 1 ] || fail "--models shows more than it names"
# a re-evaluation without --against leaves no stale win rate behind
expect 0 "finished_share" "$evaluate" model --model "$work/rlhf-v1" "${judges[@]}"
"$evaluate" table --db "$work/p.db" --json > "$work/table.json" 2> "$work/output"
grep -q "other prompts or sampling" "$work/output" || fail "no warning of different prompts: $(cat "$work/output")"
[ -z "$(number "$work/table.json" win_rate 2)" ] || fail "a win rate of an earlier run is shown"

# --- a reward model with another tokenizer reads the text
expect 0 "model in" "$sft" --config tests/pipeline/sft-pretrain.yaml --text "$work/text.txt" --threads 1 --out "$work/base-other" \
    --set init.vocab_size=290 --set data.max_steps=1 --set train.eval_every=0
expect 0 "model in" "$reward" train --db "$work/p.db" --model "$work/base-other" --out "$work/rm-other" --threads 1 \
    --set reward.kind=safety --set data.batch_size=40 --set train.eval_every=0 --set train.micro_tokens=256
expect 0 "15 responses are scored from their text" "$evaluate" compare --model "$work/rlhf-v1" --against "$work/sft" "${judges[@]}" --safe "$work/rm-other"

# --- true scores: prompts of the synthetic world
expect 0 "test_prompts" "$annotations" synth --make corpus --out "$work/world" --documents 40 --demonstrations 10 --train-prompts 4 --test-prompts 12
expect 0 "taken" "$annotations" import --db "$work/world.db" "$work/world/prompts.csv"
expect 0 "taken" "$annotations" import --db "$work/world.db" "$work/world/demonstrations.csv"
long=(--set init.vocab_size=350 --set init.max_positions=320 --set data.seq_len=320 --set train.micro_tokens=640 --set data.max_steps=2 --set train.eval_every=0 --threads 1)
expect 0 "model in" "$sft" --config tests/pipeline/sft-pretrain.yaml --text "$work/world/pretrain.txt" "${long[@]}" --out "$work/world-base"
expect 0 "model in" "$sft" --config tests/pipeline/sft-tune.yaml --db "$work/world.db" --model "$work/world-base" "${long[@]}" --out "$work/world/sft"
expect 0 "model in" "$sft" --config tests/pipeline/sft-tune.yaml --db "$work/world.db" --model "$work/world-base" "${long[@]}" --out "$work/world/rlhf-v1" --round 1
expect 0 "model in" "$reward" train --db "$work/p.db" --model "$work/world-base" --out "$work/world/rm" --threads 1 \
    --set reward.kind=safety --set data.batch_size=40 --set train.eval_every=0 --set train.micro_tokens=256
world=(--db "$work/world.db" --helpful "$work/world/rm" --safe "$work/world/rm" --max-new-tokens 24 --threads 1)
expect 0 "12 responses" "$evaluate" model --model "$work/world/sft" "${world[@]}"
expect 0 "win rate" "$evaluate" model --model "$work/world/rlhf-v1" --against "$work/world/sft" "${world[@]}"
expect 0 "responses" "$annotations" synth --make scores --db "$work/world.db"
"$evaluate" table --db "$work/world.db" --json > "$work/world.json" 2> "$work/output" || fail "table of the world: $(cat "$work/output")"
[ -s "$work/output" ] && fail "the table of the world says: $(cat "$work/output")"
for key in true_helpfulness true_violations; do
    awk -v a="$(number "$work/world.json" $key)" -v n="$(grep -cE "\"$key\": [0-9.e-]+" "$work/world.json")" \
        'BEGIN { exit !(n == 4 && a >= 0 && a <= 1) }' || fail "$key and its error of both versions: $(cat "$work/world.json")"
done

# --- perplexity: training lowers it, windows and documents are counted, and passes change nothing but rounding
perplexity() { "$evaluate" perplexity --text "$work/text.txt" --threads 1 --json "$@" 2> "$work/output" || fail "perplexity: $(cat "$work/output")"; }
perplexity --model "$work/rlhf-v1" --documents line > "$work/lines.json"
perplexity --model "$work/rlhf-v1" --documents line --pass-tokens 200 > "$work/passes.json"
perplexity --model "$work/sft" --seq-len 33 > "$work/whole.json"
[ "$(number "$work/lines.json" documents)" = 60 ] || fail "60 lines, not $(cat "$work/lines.json")"
awk -v a="$(number "$work/lines.json" nll)" -v b="$(number "$work/passes.json" nll)" -v p="$(number "$work/lines.json" perplexity)" \
    'BEGIN { exit !(a > 0 && a - b < 1e-5 && b - a < 1e-5 && p > 0.999 * exp(a) && p < 1.001 * exp(a)) }' ||
    fail "perplexity of lines: $(cat "$work/lines.json" "$work/passes.json")"
awk -v t="$(number "$work/whole.json" tokens)" -v w="$(number "$work/whole.json" windows)" \
    'BEGIN { exit !(w == int((t + 31) / 32)) }' || fail "windows of the whole text: $(cat "$work/whole.json")"
awk 'BEGIN { for (i = 0; i < 40; i++) printf "%c%c%c ", 97 + i * 7 % 26, 97 + i * 11 % 26, 97 + i * 17 % 26 }' > "$work/noise.txt"
"$evaluate" perplexity --model "$work/base" --text "$work/noise.txt" --json --threads 1 > "$work/noise.json" 2> "$work/output"
perplexity --model "$work/base" > "$work/base.json"
awk -v a="$(number "$work/base.json" nll)" -v b="$(number "$work/noise.json" nll)" 'BEGIN { exit !(a + 1 < b) }' ||
    fail "the text it was trained on is no likelier than noise: $(cat "$work/base.json" "$work/noise.json")"
expect 0 "nats a token" "$evaluate" perplexity --model "$work/base" --text "$work/noise.txt" --template none

# --- wrong inputs
printf 'b\377d\n' > "$work/bad.txt"
: > "$work/empty.txt"
expect 3 "bad.txt: document at byte 0" "$evaluate" perplexity --model "$work/base" --text "$work/bad.txt"
expect 3 "no token to predict" "$evaluate" perplexity --model "$work/base" --text "$work/empty.txt"
expect 3 "wanted is a language model" "$evaluate" perplexity --model "$work/rm-safety" --text "$work/text.txt"
expect 2 "seq_len = 65 is above the 64 positions" "$evaluate" perplexity --model "$work/base" --text "$work/text.txt" --seq-len 65
expect 2 "seq_len = 1 is below 2" "$evaluate" perplexity --model "$work/base" --text "$work/text.txt" --seq-len 1
cp -r "$work/base" "$work/bad"
spoil "$work/bad"
expect 1 "text.txt: the log-probability of token 0 is " "$evaluate" perplexity --model "$work/bad" --text "$work/text.txt" --documents line
expect 3 "base-other/tokenizer.model: the tokenizer differs from that of $work/base" "$annotations" sample --db "$work/p.db" --model "$work/base" \
    --other "$work/base-other" --out "$work/x.csv" --prompts 1
expect 2 "temperatures is empty" "$annotations" sample --db "$work/p.db" --model "$work/base" --out "$work/x.csv" --prompts 1 --temperatures ""
cp "$work/world.db" "$work/damaged.db"
sqlite3 "$work/damaged.db" "DELETE FROM score; UPDATE evaluation SET details = '{'; PRAGMA ignore_check_constraints = ON; UPDATE dialog SET messages = '{'"
expect 3 ": details: " "$evaluate" table --db "$work/damaged.db"
expect 3 "messages of dialogue " "$annotations" synth --make scores --db "$work/damaged.db" --model sft --split test
expect 4 "missing.txt" "$evaluate" perplexity --model "$work/base" --text "$work/missing.txt"
expect 4 "missing/config.json" "$evaluate" model --model "$work/missing" "${judges[@]}"
expect 3 "a language model; wanted is a reward model" "$evaluate" model --model "$work/sft" "${judges[@]}" --safe "$work/sft"
expect 3 "wanted is a language model" "$evaluate" model --model "$work/rm-safety" "${judges[@]}"
expect 2 "do not fit the 64 positions" "$evaluate" model --model "$work/sft" "${judges[@]}" --max-new-tokens 64
expect 3 "above 3" "$evaluate" model --model "$work/sft" "${judges[@]}" --max-prompt-tokens 3
expect 3 "no prompt fits" "$evaluate" model --model "$work/sft" "${judges[@]}" --max-prompt-tokens 3 --too-long skip
expect 2 "top-p" "$evaluate" model --model "$work/sft" "${judges[@]}" --top-p 0
expect 2 "--against" "$evaluate" compare --model "$work/sft" "${judges[@]}"
expect 4 "missing.db" "$evaluate" table --db "$work/missing.db"
expect 3 '"nobody"' "$evaluate" table --db "$work/p.db" --models nobody
expect 4 "$work/none/summary.json" "$evaluate" table --db "$work/p.db" --out "$work/none/summary.json"
finish
