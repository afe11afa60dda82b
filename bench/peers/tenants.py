#!/usr/bin/env python3
"""Measures peer libraries on parts of the rows: tenants, labels and filters, as spandrel-bench asked for them.

README.md says what is measured and what is fair about it.

    spandrel-bench tenants ... --workload zipf:1000 --dump dumps
    tenants.py --dump dumps/zipf-1000 --base base.npy --queries query.npy --out tenants.json

Writes JSON with a row for each peer and class of scopes, and prints a table.
"""

import argparse
import os
import pathlib
import sys

import numpy as np

import dataset
import process
import report
import scoped
import whole
from also import Also
from index import say
from run import selected
from scoped import dump, figures
from scoped.index import Index


class Run:
    """What all peers share."""

    def __init__(self, args, scratch):
        self.dump_folder = pathlib.Path(args.dump).resolve()
        self.dump, cosine = dump.read(self.dump_folder)
        vectors = [dataset.read_vectors(path) for path in (args.base, args.queries)]
        base, queries = map(dataset.normalized, vectors) if cosine else vectors
        self.set_name = pathlib.Path(args.base).resolve().parent.name
        self.shape = {"rows": len(base), "dim": base.shape[1], "metric": self.dump.metric, "k": self.dump.k}
        self.target, self.pass_s, self.build_threads = args.recall, args.pass_s, args.build_threads
        self.scratch = scratch
        self.indexes = pathlib.Path(args.keep).resolve() if args.keep else scratch / "indexes"
        self.base, self.queries = scratch / "base.npy", scratch / "queries.npy"
        np.save(self.base, base)
        np.save(self.queries, queries)
        self.judge = dump.Judge(self.dump, base, queries)


def parse(words):
    def listed(text):
        return [part for part in text.split(",") if part]

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--dump", required=True, help="folder of a workload that spandrel-bench tenants --dump has written")
    add("--base", required=True, help="the base vectors that it is of")
    add("--queries", required=True, help="its query vectors")
    add("--peers", type=listed, default=list(scoped.PEERS), help="names or their beginnings, or all")
    add("--recall", type=float, default=0.95, help="recall target of each class")
    add("--rounds", type=int, default=3, help="rounds; ratios are taken in each, and the middle one counts")
    add("--pass-s", type=float, default=20, help="seconds a peer has in a round; a slower one asks a sample")
    whole.add_options(add)
    add("--over", help="the name that ratios are over; left out: the first --also, or the first peer")
    return parser.parse_args(words)


def main(words):
    args = parse(words)
    whole.run("tenants", args.out, lambda scratch, stack: measured(args, scratch, stack))


def measured(args, scratch, stack):
    """The whole report, and its table."""
    machine = report.machine()
    peers, others = selected(args.peers, tuple(scoped.PEERS)), [Also(text, scratch) for text in args.also]
    run = Run(args, scratch)
    indexes, failed, cut_short = prepare_all(run, peers, args.tune_s, stack)
    rounds = measure_rounds(run, indexes, others, args.rounds, failed)
    rows = [row for other in others for row in rows_of_other(run, other)]
    for index, done in zip(indexes, rounds):
        if len(done) == args.rounds:
            rows += figures.rows_of_peer(run, index, done, index.worker.ask("memory"))
    over = args.over or [*(other.name for other in others), *peers][0]
    rows = figures.with_ratios(rows, over)
    settings = {
        "command": "tenants",
        "arguments": vars(args),
        "niceness": os.nice(0),
        "rounds": args.rounds,
        "workload": {
            "name": run.dump.name,
            "kind": run.dump.kind,
            "scopes": run.dump.scopes(),
            "asks": len(run.dump.asks),
            "set": run.set_name,
            **run.shape,
        },
        "peers": {index.peer: index.version for index in indexes},
        "not_available": failed,
        "tuning_cut_short": cut_short,
    }
    goals = figures.goals_of(rows, over, args.recall)
    done = {"machine": machine, "settings": settings, "rows": rows, "goals": goals}
    return done, figures.render(done, over)


def rows_of_other(run, other):
    (reports,) = other.reports.values()
    return figures.rows_of_command(other.name, run.dump, reports)


def prepare_all(run, peers, tune_s, stack):
    """Builds, opens and tunes every peer. One that fails is named with its reason, and the others go on."""
    indexes, failed, cut_short = [], {}, []
    for peer in peers:
        try:
            index = Index(run, peer)
            stack.callback(index.close)
            index.build()
            index.open()
            cut_short += [f"{peer}, {name}" for name in index.tune(tune_s)]
        except process.PeerError as error:
            failed[peer] = str(error)
            say(peer, f"not available: {error}")
            continue
        indexes.append(index)
    return indexes, failed, cut_short


def measure_rounds(run, indexes, others, count, failed):
    """The passes of each peer; fewer where one failed."""
    rounds = [[] for _ in indexes]
    for number in range(count):
        say("all", f"round {number + 1} of {count}")
        for other in others:
            other.run(run.target if other.by_target else None)
        for index, done in zip(indexes, rounds):
            if index.peer not in failed:
                try:
                    done.append(index.ask(index.asks, index.knobs))
                except process.PeerError as error:
                    failed[index.peer] = str(error)
                    say(index.peer, str(error))
    return rounds


if __name__ == "__main__":
    main(sys.argv[1:])
