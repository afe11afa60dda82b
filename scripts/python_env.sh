#!/usr/bin/env bash
# Makes a Python environment outside the checkout and prints its interpreter's path.
#
#   scripts/python_env.sh NAME REQUIREMENTS [OLDEST]
#
# NAME is its folder in SPANDREL_CACHE (default ~/.cache/spandrel), REQUIREMENTS a file for pip, OLDEST the oldest
# CPython that will do (default 3.11). PYTHON names the interpreter to start from. What is there already is used again
# as long as REQUIREMENTS stays the same. Nothing is asked; what goes wrong is said on stderr.
set -euo pipefail

name="$1" requirements="$2" oldest="${3:-3.11}"
venv="${SPANDREL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/spandrel}/$name"
python="${PYTHON:-python3}"

if ! command -v "$python" >/dev/null; then
    echo "python: no '$python' on PATH; install Python $oldest or later, or set PYTHON" >&2
    exit 1
fi
if ! "$python" -c "import sys; sys.exit(sys.version_info < tuple(map(int, '$oldest'.split('.'))))"; then
    echo "python: $("$python" --version) is too old; $oldest or later is needed (set PYTHON)" >&2
    exit 1
fi
if [ ! -x "$venv/bin/python" ]; then
    echo "python: making a virtual environment in $venv" >&2
    "$python" -m venv "$venv" || {
        echo "python: 'python -m venv' failed; on Debian and Ubuntu it needs the package python3-venv" >&2
        exit 1
    }
fi
if ! cmp -s "$requirements" "$venv/installed.txt"; then
    echo "python: installing the packages of $requirements from PyPI" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" >&2 || {
        echo "python: pip could not install them (no network?)" >&2
        exit 1
    }
    cp "$requirements" "$venv/installed.txt"
fi
echo "$venv/bin/python"
