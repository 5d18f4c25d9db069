#!/usr/bin/env bash
# Places that do not take what is to be written: an output folder, its parent or a database on a disk that is read-only, a file where a
# folder should be. It is found before any work, with exit code 4 or 2 and one message, and nothing is left. What only reads works.
# Usage: places.sh BUILD_FOLDER
. tests/fault/lib.sh places "$1" halter-annotations halter-sft halter-reward halter-rejection halter-ppo halter-rounds
make_models 12
mkdir "$work/disk" "$work/other"
cp "$work/fresh.db" "$work/disk/p.db"
touch "$work/file"

# refused CODE TEXT COMMAND...: one message, nothing on standard output, and the disk and $work/other as they were
refused() {
    local code=$1 text=$2 before got
    shift 2
    before=$(cd "$work" && find disk other file -printf '%p %s\n' | sort)
    "$@" > "$work/printed" 2> "$work/output"
    got=$?
    [ $got -eq "$code" ] && grep -qF -- "$text" "$work/output" && [ "$(grep -c 'error: ' "$work/output")" -eq 1 ] && [ ! -s "$work/printed" ] ||
        fail "wanted exit code $code and \"$text\", got $got: $*: $(cat "$work/output")"
    [ "$before" = "$(cd "$work" && find disk other file -printf '%p %s\n' | sort)" ] || fail "something is left: $*: $(find "$work/disk" "$work/other")"
    refusals=$((refusals + 1))
}
refusals=0

# on_read_only PATH COMMAND...: with a read-only mount of the path over itself, which holds for root too; other users see what it shows
on_read_only() {
    unshare --user --map-root-user --mount bash -c 'mount --bind -o ro "$1" "$1" && exec "${@:2}"' on_read_only "$@"
}

tune=("$bin/halter-sft" --config tests/pipeline/sft-tune.yaml --model "$work/policy" --threads 1)
pretrain=("$bin/halter-sft" --config tests/pipeline/sft-pretrain.yaml --text "$work/text.txt" --threads 1)
safe_model=("${reward[@]}" --set reward.kind=safety)
ppo=("$bin/halter-ppo" --config tests/pipeline/ppo.yaml --model "$work/policy" --helpful "$work/helpful" --safe "$work/safe" --threads 1)
rejection=("$bin/halter-rejection" --config tests/pipeline/rejection-sample.yaml --model "$work/policy" --helpful "$work/helpful"
    --safe "$work/safe" --threads 1)
rounds=("$bin/halter-rounds" --config tests/pipeline/rounds/rounds.yaml --threads 1)
import=("$bin/halter-annotations" import)

# each_stage FUNCTION: called with the command of each program that has an output folder and a database
each_stage() {
    "$1" "${tune[@]}"
    "$1" "${safe_model[@]}"
    "$1" "${ppo[@]}"
    "$1" "${rejection[@]}"
}

# --- a file where the folder should be, or on the way to it
into_a_file() { refused 4 "$work/file" "$@" --db "$work/disk/p.db" --out "$work/file"; }
below_a_file() { refused 4 "$work/file" "$@" --db "$work/disk/p.db" --out "$work/file/out"; }
each_stage into_a_file
each_stage below_a_file
refused 4 "$work/file" "${pretrain[@]}" --out "$work/file/out"
refused 2 "is not a folder" "${rounds[@]}" --run "$work/file"
refused 4 "$work/file" "${rounds[@]}" --run "$work/file/run"

# --- a database that is missing, or in a folder that is
no_database() { refused 4 "none" "$@" --db "$work/other/none/p.db" --out "$work/other/a/b"; }
each_stage no_database
refused 4 "none" "${import[@]}" --db "$work/other/none/p.db" "$work/pairs.csv"

# --- refused for another reason: no folder is left, nor one on the way to it
no_model() { refused 4 "nowhere" "$@" --db "$work/disk/p.db" --out "$work/other/a/b" --model "$work/nowhere"; }
each_stage no_model
refused 2 "vocab_size" "${pretrain[@]}" --out "$work/other/a/b" --set init.vocab_size=100
refused 2 "positions" "${pretrain[@]}" --out "$work/other/a/b" --set init.max_positions=32

# --- a disk that is read-only
if on_read_only "$work/disk" true 2> /dev/null; then
    onto_the_disk() { refused 4 "Read-only file system" on_read_only "$work/disk" "$@" --db "$work/fresh.db" --out "$work/disk/out"; }
    database_on_it() { refused 4 "its folder cannot be written" on_read_only "$work/disk" "$@" --db "$work/disk/p.db" --out "$work/other/out"; }
    database_file() { refused 4 "cannot be written" on_read_only "$work/disk/p.db" "$@" --db "$work/disk/p.db" --out "$work/other/out"; }
    for try in onto_the_disk database_on_it database_file; do each_stage $try; done
    refused 4 "Read-only file system" on_read_only "$work/disk" "${pretrain[@]}" --out "$work/disk/out"
    refused 4 "Read-only file system" on_read_only "$work/disk" "${rounds[@]}" --run "$work/disk/run"
    refused 4 "its folder cannot be written" on_read_only "$work/disk" "${import[@]}" --db "$work/disk/new.db" "$work/pairs.csv"
    refused 4 "cannot be written" on_read_only "$work/disk/p.db" "${import[@]}" --db "$work/disk/p.db" "$work/pairs.csv"
    # what only reads a database reads one that cannot be written, and says why it cannot where the folder is not to be written either
    for read in "$bin/halter-annotations stats" "$bin/halter-annotations check" "$bin/halter-annotations export --what comparisons"; do
        $read --db "$work/disk/p.db" > "$work/expected" 2>&1
        expect 0 "" on_read_only "$work/disk/p.db" $read --db "$work/disk/p.db"
        cmp "$work/expected" "$work/output" || fail "$read: another output of a database that cannot be written"
        rm -f "$work"/disk/p.db-*
        refused 4 "its folder cannot be written" on_read_only "$work/disk" $read --db "$work/disk/p.db"
    done
else
    echo "not run: a read-only disk, as the kernel lets this user mount nothing"
fi
echo "$refusals refusals"
finish
