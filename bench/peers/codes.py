#!/usr/bin/env python3
"""Codes of faiss, with the columns of `spandrel-bench codes`: no index, all vectors are scanned.

    codes.py --data FOLDER [--set PART] [--code PART,PART] [--query-limit N] [--json FILE]

Vectors are coded about their mean, as there; under inner product queries stay as they are, which leaves the
order as it is. One thread adds and searches, `--train-threads` train. `search_ns` is the
median of `Index.search` for the 100 best, one query a call, over the rows. The error is of the distances that the same codes give for every so many rows
by themselves.
"""

import argparse
import json
import time

import faiss
import numpy as np

import dataset
import report

SETS = ("fashion-mnist-784-euclidean", "ottqa-100k-minilm-384-ip")
K, KEPT, COMPARED_ROWS = 10, 100, 500
# As many as `spandrel-bench codes` trains on, and about as many rounds; the defaults (up to 65,536 rows, 50
# rounds) take minutes a code.
TRAIN_ROWS, OPQ_ROUNDS = 16_384, 10
COLUMNS = (
    ("set", 0),
    ("code", 0),
    ("bytes_per_vector", 0),
    ("recall_10", 4),
    ("recall_50", 4),
    ("recall_100", 4),
    ("error_mean", 5),
    ("bias_mean", 5),
    ("train_s", 1),
    ("encode_s", 2),
    ("search_ns", 2),
)


def catalogue(dim):
    """Words of `index_factory`. RR rotates, which RaBitQ counts on and faiss leaves to the caller."""
    yield from ("SQfp16", "SQ8", "SQ6", "SQ4", "RaBitQ")
    for bits in ("", *range(2, 9)):
        yield f"RR,RaBitQ{bits}"
    for bits in ("", 2, 4, 8):
        yield f"RR,RaBitQfs{bits}"
    sizes = (dim // 16, dim // 8, dim // 4)
    for size in sizes:
        yield f"PQ{2 * size}x4fs"
        yield f"PQ{size}"
    for dims in (dim // 8, dim // 4, dim // 2):
        yield f"PCA{dims},Flat"
    for size in sizes:
        yield f"OPQ{2 * size},PQ{2 * size}x4fs"
        yield f"OPQ{size},PQ{size}"


def code_bytes(index):
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    return inner.code_size if hasattr(inner, "code_size") else inner.sa_code_size()


class Measure:
    def __init__(self, folder, name, query_limit, train_threads):
        loaded = dataset.load(str(folder), "", k=K, query_limit=query_limit)
        self.name, self.truth, self.threads = name, loaded.truth, train_threads
        self.is_l2 = loaded.metric == "l2"
        base, queries = loaded.base, loaded.queries
        stride = max(len(base) // COMPARED_ROWS, 1)
        some = base[::stride].astype(np.float64)
        wide = queries.astype(np.float64)
        products = wide @ some.T
        squares = (wide**2).sum(1)[:, None], (some**2).sum(1)[None]
        self.exact = squares[0] + squares[1] - 2 * products if self.is_l2 else products
        self.unit = self.exact if self.is_l2 else np.sqrt(squares[0] * squares[1])
        mean = base.mean(0, dtype=np.float64)
        self.base = (base - mean).astype(np.float32)
        self.queries = (queries - mean).astype(np.float32) if self.is_l2 else queries
        self.shift = 0.0 if self.is_l2 else (wide @ mean)[:, None]
        self.stride = stride
        some = np.random.default_rng(1).choice(len(base), min(TRAIN_ROWS, len(base)), replace=False)
        self.sample = np.ascontiguousarray(self.base[np.sort(some)])

    def measure(self, code):
        metric = faiss.METRIC_L2 if self.is_l2 else faiss.METRIC_INNER_PRODUCT
        index = faiss.index_factory(self.base.shape[1], code, metric)
        if isinstance(index, faiss.IndexPreTransform):
            first = faiss.downcast_VectorTransform(index.chain.at(0))
            if isinstance(first, faiss.OPQMatrix):
                first.niter = OPQ_ROUNDS
        faiss.omp_set_num_threads(self.threads)
        begin = time.perf_counter()
        index.train(self.sample)
        train_s = time.perf_counter() - begin
        faiss.omp_set_num_threads(1)
        begin = time.perf_counter()
        index.add(self.base)
        encode_s = time.perf_counter() - begin
        index.search(self.queries[:2], KEPT)
        calls = [self.queries[at : at + 1] for at in range(len(self.queries))]
        found, times_ns = [], []
        for call in calls:
            begin = time.perf_counter_ns()
            found.append(index.search(call, KEPT)[1][0])
            times_ns.append(time.perf_counter_ns() - begin)
        hits = (np.stack(found)[:, :, None] == self.truth[:, None, :K]).any(2)
        return {
            "set": self.name,
            "code": code,
            "bytes_per_vector": code_bytes(index),
            "recall_10": float(hits[:, :10].sum(1).mean() / K),
            "recall_50": float(hits[:, :50].sum(1).mean() / K),
            "recall_100": float(hits.sum(1).mean() / K),
            **self.errors(index),
            "train_s": train_s,
            "encode_s": encode_s,
            "search_ns": float(np.median(times_ns)) / len(self.base),
        }

    def errors(self, index):
        index.reset()
        rows = np.ascontiguousarray(self.base[:: self.stride])
        index.add(rows)
        values, order = index.search(self.queries, len(rows))
        estimates = np.full(self.exact.shape, np.nan)
        # A scan of 32 at a time may leave rows out, as -1.
        query, place = np.nonzero(order >= 0)
        estimates[query, order[query, place]] = values[query, place]
        with np.errstate(divide="ignore", invalid="ignore"):
            off = (estimates + self.shift - self.exact) / self.unit
        off = off[np.isfinite(off)]
        return {"error_mean": float(np.abs(off).mean()), "bias_mean": float(off.mean())}


def cell(row, name, digits):
    value = row[name]
    return value if isinstance(value, str) else f"{value:.{digits}f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--set", default="", help="sets of it whose name contains this; left out: all")
    parser.add_argument("--code", default="", help="codes whose name contains one of these, by commas")
    parser.add_argument("--train-threads", type=int, default=1)
    parser.add_argument("--query-limit", type=int)
    parser.add_argument("--json", help="write the report to this file")
    args = parser.parse_args()
    out = {"machine": report.machine(), "rows": [], "goals": []}
    out["settings"] = {"command": "codes.py", "arguments": vars(args), "peers": {"faiss": faiss.__version__}}
    for name in SETS:
        if args.set not in name:
            continue
        measure = Measure(f"{args.data}/{name}", name, args.query_limit, args.train_threads)
        for code in catalogue(measure.base.shape[1]):
            if any(part in code for part in args.code.split(",")):
                out["rows"].append(measure.measure(code))
                row = out["rows"][-1]
                print("  ".join(cell(row, *column) for column in COLUMNS), flush=True)
                if args.json:
                    write(out, args.json)


def write(out, path):
    """After every code: a run takes long."""
    with open(path, "w") as file:
        json.dump(out, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    main()
