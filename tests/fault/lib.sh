# lib.sh: what the fault tests share. Sourced like tests/pipeline/lib.sh, which it begins with; sets $supervise.
. tests/pipeline/lib.sh "$@"
supervise=$(cd "$2" && pwd)/tests/fault_supervise

# can_supervise: whether the kernel lets one process watch another's system calls
can_supervise() {
    "$supervise" count 0 /bin/true 2> /dev/null
    [ $? -ne 77 ]
}

# make_models ROWS: $work/fresh.db with as many comparisons (36 at most) and as many demonstrations; $work/text.txt; the model folders
# $work/policy, helpful and safe.
# $reward is the command that trains a reward model, but for its kind, database and output folder.
make_models() {
    small_data
    sed -i "$(($1 + 1))q" "$work/pairs.csv"
    awk -F, 'NR == 1 { print "prompt,response,split" } NR > 1 { print $1 "," $2 "," $7 }' "$work/pairs.csv" > "$work/demonstrations.csv"
    expect 0 "$1 taken" "$bin/halter-annotations" import --db "$work/fresh.db" "$work/pairs.csv"
    expect 0 "$1 taken" "$bin/halter-annotations" import --kind helpfulness --db "$work/fresh.db" "$work/demonstrations.csv"
    expect 0 "model in" "$bin/halter-sft" --config tests/pipeline/sft-pretrain.yaml --text "$work/text.txt" --threads 1 --out "$work/policy" \
        --set data.epochs=2
    reward=("$bin/halter-reward" train --config tests/pipeline/reward-train.yaml --model "$work/policy" --threads 1
        --set data.epochs=1 --set reward.own_share=1)
    expect 0 "model in" "${reward[@]}" --db "$work/fresh.db" --set reward.kind=helpfulness --out "$work/helpful"
    expect 0 "model in" "${reward[@]}" --db "$work/fresh.db" --set reward.kind=safety --out "$work/safe"
}

# content DATABASE: the rows that a run leaves. A run that was killed before its folder noted it, or after its end, has one beside it
# that says nothing, or the same.
content() {
    sqlite3 "$1" "SELECT DISTINCT r.stage, name, step, quote(value) FROM metric JOIN run r ON r.id = run_id ORDER BY 1, 2, 3;
        SELECT id, dialog_id, model_id, text, quote(tokens), round, step, temperature, top_p, seed, k, quote(logprob), finish FROM response ORDER BY id;
        SELECT response_id, model_id, quote(value) FROM score ORDER BY 1, 2;
        SELECT dialog_id, response_id, origin, round, weight FROM demonstration ORDER BY id;
        SELECT id, name, hash, stage, round, parent_id FROM model ORDER BY id;
        SELECT model_id, name, quote(value) FROM evaluation ORDER BY 1, 2;
        SELECT DISTINCT stage, round, model_id, result_id, outcome FROM run WHERE outcome = 'success' ORDER BY 1, 2, 3" | sed "s,$work/[a-z]*,,g"
}
