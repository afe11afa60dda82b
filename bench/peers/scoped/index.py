"""An index of scopes: built in one process, opened and tuned in another that stays alive for the rounds."""

import json
import pathlib
import re
import time

import measure
import process
import scoped
from index import make_anew, sample, say
from scoped import tuning
from scoped.dump import ALL
from tune import OutOfTime, Sweep, Trial

SCRIPT = "tenants_worker.py"
# A pass that would take longer than this when tuning is over a sample, which has at least so many questions.
TRIAL_S = 2.0
SAMPLE_ASKS = 30


class Index:
    """One peer's. `run` has what all peers of a run share (tenants.py)."""

    def __init__(self, run, peer):
        self.run, self.peer = run, peer
        self.log = run.scratch / f"{peer}.log"
        self.python = process.python_for(scoped.PEERS[peer][0])
        probe = self.worker_of(1)
        try:
            about = probe.ask("describe")
        finally:
            probe.close()
        self.settings, self.version = about["settings"], about["version"]
        self.shared, self.of_vectors, self.in_memory = (
            about[kind] for kind in ("shared", "of_vectors", "in_memory")
        )
        scopes = "vectors" if self.of_vectors else run.dump.name
        self.folder = run.indexes / re.sub(r"[^\w.-]+", "_", f"{run.set_name}-{scopes}-{peer}")
        self.worker = None

    def worker_of(self, inner):
        return process.Worker(self.python, self.peer, self.run.shape, inner, self.log, script=SCRIPT)

    def build(self):
        """Builds it, unless the folder has the same one already."""
        label = pathlib.Path(f"{self.folder}.json")
        made = {
            "settings": self.settings,
            "version": self.version,
            "shape": self.run.shape,
            "scopes": None if self.of_vectors else self.run.dump.print_of(),
        }
        there = json.loads(label.read_text()) if label.is_file() else {}
        self.build_s = there.pop("build_s", None)
        if there == made:
            say(self.peer, f"is there, in {self.folder}")
        else:
            say(self.peer, f"building {self.settings}")
            make_anew(self.folder, label)
            worker = self.worker_of(self.run.build_threads)
            try:
                threads = self.run.build_threads
                built = worker.ask("build", base=str(self.run.base), threads=threads, **self.paths())
            finally:
                worker.close()
            self.build_s = built["build_s"]
            label.write_text(json.dumps({**made, "build_s": self.build_s}))
            say(self.peer, f"built in {self.build_s:.1f} s")
        self.disk_mb = measure.folder_bytes(self.folder) / measure.MIB

    def paths(self):
        return {"dump": str(self.run.dump_folder), "folder": str(self.folder)}

    def open(self):
        """Starts the process that searches."""
        self.worker = self.worker_of(1)
        opened = self.worker.ask("open", queries=str(self.run.queries), **self.paths())
        self.sweeps = [Sweep(**sweep) for sweep in opened["sweeps"]]
        self.asks, self.open_s, self.call_us = opened["asks"], opened["open_s"], opened["call_us"]

    def tune(self, limit_s):
        """Finds the knobs of each class by the questions of even number, and the questions that a round can
        ask in the time there is for it: an even sample of them. Answers the classes whose tuning was short."""
        classes = self.run.dump.by_class([ask for ask in self.asks if ask % 2 == 0])
        del classes[ALL]
        self.knobs, self.tuned, end, short, spent_s = {}, {}, time.monotonic() + limit_s, [], 0.0
        # Those of many rows first: they take the least time, and leave the others what they do not need.
        for number, (name, asks) in enumerate(reversed(classes.items())):
            now = time.monotonic()
            # One pass can take longer than all the time there is: each class has at least half of its share.
            share_s = max((end - now) / (len(classes) - number), limit_s / len(classes) / 2)
            trial, in_time = self.tune_class(name, asks, now + share_s)
            self.knobs[name], self.tuned[name] = trial.knobs, trial.recall
            spent_s += len(asks) / trial.qps
            if not in_time:
                short.append(name)
            reached = "" if trial.recall >= self.run.target else ", NOT reached"
            say(self.peer, f"{name}: {trial.knobs}, {trial.recall:.4f}{reached}, {1e6 / trial.qps:.0f} us")
        # A class that has questions of odd number alone is so small that any setting will do.
        most = self.sweeps[0].knobs(len(self.sweeps[0].values) - 1)
        for name in self.run.dump.by_class(self.asks):
            if name != ALL:
                self.knobs.setdefault(name, most)
        mean_s = spent_s / sum(map(len, classes.values()))
        self.asks = sample(self.asks, self.run.pass_s / mean_s)
        return short

    def tune_class(self, name, asks, end):
        """The best Trial of a class. A sample is as large as the time of the pass before suggests."""
        pace_s, first = TRIAL_S, True

        def trial(knobs):
            nonlocal pace_s, first
            if time.monotonic() > end and not first:
                raise OutOfTime
            numbers = sample(asks, TRIAL_S / pace_s, SAMPLE_ASKS)
            recalls, times_ns = self.ask(numbers, {name: knobs})
            pace_s, first = sum(times_ns) / 1e9 / len(numbers), False
            return Trial(knobs, float(recalls.mean()), 1 / pace_s)

        return tuning.tune(self.sweeps, self.run.target, trial)

    def ask(self, asks, knobs):
        """Recall and time of each question."""
        done = self.worker.ask("pass", asks=asks, knobs=knobs)
        try:
            return self.run.judge.recalls(asks, done["found"]), done["times_ns"]
        except ValueError as error:
            raise process.PeerError(str(error)) from error

    def close(self):
        if self.worker:
            self.worker.close()
