#!/usr/bin/env bash
# Each stage killed without warning at 25 moments and started again: the same bits as a run that was never killed, in the model
# folder, the metrics, the optimizer's state and the database. The moments are system calls that change files, spread over the
# run by a fixed rule; every second one leaves a write half done, and every fifth kills the second start too.
# Usage: kill_resume.sh BUILD_FOLDER
. tests/pipeline/lib.sh kill_resume "$1" halter-sft halter-reward halter-rejection halter-ppo halter-annotations
supervise=$1/tests/fault_supervise
"$supervise" count 0 /bin/true 2> /dev/null
[ $? -ne 77 ] || { echo "skipped: the kernel does not let a process watch another's system calls"; exit 77; }
kills=0

# --- data and models
awk 'BEGIN { print "prompt,chosen,rejected,rating,safety,kind,split"; split("one two three four five six", w, " ");
    for (d = 0; d < 36; d++) { a = w[d % 6 + 1] " " w[int(d / 6) + 1]; kind = d % 3 ? "helpfulness" : "safety";
        printf "say %s,kindly said %s please,shouting %s,%d,%s,%s,%s\n", a, a, a, d % 4 + 1, d % 3 ? "" : "chosen_safe", kind, d % 4 ? "train" : "test" } }' \
    > "$work/pairs.csv"
sed '1d; s/,/ /g' "$work/pairs.csv" > "$work/text.txt"
awk -F, 'NR == 1 { print "prompt,response,split" } NR > 1 { print $1 "," $2 "," $7 }' "$work/pairs.csv" > "$work/demonstrations.csv"
expect 0 "36 taken" "$bin/halter-annotations" import --db "$work/fresh.db" "$work/pairs.csv"
expect 0 "36 taken" "$bin/halter-annotations" import --kind helpfulness --db "$work/fresh.db" "$work/demonstrations.csv"
expect 0 "model in" "$bin/halter-sft" --config tests/pipeline/sft-pretrain.yaml --text "$work/text.txt" --threads 1 --out "$work/policy" \
    --set data.epochs=2
reward=("$bin/halter-reward" train --config tests/pipeline/reward-train.yaml --model "$work/policy" --threads 1
    --set data.epochs=1 --set reward.own_share=1)
expect 0 "model in" "${reward[@]}" --db "$work/fresh.db" --set reward.kind=helpfulness --out "$work/helpful"
expect 0 "model in" "${reward[@]}" --db "$work/fresh.db" --set reward.kind=safety --out "$work/safe"

# --- one run, and what must be the same

# run ACTION N [OPTION...]: the stage, meddled with
run() {
    "$supervise" "$1" "$2" "${stage[@]}" --db "$work/run.db" --out "$work/out" "${@:3}" > "$work/output" 2>&1
}

begin() { rm -rf "$work/out" "$work"/run.db* && cp "$work/fresh.db" "$work/run.db"; }

# The rows that a run leaves. A run that was killed before its folder noted it, or after its end, has one beside it that says
# nothing, or the same.
content() {
    sqlite3 "$1" "SELECT DISTINCT r.stage, name, step, quote(value) FROM metric JOIN run r ON r.id = run_id ORDER BY 1, 2, 3;
        SELECT id, dialog_id, model_id, text, quote(tokens), round, step, temperature, top_p, seed, k, quote(logprob), finish FROM response ORDER BY id;
        SELECT response_id, model_id, quote(value) FROM score ORDER BY 1, 2;
        SELECT dialog_id, response_id, origin, round, weight FROM demonstration ORDER BY id;
        SELECT id, name, hash, stage, round, parent_id FROM model ORDER BY id;
        SELECT model_id, name, quote(value) FROM evaluation ORDER BY 1, 2;
        SELECT DISTINCT stage, round, model_id, result_id, outcome FROM run WHERE outcome = 'success' ORDER BY 1, 2, 3" | sed "s,$work/[a-z]*,,g"
}

same_files() {
    local file
    [ ! -e "$work/out/state" ] && [ ! -e "$work/out/.halter-lock" ] || fail "$1: the finished run's folder holds more than the model"
    for file in $(cd "$work/whole" && ls); do
        [ "$file" = halter.json ] || cmp "$work/whole/$file" "$work/out/$file" || fail "$1: $file differs"
    done
}

# States that a killed run leaves are those that the run never killed had at that step.
same_states() {
    local state file
    for state in "$work"/out/state/step-????????; do
        [ -d "$state" ] || continue
        for file in $(cd "$state" && ls); do
            cmp "$state/$file" "$work/states/$(basename "$state")/$file" || fail "$1: state $(basename "$state") differs"
        done
    done
}

# kills STAGE RESUME COMMAND...: 25 times; RESUME is the option that goes on, or "" where the same command does
kills() {
    local name=$1 resume=$2 calls i n action random=12345
    stage=("${@:3}")
    begin
    run count 0 || { fail "$name: $(cat "$work/output")"; return; }
    calls=$(sed -n 's/^supervise: \(.*\) calls$/\1/p' "$work/output")
    rm -rf "$work/whole" && cp -r "$work/out" "$work/whole"
    content "$work/run.db" > "$work/whole.rows"
    # all states but the last few: a run that keeps them, killed near its end
    begin
    [ -z "$resume" ] || run kill $((calls * 9 / 10)) --set train.keep_last=1000
    rm -rf "$work/states" && mkdir "$work/states" && cp -r "$work"/out/state/step-???????? "$work/states" 2> /dev/null
    for ((i = 0; i < 25; i++)); do
        random=$(((random * 1103515245 + 12345) % 2147483648))
        n=$((1 + (i * 1000 + random % 1000) * calls / 25000))
        action=kill
        [ $((i % 2)) -eq 0 ] || action=tear
        begin
        run $action $n
        [ $? -eq 137 ] && kills=$((kills + 1)) || fail "$name: not killed at call $n: $(tail -n 3 "$work/output")"
        same_states "$name, $action $n"
        if [ $((i % 5)) -eq 0 ]; then
            run kill $((1 + random % (calls / 2))) $resume
            [ $? -eq 137 ] && kills=$((kills + 1))
            same_states "$name, $action $n and again"
        fi
        run count 0 $resume || fail "$name, $action $n: $(tail -n 3 "$work/output")"
        same_files "$name, $action $n"
        content "$work/run.db" | cmp - "$work/whole.rows" || fail "$name, $action $n: the database differs"
        [ $failures -eq 0 ] || return
    done
    echo "$name: 25 moments among $calls calls"
}

kills sft --resume "$bin/halter-sft" --config tests/pipeline/sft-tune.yaml --model "$work/policy" --threads 1 --set data.epochs=3
kills reward --resume "${reward[@]}" --set reward.kind=safety --set train.save_every=2
kills ppo --resume "$bin/halter-ppo" --config tests/pipeline/ppo.yaml --model "$work/policy" --helpful "$work/helpful" --safe "$work/safe" --threads 1
kills rejection "" "$bin/halter-rejection" --config tests/pipeline/rejection-sample.yaml --model "$work/policy" --helpful "$work/helpful" \
    --safe "$work/safe" --threads 1 --round 1 --set choose.truncated=true
echo "$kills kills survived"
finish
