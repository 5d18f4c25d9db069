#!/usr/bin/env bash
# Runs all tests of a build folder and ends with the line "N passed, N failed, N skipped", which also goes into
# BUILD_DIR/test-summary. Fails when a test fails, cannot run, or there is none.
# Usage: bash tools/run-tests.sh BUILD_DIR [CTEST_OPTION...]
set -uo pipefail

build=${1:?usage: run-tests.sh BUILD_DIR [CTEST_OPTION...]}
shift
log=$build/test-output
rm -f "$build/test-summary"

# Tests that compute run two threads each: enough to see a race, few enough to run side by side.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
status=0
ctest --test-dir "$build" --output-on-failure --no-tests=error --parallel "$(nproc)" "$@" 2>&1 | tee "$log" || status=$?

# One line a test: " 3/40 Test  #3: NAME .....   Passed    0.01 sec", or "***Skipped", "***Failed", "***Not Run"...
awk '
    /^ *[0-9]+\/[0-9]+ Test +#[0-9]+:/ {
        if (/ Passed +[0-9.]+ sec/) passed++
        else if (/\*\*\*Skipped|\(Disabled\)/) skipped++
        else failed++
    }
    END {
        printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
        exit failed > 0
    }' "$log" > "$build/test-summary" || status=1
cat "$build/test-summary"
exit "$status"
