#!/usr/bin/env python3
"""Exact search by numpy and by faiss IndexFlat, driven by `spandrel-bench flat` over stdin and stdout.

One JSON object a line in, one out. `load` reads the vectors, `run` measures one round, `answers` returns the
rows found, `quit` ends. The process stays alive between rounds, so that rounds of both sides can alternate.

    {"do": "load", "base": PATH, "queries": PATH, "metric": "l2" | "ip"}
    {"do": "run", "peer": "faiss" | "numpy", "k": 10, "queries": 256, "batch": 32,
     "callers": 1, "inner": 2, "blas": true}
    {"do": "answers", "peer": "faiss" | "numpy", "k": 10}
    {"do": "versions"}

Threads are set explicitly in two ways: `callers` Python threads that each search their own queries (the
libraries release the interpreter lock), and `inner` threads inside each library call. `blas` makes faiss use a
matrix product whatever the batch: its own rule (rows of the batch x dimension, since 1.15) leaves it out where
it would be faster. The driver tries every combination of both and keeps the fastest.
"""

import concurrent.futures
import json
import os
import sys
import threading
import time

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.pop(name, None)  # The libraries read these when they load: they choose their own kernels.

import faiss
import numpy as np
import threadpoolctl

from dataset import read_vectors

WARM_UP_CALLS = 2
BLAS_RULE = faiss.cvar.distance_compute_blas_threshold
BLAS_ALWAYS = 1


class Faiss:
    def __init__(self, base, metric):
        self.index = (faiss.IndexFlatL2 if metric == "l2" else faiss.IndexFlatIP)(base.shape[1])
        self.index.add(base)

    def search(self, queries, k):
        return self.index.search(queries, k)[1]


class Numpy:
    """One matrix product, argpartition, and a sort of the k best. Lower is better: |b|^2 - 2 q.b, or -q.b."""

    def __init__(self, base, metric):
        self.columns = base.T
        self.norms = np.einsum("ij,ij->i", base, base) if metric == "l2" else None
        self.factor = np.float32(-2.0 if metric == "l2" else -1.0)
        self.local = threading.local()

    def search(self, queries, k):
        scores = getattr(self.local, "scores", None)
        if scores is None or len(scores) != len(queries):
            scores = self.local.scores = np.empty((len(queries), self.columns.shape[1]), np.float32)
        np.matmul(queries * self.factor, self.columns, out=scores)
        if self.norms is not None:
            scores += self.norms
        best = np.argpartition(scores, k, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        return np.take_along_axis(best, order, axis=1)


class Peers:
    def __init__(self):
        self.pools = {}

    def load(self, ask):
        base, self.queries = read_vectors(ask["base"]), read_vectors(ask["queries"])
        self.peers = {"faiss": Faiss(base, ask["metric"]), "numpy": Numpy(base, ask["metric"])}
        return {"rows": len(base), "dim": base.shape[1], "queries": len(self.queries)}

    def run(self, ask):
        peer, k, batch, callers = self.peers[ask["peer"]], ask["k"], ask["batch"], ask["callers"]
        starts = range(0, ask["queries"], batch)
        gate = threading.Barrier(callers + 1)
        faiss.cvar.distance_compute_blas_threshold = BLAS_ALWAYS if ask["blas"] else BLAS_RULE

        def caller(which):
            # OpenMP keeps the thread count per calling thread.
            faiss.omp_set_num_threads(ask["inner"])
            mine = [self.queries[at : min(at + batch, ask["queries"])] for at in starts[which::callers]]
            for call in mine[:WARM_UP_CALLS]:
                peer.search(call, k)
            gate.wait()
            times = []
            for call in mine:
                begin = time.perf_counter_ns()
                peer.search(call, k)
                times.append(time.perf_counter_ns() - begin)
            return times

        pool = self.pools.setdefault(callers, concurrent.futures.ThreadPoolExecutor(callers))
        with threadpoolctl.threadpool_limits(limits=ask["inner"], user_api="blas"):
            futures = [pool.submit(caller, which) for which in range(callers)]
            gate.wait()
            begin = time.perf_counter()
            times = [time for future in futures for time in future.result()]
            wall = time.perf_counter() - begin
        return {"qps": ask["queries"] / wall, "p50_us": float(np.median(times)) / 1e3}

    def answers(self, ask):
        found = [
            self.peers[ask["peer"]].search(self.queries[at : at + 64], ask["k"])
            for at in range(0, len(self.queries), 64)
        ]
        return {"rows": np.concatenate(found).tolist()}

    def versions(self, _):
        blas = [
            {name: info.get(name) for name in ("internal_api", "version", "architecture")}
            for info in threadpoolctl.threadpool_info()
        ]
        return {
            "python": sys.version.split()[0],
            "numpy": np.__version__,
            "faiss": faiss.__version__,
            "faiss_options": faiss.get_compile_options().strip(),
            "threads": blas,
        }


def main():
    peers = Peers()
    verbs = {"versions": peers.versions, "load": peers.load, "run": peers.run, "answers": peers.answers}
    for line in sys.stdin:
        ask = json.loads(line)
        if ask["do"] == "quit":
            return
        try:
            answer = verbs[ask["do"]](ask)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
