#!/usr/bin/env bash
# bench/run at its smallest: every work runs, the peer's fastest setting is measured beside it, and bench.json has the rows. The peer is a script that
# answers as those of bench/peers do.
# Usage: bench.sh BUILD_FOLDER
. tests/pipeline/lib.sh bench "$1"
worker=$1/bench/bench-worker
[ -x "$worker" ] || { echo "skipped: bench-worker is not built"; exit 77; }
works="sft reward score generate-2 summary-greedy summary-lookup ppo-4"

cat > "$work/python" << 'END_OF_PEER'
#!/usr/bin/env bash
[ "$1" = -c ] && exit 0
case $5 in fp32) speed=100 ;; fp32+compile) speed=200 ;; *) exit 1 ;; esac
[ "$4" != reward ] || exit 1
echo ready
[ "$4" != score ] || exit 1
while read -r request; do
    case $request in run) echo $speed ;; memory) echo 5000 ;; esac
done
END_OF_PEER
chmod +x "$work/python"

export BUILD=$1 SIZES=tiny THREADS=1 ROUNDS=1
DTYPES=fp32 WORKS="$works start" OUT=$work/bench.json PEER=$work/python bench/run > "$work/table" 2> "$work/output" || fail "bench/run: $(tail -n 3 "$work/output")"
if command -v python3 > /dev/null; then python3 -m json.tool "$work/bench.json" > /dev/null || fail "bench.json is no JSON"; fi

# row WORK UNIT: of bench.json
row() { grep -F "{\"work\": \"$1\", \"model\": \"tiny\", \"dtype\": \"fp32\", \"unit\": \"$2\"" "$work/bench.json" > "$work/row" || fail "no row $1 in $2"; }
for kind in $works; do
    row "$kind" tokens/s
    speed=$(number "$work/row" ours) peer=$(number "$work/row" peer) ratio=$(number "$work/row" ratio)
    holds "$speed > 0" "$kind: speed"
    case $kind in
    reward | score) grep -q '"peer": null, "ratio": null' "$work/row" || fail "a peer that fails has a value: $(cat "$work/row")" ;;
    ppo-4) grep -q '"peer": null' "$work/row" || fail "ppo without PEER_TRL has a peer" ;;
    summary-lookup) [ "$peer" = 100 ] || fail "$kind: the peer cannot compile it, and gives 100, not $peer" ;;
    *) [ "$peer" = 200 ] || fail "$kind: the peer's fastest setting gives 200, not $peer" ;;
    esac
    [ -z "$ratio" ] || holds "($ratio / ($speed / $peer) - 1) ^ 2 < 1e-6" "$kind: ratio"
    row "$kind" MB
    holds "$(number "$work/row" ours) > 1 && $(number "$work/row" ours) < 5000" "$kind: memory"
    grep -qF "\"work\": \"$kind: product" "$work/bench.json" || fail "$kind: no operation of it"
    grep -qF "| tiny | $kind | fp32 |" "$work/table" || fail "$kind is not in the table"
done
row start s
holds "$(number "$work/row" ours) > 0" "start"
expect 2 "is missing; build it first" env BUILD=$work bench/run
expect 2 "cannot import" env PEER=/bin/false bench/run
expect 2 "it needs THREADS=1" env THREADS=2 BENCH_CLOCK=cpu bench/run
expect 2 "no work \"nothing\"" "$worker" 1 tiny nothing fp32
expect 2 "no model size \"large\"" "$worker" 1 large sft fp32
finish
