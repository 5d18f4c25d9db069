# Sourced by bench/run and bench/gpu: measuring programs that answer requests (bench/worker.c), rows of the JSON file, and numbers.
# $pipes: a folder for pipes; $log: where the programs' own messages go; $size, $dtype: of the rows; $deadline: in $SECONDS, when to
# give up waiting for an answer, if it is set.
declare -A to from process
trap '' PIPE # writing to a program that has ended fails, and ends nothing else

# await SIDE: $answer = its next line; false, and the program is ended, when none comes
await() {
    local left=()
    answer=
    if [ -n "${deadline:-}" ]; then left=(-t "$((deadline > SECONDS ? deadline - SECONDS : 1))"); fi
    IFS= read -r "${left[@]}" answer <&"${from[$1]}" && return
    kill "${process[$1]}" 2> /dev/null
    return 1
}

# start SIDE COMMAND...: 0 when it is ready; $seconds = how long that took
start() {
    local side=$1 began=$EPOCHREALTIME fd line
    shift
    rm -f "$pipes/$side".*
    mkfifo "$pipes/$side.in" "$pipes/$side.out"
    (
        for fd in "${to[@]}" "${from[@]}"; do exec {fd}>&-; done # else the other side would never see its end
        exec "$@" < "$pipes/$side.in" > "$pipes/$side.out" 2>> "$log"
    ) &
    process[$side]=$!
    exec {fd}> "$pipes/$side.in"
    to[$side]=$fd
    exec {fd}< "$pipes/$side.out"
    from[$side]=$fd
    await "$side"
    line=$answer
    seconds=$(number "$EPOCHREALTIME - $began")
    [ "$line" = ready ] && return
    stop "$side"
    return 1
}

# ask SIDE REQUEST: $answer, "null" when there is no such side, or it has ended
ask() {
    answer=null
    [ -n "${to[$1]:-}" ] || return 0
    if { echo "$2" >&"${to[$1]}"; } 2> /dev/null && await "$1" && [[ $answer =~ ^[0-9] ]]; then return; fi
    answer=null
    stop "$1"
}

stop() {
    local fd
    [ -n "${to[$1]:-}" ] || return 0
    fd=${to[$1]} && exec {fd}>&-
    fd=${from[$1]} && cat <&"$fd" > /dev/null && exec {fd}<&-
    wait "${process[$1]}" || true # what it does to end takes time from the next measurement
    unset "to[$1]" "from[$1]"
}

# number EXPRESSION: its value with six digits; "null" when a part of it is null
number() {
    case $1 in *null*) echo null ;; *) awk "BEGIN { printf \"%.6g\", ($1) }" ;; esac
}

# median NUMBER...: nulls do not count
median() {
    printf '%s\n' "$@" | sort -g | awk '$1 != "null" { v[++n] = $1 }
        END { if (n) printf "%.6g", (v[int((n + 1) / 2)] + v[int(n / 2) + 1]) / 2; else print "null" }'
}

# rate NUMBER: three digits or all of the whole ones, for a table
rate() {
    if [ "$1" = null ]; then echo -; else awk "BEGIN { v = $1; printf v < 100 ? \"%.3g\" : \"%.0f\", v }" |
        sed -E ':again; s/^([0-9]+)([0-9]{3})/\1,\2/; t again'; fi
}

# shown NUMBER FORMAT: for a table
shown() {
    if [ "$1" = null ]; then echo -; else awk "BEGIN { printf \"$2\", $1 }"; fi
}

# needs VARIABLE PYTHON MODULES: ends unless that python, if it is given, has them
refuse() { echo "$0: $*" >&2; exit 2; }
needs() { [ -z "$2" ] || "$2" -c "import $3" 2> /dev/null || refuse "$1=$2 cannot import $3"; }

# row WORK UNIT OURS PEER MORE: one of the JSON file; MORE: further members
row() {
    local ratio
    case $2 in tokens/s) ratio=$(number "$3 / $4") ;; *) ratio=$(number "$4 / $3") ;; esac # above 1: ours is better
    echo "{\"work\": \"$1\", \"model\": \"$size\", \"dtype\": \"$dtype\", \"unit\": \"$2\", \"ours\": $3, \"peer\": $4, \"ratio\": $ratio${5:+, $5}}" \
        >> "$pipes/rows"
}

# write_rows FILE
write_rows() {
    { echo '{"rows": ['; paste -sd '~' "$pipes/rows" | sed 's/~/,\n/g'; echo ']}'; } > "$1"
    echo "written: $1" >&2
}

# profile: asks our program; $limit, $core, and the $product, $reading, $copying peaks; calls `operation NAME SHARE RATE UNIT
# FRACTION` for each
profile() {
    local kind a b c d e f g
    limit=null core=null product=null reading=null copying=null
    [ -n "${to[ours]:-}" ] || return 0
    echo profile >&"${to[ours]}"
    while await ours && [ -n "$answer" ]; do
        IFS='|' read -r kind a b c d e f g _ <<< "$answer"
        case $kind in
        peaks) product=$a reading=$b copying=$c ;;
        limit) limit=$a ;;
        core) core=$a ;;
        operation) operation "$a" "$d" "$e" "$f" "$g" ;;
        esac
    done
}
