#!/usr/bin/env bash
# One database and many processes: eight that import and read at once lose nothing, and none sees half of a batch; an import
# that is killed at any moment leaves all of what it was given or nothing.
# Usage: database.sh BUILD_FOLDER
. tests/fault/lib.sh database "$1" halter-annotations
annotations=$bin/halter-annotations
rows=200
cd "$work" || exit 1

# batch NAME: a file of comparisons; prompts are shared by all batches
batch() {
    awk -v b="$1" -v n=$rows 'BEGIN { print "prompt,chosen,rejected,rating,batch";
        for (i = 0; i < n; i++) printf "prompt %d,good answer %d of %s,bad answer %d,%d,%s\n", i, i, b, i, i % 4 + 1, b }' > "$1.csv"
}
for b in a b c d e f; do batch $b; done

# batches DATABASE: how many rows each batch has
batches() { "$annotations" export --db "$1" --what comparisons 2> /dev/null | sed '1d' | grep -oE '"[a-f]"' | sort | uniq -c; }

# --- six importers and two readers; all six begin with a database that does not exist yet
importers=()
for b in a b c d e f; do
    "$annotations" import --db p.db --kind helpfulness --quiet $b.csv > $b.out 2>&1 &
    importers+=($!)
done
# reader NAME: until all is there, each batch has all of its rows or none
reader() {
    local seen
    while [ ! -e stop ]; do
        seen=$(batches p.db | awk -v n=$rows '$1 != n')
        [ -z "$seen" ] || echo "$seen" >> "$1.torn"
    done
}
reader r1 & readers=($!)
reader r2 & readers+=($!)
for pid in "${importers[@]}"; do wait "$pid" || fail "an importer failed: $(cat ./*.out)"; done
touch stop
wait "${readers[@]}"
for torn in *.torn; do [ ! -e "$torn" ] || fail "a reader saw $(head -n 1 "$torn") rows of a batch of $rows"; done
[ "$(batches p.db | awk '{ n += $1 } END { print n }')" = $((6 * rows)) ] || fail "rows were lost: $(batches p.db)"
[ "$(rows p.db dialog)" = $rows ] || fail "prompts: $(rows p.db dialog), not $rows"
expect 0 "no damage found" "$annotations" check --db p.db

# --- a database that four processes create at once, again and again: what one finds half done is another's work
head -n 2 a.csv > one.csv
for round in {1..25}; do
    importers=()
    for k in 1 2 3 4; do
        "$annotations" import --db "new$round.db" --kind helpfulness --quiet one.csv > $k.out 2>&1 &
        importers+=($!)
    done
    for pid in "${importers[@]}"; do wait "$pid" || fail "creating at once: $(cat [1-4].out)"; done
    [ "$(rows "new$round.db" comparison)" = 1 ] || fail "created at once: $(rows "new$round.db" comparison) rows, not 1"
done

# --- waiting is said and counted, and a signal ends it
if command -v sqlite3 > /dev/null; then
    mkfifo hold
    sqlite3 p.db < hold > /dev/null &
    holder=$!
    exec 3> hold
    printf 'BEGIN IMMEDIATE;\n.shell touch held\n' >&3
    while [ ! -e held ]; do sleep 0.01; done
    "$annotations" import --db p.db --kind helpfulness --verbose a.csv > wait.out 2>&1 &
    importer=$!
    until grep -q "another process is changing it" wait.out; do sleep 0.01; done
    kill -TERM $importer
    wait $importer
    [ $? -ne 0 ] || fail "an import into a held database ended well"
    grep -q "times again while other processes were changing it" wait.out || fail "tries are not counted: $(cat wait.out)"
    exec 3>&-
    wait $holder
fi

# --- an import killed on the way: two files are one transaction
if can_supervise; then
    import=("$annotations" import --db k.db --kind helpfulness --quiet a.csv b.csv)
    "$supervise" count 0 "${import[@]}" > output 2>&1 || fail "import: $(cat output)"
    calls=$(sed -n 's/^supervise: \(.*\) calls$/\1/p' output)
    batches k.db > whole
    for i in {0..24}; do
        n=$((1 + i * (calls - 1) / 24)) action=kill
        [ $((i % 2)) -eq 0 ] || action=tear
        rm -f k.db*
        "$supervise" $action $n "${import[@]}" > output 2>&1
        [ $? -eq 137 ] || fail "$action $n: not killed"
        batches k.db > seen
        [ ! -s seen ] || cmp -s seen whole || fail "$action $n: $(cat seen)"
        [ ! -s k.db ] || expect 0 "no damage found" "$annotations" check --db k.db
        expect 0 "rows" "${import[@]}"
        batches k.db | cmp - whole || fail "$action $n: a repeated import"
    done
    echo "25 kills among $calls calls"
else
    echo "not run: the kernel does not let a process watch another's system calls"
fi
finish
