#!/usr/bin/env bash
# Make the environment if needed and run the linter and the tests. Arguments go to pytest: scripts/test.sh tests/test_records.py -k atomic
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/env.sh test,train

ruff check .
python -m pytest "$@"
