#!/usr/bin/env bash
# Tests the built program from outside (tests/python): the server through Python's grpcio, the command line by its output
# and exit codes. Where there is no Python, or PyPI cannot be reached, it says so and passes; with
# SPANDREL_PYTHON_TESTS=required, as in CI, it fails.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! python="$(scripts/python_env.sh grpc-client tests/python/requirements.txt 3.10)"; then
    if [ "${SPANDREL_PYTHON_TESTS:-}" = required ]; then
        echo "test-python: FAILED: no Python environment (above)" >&2
        exit 1
    fi
    echo "test-python: SKIPPED: no Python environment (above); everything else was tested"
    exit 0
fi
target="${CARGO_TARGET_DIR:-target}"
binary="$(cd "$target" && pwd)/debug/spandrel"
"$python" -B tests/python/client_test.py "$binary"
"$python" -B tests/python/cli_test.py "$binary"
