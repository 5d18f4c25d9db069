#!/usr/bin/env bash
# halter-annotations as a user runs it: files and standard input, exit codes, signals, files that cannot be written, a
# database that another process holds. With HALTER_HH_FILE set to an HH-RLHF file, that is imported too.
# Usage: annotations.sh BUILD_FOLDER
. tests/pipeline/lib.sh annotations "$1" halter-annotations
annotations=$bin/halter-annotations
cd "$work" || exit 1

everything() { for what in comparisons demonstrations prompts; do "$annotations" export --db "$1" --what $what; done; }

# --- a file, the same through a pipe, the same compressed
printf 'prompt,chosen,rejected,rating\nq1,good,bad,4\nq2,"good,\nof course",bad,\nq3,same,same,1\n' > pairs.csv
expect 0 "3 rows: 2 taken, 0 there already" "$annotations" import --db a.db --kind safety pairs.csv
expect 0 "refused 1: identical" "$annotations" import --db a.db --kind safety pairs.csv
grep -qF 'q3,same,same,1,5,rejected,"identical: ' pairs.csv.rejects.csv || fail "pairs.csv.rejects.csv: $(cat pairs.csv.rejects.csv)"
gzip -k pairs.csv
everything a.db > before
expect 0 "0 taken, 2 there already" "$annotations" import --db a.db --kind safety pairs.csv.gz
expect 0 "nothing new: the database is as it was" sh -c "'$annotations' import --db a.db --kind safety - < pairs.csv"
[ -e stdin.rejects.csv ] || fail "no stdin.rejects.csv"
everything a.db | cmp - before || fail "importing again changed the database"
[ "$(rows a.db comparison)" = 2 ] || fail "rows of comparison"

# --- only the report is on stdout
"$annotations" import --db a.db --kind safety --json pairs.csv 2> /dev/null > report.json
[ "$(head -c 1 report.json)" = "[" ] && grep -q '"refused": 1' report.json || fail "report.json: $(cat report.json)"

# --- exit codes
expect 2 "no file to import" "$annotations" import --db a.db
expect 2 "db" "$annotations" import pairs.csv
expect 3 "pairs.csv:5: \"rejected\": identical" "$annotations" import --db a.db --kind safety --strict pairs.csv
expect 4 "none.csv: cannot open" "$annotations" import --db a.db --kind safety none.csv
expect 4 "none.db" "$annotations" stats --db none.db
expect 3 "not a database" "$annotations" stats --db pairs.csv.gz
expect 0 "no damage found" "$annotations" check --db a.db
expect 4 "cannot write to stdout" sh -c "'$annotations' export --db a.db > /dev/full"

for command in stats check; do
    expect 4 "cannot write to stdout" sh -c "'$annotations' $command --db a.db > /dev/full"
done
expect 4 "cannot write the report to stdout" sh -c "'$annotations' import --db a.db --kind safety pairs.csv > /dev/full"

# --- what is refused and left out is said: the first ten rows one by one
printf '%s\n' '{"prompt": "j1", "chosen": "a", "rejected": "b", "rating": 2.0, "mood": "fine"}' '{"prompt": "j2", "chosen": "a", "rejected": "b", "rating": 2.5}' \
    '{"prompt": "j3", "chosen": true, "rejected": "b"}' > rows.jsonl
expect 0 "rows.jsonl: 1 rows have keys that mean nothing; these are left out" "$annotations" import --db j.db --kind safety --format jsonl rows.jsonl
grep -qF 'rows.jsonl:2: row refused: "rating": bad_rating: "2.5" is not 1 to 4' output || fail "a rating of 2.5: $(cat output)"
grep -qF 'rows.jsonl:3: row refused: "chosen": bad_json: neither text nor number' output || fail "an answer that is no text: $(cat output)"
{ echo prompt,chosen,rejected; for i in $(seq 12); do echo "p$i,x,x"; done; } > refused.csv
expect 0 "more rows are refused; further ones are told in the file of rejects only" "$annotations" import --db j.db --kind safety refused.csv
[ "$(grep -c 'row refused:' output)" = 10 ] || fail "not ten refusals on stderr: $(cat output)"

# --- the synthetic panel and its scores: what is missing, and rows that it cannot judge
synth=("$annotations" synth)
expect 2 "--make annotations needs --input" "${synth[@]}" --make annotations --out out.csv
expect 2 "--make annotations needs --out" "${synth[@]}" --make annotations --input pairs.csv
expect 2 "--make corpus needs --out" "${synth[@]}" --make corpus
expect 2 "--make scores needs --db" "${synth[@]}" --make scores
expect 3 'a.db: there is no model "nobody"' "${synth[@]}" --make scores --db a.db --model nobody
expect 0 "4 responses to prompts that are not of the synthetic world were left alone" "${synth[@]}" --make scores --db a.db
unjudged() { # MESSAGE ROW: a file to annotate with this row
    printf 'messages,prompt,response_a,response_b\n%b' "$2" > unjudged.csv
    expect 3 "unjudged.csv$1" "${synth[@]}" --make annotations --input unjudged.csv --out out.csv
    [ ! -e out.csv ] || fail "out.csv is there after: $1"
}
unjudged " has no rows to annotate" ""
unjudged ":2: neither prompt nor messages" ',,a,b\n'
unjudged ":2: messages: " '"[{""role"":1",,a,b\n'
unjudged ':2: unknown prompt "who": not of the synthetic world' ',who,a,b\n'
unjudged ":2: bad_quote: a quote inside a field" ',w"ho,a,b\n'
unjudged ':2: prompt "w' ',w\0377ho,a,b\n'

# --- damage
if command -v sqlite3 > /dev/null; then
    cp a.db damaged.db
    sqlite3 damaged.db "UPDATE response SET text = 'other' WHERE id = 1"
    expect 3 "response 1: its content does not have its hash" "$annotations" check --db damaged.db
    sqlite3 damaged.db "PRAGMA user_version = 2"
    expect 3 "schema version 2" "$annotations" check --db damaged.db
    sqlite3 damaged.db "PRAGMA user_version = 1; UPDATE response SET text = cast(x'ff' AS TEXT) WHERE id = 1; UPDATE dialog SET source = cast(x'ff' AS TEXT)"
    "$annotations" export --db damaged.db > exported || fail "CSV takes any text"
    expect 3 "damaged.db: comparison 1: chosen" "$annotations" export --db damaged.db --format jsonl
    grep -qF "cannot be written as JSON: not UTF-8" output || fail "not UTF-8: $(cat output)"
    expect 3 "cannot be written as JSON: not UTF-8" "$annotations" stats --db damaged.db --json
    sqlite3 damaged.db "PRAGMA ignore_check_constraints = ON; UPDATE dialog SET messages = '{' WHERE id = 1"
    expect 3 "damaged.db: dialogue 1: messages \"{\": " "$annotations" export --db damaged.db --what prompts --format jsonl
    expect 3 '"dialog 1: its content does not have its hash",' "$annotations" check --db damaged.db --json
    [ "$(sqlite3 a.db 'PRAGMA journal_mode')" = wal ] || fail "journal mode"
fi

# --- a signal in the middle of standard input: nothing is imported, and the second half can be
cp a.db s.db
mkfifo fifo
( exec 3> fifo; printf 'prompt,response\n' >&3; for i in $(seq 2000); do echo "p$i,r$i" >&3; done; touch half
  while [ -e half ]; do sleep 0.05; done; echo "last,row" >&3; sleep 0.2 ) &
writer=$!
"$annotations" import --db s.db --kind safety --quiet - < fifo > output 2>&1 &
importer=$!
while [ ! -e half ]; do sleep 0.05; done
sleep 0.2
kill -TERM "$importer"
rm -f half
wait "$importer"
[ $? -eq 143 ] || fail "SIGTERM: exit code $(cat output)"
wait "$writer" 2> /dev/null
everything s.db | cmp - before || fail "SIGTERM left rows behind"

# --- killed without warning: as it was, too
awk 'BEGIN { print "prompt,response"; for (i = 0; i < 300000; i++) printf "prompt number %d,response number %d\n", i, i }' > many.csv
"$annotations" import --db s.db --kind safety --quiet many.csv > output 2>&1 &
importer=$!
sleep 1
kill -KILL "$importer" 2> /dev/null
wait "$importer" 2> /dev/null
case $(rows s.db demonstration) in
0 | 300000) ;;
*) fail "a killed import left $(rows s.db demonstration) rows" ;;
esac
expect 0 "no damage found" "$annotations" check --db s.db

# --- two imports at once into one database: both are in it, whoever was first
head -n 20000 many.csv > one.csv
{ head -n 1 many.csv; tail -n 20000 many.csv; } > two.csv
"$annotations" import --db both.db --kind safety --quiet one.csv > /dev/null 2> one.err &
first=$!
"$annotations" import --db both.db --kind safety --quiet two.csv > /dev/null 2> two.err &
second=$!
wait "$first" || fail "first of two imports: $(cat one.err)"
wait "$second" || fail "second of two imports: $(cat two.err)"
[ "$(rows both.db demonstration)" = 39999 ] || fail "two imports: $(rows both.db demonstration) rows"
expect 0 "no damage found" "$annotations" check --db both.db

# --- real data
if [ -n "${HALTER_HH_FILE:-}" ]; then
    cp "$HALTER_HH_FILE" hh.gz
    expect 0 "1500 rows: 1490 taken, 0 there already, 0 dropped (chosen unsafe, rejected safe), 10 refused" \
        "$annotations" import --db hh.db --format hh --kind safety hh.gz
    expect 0 "no damage found" "$annotations" check --db hh.db
else
    echo "not run: HALTER_HH_FILE is not set"
fi
finish
