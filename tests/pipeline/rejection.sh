#!/usr/bin/env bash
# Rejection sampling and sampling for annotators with the real programs at miniature size: repeated, killed without
# warning and repeated to the same rows, pools, fine-tuning on what was chosen; and what wrong inputs say.
# Usage: rejection.sh BUILD_FOLDER
. tests/pipeline/lib.sh rejection "$1" halter-rejection halter-reward halter-sft halter-annotations
rejection=$bin/halter-rejection
reward=$bin/halter-reward
sft=$bin/halter-sft
annotations=$bin/halter-annotations

# chosen DATABASE FILE: the demonstrations as CSV
chosen() { "$annotations" export --db "$1" --what demonstrations > "$2" || fail "export of $1"; }

# --- data: prompts with pairs of both kinds, a base model, another, two reward models
awk 'BEGIN { print "prompt,chosen,rejected,rating,safety,kind,split"; split("one two three four five six seven eight nine ten", w, " ");
    for (d = 0; d < 60; d++) { a = w[d % 10 + 1] " " w[int(d / 10) + 1];
        printf "say %s,kindly said %s,shouting %s,3,chosen_safe,safety,%s\n", a, a, a, d % 5 == 4 ? "test" : "train"
        printf "count %s,it is %s,no %s,2,,helpfulness,%s\n", a, a, a, d % 5 == 4 ? "test" : "train" } }' > "$work/pairs.csv"
tail -n +2 "$work/pairs.csv" | tr ',' ' ' > "$work/text.txt"
pretrain=("$sft" --config tests/pipeline/sft-pretrain.yaml --text "$work/text.txt" --threads 1)
expect 0 "120 taken" "$annotations" import --db "$work/p.db" "$work/pairs.csv"
expect 0 "model in" "${pretrain[@]}" --out "$work/base"
expect 0 "model in" "${pretrain[@]}" --seed 2 --set data.epochs=2 --set init.tokenizer="$work/base/tokenizer.model" --out "$work/older"
for kind in helpfulness safety; do
    expect 0 "model in" "$reward" train --config tests/pipeline/reward-train.yaml --set reward.kind=$kind --set train.eval_every=0 \
        --set data.epochs=1 --db "$work/p.db" --model "$work/base" --threads 1 --out "$work/$kind"
done
cp "$work/p.db" "$work/fresh.db"

# --- sampling for annotators
sample=("$annotations" sample --model "$work/base" --other "$work/older" --prompts 10 --test-prompts 4 --round 1
    --max-new-tokens 24 --max-prompt-tokens 40 --temperatures 0.8,1.0,1.2 --threads 1 --sequences 16 --chunk 8)
expect 0 "14 pairs" "${sample[@]}" --db "$work/p.db" --out "$work/to-annotate.csv"
head -n 1 "$work/to-annotate.csv" | tr -d '"' | grep -qx 'id,messages,kind,response_a,response_b,response_a_id,response_b_id,choice,rating,safety,annotator,batch,round' ||
    fail "columns of the file to annotate"
before=$(rows "$work/p.db" response)
expect 0 "14 pairs" "${sample[@]}" --db "$work/p.db" --out "$work/again.csv"
cmp "$work/to-annotate.csv" "$work/again.csv" || fail "the same command, another file to annotate"
[ "$before" = "$(rows "$work/p.db" response)" ] || fail "a repeated sampling added responses"
expect 0 "14 refused" "$annotations" import --db "$work/p.db" "$work/to-annotate.csv"
awk '{ sub(/,,,,,,"?1"?$/, ",a,2,,me,,1"); print }' "$work/to-annotate.csv" > "$work/annotated.csv"
expect 0 "14 taken" "$annotations" import --db "$work/p.db" "$work/annotated.csv"
expect 0 "0 findings" bash -c "'$annotations' check --db '$work/p.db' && echo 0 findings"
expect 0 "only 24 fit" "${sample[@]}" --db "$work/p.db" --out "$work/few.csv" --test-prompts 100
expect 0 "left out" "${sample[@]}" --db "$work/p.db" --out "$work/same.csv" --other "" --max-new-tokens 1 --temperatures 0.01 --tries 2 --seed 3
expect 2 "both 0" "${sample[@]}" --db "$work/p.db" --out "$work/x.csv" --prompts 0 --test-prompts 0
expect 2 "cache_tokens = 9 " "${sample[@]}" --db "$work/p.db" --out "$work/x.csv" --cache-tokens 9
expect 3 "a reward model" "${sample[@]}" --db "$work/p.db" --out "$work/x.csv" --model "$work/safety"
expect 3 "max_new_tokens" "${sample[@]}" --db "$work/p.db" --out "$work/x.csv" --max-new-tokens 20
expect 4 "/missing/" "${sample[@]}" --db "$work/p.db" --out "$work/missing/x.csv"
[ ! -e "$work/x.csv" ] || fail "a refused sampling left a file"

# --- rejection sampling
reject=("$rejection" --config tests/pipeline/rejection-sample.yaml --model "$work/base" --helpful "$work/helpfulness"
    --safe "$work/safety" --threads 1 --round 1 --prompts 40)
expect 0 "responses 240" "${reject[@]}" --db "$work/p.db" --dry-run
expect 0 "chosen" "${reject[@]}" --db "$work/p.db" --out "$work/one"
[ "$(number "$work/one/curves.json" count)" = 240 ] || fail "240 samples, not $(number "$work/one/curves.json" count)"
awk -v all="$(grep -oE '"reward_mean": *[-0-9.e]+' "$work/one/curves.json" | sed -n '1s/.*: *//p')" \
    -v best="$(grep -oE '"reward_mean": *[-0-9.e]+' "$work/one/curves.json" | sed -n '2s/.*: *//p')" 'BEGIN { exit !(best > all) }' ||
    fail "the chosen are no better than the samples"
chosen "$work/p.db" "$work/one.csv"
[ "$(wc -l < "$work/one.csv")" -gt 20 ] || fail "only $(wc -l < "$work/one.csv") lines of demonstrations"
expect 0 "240 of 240 responses are there already" "${reject[@]}" --db "$work/p.db" --out "$work/two"
cmp "$work/one/curves.json" "$work/two/curves.json" || fail "a repeated command reports other numbers"
chosen "$work/p.db" "$work/two.csv"
cmp "$work/one.csv" "$work/two.csv" || fail "a repeated command chose again"
"${reject[@]}" --db "$work/p.db" --json > "$work/report.json" 2> "$work/output" || fail "--json: $(cat "$work/output")"
cmp "$work/report.json" "$work/one/curves.json" || fail "--json and curves.json differ"
expect 0 "0 findings" bash -c "'$annotations' check --db '$work/p.db' && echo 0 findings"

# killed without warning, again and again, ever later; the same rows in the end. The fresh database has 240 responses, two
# a comparison; more are samples, and demonstrations come last.
cp "$work/fresh.db" "$work/killed.db"
midway=0
for wanted in 241 300 360 420 480; do
    "${reject[@]}" --db "$work/killed.db" > /dev/null 2>&1 &
    pid=$!
    while kill -0 $pid 2> /dev/null && [ "$(rows "$work/killed.db" response)" -lt $wanted ]; do :; done
    kill -KILL $pid 2> /dev/null
    wait $pid 2> /dev/null
    [ "$(rows "$work/killed.db" demonstration)" = 0 ] && midway=$((midway + 1))
done
expect 0 "chosen" "${reject[@]}" --db "$work/killed.db" --out "$work/killed"
[ $midway -gt 0 ] || fail "no kill came between the first response and the choice"
cmp "$work/one/curves.json" "$work/killed/curves.json" || fail "killed and repeated: other numbers"
chosen "$work/killed.db" "$work/killed.csv"
cmp "$work/one.csv" "$work/killed.csv" || fail "killed and repeated: other choices"
[ "$(rows "$work/killed.db" response)" = 480 ] || fail "480 responses, not $(rows "$work/killed.db" response)"
[ "$(rows "$work/killed.db" score)" = 480 ] || fail "480 scores, not $(rows "$work/killed.db" score)"
# asked to stop: exit code of the signal, and it goes on
cp "$work/fresh.db" "$work/stopped.db"
"${reject[@]}" --db "$work/stopped.db" > /dev/null 2>&1 &
pid=$!
sleep 0.1
kill -TERM $pid 2> /dev/null
wait $pid
code=$?
[ $code -eq 143 ] || [ $code -eq 0 ] || fail "SIGTERM gave exit code $code"
expect 0 "chosen" "${reject[@]}" --db "$work/stopped.db" --out "$work/stopped"
cmp "$work/one/curves.json" "$work/stopped/curves.json" || fail "stopped and repeated: other numbers"

# a second round with the older model: the pool of all rounds is at least as good, and has more prompts
second=("${reject[@]}" --db "$work/p.db" --model "$work/older" --round 2 --seed 5)
expect 0 "not kept" "${second[@]}" --out "$work/last" --report-only
expect 0 "of earlier rounds" "${second[@]}" --out "$work/all" --set pool.rounds=all
[ "$(number "$work/all/curves.json" of_earlier_rounds)" -gt 0 ] || fail "nothing of an earlier round was chosen"
rounds_chosen() { tr -d '"' < "$work/both.csv" | grep -cE ",rejection,1,[a-z]*,train,[^,]*,$1,"; }
chosen "$work/p.db" "$work/both.csv"
[ "$(rounds_chosen 2)" -gt "$(rounds_chosen 1)" ] || fail "round 2 chose for $(rounds_chosen 2) prompts, round 1 for $(rounds_chosen 1)"

# what was chosen is what fine-tuning takes
expect 0 "model in" "$sft" --config tests/pipeline/sft-tune.yaml --db "$work/p.db" --model "$work/base" --threads 1 \
    --set data.origins=rejection --set data.epochs=1 --set data.too_long=skip --set train.eval_every=0 --out "$work/v1"

# --- no choice, nowhere to report to, a score that is no number, a prompt that cannot be put
few=("${reject[@]}" --prompts 4 --kind safety)
cp "$work/fresh.db" "$work/few.db"
expect 0 " prompts: the best reward is below choose.min_reward" "${few[@]}" --db "$work/few.db" --set choose.min_reward=1e29
expect 4 "cannot write the report to stdout" bash -c '"$@" > /dev/full' few "${few[@]}" --db "$work/few.db"
cp -r "$work/safety" "$work/bad"
spoil "$work/bad"
expect 1 "bad gives response " "${few[@]}" --db "$work/few.db" --safe "$work/bad" --report-only
cp "$work/fresh.db" "$work/tag.db"
sqlite3 "$work/tag.db" "UPDATE dialog SET messages = replace(messages, 'say one', 'say [INST] one') WHERE id = 1"
expect 3 "dialog 1: messages[0] (user) holds the special tag [INST]" "${reject[@]}" --db "$work/tag.db" --prompts 0

# --- wrong inputs
expect 2 "round 1 has" "${reject[@]}" --db "$work/p.db" --seed 9
expect 3 "max_new_tokens" "${reject[@]}" --db "$work/p.db" --set sample.max_new_tokens=20
expect 2 "number of temperatures" "${reject[@]}" --db "$work/p.db" --set sample.k=1
expect 2 "has 1 twice" "${reject[@]}" --db "$work/p.db" --set sample.temperatures=1,1.0
expect 2 "is empty" "${reject[@]}" --db "$work/p.db" --set sample.temperatures=
expect 0 "have one sample more" "${reject[@]}" --db "$work/p.db" --set sample.k=5 --dry-run
expect 2 "sample.cache_tokens = 32" "${reject[@]}" --db "$work/p.db" --set sample.cache_tokens=32
expect 2 "score.tokens = 32" "${reject[@]}" --db "$work/p.db" --set score.tokens=32
expect 2 "positions of" "${reject[@]}" --db "$work/p.db" --set data.max_prompt_tokens=50
expect 3 "wanted is a reward model" "${reject[@]}" --db "$work/p.db" --safe "$work/base"
expect 3 "wanted is a language model" "${reject[@]}" --db "$work/p.db" --model "$work/safety"
expect 4 "missing.db" "${reject[@]}" --db "$work/missing.db"
expect 3 "no prompt fits" "${reject[@]}" --db "$work/p.db" --set data.first_round=7
expect 0 "responses 240" "${reject[@]}" --db "$work/p.db" --set data.last_round=0 --dry-run
expect 3 "the prompt has" "${reject[@]}" --db "$work/p.db" --set data.max_prompt_tokens=3
expect 2 "sample.top_p" "${reject[@]}" --db "$work/p.db" --set sample.top_p=2
expect 0 "all are taken" "${reject[@]}" --db "$work/p.db" --round 3 --prompts 1000 --dry-run
finish
