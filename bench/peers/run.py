#!/usr/bin/env python3
"""Measures peer libraries on one data set, each tuned over its own knobs to recall targets.

README.md says what is measured and what is fair about it.

    run.py --dataset ottqa-100k-minilm-384-ip --peers hnswlib,faiss --recall 0.90,0.95 --out peers.json

Writes the JSON of `spandrel-bench ann`, with a row for each peer and target, and prints a table.
"""

import argparse
import os
import pathlib
import sys

import numpy as np

import adapters
import dataset
import index
import process
import recall
import report
import table
import whole
from also import Also


class Run:
    """What all peers share. Settings are chosen with the queries of even number."""

    def __init__(self, args, scratch):
        self.dataset = dataset.load(
            args.dataset, args.data, args.metric, args.k, args.queries, args.base_limit
        )
        rows, dim = self.dataset.base.shape
        self.shape = {"rows": rows, "dim": dim, "metric": self.dataset.metric, "k": args.k}
        self.threads, self.build_threads = args.threads, args.build_threads
        self.memory_mb, self.evict = args.memory_mb, args.evict
        self.targets, self.tune_s = args.recall, args.tune_s
        self.scratch = scratch
        self.indexes = pathlib.Path(args.keep).resolve() if args.keep else scratch / "indexes"
        self.base, self.queries = scratch / "base.npy", scratch / "queries.npy"
        np.save(self.base, self.dataset.base)
        np.save(self.queries, self.dataset.queries)
        self.judge = recall.Judge(self.dataset)
        self.all = list(range(len(self.dataset.queries)))
        self.tuning, self.held_out = self.all[::2], self.all[1::2]


def parse(words):
    def listed(kind):
        return lambda text: [kind(part) for part in text.split(",") if part]

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--dataset", required=True, help="folder of a data set, or its name in --data")
    add("--data", default="../shared/data", help="folder of data sets")
    add("--metric", choices=("l2", "ip", "cosine"), help="left out: the end of the set's name says it")
    add("--peers", type=listed(str), default=list(adapters.PEERS), help="names or their beginnings, or all")
    add("--k", type=int, default=10, help="hits a query")
    add("--recall", type=listed(float), default=[0.90, 0.95, 0.99], help="recall targets")
    add("--threads", type=int, default=1, help="threads that search, each with its own queries")
    add("--runs", type=int, default=3, help="rounds over all queries; the middle QPS is reported")
    add("--builds", type=int, help="only the first so many build settings of each peer")
    add("--queries", type=int, help="only the first so many queries")
    add("--base-limit", type=int, help="only the first so many base vectors; true neighbours are computed")
    add("--memory-mb", type=int, help="for peers on disk: what they may use, and cold reads in every run")
    add("--evict", action="store_true", help="holds cached pages of an index to --memory-mb, too")
    whole.add_options(add)
    add("--base", help="the name that ratios are over; left out: the first --also, or the first peer")
    args = parser.parse_args(words)
    args.recall.sort()
    if args.evict and (not args.memory_mb or args.threads > 1):
        parser.error("--evict needs --memory-mb and a single thread")
    return args


def selected(names, known=tuple(adapters.PEERS)):
    """The peers whose names are given, or begin with what is given."""
    chosen = []
    for name in names:
        found = [peer for peer in known if peer == name or peer.startswith(f"{name}-")]
        if not found:
            raise ValueError(f"no peer is called '{name}'; known: {', '.join(known)}")
        chosen.extend(found)
    return list(dict.fromkeys(chosen))


def main(words):
    args = parse(words)
    whole.run("peers", args.out, lambda scratch, stack: measured(args, scratch, stack))


def measured(args, scratch, stack):
    """The whole report, and its table."""
    machine = report.machine()
    peers, others = selected(args.peers), [Also(text, scratch) for text in args.also]
    run = Run(args, scratch)
    versions, points, missed, failed, cut_short = prepare_all(run, peers, args.builds, stack)
    passes = measure_rounds(run, points, others, args.runs, failed)
    rows = [row for other in others for row in other.rows(run.dataset.name)]
    rows += rows_of(run, points, passes, args.runs)
    data = {
        "name": run.dataset.name,
        "rows": run.shape["rows"],
        "dim": run.shape["dim"],
        "queries": len(run.all),
        "tuning_queries": len(run.tuning),
    }
    settings = {
        "command": "peers",
        "arguments": vars(args),
        "niceness": os.nice(0),
        "set": data,
        "peers": versions,
        "not_available": failed,
        "tuning_cut_short": cut_short,
    }
    goals = goals_of(rows, missed, args.k)
    done = {"machine": machine, "settings": settings, "rows": rows, "goals": goals}
    return done, table.render([done], args.base)


def prepare_all(run, peers, builds_max, stack):
    """Builds and tunes every peer. One that fails is named with its reason, and the others go on."""
    versions, points, missed, failed, cut_short = {}, [], {}, {}, []
    for peer in peers:
        try:
            python = process.python_for(adapters.PEERS[peer][0])
            prepared = index.prepare(run, peer, python, builds_max)
        except process.PeerError as error:
            failed[peer] = str(error)
            index.say(peer, f"not available: {error}")
            continue
        versions[peer], found, missed[peer], failures, short = prepared
        failed.update(failures)
        points.extend(found)
        cut_short.extend(short)
        for open_index in {point.index for point in found}:
            stack.callback(open_index.close)
    return versions, points, missed, failed, cut_short


def measure_rounds(run, points, others, runs, failed):
    """The passes of each point, by rounds, then targets, then peers; fewer where a peer failed."""
    passes = [[] for _ in points]
    for number in range(runs):
        index.say("all", f"round {number + 1} of {runs}")
        for other in others:
            if not other.by_target:
                other.run()
        for target in run.targets:
            for other in others:
                if other.by_target:
                    other.run(target)
            for point, done in zip(points, passes):
                if point.target == target and point.index.peer not in failed:
                    measure_point(run, point, done, failed)
    return passes


def measure_point(run, point, done, failed):
    """Adds a pass to those done."""
    try:
        done.append(point.index.search(run.all, point.knobs))
    except process.PeerError as error:
        failed[point.index.peer] = str(error)
        index.say(point.index.peer, str(error))


def rows_of(run, points, passes, runs):
    """Rows of the points that were measured in every round."""
    rows = []
    for point, done in zip(points, passes):
        if len(done) == runs:
            recalls = run.judge.recalls(run.all, done[-1]["found"])
            rows.append(report.row(point, done, recalls, run.held_out, point.index.worker.ask("memory")))
    return rows


def goals_of(rows, missed, k):
    goals = [
        report.goal(f"{row['peer']}: recall@{k}", row["recall"], row["recall_target"])
        for row in rows
        if row["recall_target"]
    ]
    for peer, targets in missed.items():
        goals += [
            report.goal(f"{peer}: recall@{k}, most of any setting", most, target)
            for target, most in targets.items()
        ]
    return goals


if __name__ == "__main__":
    main(sys.argv[1:])
