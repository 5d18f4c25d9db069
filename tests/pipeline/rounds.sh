#!/usr/bin/env bash
# The whole loop at miniature size: synthetic annotators, killed on the way and gone on with; the table; people as annotators; wrong inputs.
# Usage: rounds.sh BUILD_FOLDER
. tests/pipeline/lib.sh rounds "$1" halter-rounds halter-annotations halter-sft halter-reward halter-rejection halter-ppo halter-evaluate
rounds=("$bin/halter-rounds" --config tests/pipeline/rounds/rounds.yaml --threads 1 --run)

# --- from nothing to the table
expect 0 "halter-ppo --config" "${rounds[@]}" "$work/a" --dry-run
[ ! -e "$work/a" ] || fail "a dry run wrote a folder"
expect 0 "round 1 is done" "${rounds[@]}" "$work/a" --until-round 1
[ -f "$work/a/rlhf-v1/halter.json" ] && [ ! -e "$work/a/rlhf-v2" ] || fail "--until-round 1 stopped elsewhere"
expect 0 "rlhf-v3" "${rounds[@]}" "$work/a"
for version in base sft rlhf-v1 rlhf-v2 rlhf-v3; do
    [ -s "$work/a/$version/model.safetensors" ] || fail "$version is missing"
done
[ "$(grep -c '"name"' "$work/a/summary.json")" -eq 4 ] || fail "summary.json has not 4 versions"
for key in true_helpfulness true_violations helpfulness_reward safety_reward win_rate; do
    [ "$(grep -c "\"$key\":" "$work/a/summary.json")" -ge 4 ] || fail "summary.json lacks $key"
done
# lineage: every round starts from the base, PPO from the round's fine-tuned model
grep -q "base" <(grep -A2 '"parent"' "$work/a/rlhf-v2/halter.json") || fail "rlhf-v2 does not come from the base"
grep -q "rlhf-v3-rs" <(grep -A2 '"parent"' "$work/a/rlhf-v3/halter.json") || fail "rlhf-v3 does not come from its own fine-tuned model"
expect 0 "no damage found" "$bin/halter-annotations" check --db "$work/a/halter.db"

# --- again: nothing is redone but the table
before=$(cat "$work"/a/*/model.safetensors | cksum)
"${rounds[@]}" "$work/a" > "$work/output" 2>&1 || fail "a second start failed"
[ "$(grep -c '^ *\$ halter-' "$work/output")" -eq 1 ] || fail "a second start ran more than the table"
[ "$before" = "$(cat "$work"/a/*/model.safetensors | cksum)" ] || fail "a second start changed models"

# --- killed on the way: the same models
"${rounds[@]}" "$work/b" > "$work/output" 2>&1 &
pid=$!
for _ in $(seq 4000); do
    [ -e "$work/b/steps/round-1-rejection" ] && break
    kill -0 $pid 2> /dev/null || break
    sleep 0.01
done
kill -KILL $pid 2> /dev/null
wait $pid 2> /dev/null
# the step it had started ends by itself ([b]: so that grep does not find its own command line)
while grep -qsz -- "$work/[b]/" /proc/[0-9]*/cmdline; do sleep 0.05; done
expect 0 "rlhf-v3" "${rounds[@]}" "$work/b"
for version in base sft rlhf-v1 rlhf-v2 rlhf-v3; do
    cmp "$work/a/$version/model.safetensors" "$work/b/$version/model.safetensors" || fail "$version differs after a kill"
done

# --- a batch system: SIGTERM to the one process, once the base is being trained, and a time limit; started again it goes on
for try in {1..20}; do # again, when the base was complete before the signal came
    rm -rf "$work/t"
    "${rounds[@]}" "$work/t" > "$work/stopped" 2>&1 &
    pid=$!
    while kill -0 $pid 2> /dev/null && ! grep -q '"step":2,' "$work/t/base/metrics.jsonl" 2> /dev/null; do sleep 0.002; done
    kill -TERM $pid
    wait $pid
    code=$?
    [ $code -eq 143 ] || fail "SIGTERM ended the rounds with exit code $code: $(tail -n 3 "$work/stopped")"
    ! grep -q "step base ended with exit code 143" "$work/stopped" || break
done
[ "$try" -lt 20 ] || fail "not said which step was stopped: $(tail -n 3 "$work/stopped")"
[ -n "$(ls "$work/t/base/state" | grep step-)" ] || fail "the stopped step has saved no state"
grep -qsz -- "$work/[t]/" /proc/[0-9]*/cmdline && fail "the stopped step goes on"
expect 75 "step base ended with exit code 75" "${rounds[@]}" "$work/t" --max-minutes 0.0001
expect 0 "round 1 is done" "${rounds[@]}" "$work/t" --until-round 1
cmp "$work/a/rlhf-v1/model.safetensors" "$work/t/rlhf-v1/model.safetensors" || fail "rlhf-v1 differs after a signal"

# --- another seed, another configuration
expect 2 "seed" "${rounds[@]}" "$work/a" --seed 2
expect 0 "round 1 is done" "${rounds[@]}" "$work/b" --seed 2 --restart --until-round 1
cmp -s "$work/a/sft/model.safetensors" "$work/b/sft/model.safetensors" && fail "seed 2 gave seed 1's model"

# --- people annotate: the run stops, and goes on with the filled file
human=("${rounds[@]}" "$work/h" --set annotator=human --base "$work/a/base" --import "$work/a/data/demonstrations.csv,$work/a/data/prompts.csv"
    --set rounds.count=1 --set rounds.ppo=false)
expect 0 "waiting for annotations" "${human[@]}"
[ -s "$work/h/round-1/to-annotate.csv" ] || fail "there is nothing to annotate"
head -n 1 "$work/h/round-1/to-annotate.csv" | grep -q 'choice.*rating.*safety' || fail "to-annotate.csv lacks columns"
expect 0 "waiting for annotations" "${human[@]}"
[ ! -e "$work/h/rlhf-v1" ] || fail "it went on without annotations"
"$bin/halter-annotations" synth --db "$work/h/halter.db" --make annotations --input "$work/h/round-1/to-annotate.csv" \
    --out "$work/h/round-1/annotated.csv" --seed 1 > "$work/output" 2>&1 || fail "annotating failed"
expect 0 "rlhf-v1" "${human[@]}"
[ -s "$work/h/summary.json" ] || fail "no summary of the human run"

# --- wrong inputs
expect 2 "base is empty" "${rounds[@]}" "$work/x" --set annotator=human
expect 2 "did you mean \"rounds.count\"" "${rounds[@]}" "$work/x" --set rounds.counts=3
expect 2 'set_stage: "stf:data.epochs=3" is not FILE:KEY=VALUE with a FILE of pretrain, sft, sft-round, reward-helpfulness' "${rounds[@]}" "$work/x" \
    --set-stage sft:data.epochs=3,stf:data.epochs=3
expect 2 'set_stage: "data.epochs=3" is not FILE' "${rounds[@]}" "$work/x" --set-stage data.epochs=3
expect 0 "--config tests/pipeline/rounds/sft.yaml --set data.epochs=3" "${rounds[@]}" "$work/x" --set-stage sft:data.epochs=3 --dry-run
expect 2 "run" "$bin/halter-rounds" --config tests/pipeline/rounds/rounds.yaml
expect 2 "an argument of step corpus is longer than 4095 bytes" "${rounds[@]}" "$(printf 'x%.0s' {1..4090})" --dry-run
touch "$work/file"
expect 2 "run = \"$work/file\" is not a folder" "${rounds[@]}" "$work/file"
mkdir "$work/alone" && cp "$bin/halter-rounds" "$work/alone" # the other programs are not beside it
expect 4 "cannot start $work/alone/halter-annotations: No such file or directory" "$work/alone/halter-rounds" "${rounds[@]:1}" "$work/z"
echo '{' > "$work/z/run.json"
expect 3 "z/run.json:2:0: " "${rounds[@]}" "$work/z"
expect 4 "missing.yaml" "$bin/halter-rounds" --config "$work/missing.yaml" --run "$work/x"
mkdir "$work/stages" && cp tests/pipeline/rounds/*.yaml "$work/stages/" && echo 'optim: {lr: 7}' > "$work/stages/pretrain.yaml"
expect 2 "step base ended with exit code 2" "${rounds[@]}" "$work/y" --configs "$work/stages"
finish
