# Sourced by the scripts beside it: puts a Python that has the package on PATH, installing it the first time.
#
#   source scripts/env.sh [extras]      extras as in pyproject.toml: test, train, "test,train"
#
# Uses the active virtual environment, or makes .venv in the checkout. Installs again only when pyproject.toml changed.

_extras="${1:-test,train}"
case "$_extras" in *[!a-z,]*) _extras=test,train ;; esac      # sourced without a word, $1 is the calling script's own argument
_top="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [ -z "${VIRTUAL_ENV:-}" ]; then
    if [ ! -x "$_top/.venv/bin/python" ]; then
        echo "making the environment $_top/.venv (once; a few minutes, about 6 GB)"
        "${PYTHON:-python3}" -m venv "$_top/.venv"
    fi
    # shellcheck disable=SC1091
    source "$_top/.venv/bin/activate"
fi

_stamp="$VIRTUAL_ENV/.ham-$(echo "$_extras" | tr ',' '-')"
_wanted="$_top $(cksum <"$_top/pyproject.toml")"
if [ "$(cat "$_stamp" 2>/dev/null)" != "$_wanted" ]; then
    echo "installing ham[$_extras] into $VIRTUAL_ENV"
    python -m pip install --quiet --disable-pip-version-check -e "$_top[$_extras]"
    echo "$_wanted" >"$_stamp"
fi

# Idle threads that spin slow a busy two-core machine down fivefold.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
# Nothing here fetches from a model hub unless the user asks for a hub model by name.
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
# DeepSpeed compiles a little at its first use; environments that share one cache compile over each other.
export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$VIRTUAL_ENV/.torch-extensions}"
unset _extras _top _stamp _wanted
