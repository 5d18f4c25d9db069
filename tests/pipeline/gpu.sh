#!/usr/bin/env bash
# tests/gpu/run, whose programs are here those of the emulation: it counts, tells what failed, also by itself, goes on until it is too
# late, and runs the sanitizer.
# Usage: gpu.sh BUILD_FOLDER
. tests/pipeline/lib.sh gpu "$1"
build=$1
emulated=gpu_emulated_test_adamw
[ -x "$build/tests/$emulated" ] || { echo "skipped: the emulation is not built"; exit 77; }
mkdir -p "$work/tools" "$work/build/tests"
tools=$PATH:$work/tools
program() { printf '#!/usr/bin/env bash\n%s\n' "$2" > "$1" && chmod +x "$1"; }
program "$work/build/tests/passing_test_cuda" 'echo "graphs ${HALTER_CUDA_GRAPHS-on}, $HALTER_TEST_BACKEND" >> "$RAN"'
program "$work/build/tests/failing" 'echo "error is 2 of what is allowed"; echo "[  FAILED  ] test_some__thing"; [ "${HALTER_TEST_ONLY-}" = test_some__thing ] || exit 3'
program "$work/build/tests/missing" 'echo "skipped: not there yet"; exit 77'
program "$work/build/tests/no_gpu" 'echo "backend \"cuda\": this machine has no usable NVIDIA GPU (none)"; exit 77'
program "$work/tools/compute-sanitizer" 'echo "$2" >> "$RAN"; [ "$2" = memcheck ] && exec "${@: -1}"; echo "========= a race"; exit 9'
export RAN=$work/ran

expect 0 "1 passed, 0 failed, 0 skipped" env PROGRAMS=$emulated SANITIZED= tests/gpu/run "$build"
expect 0 "2 passed, 0 failed, 1 skipped" env PROGRAMS="passing_test_cuda missing" SANITIZED= tests/gpu/run "$work/build"
[ "$(cat "$RAN")" = $'graphs on, cuda\ngraphs 0, cuda' ] || fail "not once with graphs and once without: $(cat "$RAN")"
expect 1 "2 passed, 2 failed, 0 skipped" env PROGRAMS="failing nowhere passing_test_cuda" SANITIZED= tests/gpu/run "$work/build"
for text in "error is 2 of what is allowed" "failed: exit status 3" "failed: exit status 127"; do
    grep -qF -- "$text" "$work/output" || fail "no \"$text\" in: $(cat "$work/output")"
done
grep -qE "^  test_some__thing .* passed$" "$work/output" || fail "the test that failed is not run by itself: $(cat "$work/output")"
expect 1 "2 not begun" env PROGRAMS=passing_test_cuda SANITIZED= DEADLINE=0 tests/gpu/run "$work/build"
expect 1 "3 passed, 1 failed, 0 skipped" env PATH="$tools" PROGRAMS=passing_test_cuda SANITIZED=passing_test_cuda tests/gpu/run "$work/build"
grep -qF "========= a race" "$work/output" || fail "the sanitizer's finding is not shown"
expect 77 "no usable NVIDIA GPU" env PROGRAMS="no_gpu passing_test_cuda" tests/gpu/run "$work/build"
finish
