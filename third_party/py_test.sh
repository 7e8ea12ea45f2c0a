#!/bin/bash
# Runs pytest on the test files of one spin_py_test with the Python of the locked environment.
# Arguments: NAME=path sets NAME to the absolute path; everything else goes to pytest.
set -euo pipefail

# The runfiles link to the source tree, and the environment lies beside it.
root="$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")"
python="${SPIN_VENV:-$root/.cache/venv}/bin/python"
if [[ ! -x $python ]]; then
    echo "no Python environment at $python: run ./deploy/setup test once" >&2
    exit 1
fi

arguments=()
for argument in "$@"; do
    if [[ $argument =~ ^([A-Z][A-Z_]*)=(.+)$ ]]; then
        export "${BASH_REMATCH[1]}=$PWD/${BASH_REMATCH[2]}"
    else
        arguments+=("$argument")
    fi
done

export PYTHONPATH="$PWD" PYTHONDONTWRITEBYTECODE=1
# The exit code of a run without a single test is 5: a file that collects nothing fails, too.
exec "$python" -m pytest -q -ra -p no:cacheprovider --color=no \
    --basetemp="${TEST_TMPDIR:-/tmp}/pytest" "${arguments[@]}"
