#!/usr/bin/env bash
# Prove the paper's own stack (transformers-4.31.0/): run the captioner's and generation's tests on it, then compare both stacks.
#
#   scripts/test_legacy.sh [arguments of pytest]      makes .venv-4.31 the first time: the pinned packages laid over the first
#                                                     environment, whose torch and everything else they share
#
# The wheels of tokenizers 0.13.3 stop at CPython 3.11: on a newer Python this says so and ends with success.
# PYTHON_LEGACY=python3.11 names another interpreter; then everything is installed for it, torch included.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/env.sh test,train
top="$PWD"
venv="$top/.venv-4.31"
base="${PYTHON_LEGACY:-python}"

if [ "$VIRTUAL_ENV" = "$venv" ]; then
    echo "error: $venv is active; deactivate it first: this compares it with the current stack" >&2
    exit 2
fi
if ! "$base" -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then
    echo "skipped: $("$base" --version) has no wheels of tokenizers 0.13.3, which transformers 4.31.0 needs; they stop at" \
        "Python 3.11 (PYTHON_LEGACY=python3.11 scripts/test_legacy.sh names an interpreter that has them)"
    exit 0
fi

wanted="$top $VIRTUAL_ENV $base $(cat pyproject.toml transformers-4.31.0/pyproject.toml | cksum)"
if [ "$(cat "$venv/.ham-paper-stack" 2>/dev/null)" != "$wanted" ]; then
    echo "making the environment $venv"
    rm -rf "$venv"
    "$base" -m venv "$venv"
    if [ -z "${PYTHON_LEGACY:-}" ]; then
        # Behind its own packages the new environment sees the first one's, and this checkout.
        (python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; echo "$top") \
            >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
        # Commands are not shared; finetune_task.sh wants this one.
        printf '#!/bin/sh\nexec "%s" -m torch.distributed.run "$@"\n' "$venv/bin/python" >"$venv/bin/torchrun"
        chmod +x "$venv/bin/torchrun"
    else
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$top[test]"
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e transformers-4.31.0
    echo "$wanted" >"$venv/.ham-paper-stack"
fi

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Every test file that uses the captioner or captioning runs, but: one that runs no model, and two about other stages.
mapfile -t files < <(grep -lE 'ham\.(captioner|generation)|^import caption$' tests/test_*.py |
    grep -vE 'test_(caption_kill|build_styles|readme)\.py')
"$venv/bin/python" -m pytest "$@" "${files[@]}"
python transformers-4.31.0/compare.py
