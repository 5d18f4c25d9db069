#!/usr/bin/env bash
# Several ranks with the real programs at miniature size: the results of one rank to rounding, the same bits every time, also
# when a rank was killed and the run resumed; and that nobody waits for a rank that has failed, was killed, or was asked to stop.
# Usage: parallel.sh BUILD_FOLDER
. tests/pipeline/lib.sh parallel "$1" halter-ppo halter-rejection halter-reward halter-sft halter-annotations halter-chat halter-evaluate
command -v mpirun > /dev/null || { echo "skipped: mpirun is not here"; exit 77; }
mpirun -n 2 "$bin/halter-sft" --text none --out "$work/none" 2>&1 | grep -q "MPI is not built into" && { echo "skipped: MPI is not built in"; exit 77; }

# start RANKS COMMAND...: under mpirun, with the options $mpi; each rank notes its process in $work/pid.RANK, and mpirun's in $work/pid.mpirun
mpi=()
start() {
    local ranks=$1
    shift
    # shellcheck disable=SC2016 # the ranks' shell expands it
    mpirun "${mpi[@]}" -n "$ranks" bash -c 'echo $$ > "$0/pid.${OMPI_COMM_WORLD_RANK:-$PMI_RANK}"; echo $PPID > "$0/pid.mpirun"; exec "$@"' "$work" "$@"
}

# each_ends CODE TEXT COMMAND...: two ranks, of which each ends with that exit code and none is ended by mpirun; a text that is said once.
# (mpirun ends what there is of the other as soon as one has failed: each waits until both codes are written.)
each_ends() {
    local code=$1 text=$2
    shift 2
    rm -f "$work"/code.*
    # shellcheck disable=SC2016
    expect "$code" "$text" start 2 bash -c '"$@"; code=$?; echo $code > "$0/code.${OMPI_COMM_WORLD_RANK:-$PMI_RANK}"
        for _ in {1..3000}; do [ -s "$0/code.0" ] && [ -s "$0/code.1" ] && break; sleep 0.01; done; exit $code' "$work" "$@"
    [ "$(cat "$work/code.0" "$work/code.1")" = "$code"$'\n'"$code" ] || fail "exit codes $(cat "$work"/code.*) of two ranks, not $code: $*"
    [ "$(grep -cF -- "$text" "$work/output")" -eq 1 ] || fail "\"$text\" is said $(grep -cF -- "$text" "$work/output") times"
}

# numbers FILE: the weights of a model.safetensors in f32, one a line
numbers() { od -An -v -t f4 -w4 -j $((8 + $(od -An -t u8 -N 8 "$1"))) "$1"; }

# alike FOLDER_A FOLDER_B: what two numbers of ranks make of one run. Every update rounds gradient, both moments and weight: the weights
# may be that many units of 2^-24 apart (in 2-norm, relative).
alike() {
    local steps
    steps=$(sed -n '$s/^{"step":\([0-9]*\),.*/\1/p' "$1/metrics.jsonl")
    paste <(numbers "$1/model.safetensors") <(numbers "$2/model.safetensors") |
        awk -v steps="$steps" '{ apart += ($1 - $2) ^ 2; all += $1 ^ 2 } END { print sqrt(apart / all); exit !(apart / all <= (4 * steps * 2 ^ -24) ^ 2) }' \
            > "$work/apart" || fail "weights of $1 and $2 are $(cat "$work/apart") apart after $steps steps"
    losses_alike "$1" "$2"
    for key in tokens targets examples pairs labelled; do
        [ "$(grep -o "\"$key\":[^,}]*" "$1/metrics.jsonl")" = "$(grep -o "\"$key\":[^,}]*" "$2/metrics.jsonl")" ] || fail "$key of $1 and $2"
    done
}

# --- data and models of one rank
small_data
expect 0 "36 taken" "$bin/halter-annotations" import --db "$work/p.db" "$work/pairs.csv"
sft=("$bin/halter-sft" --config tests/pipeline/sft-pretrain.yaml --text "$work/text.txt" --threads 1)
reward=("$bin/halter-reward" train --config tests/pipeline/reward-train.yaml --db "$work/p.db" --model "$work/sft-1" --threads 1
    --set reward.own_share=1 --set train.save_every=1)
ppo=("$bin/halter-ppo" --config tests/pipeline/ppo.yaml --db "$work/p.db" --model "$work/sft-1" --helpful "$work/helpful" --safe "$work/reward-1"
    --threads 1)
expect 0 "model in" "${sft[@]}" --out "$work/sft-1"
expect 0 "model in" "${reward[@]}" --out "$work/reward-1"
expect 0 "model in" "${reward[@]}" --set reward.kind=helpfulness --set data.epochs=1 --out "$work/helpful"
expect 0 "model in" "${ppo[@]}" --out "$work/ppo-1"

# --- two ranks: one rank's result, the same bits every time, also after a kill and a resume; only rank 0 speaks
stage() { # NAME STEP RANK COMMAND...: killed when the row of STEP is there
    local name=$1 step=$2 rank=$3
    shift 3
    expect 0 "2 ranks, 1 threads each" start 2 "$@" --out "$work/$name-2"
    [ "$(grep -c "model in" "$work/output")" -eq 1 ] || fail "$name: said $(grep -c "model in" "$work/output") times"
    alike "$work/$name-1" "$work/$name-2"
    expect 0 "model in" start 2 "$@" --out "$work/$name-again"
    same "$work/$name-2" "$work/$name-again"
    pid_file=$work/pid.$rank kill_at "$work/$name-killed" "$step" start 2 "$@"
    [ "$code" -eq 137 ] || fail "$name: exit code $code after rank $rank was killed"
    grep -q "rank $rank.* signal 9" "$work/output" || fail "$name: nobody says that rank $rank was killed"
    expect 0 "going on from step" start 2 "$@" --out "$work/$name-killed" --resume
    same "$work/$name-2" "$work/$name-killed"
}
stage sft 12 1 "${sft[@]}"
stage reward 3 0 "${reward[@]}"
stage ppo 6 1 "${ppo[@]}"
samples() { sqlite3 "$work/p.db" 'select count(*) from response where step is not null'; }
before=$(samples)
expect 0 "model in" start 2 "${ppo[@]}" --out "$work/ppo-samples"
[ $(($(samples) - before)) -eq 12 ] || fail "$(($(samples) - before)) samples of a run, not 4 of each of 3 iterations"

# parts of unlike size, and with more ranks than a step has sequences some without any
expect 0 "3 ranks" start 3 "${sft[@]}" --out "$work/sft-3"
alike "$work/sft-1" "$work/sft-3"
expect 0 "model in" "${sft[@]}" --set data.batch_size=1 --set data.max_steps=5 --out "$work/few-1"
expect 0 "model in" start 3 "${sft[@]}" --set data.batch_size=1 --set data.max_steps=5 --out "$work/few-3"
alike "$work/few-1" "$work/few-3"

# --- a signal to one rank: all end the step, the exit code says which signal; resumed by another number of ranks
pid_file=$work/pid.1 signal_at TERM "$work/stopped" 7 start 2 "${sft[@]}"
[ "$code" -eq 143 ] || fail "exit code $code after SIGTERM to rank 1"
grep -q "the state of step .* is saved" "$work/output" || fail "a stop that saves nothing"
cp -r "$work/stopped" "$work/stopped-1"
expect 0 "going on from step" start 2 "${sft[@]}" --out "$work/stopped" --resume
same "$work/sft-2" "$work/stopped"
# killed when the model was complete and the run's note still there: all ranks know that there is nothing to train
mkdir "$work/stopped/state" && cp "$work/stopped-1/state/run.json" "$work/stopped/state"
expect 0 "model in" start 2 "${sft[@]}" --out "$work/stopped" --resume
same "$work/sft-2" "$work/stopped"
expect 0 "going on from step" "${sft[@]}" --out "$work/stopped-1" --resume
alike "$work/sft-1" "$work/stopped-1"

# one to mpirun, which sleeps before it passes it on, and as long again for the ranks to end
if mpirun --version | grep -q "Open MPI"; then
    mpi=(--mca odls_base_sigkill_timeout 10)
    start 2 "${sft[@]}" --set data.epochs=10000 --set train.save_every=0 --out "$work/stopped-all" > "$work/output" 2>&1 &
    all=$!
    mpi=()
    until grep -q '"step":7,' "$work/stopped-all/metrics.jsonl" 2> /dev/null || ! kill -0 $all 2> /dev/null; do sleep 0.01; done
    kill -TERM "$(cat "$work/pid.mpirun")"
    for rank in 0 1; do
        while grep -q '^State:[[:space:]]*[^XZ[:space:]]' "/proc/$(cat "$work/pid.$rank")/status" 2> /dev/null; do sleep 0.1; done
    done
    kill -KILL "$(cat "$work/pid.mpirun")"
    wait $all 2> /dev/null
    saved=$(sed -n '$s/^{"step":\([0-9]*\),.*/\1/p' "$work/stopped-all/metrics.jsonl")
    [ -d "$work/stopped-all/state/step-$(printf %08d "$saved")" ] || fail "SIGTERM to mpirun: step $saved is not saved"
fi

# --- numbers that are not finite, at first on one rank only: a token whose vector is none, in one sequence of an epoch
spoil() { printf '\377\377\377\377' | dd of="$1" bs=1 conv=notrunc seek="$2" 2> /dev/null; } # FILE BYTE: the f32 there is none
cp -r "$work/sft-1" "$work/bad"
weights=$work/bad/model.safetensors
header=$(od -An -t u8 -N 8 "$weights")
vectors=$(head -c $((8 + header)) "$weights" | grep -ao '"model.embed_tokens.weight":{[^}]*' | grep -o '\[[0-9]*,[0-9]*\]$' | grep -o '[0-9]*' | head -n 1)
# "#" is in no text of sft-1: it is byte 35, the token 3 + 35; a vector has 32 numbers
spoil "$weights" $((8 + header + vectors + (3 + 35) * 32 * 4))
cp -r "$work/reward-1" "$work/bad-reward"
spoil "$work/bad-reward/model.safetensors" $(($(stat -c %s "$work/bad-reward/model.safetensors") - 4))
sed '5s/$/ #/' "$work/text.txt" > "$work/odd.txt"
odd=("$bin/halter-sft" --config tests/pipeline/sft-pretrain.yaml --text "$work/odd.txt" --model "$work/bad" --set data.holdout=0 --threads 1)
expect 1 "the loss is nan" "${odd[@]}" --out "$work/odd-stop"
step=$(sed -n 's/^halter-sft: error: step \([0-9]*\): .*/\1/p' "$work/output")
each_ends 1 "error: step $step: weight \"model.embed_tokens.weight\" of model \"model\" is not finite: the loss is nan" "${odd[@]}" --out "$work/odd-stop-2"
[ "$(grep -c "step $step is made of 4 rows; " "$work/output")" -eq 1 ] || fail "the rows of the bad step are not said once"
[ "$(grep -c "" "$work/odd-stop-2/metrics.jsonl")" -eq $((step - 1)) ] || fail "rows after step $step"
expect 0 "update skipped" "${odd[@]}" --out "$work/odd-1" --on-nonfinite skip
expect 0 "going on from step" start 2 "${odd[@]}" --out "$work/odd-stop-2" --on-nonfinite skip --resume
[ "$(grep -c "step $step: update skipped: " "$work/output")" -eq 1 ] || fail "a skipped update is not said once"
tail -n 1 "$work/odd-stop-2/metrics.jsonl" | grep -q '"skipped_steps":4.0' || fail "four bad steps are not counted as four: $(tail -n 1 "$work/odd-stop-2/metrics.jsonl")"
losses_alike "$work/odd-1" "$work/odd-stop-2"
each_ends 1 "error: step 1: model \"policy\", whose weights are all finite: the loss is nan" "${ppo[@]}" --safe "$work/bad-reward" --out "$work/bad-ppo"

# --- rejection sampling: the samples of one rank, bit for bit, and their scores to rounding
reject=("$bin/halter-rejection" --config tests/pipeline/rejection-sample.yaml --model "$work/sft-1" --helpful "$work/helpful" --safe "$work/reward-1"
    --threads 1 --round 1 --set sample.k=4)
cp "$work/p.db" "$work/two.db"
expect 0 "chosen" "${reject[@]}" --db "$work/p.db"
expect 0 "chosen" start 2 "${reject[@]}" --db "$work/two.db"
[ "$(grep -c "chosen .* responses" "$work/output")" -eq 1 ] || fail "the report of rejection sampling is printed by several ranks"
sampled="select dialog_id, k, text, tokens, logprob, finish from response where k is not null and run_id is null order by dialog_id, k"
[ "$(sqlite3 "$work/p.db" "$sampled")" = "$(sqlite3 "$work/two.db" "$sampled")" ] || fail "two ranks sample something else"
scored="select score.model_id, response_id, value from score join response on response.id = response_id where run_id is null order by 1, 2"
paste <(sqlite3 -separator ' ' "$work/p.db" "$scored") <(sqlite3 -separator ' ' "$work/two.db" "$scored") |
    awk '{ if ($1 != $4 || $2 != $5 || ($3 - $6) ^ 2 > 1e-10 * (1 + $3 ^ 2)) wrong = 1 } END { exit !NR || wrong }' || fail "two ranks score differently"
expect 0 "are there already" start 2 "${reject[@]}" --db "$work/two.db"

# --- a reward model's evaluation and scores: those of one rank to rounding, said and recorded once
evaluate=("$bin/halter-reward" evaluate --model "$work/reward-1" --split all --threads 1 --json)
cp "$work/p.db" "$work/two.db"
"${evaluate[@]}" --db "$work/p.db" > "$work/report-1" 2> "$work/output" || fail "halter-reward evaluate: $(cat "$work/output")"
start 2 "${evaluate[@]}" --db "$work/two.db" > "$work/report-2" 2> "$work/output" || fail "halter-reward evaluate: $(cat "$work/output")"
paste <(grep -v '"db"' "$work/report-1") <(grep -v '"db"' "$work/report-2") | awk -F '\t' '{ a = b = $1; c = $2; sub(/.*: */, "", b); sub(/.*: */, "", c)
    if ($1 != $2 && (b == a || (b - c) ^ 2 > 1e-10 * (1 + b ^ 2))) { print; wrong = 1 } } END { exit !NR || wrong }' > "$work/apart" ||
    fail "evaluations of one and two ranks: $(head -n 1 "$work/apart")"
recorded="select count(*) from evaluation"
[ "$(sqlite3 "$work/p.db" "$recorded")" = "$(sqlite3 "$work/two.db" "$recorded")" ] || fail "two ranks record something else"
apply=("$bin/halter-reward" apply --model "$work/reward-1" --threads 1)
for db in p two; do sqlite3 "$work/$db.db" 'delete from score'; done
expect 0 "already scored 0" "${apply[@]}" --db "$work/p.db"
expect 0 "already scored 0" start 2 "${apply[@]}" --db "$work/two.db"
[ "$(grep -c "already scored" "$work/output")" -eq 1 ] || fail "the summary of scores is printed by several ranks"
scored="select response_id, value from score order by 1"
paste <(sqlite3 -separator ' ' "$work/p.db" "$scored") <(sqlite3 -separator ' ' "$work/two.db" "$scored") |
    awk '{ if ($1 != $3 || ($2 - $4) ^ 2 > 1e-10 * (1 + $2 ^ 2)) wrong = 1 } END { exit !NR || wrong }' || fail "two ranks apply differently"
expect 2 "a file is scored by one process" start 2 "${apply[@]}" --input "$work/pairs.csv"

# --- failures: one rank's ends all, with its message and exit code
tune=("${sft[@]}" --model "$work/sft-1")
expect 4 "error: rank 1: cannot open \"$work/missing.txt\"" mpirun -n 1 "${tune[@]}" --out "$work/x" : -n 1 "${tune[@]}" --out "$work/x" --text "$work/missing.txt"
expect 3 "rank 1: the data read by rank 0 is another" mpirun -n 1 "${tune[@]}" --out "$work/x" : -n 1 "${tune[@]}" --out "$work/x" --set data.holdout=0.5
expect 4 "missing.txt" start 2 "${tune[@]}" --out "$work/x" --text "$work/missing.txt"
expect 2 "holds a model" start 2 "${sft[@]}" --out "$work/sft-1"
[ "$(grep -c "holds a model" "$work/output")" -eq 1 ] || fail "an error that all ranks have is said by several"
expect 0 "finished" start 2 "${sft[@]}" --out "$work/sft-1" --resume
expect 0 "steps 33" start 2 "${sft[@]}" --out "$work/x" --dry-run
[ -z "$(ls -A "$work/x")" ] || fail "a refused run left $(ls -A "$work/x")"
# N processes that do not know of each other are refused
expect 2 "runs as one" start 2 "$bin/halter-annotations" stats --db "$work/p.db"
expect 2 "runs as one" start 2 "$bin/halter-chat" --model "$work/sft-1" --prompt one
expect 2 "runs as one" start 2 "$bin/halter-evaluate" perplexity --model "$work/sft-1" --text "$work/text.txt"
PMI_SIZE=2 expect 2 "MPI has brought 1 together" "${tune[@]}" --out "$work/x"
finish
