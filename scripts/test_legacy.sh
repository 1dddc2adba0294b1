#!/usr/bin/env bash
# Test the paper's own stack (transformers-4.31.0/): run the captioner's and generation's tests on it, then compare both stacks.
#
#   bash scripts/test_legacy.sh [arguments of pytest]
#
# The first run creates .venv-4.31: the pinned packages on top of the current environment, which provides torch and the rest.
# tokenizers 0.13.3 has no wheels for Python 3.12 or newer: there the script prints this and exits with 0.
# PYTHON_LEGACY=python3.11 selects another interpreter; then everything is installed for it, torch included.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/env.sh test,train
top="$PWD"
current="$(python -c 'import sys; print(sys.prefix)')"
venv="$top/.venv-4.31"
base="${PYTHON_LEGACY:-python}"

if [ "$current" = "$venv" ]; then
    echo "error: $venv is active; deactivate it first: it is compared with the current stack" >&2
    exit 2
fi
if ! "$base" -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then
    echo "skipped: $("$base" --version) has no wheels of tokenizers 0.13.3, which transformers 4.31.0 needs; the last" \
        "supported version is Python 3.11. Select one with PYTHON_LEGACY=python3.11 bash scripts/test_legacy.sh"
    exit 0
fi

wanted="$top $current $base $(cat pyproject.toml transformers-4.31.0/pyproject.toml | cksum)"
if [ "$(cat "$venv/.ham-paper-stack" 2>/dev/null)" != "$wanted" ]; then
    echo "creating the environment $venv"
    rm -rf "$venv"
    "$base" -m venv "$venv"
    if [ -z "${PYTHON_LEGACY:-}" ]; then
        # After its own packages, the new environment sees those of the current one and this checkout.
        (python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; echo "$top") \
            >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
        # Console scripts are not shared; finetune_task.sh needs this one.
        printf '#!/bin/sh\nexec "%s" -m torch.distributed.run "$@"\n' "$venv/bin/python" >"$venv/bin/torchrun"
        chmod +x "$venv/bin/torchrun"
    else
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$top[test]"
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e transformers-4.31.0
    echo "$wanted" >"$venv/.ham-paper-stack"
fi

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# All test files about the captioner and generation, except one that runs no model and two about other stages.
mapfile -t files < <(grep -lE 'ham\.(captioner|generation)|^import caption$' tests/test_*.py |
    grep -vE 'test_(caption_kill|build_styles|readme)\.py')
"$venv/bin/python" -m pytest "$@" "${files[@]}"
python transformers-4.31.0/compare.py
