#!/bin/bash
# expect.sh red|green COMMAND...: passes when the test program COMMAND fails, or passes.
# Red is a test that says so: a program that cannot start or runs out of time is not.
set -uo pipefail

wanted="$1"
shift
output="$("$@" 2>&1)"
status=$?
if [[ $status -eq 0 ]]; then
    got=green
elif grep -q 'FAILED' <<<"$output"; then
    got=red
else
    got="broken (status $status)"
fi
if [[ $got != "$wanted" ]]; then
    printf '%s\n' "$output" | tail -40
    echo "wanted $wanted, got $got"
    exit 1
fi
