#!/usr/bin/env bash
# Calls that change files fail once, or take half of what they are given; so do reads; allocations fail once: the program says so
# with the right exit code, leaves nothing half-written, and the same command then does its work as if nothing had been.
# Usage: faults.sh BUILD_FOLDER [TIMES [STAGE...]]: each kind of fault at TIMES calls (allocations: places, see failing_malloc.c) spread
# over the run (3; 0: at every one) of these stages (all)
. tests/fault/lib.sh faults "$1" halter-annotations halter-sft halter-reward halter-rejection halter-ppo halter-chat
can_supervise || { echo "skipped: the kernel does not let a process watch another's system calls"; exit 77; }
times=${2:-3}
stages=("${@:3}")
[ ${#stages[@]} -gt 0 ] || stages=(import check pretrain sft reward ppo rejection chat)
failing_malloc=$(cd "$1" && pwd)/tests/libfailing_malloc.so
actions="no-space io-error short read-error read-short memory"
injected=0

# inject ACTION N COMMAND...: with the N-th call failing; N = 0: none. The last line says how many there were.
inject() {
    if [ "$1" = memory ]; then
        LD_PRELOAD=$failing_malloc ASAN_OPTIONS=verify_asan_link_order=0 HALTER_FAIL_ALLOCATION=$2 "${@:3}"
    else
        "$supervise" "$@"
    fi > "$work/output" 2>&1
}

# judge TEXT ACTION CODE: the exit code and what was said fit the fault
judge() {
    local said fitting
    said=$(grep -c 'error: ' "$work/output")
    case $2 in
    memory)
        fitting=5
        ! grep -q 'unable to get the page. error code=7' "$work/output" || fitting=3 # SQLite's integrity check puts it so
        ;;
    read-*) fitting='[34]' ;; # half of a file does not check out
    *) fitting=4 ;;
    esac
    case $3 in
    0) [ "$said" -eq 0 ] || fail "$1: an error that is none: $(cat "$work/output")" ;;
    $fitting) [ "$said" -eq 1 ] || fail "$1: $said error messages: $(cat "$work/output")" ;;
    127) [[ $2 = read-* ]] || fail "$1: $(cat "$work/output")" ;; # its libraries could not be read
    *) fail "$1: exit code $3: $(tail -n 30 "$work/output")" ;;
    esac
}

# faults NAME RESET CHECK COMMAND...: RESET makes all as it was before; CHECK TEXT CODE looks at what a failed run left, and does the
# command again
faults() {
    local name=$1 reset=$2 check=$3 action calls n step code counts=
    local command=("${@:4}")
    for action in $actions; do
        $reset
        inject "$action" 0 "${command[@]}" || { fail "$name: $(cat "$work/output")"; return; }
        calls=$(sed -n -E 's/^(supervise|failing_malloc): ([0-9]+) (calls|places)/\2/p' "$work/output")
        counts+=" $action $calls"
        step=$((times ? calls / times + 1 : 1))
        for ((n = 1 + calls % step; n <= calls; n += step)); do
            $reset
            inject "$action" $n "${command[@]}"
            code=$?
            injected=$((injected + 1))
            judge "$name, $action $n" "$action" $code
            $check "$name, $action $n, exit code $code" $code
            [ $failures -le 8 ] || return
        done
    done
    echo "$name: calls in the run:$counts"
}

# no_leftovers TEXT: nothing that was to be renamed or removed, unless the removal is what failed; .halter-saving marks a folder
# that is not complete
no_leftovers() {
    local left
    ! grep -qE '^supervise: .* (unlink|unlinkat|rmdir)$' "$work/output" || return
    left=$(find "$work/run" -name '*.tmp-*' -o -name '.halter-*' ! -name .halter-saving | head -n 1)
    [ -z "$left" ] || fail "$1: $left is left: $(cat "$work/output")"
}

# whole_files TEXT: those of the output folder that have their last name, compared with those of a run without faults
whole_files() {
    local file
    for file in "$work/run/out"/*; do
        case ${file##*/} in
        state | halter.json | metrics.jsonl | '*') ;; # what grows, or says when it was made
        *) cmp "$file" "$work/whole/${file##*/}" || fail "$1: ${file##*/} is not whole" ;;
        esac
    done
}

# --- importing
import=("$bin/halter-annotations" import --db "$work/run/p.db" --kind helpfulness --quiet --rejects "$work/run/rejects.csv" "$work/import.csv")
reset_import() { rm -rf "$work/run" && mkdir "$work/run"; }
check_import() {
    local got=none
    [ -n "$(ls -A "$work/run")" ] || return # as if it had not been started
    no_leftovers "$1"
    if [ -s "$work/run/p.db" ]; then
        expect 0 "no damage found" "$bin/halter-annotations" check --db "$work/run/p.db"
        got=$(rows "$work/run/p.db" comparison)
    fi
    case $2,$got in 0,12 | [345],none | [345],0 | [345],12 | 127,none) ;; *) fail "$1: $got rows" ;; esac
    expect 0 "13 rows" "${import[@]}"
    [ "$(rows "$work/run/p.db" comparison)" = 12 ] || fail "$1: another import does not make up for it"
}
fault_import() {
    awk 'BEGIN { print "prompt,chosen,rejected,rating"; for (i = 0; i < 12; i++) printf "p%d,good %d,bad %d,%d\n", i, i, i, i % 4 + 1; print "q,same,same,1" }' > "$work/import.csv"
    faults import reset_import check_import "${import[@]}"
}

# --- reading a database
check=("$bin/halter-annotations" check --db "$work/fresh.db")
check_found() { [ "$2" -ne 0 ] || grep -q 'no damage found' "$work/output" || fail "$1: $(cat "$work/output")"; }
fault_check() { faults check : check_found "${check[@]}"; }

# --- stages: what they write is a folder and rows of a database

# stage NAME RESUME COMMAND...: RESUME is the option that goes on, or "" where the same command does
stage() {
    resume=$2
    run=("${@:3}" --out "$work/run/out" --threads 1 --backend cpu)
    [ "$1" = pretrain ] || run+=(--db "$work/run/p.db")
    reset_run
    "${run[@]}" > "$work/output" 2>&1 || { fail "$1: $(cat "$work/output")"; return; }
    rm -rf "$work/whole" && cp -r "$work/run/out" "$work/whole"
    content "$work/run/p.db" > "$work/whole.rows"
    faults "$1" reset_run check_run "${run[@]}"
}
reset_run() { rm -rf "$work/run" && mkdir "$work/run" && cp "$work/fresh.db" "$work/run/p.db"; }
check_run() {
    [ "$(ls -A "$work/run")" != p.db ] || ! cmp -s "$work/run/p.db" "$work/fresh.db" || return # as if it had not been started
    whole_files "$1"
    no_leftovers "$1"
    rm -f "$work/run/.halter-probe-"* # one that could not be removed
    expect 0 "" "${run[@]}" $resume
    whole_files "$1, again"
    no_leftovers "$1, again"
    [ ! -e "$work/whole/metrics.jsonl" ] || cmp "$work/run/out/metrics.jsonl" "$work/whole/metrics.jsonl" || fail "$1: the metrics differ"
    [ "$(ls -A "$work/run/out")" = "$(ls -A "$work/whole")" ] || fail "$1: other files: $(ls -A "$work/run/out")"
    content "$work/run/p.db" | cmp - "$work/whole.rows" || fail "$1: the database differs"
    expect 0 "no damage found" "$bin/halter-annotations" check --db "$work/run/p.db"
}
fault_pretrain() {
    stage pretrain --resume "$bin/halter-sft" --config tests/pipeline/sft-pretrain.yaml --text "$work/text.txt" \
        --set data.max_steps=2 --set train.save_every=1 --set train.eval_every=0
}
fault_sft() {
    stage sft --resume "$bin/halter-sft" --config tests/pipeline/sft-tune.yaml --model "$work/policy" --set data.max_steps=2 --set train.save_every=1
}
fault_reward() { stage reward --resume "${reward[@]}" --set reward.kind=safety --set data.batch_size=12 --set train.save_every=1; }
fault_ppo() {
    stage ppo --resume "$bin/halter-ppo" --config tests/pipeline/ppo.yaml --model "$work/policy" --helpful "$work/helpful" --safe "$work/safe" \
        --set ppo.iterations=2 --set ppo.batch=4 --set ppo.mini_batch=4 --set ppo.eval_prompts=2 --set train.save_every=1
}
fault_rejection() {
    stage rejection "" "$bin/halter-rejection" --config tests/pipeline/rejection-sample.yaml --model "$work/policy" --helpful "$work/helpful" \
        --safe "$work/safe" --round 1 --set choose.truncated=true --prompts 3 --set sample.k=2
}

# --- reading a model
chat=("$bin/halter-chat" --model "$work/policy" --template none --prompt "the llama" --no-sample --max-new-tokens 4 --threads 1 --backend cpu --quiet --json)
check_chat() { [ "$2" -ne 0 ] || grep -qF -f "$work/answer" "$work/output" || fail "$1: another answer: $(cat "$work/output")"; }
fault_chat() {
    "${chat[@]}" 2> "$work/output" | grep -o '"tokens":[^]]*' > "$work/answer" || fail "chat: $(cat "$work/output")"
    faults chat : check_chat "${chat[@]}"
}

make_models 12
for stage in "${stages[@]}"; do "fault_$stage"; done
echo "$injected faults injected"
finish
