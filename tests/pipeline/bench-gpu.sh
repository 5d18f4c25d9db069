#!/usr/bin/env bash
# bench/gpu at its smallest, on the CPU: every kind of work has its row, in the tables and in the JSON file; the peer's setting is the one asked for;
# what comes too late is left out.
# Usage: bench-gpu.sh BUILD_FOLDER
. tests/pipeline/lib.sh bench-gpu "$1"
[ -x "$1/bench/bench-worker" ] || { echo "skipped: bench-worker is not built"; exit 77; }
cat > "$work/python" << 'END_OF_PEER'
#!/usr/bin/env bash
[ "$1" = -c ] && exit 0
[ "$3 $5" = "tiny fp32+compile" ] || exit 1
case "$4 $1" in "ppo-4 bench/peers/torch_ppo.py") ;; ppo-* | *torch_ppo.py) exit 1 ;; esac
echo ready
while read -r request; do echo 100; done
END_OF_PEER
chmod +x "$work/python"

export BUILD=$1 SIZE=tiny DTYPE=fp32 BACKEND=cpu ROUNDS=1 OUT=$work/gpu.json
WORKS="operations generate-2 sft reward ppo-4" PEER=$work/python SETTING=fp32+compile PEAK=0.001 bench/gpu > "$work/table" 2> "$work/output" ||
    fail "bench/gpu: $(tail -n 3 "$work/output")"
if command -v python3 > /dev/null; then python3 -m json.tool "$OUT" > /dev/null || fail "gpu.json is no JSON"; fi

# row WORK: of the JSON file
row() { grep -F "{\"work\": \"$1\", \"model\": \"tiny\", \"dtype\": \"fp32\"" "$OUT" > "$work/row" || fail "no row $1"; }
[ "$(grep -c '^| operation ' "$work/table")" = 1 ] || fail "not one table of operations"
for operation in "product, backward weight" "product, 64 rows" "attention, cached, 1 sequence" adamw "sample, 256 rows"; do
    row "operation: $operation"
    holds "$(number "$work/row" ours) > 0 && $(number "$work/row" of_peak) >= 0" "$operation"
    grep -qF "| $operation |" "$work/table" || fail "$operation is not in the table"
done
for kind in generate-2 sft reward ppo-4; do
    row $kind
    holds "$(number "$work/row" ours) > 0 && $(number "$work/row" limit) > 0" "$kind"
    [ "$(number "$work/row" peer)" = 100 ] || fail "$kind: no peer"
    case $kind in
    sft | reward) holds "($(number "$work/row" mfu) / ($(number "$work/row" tflops) / 0.001) - 1) ^ 2 < 1e-6" "$kind: mfu" ;;
    *) grep -q '"mfu": null' "$work/row" || fail "$kind has an MFU" ;;
    esac
done
[ "$(grep -c '^| work |' "$work/table")" = 1 ] || fail "not one table of works"
expect 0 'no work "nonsense"' env WORKS=nonsense bench/gpu
expect 0 "sft: not measured, 0 s are over" env LIMIT=0 WORKS=sft bench/gpu
expect 2 "is missing; build it first" env BUILD=$work bench/gpu
expect 2 "cannot import" env PEER=/bin/false bench/gpu
finish
