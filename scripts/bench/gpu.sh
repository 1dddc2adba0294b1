#!/usr/bin/env bash
# Everything that only a GPU shows, most important first: captioning, style tuning, the retrieval step, evaluation, search.
#
#   bash scripts/bench/gpu.sh [--minutes 9] [--out build/gpu] [--before DIR] [--only captions,tuning] [--shape 7b]
#
# --before DIR: the repository at an older commit, for the comparison:
#   mkdir -p build/before && git archive c461526 ham scripts | tar -x -C build/before
# Wheels in build/wheels (open_clip_torch, ftfy, wcwidth, jsonargparse where the machine lacks them) are put on the path.
set -euo pipefail
cd "$(dirname "$0")/../.."
if compgen -G "build/wheels/*.whl" >/dev/null; then
  site=$(mktemp -d)
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" build/wheels/*.whl
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
exec python3 -m scripts.bench.gpu "$@"
