#!/usr/bin/env bash
# Pretraining and fine-tuning with the real programs at miniature size: from text and CSV to model folders; killed without
# warning and resumed, to the same bytes; stopped by a signal; and what wrong inputs say.
# Usage: sft.sh BUILD_FOLDER
. tests/pipeline/lib.sh sft "$1" halter-sft halter-annotations
sft=$bin/halter-sft
annotations=$bin/halter-annotations

# --- data: 120 documents and 60 demonstrations of a few words, drawn by a fixed rule
awk 'BEGIN { split("the llama walks over a hill and eats grass while birds sing in old trees near water", w, " ");
    for (d = 0; d < 120; d++) { line = ""; for (i = 0; i < 8 + d % 9; i++) line = line w[(d * 7 + i * i * 3 + i) % 17 + 1] " ";
    print line "." } }' > "$work/text.txt"
awk 'BEGIN { print "prompt,response,split"; split("one two three four five six seven eight nine ten", w, " ");
    for (d = 0; d < 60; d++) printf "say %s and %s,the llama says %s and %s,%s\n", w[d % 10 + 1], w[int(d / 10) + 1],
    w[d % 10 + 1], w[int(d / 10) + 1], d % 10 == 9 ? "test" : "train" }' > "$work/demonstrations.csv"
expect 0 "" "$annotations" import --kind helpfulness --db "$work/p.db" "$work/demonstrations.csv"

# --- pretraining
pretrain=("$sft" --config tests/pipeline/sft-pretrain.yaml --text "$work/text.txt" --threads 1)
expect 0 "steps " "${pretrain[@]}" --out "$work/base" --dry-run
[ ! -e "$work/base" ] || fail "a dry run wrote $work/base"
expect 0 "model in" "${pretrain[@]}" --out "$work/base"
for file in config.json model.safetensors tokenizer.model generation_config.json halter.json metrics.jsonl; do
    [ -s "$work/base/$file" ] || fail "base/$file is missing"
done
expect 0 "finished" "${pretrain[@]}" --out "$work/base" --resume
expect 2 "holds a model" "${pretrain[@]}" --out "$work/base"

for step in 1 7 12; do
    kill_at "$work/killed-$step" $step "${pretrain[@]}"
    expect 2 "--resume" "${pretrain[@]}" --out "$work/killed-$step"
    expect 0 "model in" "${pretrain[@]}" --out "$work/killed-$step" --resume
    same "$work/base" "$work/killed-$step"
done
# a second run into the folder of one that lives
"${pretrain[@]}" --out "$work/twice" > "$work/first.out" 2>&1 &
pid=$!
until [ -s "$work/twice/metrics.jsonl" ]; do sleep 0.01; done
kill -STOP $pid
if [ -e "$work/twice/state" ]; then
    expect 2 "is in use by process $pid on " "${pretrain[@]}" --out "$work/twice"
    expect 2 "is in use by process $pid on " "${pretrain[@]}" --out "$work/twice" --resume
fi
kill -KILL $pid
wait $pid 2> /dev/null
expect 0 "" "${pretrain[@]}" --out "$work/twice" --resume
same "$work/base" "$work/twice"

# out of time before it could begin, and the rest
expect 75 "nothing was trained" "${pretrain[@]}" --out "$work/late" --max-minutes 1e-6
expect 0 "model in" "${pretrain[@]}" --out "$work/late" --resume --max-minutes 1000
same "$work/base" "$work/late"

# going on from a text: nothing is lost by giving a model
expect 0 "model in" "${pretrain[@]}" --model "$work/base" --out "$work/more"

# into a database that knows neither the model it starts from nor that one's parent: both are noted
expect 0 "" "$annotations" import --kind helpfulness --db "$work/new.db" "$work/demonstrations.csv"
expect 0 "model in" "$sft" --config tests/pipeline/sft-tune.yaml --db "$work/new.db" --model "$work/more" --threads 1 --set data.max_steps=1 \
    --out "$work/third"
[ "$(rows "$work/new.db" model)" = 3 ] || fail "base, more and third are not the models of new.db: $(rows "$work/new.db" model)"

# --- fine-tuning
tune=("$sft" --config tests/pipeline/sft-tune.yaml --db "$work/p.db" --model "$work/base" --threads 1)
expect 0 "model in" "${tune[@]}" --out "$work/sft"
grep -q '"eval_loss"' "$work/sft/metrics.jsonl" || fail "no held-out evaluation"
first=$(sed -n 's/^{"step":0,"eval_loss":\([0-9.e-]*\),.*/\1/p' "$work/sft/metrics.jsonl")
last=$(sed -n 's/.*"eval_loss":\([0-9.e-]*\),.*/\1/p' "$work/sft/metrics.jsonl" | tail -n 1)
awk -v a="$first" -v b="$last" 'BEGIN { exit !(b < a - 0.5) }' || fail "held-out loss went from $first to $last"
kill_at "$work/sft-killed" 9 "${tune[@]}"
expect 2 "optim.lr" "${tune[@]}" --out "$work/sft-killed" --resume --set optim.lr=1e-4
expect 0 "model in" "${tune[@]}" --out "$work/sft-killed" --resume
same "$work/sft" "$work/sft-killed"

# a signal: the step ends, the state is saved, the exit code says which signal
signal_at TERM "$work/sft-stopped" 3 "${tune[@]}"
[ $code -eq 143 ] || fail "exit code $code after SIGTERM"
expect 0 "going on from step" "${tune[@]}" --out "$work/sft-stopped" --resume
same "$work/sft" "$work/sft-stopped"

# a weight that is not a number: the step, the weight and the rows are named, and nothing is skipped silently
cp -r "$work/base" "$work/bad"
spoil "$work/bad"
expect 1 'is not finite: the loss is nan' "${tune[@]}" --model "$work/bad" --out "$work/x"
grep -q 'step 1 is made of .* rows; demonstration: [0-9]' "$work/output" || fail "the rows of the bad step are not said"
rm -r "$work/x"
expect 0 "update skipped" "${tune[@]}" --model "$work/bad" --out "$work/skipped" --on-nonfinite skip
grep -q '"step":6,"loss":null,.*"skipped_steps":6.0' "$work/skipped/metrics.jsonl" || fail "skipped steps are not counted"

# other data in the same database
kill_at "$work/sft-other" 9 "${tune[@]}"
printf 'prompt,response\nanother prompt,another answer\n' > "$work/more.csv"
cp "$work/p.db" "$work/p2.db"
expect 0 "" "$annotations" import --kind helpfulness --db "$work/p2.db" --split train "$work/more.csv"
expect 2 "data_hash was" "${tune[@]}" --db "$work/p2.db" --out "$work/sft-other" --resume

# --- wrong inputs
expect 2 "init.dim = 32 is not a multiple of init.heads = 3" "${pretrain[@]}" --out "$work/x" --set init.heads=3
expect 2 "init.dim = 32 and init.heads = 32 make heads of 1 numbers" "${pretrain[@]}" --out "$work/x" --set init.heads=32
expect 2 "init.heads = 2 is not a multiple of init.kv_heads = 4" "${pretrain[@]}" --out "$work/x" --set init.kv_heads=4
expect 2 "data.seq_len = 64 is above the model's 32 positions" "${pretrain[@]}" --out "$work/x" --set init.max_positions=32
cp -r "$work/base" "$work/other-end" && sed -i 's/"eos_token_id": 2/"eos_token_id": 5/' "$work/other-end/config.json"
expect 3 'other-end/tokenizer.model" has BOS 1 and EOS 2, the model'"'"'s config.json 1 and 5' "${tune[@]}" --out "$work/x" --model "$work/other-end"
cp -r "$work/base" "$work/small" && sed -i 's/"vocab_size": 300/"vocab_size": 299/' "$work/small/config.json"
expect 3 "small/tokenizer.model: 300 pieces, but the model has a vocabulary of 299" "${tune[@]}" --out "$work/x" --model "$work/small"
expect 2 "no data" "$sft" --out "$work/x"
expect 2 "no model" "$sft" --db "$work/p.db" --out "$work/x"
expect 4 "missing.db" "${tune[@]}" --db "$work/missing.db" --out "$work/x"
expect 4 "missing.txt" "$sft" --text "$work/missing.txt" --model "$work/base" --out "$work/x" --set data.seq_len=64
expect 2 "data.seq_len = 4096 is above the model's" "$sft" --db "$work/p.db" --model "$work/base" --out "$work/x"
expect 3 "demonstration 1 " "${tune[@]}" --out "$work/x" --set data.seq_len=12
expect 2 "train.micro_tokens" "${tune[@]}" --out "$work/x" --set train.micro_tokens=10
expect 3 "fits the filter" "${tune[@]}" --out "$work/x" --set data.first_round=5
expect 2 "data.last_round = 1 is before data.first_round = 2" "${tune[@]}" --out "$work/x" --set data.first_round=2 --set data.last_round=1
expect 2 "data.kinds is empty; allowed are helpfulness, safety" "${tune[@]}" --out "$work/x" --set data.kinds=
: > "$work/empty.txt"
expect 3 "empty.txt: there is no document to train on" "${pretrain[@]}" --text "$work/empty.txt" --model "$work/base" --out "$work/x"
printf 'fine\nb\377d\n' > "$work/bad.txt"
expect 3 "bad.txt: document at byte 5: text is not UTF-8 at byte 1 of 3" "${pretrain[@]}" --text "$work/bad.txt" --model "$work/base" --out "$work/x"
expect 4 'cannot create a folder in "/nonexistent": No such file' env TMPDIR=/nonexistent "${pretrain[@]}" --out "$work/x" --dry-run
expect 2 "data.origins" "${tune[@]}" --out "$work/x" --set data.origins=machine
expect 2 'did you mean "optim.lr"' "${tune[@]}" --out "$work/x" --set optim.lrr=1
expect 4 "/proc" "${tune[@]}" --out /proc/halter
[ ! -e "$work/x/metrics.jsonl" ] || fail "a refused run left metrics"
finish
