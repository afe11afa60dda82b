"""The processes that take part: workers, each with a peer in it, and the interpreters that they need."""

import contextlib
import json
import os
import pathlib
import subprocess
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# What libraries read when they load: the number of threads is set for each process, the rest is their choice.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TOKIO_WORKER_THREADS",
    "LANCE_CPU_THREADS",
)
TUNING_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_WAIT_POLICY")
LOG_LINES = 5
# Longest time an answer may take: a build of a large set, or a peer that hangs.
PATIENCE_S = 3600
# Longest time that a process may take to end by itself.
CLOSE_S = 10


class PeerError(Exception):
    """A peer that cannot be used, and why."""


def python_for(module):
    """The interpreter of the environment for a module of peers, made when it is not there."""
    name, requirements = f"peers-{module}", HERE / "requirements" / f"{module}.txt"
    if not requirements.exists():
        name, requirements = "peers", HERE / "requirements.txt"
    done = subprocess.run(
        [ROOT / "scripts" / "python_env.sh", name, requirements], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise PeerError(f"cannot be installed: {last_lines(done.stderr)}")
    return done.stdout.strip()


def last_lines(text):
    return " | ".join(text.strip().splitlines()[-LOG_LINES:]) or "it said nothing"


class Worker:
    """A worker.py, or another such `script`, that is running; `inner` threads inside the library."""

    def __init__(self, python, peer, shape, inner, log, memory_mb=None, script="worker.py"):
        environment = {name: value for name, value in os.environ.items() if name not in TUNING_VARIABLES}
        environment.update({name: str(inner) for name in THREAD_VARIABLES})
        command = [
            python,
            "-B",
            HERE / script,
            peer,
            json.dumps(shape),
            *([str(memory_mb)] if memory_mb else []),
        ]
        self.log = log
        with open(log, "a") as errors:
            self.child = subprocess.Popen(
                command,
                env=environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def ask(self, what, **details):
        """Sends one request and waits for its answer."""
        begin, line = time.monotonic(), ""
        limit = threading.Timer(PATIENCE_S, self.child.kill)
        limit.start()
        try:
            self.child.stdin.write(json.dumps({"do": what, **details}) + "\n")
            self.child.stdin.flush()
            line = self.child.stdout.readline()
        except BrokenPipeError:
            pass
        finally:
            limit.cancel()
        if not line:
            status = self.child.wait()
            if time.monotonic() - begin >= PATIENCE_S:
                raise PeerError(f"no answer to '{what}' within {PATIENCE_S} s")
            said = last_lines(pathlib.Path(self.log).read_text(errors="replace"))
            raise PeerError(f"its process ended with status {status} during '{what}': {said}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(f"'{what}' failed: {answer['error']}")
        return answer

    def close(self):
        """Lets it end; one that is in the middle of something is killed."""
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.close()
        try:
            self.child.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.child.stdout.close()
