# Sourced by the other scripts: puts a Python with the package installed on PATH.
#
#   source scripts/env.sh [extras]      extras as in pyproject.toml: test, train, "test,train"
#
# Uses the active virtual environment (venv or conda). Without one it creates .venv in the checkout; PYTHON names the
# interpreter for it. Installs again only when pyproject.toml changed.

_extras="${1:-test,train}"
case "$_extras" in *[!a-z,]*) _extras=test,train ;; esac # sourced without an argument, $1 is the calling script's own
_top="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [ -n "${VIRTUAL_ENV:-}" ]; then
    _env="$VIRTUAL_ENV"
elif [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-}" != base ]; then
    _env="$CONDA_PREFIX"
else
    _env="$_top/.venv"
    if [ ! -x "$_env/bin/python" ]; then
        echo "creating the environment $_env (once; takes a few minutes and about 6 GB)"
        "${PYTHON:-python3}" -m venv "$_env"
    fi
    # shellcheck disable=SC1091
    source "$_env/bin/activate"
fi
if [ ! -x "$_env/bin/python" ]; then
    echo "error: the active environment $_env has no bin/python; deactivate it, or install Python in it" >&2
    exit 2
fi
case ":$PATH:" in *":$_env/bin:"*) ;; *) export PATH="$_env/bin:$PATH" ;; esac
if ! python -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "error: $(python --version) in $_env; Python 3.10 or newer is needed" >&2
    exit 2
fi

_stamp="$_env/.ham-$(echo "$_extras" | tr ',' '-')"
_wanted="$_top $(cksum <"$_top/pyproject.toml")"
if [ "$(cat "$_stamp" 2>/dev/null)" != "$_wanted" ]; then
    echo "installing ham[$_extras] into $_env"
    python -m pip install --quiet --disable-pip-version-check -e "$_top[$_extras]"
    echo "$_wanted" >"$_stamp"
fi

# Spinning idle threads slow down a busy two-core machine up to five times.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
# DeepSpeed compiles code at its first use; environments that share one cache would overwrite each other's.
export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$_env/.torch-extensions}"
unset _extras _top _env _stamp _wanted
