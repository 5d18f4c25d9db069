#!/usr/bin/env bash
# What README.md and docs/ tell a reader to type works, and what they name is there. Every line of their ```sh blocks is run as it stands, in a folder
# with miniature files under the names that the pages use; what README.md leaves behind is what the other pages begin with. `make`, cmake, tar, python, pip,
# bench/run, tests/fuzz/run and what needs a GPU are not run: the targets and files they name must exist. Every option, key, program and file that a page names must exist, too.
# Usage: docs.sh BUILD_FOLDER
. tests/pipeline/lib.sh docs "$1" halter-annotations halter-sft halter-reward halter-rejection halter-ppo halter-evaluate halter-chat halter-rounds
root=$PWD
reports=$work/reports # a line a finding
export root bin reports
unset MAKEFLAGS MAKELEVEL

# --- files under the names of the pages
cat > "$work/miniature.sh" << 'END'
# usage: miniature.sh; in the folder to fill
words() { awk "BEGIN { split(\"one two three four five six seven eight nine ten\", w, \" \"); $1 }"; }
words 'print "prompt,response,kind,split"; for (d = 0; d < 30; d++) printf "say %s %s,kindly said %s,%s,%s\n", w[d % 10 + 1], w[int(d / 10) + 1],
    w[d % 10 + 1], d % 3 ? "helpfulness" : "safety", d % 6 == 5 ? "test" : "train"' > demonstrations.csv
words 'print "prompt,kind,split"; for (d = 0; d < 20; d++) printf "count %s %s,%s,%s\n", w[d % 10 + 1], w[int(d / 10) + 3],
    d % 2 ? "helpfulness" : "safety", d % 5 == 4 ? "test" : "train"' > prompts.csv
words 'print "prompt,chosen,rejected,rating,split"; for (d = 0; d < 40; d++) printf "tell %s %s,kindly told %s,no %s,%d,%s\n", w[d % 10 + 1],
    w[int(d / 10) + 1], w[d % 10 + 1], w[int(d / 10) + 1], d % 4 + 1, d % 4 == 3 ? "test" : "train"' > helpful-comparisons.csv
sed 's/^tell/name/' helpful-comparisons.csv > annotated.csv
words 'for (d = 0; d < 80; d++) printf "{\"chosen\": \"\\n\\nHuman: hide %s %s\\n\\nAssistant: no %s\", \"rejected\": \"\\n\\nHuman: hide %s %s\\n\\nAssistant: yes %s\"}\n",
    w[d % 10 + 1], w[int(d / 10) + 1], w[d % 10 + 1], w[d % 10 + 1], w[int(d / 10) + 1], w[d % 10 + 1]' > pairs.jsonl
gzip -c pairs.jsonl > hh-harmless.jsonl.gz
printf 'prompt,chosen,rejected,rating,safety\n"Name a colour.\nOne word.",Blue.,I would rather not.,better,\npick,no,take a pick,4,chosen_safe\n' > pairs.csv
printf 'id,messages,kind,response_a,response_b,choice,rating,safety,annotator\n1,"[{""role"":""user"",""content"":""what is the opposite of tall?""}]",helpfulness,short.,"sorry, i cannot help with that.",,,,\n' \
    > to-annotate.csv
printf '{"prompt": "say one"}\n{"messages": [{"role": "user", "content": "say two"}], "id": 7}\n' > questions.jsonl
{ tail -n +2 demonstrations.csv; tail -n +2 helpful-comparisons.csv; } | tr ',' ' ' > corpus.txt
# every configuration there is, at miniature size; those of rounds are for dry runs
for real in "$root"/configs/*/*.yaml; do
    config=${real#"$root/"}
    mkdir -p "${config%/*}"
    case ${config##*/} in
    sft*) echo 'data: {seq_len: 64, batch_size: 4, epochs: 1}' ;;
    *pretrain*) echo 'init: {dim: 16, layers: 1, heads: 2, max_positions: 2048, vocab_size: 300}
data: {documents: line, seq_len: 64, batch_size: 4, epochs: 2}' ;;
    *reward*) echo "reward: {kind: $(grep -q 'kind: safety' "$real" && echo safety || echo helpfulness)}
data: {batch_size: 8}" ;;
    rejection*) echo 'prompts: 8
sample: {k: 2, max_new_tokens: 8}
choose: {truncated: true}' ;;
    ppo*) echo 'ppo: {iterations: 2, batch: 4, mini_batch: 2, max_new_tokens: 8, eval_prompts: 4}
data: {max_prompt_tokens: 64}' ;;
    *) cat "$real" ;;
    esac > "$config"
done
halter-sft --config configs/tiny/pretrain.yaml --text corpus.txt --out llama-2-7b
END

# --- running a page
# Loaded by the shell that runs a page: reports commands that fail, and stands in for what is not run.
cat > "$work/prelude.sh" << 'END'
PATH=$bin:$PATH
set -o pipefail
trap 'echo "$page:$LINENO: exit code $?: $BASH_COMMAND" >> "$reports"' ERR
make() {
    command make -n -C "$root" "$@" > /dev/null || return
    local argument
    for argument; do
        case $argument in
        CONFIG=*) [ -f "$root/${argument#*=}/rounds.yaml" ] || return ;;
        *=*) grep -qE "^ifeq .\\$.${argument%%=*}.|^${argument%%=*} *\\?=|[{]${argument%%=*}:-" "$root/Makefile" "$root/bench/run" || return ;;
        esac
    done
}
checked() {
    local argument
    for argument; do
        case $argument in
        *.py | *.yaml | *requirements*.txt) [ -f "$root/$argument" ] || return ;;
        esac
    done
}
for script in bench/run bench/gpu tests/gpu/run tests/fuzz/run; do eval "$script() { [ -x '$root/$script' ]; }"; done
for program in cmake ctest tar python python3 pip venv/bin/python venv/bin/pip; do eval "$program() { checked \"\$@\"; }"; done
command -v jq > /dev/null || jq() { cat "${@: -1}"; } # no package that building needs; any text serves
command -v mpirun > /dev/null || mpirun() { "${@:3}"; } # -n N PROGRAM...: once
END

# run_page PAGE FOLDER: runs the page's commands there; the script has the page's line numbers
run_page() {
    awk '/^```/ { on = $0 == "```sh"; print ""; next } { print on ? $0 : "" }' "$1" > "$work/page.sh"
    (cd "$2" && page=$1 BASH_ENV=$work/prelude.sh bash "$work/page.sh") < /dev/null > "$work/output" 2>&1
    bash -n "$work/page.sh" 2>> "$reports"
    return 0
}

# --- what a page names
helps() { # every program's help, and those of its commands
    local program command
    for program in "$bin"/halter-*; do
        "$program" --help
        for command in $("$program" --help | awk '/^Commands:/ { on = 1; next } /^$/ { on = 0 } on { print $1 }'); do
            "$program" "$command" --help
        done
    done
}
helps | sed -E 's/--\[no-\]([a-z-]+)/--\1 --no-\1/' > "$work/help"
{ grep -oE -- '--[a-z][a-z-]+' "$work/help"; printf '%s\n' --mca --map-by --mpi --kill-on-bad-exit; } | sort -u > "$work/options" # the last are launchers'
grep -oE '^  [a-z]+\.[a-z0-9_]+' "$work/help" | tr -d ' ' | sort -u > "$work/keys"
sections=$(cut -d. -f1 "$work/keys" | sort -u | paste -sd '|')

# names PAGE PATTERN: what matches in it, each once
names() { grep -oE -- "$2" "$1" | sort -u; }

check_names() {
    local page=$1 name
    names <(grep -v '^cmake ' "$page") '(^|[^-a-z])--[a-z][a-z-]+' | sed 's/^[^-]*//' | grep -vxFf "$work/options" | sed "s|^|$page: no option |"
    names "$page" "(^|[^a-z./_-])($sections)\.[a-z][a-z0-9_]+" | sed 's/^[^a-z]//' | grep -vE '\.(yaml|json|jsonl|md|sh|csv|db|txt|h|c)$' |
        grep -vxFf "$work/keys" | sed "s|^|$page: no key |"
    for name in $(names "$page" '(^|[^a-z./-])halter-[a-z]+' | sed 's/^[^h]//'); do
        [ -x "$bin/$name" ] || echo "$page: no program $name"
    done
    for name in $(names "$page" '(^|[^a-zA-Z/_-])(annotations|bench|chat|configs|core|docs|evaluate|ppo|rejection|reward|rounds|sft|tests|tools)/[a-z0-9_/.-]*[a-z0-9_/]' |
        sed 's/^[^a-z]//') $(names "$page" '(^|[^a-zA-Z0-9/_-])[a-z-]+\.md' | sed -E 's|^[^a-z]*|docs/|'); do
        [ -e "$name" ] || [ -e "${name#docs/}" ] || echo "$page: no file $name"
    done
    for name in $(names "$page" '\]\([^):#]+' | sed 's/^](//'); do
        [ -e "${page%/*}/$name" ] || [ -e "$name" ] || echo "$page: no file $name behind a link"
    done
    # a command stands in a block that is run; a synopsis with placeholders, in one that is not
    awk -v page="$page" '/^```/ { fence = !fence } !fence && /^(    |\t)(\$ )?(halter-|make |cmake |sqlite3 |pip |python)/ { print page ":" NR ": a command outside of a sh block" }
        /^```(bash|shell|console)/ { print page ":" NR ": a block of commands is called sh" }' "$page"
}

# --- the test notices what is wrong
mkdir "$work/planted" && : > "$reports"
cat > "$work/planted.md" << 'END'
Prose with `--no-such-option`, `optim.lrr`, halter-nothing, `core/none.c`, none.md and [a link](none/none.md).

    halter-sft --help
```sh
halter-sft --help                 # right
halter-sft --no-such-option
make nothing
make round M=3
false | cat
```
END
run_page "$work/planted.md" "$work/planted"
[ "$(cut -d: -f2 "$reports" | paste -sd ' ')" = "6 7 8 9" ] || fail "planted commands: reported are $(cat "$reports")"
check_names "$work/planted.md" > "$work/found"
for text in "no option --no-such-option" "no key optim.lrr" "no program halter-nothing" "no file core/none.c" "no file docs/none.md" "none/none.md behind a link" \
    ":3: a command outside"; do
    grep -qF "$text" "$work/found" || fail "not noticed: $text"
done

# --- the pages
: > "$reports"
mkdir "$work/start"
(cd "$work/start" && PATH=$bin:$PATH bash -e "$work/miniature.sh") > "$work/output" 2>&1 || { fail "preparing: $(tail -n 5 "$work/output")"; finish; }
for page in README.md docs/*.md; do
    folder=$work/start
    if [ "$page" != README.md ]; then
        folder=$work/folder
        rm -rf "$folder" && cp -r "$work/start" "$folder"
    fi
    before=$(wc -l < "$reports")
    run_page "$page" "$folder"
    [ "$(wc -l < "$reports")" -eq "$before" ] || { echo "--- $page ends with"; tail -n 20 "$work/output"; }
    if [ "$page" = README.md ]; then mkdir -p "$folder/runs/demo" && cp -r "$folder/sft" "$folder/runs/demo/sft"; fi
    check_names "$page" >> "$reports"
done
# docs/formats.md has a row a table, with its columns
for table in $(sqlite3 "$work/start/my.db" "SELECT name FROM sqlite_schema WHERE type = 'table'"); do
    row=$(grep -F "| \`$table\` |" docs/formats.md)
    for column in $(sqlite3 "$work/start/my.db" "SELECT name FROM pragma_table_xinfo('$table') WHERE name <> 'id'"); do
        [[ $row == *"\`$column\`"* ]] || echo "docs/formats.md: table $table has a column $column" >> "$reports"
    done
done
# docs/chat.md lists the options of its program
for option in $("$bin/halter-chat" --help | sed -nE 's/^  --(\[no-\])?([a-z-]+).*/--\2/p' | grep -vxE -- '--(config|set|verbose|quiet|help|version)'); do
    grep -qF -- "$option" docs/chat.md || echo "docs/chat.md: $option is missing" >> "$reports"
done
# the configurations that the miniature ones stand for: their programs take every key and value, and get as far as the missing files
missing=(--model "$work/missing" --db "$work/missing.db" --out "$work/none")
for config in configs/*/*.yaml; do
    case ${config##*/} in
    *pretrain*) expect 4 "missing" "$bin/halter-sft" --config "$config" --text "$work/missing.txt" --out "$work/none" ;;
    sft*) expect 4 "missing" "$bin/halter-sft" --config "$config" "${missing[@]}" ;;
    *reward*) expect 4 "missing" "$bin/halter-reward" train --config "$config" "${missing[@]}" ;;
    rejection* | ppo*) stage=${config##*/} && expect 4 "missing" "$bin/halter-${stage%.yaml}" --config "$config" "${missing[@]}" --helpful missing --safe missing ;;
    *) expect 0 "halter-ppo" "$bin/halter-rounds" --config "$config" --run "$work/none" --base missing --import missing.csv --dry-run ;;
    esac
done
while read -r line; do fail "$line"; done < "$reports"
finish
