#!/bin/bash
# usage: config_test.sh MAKE_CONFIG HEAD ROUTER WORKER CLIENT CONFIG_MD
#
# docs/config.md is what the programs say about themselves, to the letter.
set -euo pipefail

if "$1" "$2" "$3" "$4" "$5" | diff -u "$6" -; then
    echo "1 passed, 0 failed, 0 skipped"
else
    echo "docs/config.md is not what the programs say: run docs/update"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
