"""What every comparison shares: options that mean the same, and how a run begins and ends."""

import contextlib
import json
import os
import pathlib
import signal
import sys
import tempfile


def add_options(add):
    """Options that mean the same in every comparison."""
    add("--build-threads", type=int, default=len(os.sched_getaffinity(0)), help="threads that build")
    add("--tune-s", type=float, default=300, help="seconds of tuning a peer; then the best so far is taken")
    add("--keep", help="folder where indexes stay, to be used again without a build")
    add(
        "--also",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="a command that takes part in every round; {json}: a file for its JSON, {recall}: the target",
    )
    add("--out", help="write the JSON to this file")


def run(name, out, measured):
    """Measures in a folder of its own, `measured(scratch, stack)`, which gives the report and its table."""
    # Ended from outside, it still removes its folder and lets its processes end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"{name}: ended"))
    try:
        with contextlib.ExitStack() as stack:
            scratch = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{name}-")))
            report, table = measured(scratch, stack)
    except (ValueError, OSError) as error:
        sys.exit(f"{name}: {error}")
    if out:
        pathlib.Path(out).write_text(json.dumps(report, indent=2) + "\n")
    print(table)
