#!/usr/bin/env bash
# Calls that change files fail once, or take half of what they are given; so do reads; allocations fail once: the program says so
# with the right exit code, leaves nothing half-written, and the same command then does its work as if nothing had been.
# Usage: faults.sh BUILD_FOLDER [TIMES]: each kind of fault at TIMES calls spread over the run (6; 0: at every call)
. tests/pipeline/lib.sh faults "$1" halter-annotations halter-sft halter-chat
times=${2:-6}
supervise=$1/tests/fault_supervise
failing_malloc=$(cd "$1" && pwd)/tests/libfailing_malloc.so
"$supervise" count 0 /bin/true 2> /dev/null
[ $? -ne 77 ] || { echo "skipped: the kernel does not let a process watch another's system calls"; exit 77; }
injected=0
memory=memory
! ldd "$bin/halter-sft" | grep -q libasan || memory= # the sanitizer has its own malloc

# inject ACTION N COMMAND...: with the N-th call failing; N = 0: none. The last line says how many there were.
inject() {
    if [ "$1" = memory ]; then
        LD_PRELOAD=$failing_malloc HALTER_FAIL_ALLOCATION=$2 "${@:3}"
    else
        "$supervise" "$@"
    fi > "$work/output" 2>&1
}

# faults NAME RESET CHECK ACTIONS COMMAND...: RESET makes all as it was before; CHECK N looks at what a failed run left, and does the
# command again
faults() {
    local name=$1 reset=$2 check=$3 action calls n step code said
    local command=("${@:5}")
    for action in $4; do
        $reset
        inject "$action" 0 "${command[@]}" || { fail "$name: $(cat "$work/output")"; return; }
        calls=$(sed -n -E 's/^(supervise|failing_malloc): ([0-9]+) .*/\2/p' "$work/output")
        step=$((times ? calls / times + 1 : 1))
        for ((n = 1 + calls % step; n <= calls; n += step)); do
            $reset
            inject "$action" $n "${command[@]}"
            code=$?
            injected=$((injected + 1))
            said=$(grep -c 'error: ' "$work/output")
            case $code in
            0) [ "$said" -eq 0 ] || fail "$name, $action $n: an error that is none: $(cat "$work/output")" ;;
            3 | 4 | 5) [ "$said" -eq 1 ] || fail "$name, $action $n: $said error messages: $(cat "$work/output")" ;;
            127) [[ $action = read-* ]] || fail "$name, $action $n: $(cat "$work/output")" ;; # its libraries could not be read
            *) fail "$name, $action $n: exit code $code: $(tail -n 3 "$work/output")" ;;
            esac
            $check "$name, $action $n, exit code $code" $code
            [ $failures -le 3 ] || return
        done
    done
}

# no_leftovers FOLDER TEXT: nothing that was to be renamed
no_leftovers() {
    local left
    left=$(find "$1" -name '*.tmp-*' | head -n 1)
    [ -z "$left" ] || fail "$2: $left is left"
}

# --- import
awk 'BEGIN { print "prompt,chosen,rejected,rating"; for (i = 0; i < 60; i++) printf "p%d,good %d,bad %d,%d\n", i, i, i, i % 4 + 1; print "q,same,same,1" }' > "$work/pairs.csv"
mkdir "$work/db"
import=("$bin/halter-annotations" import --db "$work/db/p.db" --kind helpfulness --quiet --rejects "$work/db/rejects.csv" "$work/pairs.csv")
reset_import() { rm -rf "$work/db" && mkdir "$work/db"; }
check_import() {
    local got=none
    no_leftovers "$work/db" "$1"
    if [ -s "$work/db/p.db" ]; then
        expect 0 "no damage found" "$bin/halter-annotations" check --db "$work/db/p.db"
        got=$(rows "$work/db/p.db" comparison)
    fi
    case $2,$got in 0,60 | [345],none | [345],0 | [345],60 | 127,none) ;; *) fail "$1: $got rows" ;; esac
    expect 0 "61 rows" "${import[@]}"
    [ "$(rows "$work/db/p.db" comparison)" = 60 ] || fail "$1: another import does not make up for it"
}
faults import reset_import check_import "no-space io-error short read-error read-short $memory" "${import[@]}"

# --- training: tokenizer, states, metrics, model folder; then reading it all
awk 'BEGIN { split("the llama walks over a hill and eats grass while birds sing in old trees near water", w, " ");
    for (d = 0; d < 60; d++) { line = ""; for (i = 0; i < 8 + d % 9; i++) line = line w[(d * 7 + i * i * 3 + i) % 17 + 1] " "; print line "." } }' > "$work/text.txt"
train=("$bin/halter-sft" --config tests/pipeline/sft-pretrain.yaml --text "$work/text.txt" --threads 1 --out "$work/model" --resume
    --set data.max_steps=2 --set train.save_every=1 --set train.eval_every=0)
expect 0 "model in" "${train[@]}"
cp -r "$work/model" "$work/whole"
reset_training() { rm -rf "$work/model"; }
check_training() {
    local file
    # a model that is complete is whole; what is not complete is refused
    if "$bin/halter-chat" --model "$work/model" --template none --prompt the --no-sample --max-new-tokens 1 --threads 1 > /dev/null 2>&1; then
        cmp -s "$work/model/model.safetensors" "$work/whole/model.safetensors" || fail "$1: the model is not whole"
    elif [ "$2" -eq 0 ]; then
        fail "$1: there is no model"
    fi
    expect 0 "model" "${train[@]}"
    for file in model.safetensors config.json tokenizer.model metrics.jsonl generation_config.json; do
        cmp "$work/model/$file" "$work/whole/$file" || fail "$1: $file differs"
    done
    no_leftovers "$work/model" "$1"
}
faults training reset_training check_training "no-space io-error short $memory" "${train[@]}"

chat=("$bin/halter-chat" --model "$work/whole" --template none --prompt "the llama" --no-sample --max-new-tokens 4 --threads 1 --quiet)
"${chat[@]}" > "$work/answer" 2> /dev/null
check_chat() { [ "$2" -ne 0 ] || cmp -s <(grep -vE '^(supervise|failing_malloc): ' "$work/output") "$work/answer" || fail "$1: another answer: $(cat "$work/output")"; }
faults chat : check_chat "read-error read-short $memory" "${chat[@]}"

echo "$injected faults injected"
finish
