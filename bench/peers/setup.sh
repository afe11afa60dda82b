#!/usr/bin/env bash
# Makes the Python environment of the peers outside the checkout and prints its interpreter's path.
# SPANDREL_PEERS names the folder; the default is in the cache folder that the build uses too.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cache="${SPANDREL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/spandrel}"
venv="${SPANDREL_PEERS:-$cache/peers}"
python="${PYTHON:-python3}"

if ! command -v "$python" >/dev/null; then
    echo "peers: no '$python' on PATH; install Python 3.11 or later, or set PYTHON" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "peers: $("$python" --version) is too old; 3.11 or later is needed (set PYTHON)" >&2
    exit 1
fi
if [ ! -x "$venv/bin/python" ]; then
    echo "peers: making a virtual environment in $venv" >&2
    "$python" -m venv "$venv" || {
        echo "peers: 'python -m venv' failed; on Debian and Ubuntu it needs the package python3-venv" >&2
        exit 1
    }
fi
if ! cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
    echo "peers: installing the packages of bench/peers/requirements.txt from PyPI" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt" >&2
    cp "$here/requirements.txt" "$venv/installed.txt"
fi
echo "$venv/bin/python"
