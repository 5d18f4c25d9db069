#!/usr/bin/env bash
# Prints how many lines and branches of each folder the tests have reached that ran in a build with HALTER_COVERAGE, then the files
# of core/ whose branches are reached least. A line or branch that is compiled for several instruction sets is reached when it is in one.
# Usage: bash tools/coverage.sh BUILD_DIR   (from the root)
set -euo pipefail
build=${1:?usage: coverage.sh BUILD_DIR}

gcovr --root . --object-directory "$build" --filter '(core|annotations|sft|reward|rejection|ppo|evaluate|chat|rounds)/' \
    --exclude '.*\.cu$' --exclude 'core/(backend/cuda|comm/nccl)/' --gcov-ignore-parse-errors --csv > "$build/coverage.csv"
# filename,line_total,line_covered,line_percent,branch_total,branch_covered,branch_percent
awk -F, '
    function share(part, all) { return all ? sprintf("%5.1f %%", 100 * part / all) : "      -" }
    function show(name) {
        printf "%-20s %7d %s %9d %s\n", name, lines[name], share(lines_hit[name], lines[name]), branches[name],
            share(branches_hit[name], branches[name])
    }
    function count(name) {
        lines[name] += $2; lines_hit[name] += $3; branches[name] += $5; branches_hit[name] += $6
    }
    NR > 1 {
        n = split($1, part, "/")
        folder = part[1] == "core" ? part[1] "/" part[2] : part[1]
        if (!(folder in lines)) order[++folders] = folder
        count(folder)
        if (part[1] == "core") count("all of core/")
    }
    END {
        printf "%-20s %7s %7s %9s %7s\n", "folder", "lines", "", "branches", ""
        for (i = 1; i <= folders; i++) show(order[i])
        show("all of core/")
    }' "$build/coverage.csv"
echo
echo "least reached in core/:"
awk -F, 'NR > 1 && $1 ~ /^core\// && $5 >= 10 { printf "%5.1f %% of %d branches  %s\n", 100 * $6 / $5, $5, $1 }' "$build/coverage.csv" | sort -n | head -n 12
