# Sourced by bench/run: measuring programs that answer requests (bench/worker.c), and numbers.
# $pipes: a folder for pipes; $log: where the programs' own messages go.
declare -A to from process
trap '' PIPE # writing to a program that has ended fails, and ends nothing else

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
    IFS= read -r line <&"${from[$side]}" || true
    seconds=$(number "$EPOCHREALTIME - $began")
    [ "$line" = ready ] && return
    stop "$side"
    return 1
}

# ask SIDE REQUEST: $answer, "null" when there is no such side, or it has ended
ask() {
    answer=null
    [ -n "${to[$1]:-}" ] || return 0
    if { echo "$2" >&"${to[$1]}"; } 2> /dev/null && IFS= read -r answer <&"${from[$1]}" && [[ $answer =~ ^[0-9] ]]; then return; fi
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
