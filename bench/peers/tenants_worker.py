#!/usr/bin/env python3
"""One way of searching scopes in a process of its own; driven by tenants.py as worker.py is by run.py.

    tenants_worker.py PEER SHAPE

    {"do": "describe"}                               version, build settings, what kind of index it is
    {"do": "build", "base", "dump", "folder", "threads"}
    {"do": "open", "queries", "dump", "folder"}      which questions can be asked, and the knobs
    {"do": "pass", "asks", "knobs"}                  asks these questions, each with the knobs of its class
    {"do": "memory"}                                 resident memory since it was opened

Memory is measured once it is open and some questions were asked: what Python keeps of a long pass, requests
and answers, is not the library's.
"""

import gc
import json
import sys
import time

import numpy as np

import cache
import measure
import scoped
import worker
from scoped import dump

WARM_UP = 100
# Questions that are asked before memory is measured, and calls that show what a call alone takes.
OPENING_ASKS = 500
LEAST_CALLS = 1000


class Worker:
    def __init__(self, name, shape):
        self.peer = scoped.peer_class(name)(shape)

    def describe(self, _):
        kinds = ("settings", "shared", "of_vectors", "in_memory")
        return {"version": self.peer.version(), **{kind: getattr(self.peer, kind) for kind in kinds}}

    def build(self, ask):
        base, (scopes, _) = np.load(ask["base"]), dump.read(ask["dump"])
        begin = time.perf_counter()
        self.peer.build(base, scopes, ask["folder"], ask["threads"])
        build_s = time.perf_counter() - begin
        cache.write_back(ask["folder"])
        return {"build_s": build_s}

    def open(self, ask):
        self.queries, (self.dump, _) = np.load(ask["queries"]), dump.read(ask["dump"])
        before = measure.memory()
        self.peer.make_filters(self.dump, sorted(set(self.dump.asks[:, 1].tolist())))
        gc.collect()
        self.idle = measure.memory()
        self.filters_mb = grown(before, self.idle)
        begin = time.perf_counter()
        self.peer.open(ask["folder"], self.dump)
        open_s = time.perf_counter() - begin
        asks = [at for at, (_, scope) in enumerate(self.dump.asks.tolist()) if self.peer.answers(scope)]
        sweeps = self.peer.sweeps()
        some = asks[:: max(1, len(asks) // OPENING_ASKS)]
        self.timed([self.request(at, sweeps[0].knobs(0)) for at in some])
        gc.collect()
        self.opened = measure.memory()
        return {
            "sweeps": [vars(sweep) for sweep in sweeps],
            "asks": asks,
            "open_s": open_s,
            "call_us": self.call_us(),
        }

    def request(self, ask, knobs):
        query, scope = self.dump.asks[ask].tolist()
        return self.peer.request(self.queries[query : query + 1], scope, knobs)

    def run(self, ask):
        def requests(asks):
            # Each is made right before its call.
            return (self.request(at, ask["knobs"][self.dump.class_of(at)]) for at in asks)

        self.timed(requests(ask["asks"][:WARM_UP]))
        times, found = self.timed(requests(ask["asks"]))
        return {"times_ns": times, "found": found}

    def timed(self, requests):
        """The time of each call in ns, and the rows found. Answers are read between calls, as in our bench."""
        peer, clock, times, found = self.peer, time.perf_counter_ns, [], []
        gc.collect()
        gc.disable()
        try:
            for request in requests:
                peer.ready(request)
                begin = clock()
                answer = peer.search(request)
                times.append(clock() - begin)
                found.append(peer.rows(answer))
        finally:
            gc.enable()
        return times, found

    def call_us(self):
        """What a call takes that has next to nothing to search."""
        least = self.peer.least(self.queries[:1])
        return None if least is None else float(np.median(self.timed([least] * LEAST_CALLS)[0])) / 1e3

    def memory(self, _):
        grown_mb = grown(self.idle, self.opened)
        return {
            "idle": self.idle,
            "opened": self.opened,
            "now": measure.memory(),
            "filters_mb": self.filters_mb,
            "grown_mb": grown_mb if grown_mb is None else self.peer.memory_of_all(grown_mb),
            "estimated": grown_mb is not None and self.peer.memory_of_all(grown_mb) != grown_mb,
        }

    def verbs(self):
        return {
            "describe": self.describe,
            "build": self.build,
            "open": self.open,
            "pass": self.run,
            "memory": self.memory,
        }


def grown(before, after):
    return after["now"] - before["now"] if before and after else None


if __name__ == "__main__":
    worker.serve(lambda: Worker(sys.argv[1], json.loads(sys.argv[2])))
