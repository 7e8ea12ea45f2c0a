#!/bin/bash
# expect.sh red|green COMMAND...: passes when the test program COMMAND fails, or passes.
# Red is a test that says so, by its line and a small exit status (cmocka: how many failed; pytest:
# 1). A program that cannot start, ends by a signal or runs out of time is neither, nor is an oracle
# whose tool does any of that: kv_oracle_test.py then exits with 70, and no test has failed.
set -uo pipefail

wanted="$1"
shift
output="$("$@" 2>&1)"
status=$?
if [[ $status -eq 0 ]]; then
    got=green
elif [[ $status -lt 64 ]] && grep -q 'FAILED' <<<"$output"; then
    got=red
else
    got="broken (status $status)"
fi
if [[ $got != "$wanted" ]]; then
    printf '%s\n' "$output" | tail -40
    echo "wanted $wanted, got $got"
    exit 1
fi
