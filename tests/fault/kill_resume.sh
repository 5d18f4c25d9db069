#!/usr/bin/env bash
# Each stage killed without warning at 25 moments and started again: the same bits as a run that was never killed, in the model
# folder, the metrics, the optimizer's state and the database. The moments are system calls that change files, spread over the
# run by a fixed rule; every second one leaves a write half done, and two of five kill the second start too: on its way, or among its
# first calls. halter-rounds is killed with the step that runs, again and again until it comes to its end.
# Usage: kill_resume.sh BUILD_FOLDER
. tests/fault/lib.sh kill_resume "$1" halter-sft halter-reward halter-rejection halter-ppo halter-annotations halter-rounds halter-evaluate
can_supervise || { echo "skipped: the kernel does not let a process watch another's system calls"; exit 77; }
kills=0
make_models 36

# --- one run, and what must be the same

# run ACTION N [OPTION...]: the stage, meddled with
run() {
    "$supervise" "$1" "$2" "${stage[@]}" --db "$work/run.db" --out "$work/out" "${@:3}" > "$work/output" 2>&1
}

begin() { rm -rf "$work/out" "$work"/run.db* && cp "$work/fresh.db" "$work/run.db"; }

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
    local name=$1 resume=$2 calls i n action again random=12345 mid_save=0 mid_resume=0
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
        ! find "$work/out" -path '*/state/step-*.tmp-*' 2> /dev/null | grep -q . || mid_save=$((mid_save + 1))
        case $((i % 5)) in
        0) again=$((1 + random % (calls / 2))) ;;
        2) again=$((1 + i)) ;;
        *) again=0 ;;
        esac
        if [ $again -gt 0 ]; then
            run $action $again $resume
            if [ $? -eq 137 ]; then
                kills=$((kills + 1))
                ! grep -qE "going on from step|are there already" "$work/output" || mid_resume=$((mid_resume + 1))
            fi
            same_states "$name, $action $n and $again"
        fi
        run count 0 $resume || fail "$name, $action $n: $(tail -n 3 "$work/output")"
        same_files "$name, $action $n"
        content "$work/run.db" | cmp - "$work/whole.rows" || fail "$name, $action $n: the database differs"
        [ $failures -eq 0 ] || return
    done
    [ -z "$resume" ] || [ $mid_save -gt 0 ] || fail "$name: no kill came while a state was written"
    [ $mid_resume -gt 0 ] || fail "$name: no kill came while it went on"
    echo "$name: 25 moments among $calls calls, $mid_save of them while a state was written; $mid_resume second ones while it went on"
}

kills sft --resume "$bin/halter-sft" --config tests/pipeline/sft-tune.yaml --model "$work/policy" --threads 1 --set data.epochs=3
kills reward --resume "${reward[@]}" --set reward.kind=safety --set data.epochs=4 --set train.save_every=2
kills ppo --resume "$bin/halter-ppo" --config tests/pipeline/ppo.yaml --model "$work/policy" --helpful "$work/helpful" --safe "$work/safe" --threads 1
kills rejection "" "$bin/halter-rejection" --config tests/pipeline/rejection-sample.yaml --model "$work/policy" --helpful "$work/helpful" \
    --safe "$work/safe" --threads 1 --round 1 --set choose.truncated=true

# Each start gets further than the one before, however little of its work a kill leaves.
kill_rounds() {
    local n=50 action=kill code before=$kills file
    local rounds=("$bin/halter-rounds" --config tests/pipeline/rounds/rounds.yaml --threads 1 --until-round 1)
    expect 0 "round 1 is done" "${rounds[@]}" --run "$work/rounds-whole"
    while :; do
        "$supervise" $action $n "${rounds[@]}" --run "$work/rounds" > "$work/output" 2>&1
        code=$?
        [ $code -eq 137 ] || break
        kills=$((kills + 1)) n=$((n + 17))
        [ $action = kill ] && action=tear || action=kill
    done
    [ $code -eq 0 ] || fail "rounds, $action $n: $(tail -n 3 "$work/output")"
    for file in base sft rlhf-v1 round-1/reward-helpfulness round-1/reward-safety; do
        cmp "$work/rounds-whole/$file/model.safetensors" "$work/rounds/$file/model.safetensors" || fail "rounds: $file differs"
    done
    content "$work/rounds/halter.db" > "$work/rounds.rows"
    content "$work/rounds-whole/halter.db" | cmp - "$work/rounds.rows" || fail "rounds: the database differs"
    expect 0 "no damage found" "$bin/halter-annotations" check --db "$work/rounds/halter.db"
    echo "rounds: killed $((kills - before)) times on the way"
}
kill_rounds
echo "$kills kills survived"
finish
