#!/usr/bin/env python3
"""One peer in a process of its own, so that its memory and its threads are its own; driven by run.py.

    worker.py PEER SHAPE [MEMORY_MB]

SHAPE is JSON: rows, dim, metric, k. One JSON object a line on stdin, one answer a line on what was stdout.
What the library prints goes to stderr.

    {"do": "describe"}                                    version, build settings, whether it stays on disk
    {"do": "build", "base", "folder", "threads", "settings"}
    {"do": "open", "queries", "folder", "threads", "settings"}
    {"do": "pass", "numbers", "knobs", "cold", "evict"}   a pass over the queries of these numbers
    {"do": "memory"}                                      resident memory since it was opened

An index is built by one process and searched by another: what is left over from building is not in the memory
reported, and each starts with the number of threads that it should use.
"""

import gc
import json
import os
import sys
import time

import numpy as np

import adapters
import cache
import measure


class Worker:
    def __init__(self, name, shape, memory_mb):
        self.peer_class = adapters.peer_class(name)
        self.shape, self.memory_mb = shape, memory_mb if self.peer_class.on_disk else None
        self.peer = self.peer_class(self.shape, self.memory_mb)

    def describe(self, _):
        return {
            "version": self.peer.version(),
            "builds": self.peer.builds(),
            "on_disk": self.peer.on_disk,
        }

    def build(self, ask):
        base = np.load(ask["base"])
        begin = time.perf_counter()
        self.peer.build(base, ask["folder"], ask["threads"], ask["settings"])
        build_s = time.perf_counter() - begin
        cache.write_back(ask["folder"])
        return {"build_s": build_s, "memory": measure.memory(self.peer.process)}

    def open(self, ask):
        self.queries, self.folder, self.threads = np.load(ask["queries"]), ask["folder"], ask["threads"]
        self.settings, self.idle = ask["settings"], measure.memory(self.peer.process)
        measure.reset_peak(self.peer.process)
        self.peer.open(self.folder, self.threads, self.settings)
        return {"sweeps": [vars(sweep) for sweep in self.peer.sweeps(self.settings)]}

    def run(self, ask):
        budget = None
        if ask["cold"]:
            self.reopen_cold()
        if ask["evict"]:
            budget = cache.Budget(self.folder, self.memory_mb, self.idle["private"])
        queries, process = self.queries[ask["numbers"]], self.peer.process
        begin_bytes = measure.read_bytes(process)
        wall_s, times, found = self.peer.run_pass(
            queries, ask["knobs"], self.threads, not ask["cold"], budget and budget.hold
        )
        end_bytes = measure.read_bytes(process)
        return {
            "wall_s": wall_s,
            "times_ns": times,
            "found": found,
            "read_bytes": None if begin_bytes is None else end_bytes - begin_bytes,
            "cached_bytes": self.cached_bytes(budget) if ask["cold"] else None,
        }

    def cached_bytes(self, budget):
        """Of the index in the page cache: the most after any call under a budget, otherwise now."""
        return max(cache.cached_bytes(self.folder), budget.most if budget else 0)

    def reopen_cold(self):
        """With an empty page cache, also of what was read to open: that is in the process now, or mapped."""
        self.peer.close()
        self.peer = None
        gc.collect()
        cache.drop(self.folder)
        self.peer = self.peer_class(self.shape, self.memory_mb)
        self.peer.open(self.folder, self.threads, self.settings)
        cache.drop(self.folder)

    def memory(self, _):
        return {"idle": self.idle, "now": measure.memory(self.peer.process)}

    def verbs(self):
        return {
            "describe": self.describe,
            "build": self.build,
            "open": self.open,
            "pass": self.run,
            "memory": self.memory,
        }


def serve(make):
    """Answers each line on stdin by a verb of the worker that `make` makes. One that cannot be made, or that
    fails, says why instead."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        verbs, broken = make().verbs(), None
    except Exception as error:
        verbs, broken = {}, error
    for line in sys.stdin:
        ask = json.loads(line)
        try:
            if broken:
                raise broken
            answer = verbs[ask["do"]](ask)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=replies, flush=True)


def main():
    name, shape, memory_mb = sys.argv[1], json.loads(sys.argv[2]), [*map(int, sys.argv[3:]), None][0]
    serve(lambda: Worker(name, shape, memory_mb))


if __name__ == "__main__":
    main()
