# lib.sh: what the pipeline tests share. Sourced: `. tests/pipeline/lib.sh NAME BUILD_FOLDER PROGRAM...` skips the test when a program is
# not built, and sets $work (a folder removed at the end) and $bin; the last line of a test is `finish`.
set -u
name=$1
bin=$(cd "$2" && pwd)/bin
shift 2
for program in "$@"; do
    [ -x "$bin/$program" ] || { echo "skipped: $program is not built"; exit 77; }
done
work=$(mktemp -d "/tmp/halter-$name-XXXXXX")
trap 'rm -rf "$work"' EXIT
failures=0

fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

# expect CODE TEXT COMMAND...: the command's exit code, and a text on stderr or stdout
expect() {
    local code=$1 text=$2 got
    shift 2
    "$@" > "$work/output" 2>&1
    got=$?
    if [ $got -ne "$code" ] || ! grep -qF -- "$text" "$work/output"; then
        fail "wanted exit code $code and \"$text\", got $got: $*"
        tail -n 5 "$work/output"
    fi
}

# number FILE KEY [N]: the N-th number (the first) of that key in a JSON file
number() { grep -oE "\"$2\": *[-0-9.e+]+" "$1" | sed -n "${3:-1}s/.*: *//p"; }

# holds EXPRESSION TEXT: an awk expression that must be true
holds() { awk "BEGIN { exit !($1) }" || fail "$2: $1"; }

# same FOLDER_A FOLDER_B: the files that must not depend on where a run was stopped
same() {
    local file
    for file in model.safetensors config.json metrics.jsonl; do
        cmp "$1/$file" "$2/$file" || fail "$file differs between $1 and $2"
    done
    [ ! -e "$2/state" ] || fail "$2/state is left"
}

# losses_alike FOLDER_A FOLDER_B [TOLERANCE]: of two runs, relative, or absolute below 1; the tolerance of f32 operations, 1e-5, if none is given
losses_alike() {
    paste <(grep -o '"[a-z_]*loss":[^,}]*' "$1/metrics.jsonl") <(grep -o '"[a-z_]*loss":[^,}]*' "$2/metrics.jsonl") | tr ':' '\t' |
        awk -v most="${3:-1e-5}" '{ d = $2 - $4; if ($1 != $3 || ($2 == "null") != ($4 == "null") || d ^ 2 > most ^ 2 * (1 + $2 ^ 2)) { print; wrong = 1 } }
            END { exit !NR || wrong }' > "$work/apart" || fail "losses of $1 and $2: $(head -n 1 "$work/apart")"
}

# signal_at SIGNAL FOLDER STEP COMMAND...: runs until metrics.jsonl has the row of STEP, then sends the signal; $code is the
# exit code. A run that had its model before the signal came is done again. The signal goes to the process whose number is in the file
# $pid_file, where that is set.
signal_at() {
    local signal=$1 folder=$2 step=$3 pid try
    shift 3
    for try in {1..20}; do
        rm -rf "$folder"
        "$@" --out "$folder" > "$work/output" 2>&1 &
        pid=$!
        while kill -0 $pid 2> /dev/null && ! grep -q "\"step\":$step," "$folder/metrics.jsonl" 2> /dev/null; do
            sleep 0.002
        done
        kill "-$signal" "$(cat "${pid_file:-/dev/null}" 2> /dev/null | grep . || echo $pid)" 2> /dev/null
        wait $pid 2> /dev/null
        code=$?
        [ $code = 0 ] || [ -e "$folder/halter.json" ] || return 0
    done
    fail "20 runs ended before SIG$signal came at step $step: $*"
}

# kill_at FOLDER STEP COMMAND...: the same, killed without warning
kill_at() { signal_at KILL "$@"; }

# rows DATABASE TABLE: how many rows a table has
rows() { "$bin/halter-annotations" stats --db "$1" | sed -n "s/^$2: //p"; }

# small_data: $work/pairs.csv, 36 comparisons of which a quarter is held out, and the same as plain text, $work/text.txt
small_data() {
    awk 'BEGIN { print "prompt,chosen,rejected,rating,safety,kind,split"; split("one two three four five six", w, " ");
        for (d = 0; d < 36; d++) { a = w[d % 6 + 1] " " w[int(d / 6) + 1]; kind = d % 3 ? "helpfulness" : "safety";
            printf "say %s,kindly said %s please,shouting %s,%d,%s,%s,%s\n", a, a, a, d % 4 + 1, d % 3 ? "" : "chosen_safe", kind, d % 4 ? "train" : "test" } }' \
        > "$work/pairs.csv"
    tail -n +2 "$work/pairs.csv" | tr ',' ' ' > "$work/text.txt"
}

# spoil FOLDER: makes some weights of the model there no numbers, in the middle: those of a layer
spoil() { printf '\377%.0s' {1..64} | dd of="$1/model.safetensors" bs=1 conv=notrunc seek=$(($(stat -c %s "$1/model.safetensors") / 2)) 2> /dev/null; }

finish() {
    [ $failures -eq 0 ] && echo "$name: all as expected"
    exit $((failures > 0))
}
