"""An index of a peer: built in one process, opened and tuned in another that stays alive for the rounds."""

import dataclasses
import json
import re
import shutil
import statistics
import sys
import time

import measure
from process import PeerError, Worker
from tune import OutOfTime, Sweep, Trial, tune

BEGIN = time.monotonic()
# Passes over the tuning queries that decide between the indexes of a peer, and how much slower than the best
# one may have been when tuned to take part in them.
DECIDING_ROUNDS = 3
DECIDING_RATIO = 2.0
# A pass that would take longer than this when tuning is over a sample, which has at least so many queries.
TRIAL_S = 3.0
SAMPLE_QUERIES = 100


def say(peer, text):
    """Progress, on stderr."""
    print(f"{time.monotonic() - BEGIN:7.0f} s  {peer}: {text}", file=sys.stderr, flush=True)


@dataclasses.dataclass
class Point:
    """A search setting of an index that is to be measured for a recall target."""

    index: "Index"
    target: float
    knobs: dict
    tuned_qps: float


def make_anew(folder, label):
    """An empty folder for an index, whose label is written when it is built."""
    label.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


class Index:
    """One build setting of one peer. `run` has what all indexes of a run share (run.py)."""

    def __init__(self, run, peer, python, description, number):
        self.run, self.peer, self.python = run, peer, python
        self.settings, self.version = description["builds"][number], description["version"]
        self.set_name, self.rows, self.threads = run.dataset.name, len(run.dataset.base), run.threads
        self.memory_mb = run.memory_mb if description["on_disk"] else None
        told = f"-{self.memory_mb}mb" if self.memory_mb else ""
        name = re.sub(r"[^\w.-]+", "_", f"{self.set_name}-{self.rows}-{peer}-{number}{told}")
        self.folder, self.log = run.indexes / name, run.scratch / f"{name}.log"
        self.worker, self.build_s, self.build_peak_mb = None, None, None

    def build(self):
        """Builds it, unless the folder has the same one already."""
        label = self.folder.with_name(self.folder.name + ".json")
        made = {
            "settings": self.settings,
            "version": self.version,
            "shape": self.run.shape,
            "memory_mb": self.memory_mb,
        }
        if label.is_file() and json.loads(label.read_text()) == made:
            say(self.peer, f"{self.settings} is there, in {self.folder}")
        else:
            say(self.peer, f"building {self.settings}")
            make_anew(self.folder, label)
            worker = Worker(
                self.python, self.peer, self.run.shape, self.run.build_threads, self.log, self.memory_mb
            )
            try:
                built = worker.ask(
                    "build",
                    base=str(self.run.base),
                    folder=str(self.folder),
                    threads=self.run.build_threads,
                    settings=self.settings,
                )
            finally:
                worker.close()
            self.build_s = built["build_s"]
            self.build_peak_mb = built["memory"] and built["memory"]["peak"]
            label.write_text(json.dumps(made))
            say(self.peer, f"built in {self.build_s:.1f} s")
        self.disk_bytes = measure.folder_bytes(self.folder)

    def open(self):
        """Starts the process that searches."""
        self.worker = Worker(self.python, self.peer, self.run.shape, 1, self.log, self.memory_mb)
        opened = self.worker.ask(
            "open",
            queries=str(self.run.queries),
            folder=str(self.folder),
            threads=self.threads,
            settings=self.settings,
        )
        self.sweeps = [Sweep(**sweep) for sweep in opened["sweeps"]]

    def tune(self, limit_s):
        """The best Trial of each target, None where none reaches it, all Trials, and whether time was short.

        Passes are like those that are reported: cold where these are.
        """
        end, short = time.monotonic() + limit_s, False
        pace_s = TRIAL_S / len(self.run.tuning)

        def trial(knobs, whole):
            """A sample is as large as the time of the pass before suggests."""
            nonlocal short, pace_s
            begin = time.monotonic()
            if begin > end:
                short = True
                raise OutOfTime
            numbers = self.run.tuning if whole else sample(self.run.tuning, TRIAL_S / pace_s)
            done = self.search(numbers, knobs)
            pace_s = (time.monotonic() - begin) / len(numbers)
            recall = float(self.run.judge.recalls(numbers, done["found"]).mean())
            return Trial(knobs, recall, len(numbers) / done["wall_s"], len(numbers) == len(self.run.tuning))

        best, trials = tune(self.sweeps, self.run.targets, trial)
        if short:
            say(self.peer, f"tuning ended after {limit_s:.0f} s, with the best so far")
        for target, found in best.items():
            if found:
                say(
                    self.peer,
                    f"recall {target}: {found.knobs}, {found.recall:.4f}, {found.qps:.0f} QPS when tuned",
                )
            else:
                most = max(trials, key=lambda trial: trial.recall)
                say(self.peer, f"recall {target} not reached: {most.recall:.4f} with {most.knobs}")
        return best, trials, short

    def search(self, numbers, knobs):
        cold = self.memory_mb is not None
        return self.worker.ask(
            "pass", numbers=numbers, knobs=knobs, cold=cold, evict=cold and self.run.evict
        )

    def close(self):
        if self.worker:
            self.worker.close()


def sample(numbers, count, least=SAMPLE_QUERIES):
    """About `count` of the numbers, at least `least`, evenly spread."""
    step = len(numbers) / min(len(numbers), max(least, round(count)))
    return [numbers[int(at * step)] for at in range(round(len(numbers) / step))]


def prepare(run, peer, python, builds_max):
    """Builds and tunes a peer; its build settings share the time for tuning.

    Answers its version, the points to measure, the most recall that any setting has for each target that none
    reaches, the build settings that failed, with reasons, and those whose tuning was cut short.

    Indexes that are the best for no target are closed again.
    """
    probe = Worker(python, peer, run.shape, 1, run.scratch / f"{peer}.log", run.memory_mb)
    try:
        description = probe.ask("describe")
    finally:
        probe.close()
    most, candidates, indexes, failures = 0.0, {target: [] for target in run.targets}, [], {}
    builds, cut_short = description["builds"][:builds_max], []
    for number in range(len(builds)):
        index = Index(run, peer, python, description, number)
        try:
            index.build()
            index.open()
            found, trials, short = index.tune(run.tune_s / len(builds))
        except PeerError as error:
            index.close()
            say(peer, f"{index.settings}: {error}")
            failures[f"{peer} {index.settings}"] = str(error)
            continue
        indexes.append(index)
        if short:
            cut_short.append(f"{peer} {index.settings}")
        most = max([most, *(trial.recall for trial in trials)])
        for target, trial in found.items():
            if trial:
                candidates[target].append(Point(index, target, trial.knobs, trial.qps))
    if not indexes:
        raise PeerError("; ".join(f"{which}: {why}" for which, why in failures.items()))
    points = [fastest(run, rivals) for rivals in candidates.values() if rivals]
    used = {point.index for point in points}
    for index in indexes:
        if index not in used:
            index.close()
    missed = {target: most for target, rivals in candidates.items() if not rivals}
    return description["version"], points, missed, failures, cut_short


def fastest(run, rivals):
    """The point of the fastest index, by alternating passes: the trials lie minutes of building apart."""
    most = max(point.tuned_qps for point in rivals)
    rivals = [point for point in rivals if point.tuned_qps * DECIDING_RATIO >= most]
    if len(rivals) == 1:
        return rivals[0]
    walls = [[] for _ in rivals]
    for _ in range(DECIDING_ROUNDS):
        for point, wall in zip(rivals, walls):
            wall.append(point.index.search(run.tuning, point.knobs)["wall_s"])
    medians = [statistics.median(wall) for wall in walls]
    return rivals[medians.index(min(medians))]
