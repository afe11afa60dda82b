"""DiskANN3 (Microsoft's Rust crate diskann-disk): a Vamana graph and the vectors on disk, PQ codes in memory.

The program in ../diskann-disk, compiled when it is first asked for, builds and searches in a process of its
own and reads the clock itself: neither Python nor a pipe is in the figures, and memory is that program's.

The graph can be made for inner products as they are. With one dimension more, which gives all rows the same
length and is 0 in queries, they are also an order of distances: a graph for those is the other setting.

`--memory-mb` is shared by the codes and the nodes next to the entry point, which the crate keeps when told
how many; left out, codes get a byte for every four dimensions and no node is kept.
"""

import functools
import json
import os
import pathlib
import re
import subprocess
import tempfile

import numpy as np

from adapters import Peer
from measure import MIB, WARM_UP_QUERIES
from tune import Sweep, ladder

PROGRAM = pathlib.Path(__file__).resolve().parent.parent / "diskann-disk"
PREFIX = "index"
LOG_LINES = 5
BUILD_MEMORY_GIB = 8
# The likely ones first: those after them are given up as soon as they are slower (tune.py).
BEAM_WIDTHS = (8, 4, 16, 2)


@functools.cache
def program():
    """The compiled program: made by cargo when it is not there or its source has changed."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cache = os.environ.get("SPANDREL_CACHE") or os.path.join(caches, "spandrel")
    target = os.path.abspath(os.environ.get("CARGO_TARGET_DIR") or os.path.join(cache, PROGRAM.name))
    command = ["cargo", "build", "--release", "--locked", "--quiet", "--target-dir", target]
    try:
        done = subprocess.run(command, cwd=PROGRAM, capture_output=True, text=True)
    except OSError as error:
        raise RuntimeError(f"{PROGRAM} needs cargo: {error}") from error
    if done.returncode != 0:
        said = " | ".join(done.stderr.strip().splitlines()[-LOG_LINES:])
        raise RuntimeError(f"'cargo build --release' in {PROGRAM} failed: {said}")
    return os.path.join(target, "release", "peer-diskann-disk")


def lengthened(vectors, norm2):
    """One dimension more, so that each vector has the squared length `norm2`."""
    missing = norm2 - np.einsum("ij,ij->i", vectors, vectors)
    return np.hstack([vectors, np.sqrt(np.maximum(missing, 0))[:, None]]).astype(np.float32)


def held(shape, memory_mb, settings):
    """Bytes of a code, and nodes that are kept in memory."""
    rows, dim = shape["rows"], shape["dim"]
    if not memory_mb:
        return dim // 4, 0
    budget = memory_mb * MIB
    code_bytes = max(1, min(dim, int(budget * settings["code_share"]) // rows))
    return code_bytes, max(0, budget - code_bytes * rows) // (4 * (dim + settings["degree"] + 1))


class DiskannDisk(Peer):
    on_disk = True

    def __init__(self, shape, memory_mb=None):
        super().__init__(shape, memory_mb)
        self.child = subprocess.Popen([program()], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process = self.child.pid

    def ask(self, **request):
        self.child.stdin.write(json.dumps(request) + "\n")
        self.child.stdin.flush()
        answer = json.loads(self.child.stdout.readline() or '{"error": "it ended"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self):
        self.child.stdin.close()
        self.child.wait()
        self.child.stdout.close()

    def version(self):
        lock = (PROGRAM / "Cargo.lock").read_text()
        return re.search(r'name = "diskann-disk"\nversion = "(.+)"', lock)[1]

    def builds(self):
        graph = {"degree": 64, "list_size": 125}
        shares = [{"code_share": share} for share in (0.5, 1.0)] if self.memory_mb else [{}]
        builds = [{"metric": "l2", **graph, **share} for share in shares]
        return builds if self.shape["metric"] == "l2" else [*builds, {"metric": "ip", **graph, **shares[0]}]

    def build(self, base, folder, threads, settings):
        if settings["metric"] != self.shape["metric"]:
            base = lengthened(base, np.einsum("ij,ij->i", base, base).max())
        data = os.path.join(folder, "base.fbin")
        with open(data, "wb") as file:
            np.array(base.shape, np.uint32).tofile(file)
            base.tofile(file)
        self.ask(
            build={
                "data": data,
                "prefix": os.path.join(folder, PREFIX),
                "metric": settings["metric"],
                "degree": settings["degree"],
                "list_size": settings["list_size"],
                "code_bytes": held(self.shape, self.memory_mb, settings)[0],
                "threads": threads,
                "memory_gib": BUILD_MEMORY_GIB,
            }
        )
        os.remove(data)

    def open(self, folder, threads, settings):
        self.metric = settings["metric"]
        self.ask(
            open={
                "prefix": os.path.join(folder, PREFIX),
                "metric": self.metric,
                "threads": threads,
                "cached_nodes": held(self.shape, self.memory_mb, settings)[1],
            }
        )

    def sweeps(self, settings):
        return [
            Sweep("list_size", ladder(self.shape["k"], 1000), {"beam_width": width}) for width in BEAM_WIDTHS
        ]

    def run_pass(self, queries, knobs, threads, warm_up, between=None):
        """Nothing is done `between`: it reads past the page cache."""
        if self.metric != self.shape["metric"]:
            queries = np.pad(queries, ((0, 0), (0, 1)))
        with tempfile.NamedTemporaryFile() as file:
            queries.tofile(file)
            file.flush()
            asked = {"queries": file.name, "dim": queries.shape[1], "k": self.shape["k"], **knobs}
            done = self.ask(**{"pass": {**asked, "warm_up": WARM_UP_QUERIES if warm_up else 0}})
        return done["wall_s"], done["times_ns"], done["found"]
