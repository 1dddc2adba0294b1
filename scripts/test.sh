#!/usr/bin/env bash
# Create the environment if needed, then run the linter, the type checker and the tests.
# Arguments go to pytest, for example: bash scripts/test.sh tests/test_records.py -k atomic
# The tests run on all cores, at most eight processes; -n 0 runs them in one process.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/env.sh test,train
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

ruff format --check --quiet . || { echo "error: some files are not formatted; run: ruff format ." >&2; exit 1; }
ruff check .
python -m mypy
python -m pytest -n auto --maxprocesses 8 --dist loadfile "$@"
