#!/bin/bash
# usage: config_test.sh CONFIG_MD MAKE_CONFIG HEAD ROUTER WORKER CLIENT PROGRAM...
#
# docs/config.md is what the programs say about themselves, to the letter.
set -euo pipefail

if "${@:2}" | diff -u "$1" -; then
    echo "1 passed, 0 failed, 0 skipped"
else
    echo "docs/config.md is not what the programs say: run docs/update"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
