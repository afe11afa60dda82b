"""Finds, for each recall target, the fastest search setting of a library that reaches it.

A `Sweep` holds all knobs but one and lists the values of that one in the order of growing recall and cost.
Each sweep is bisected for its first value that reaches a target; among the sweeps, the fastest counts. One is
given up at a value that does not reach the target and is slower already than what does in another sweep.
Where passes are so slow that they are over a sample of the queries, the value found is then settled by passes
over all of them. When the time is over, the fastest measured that reaches a target is taken. Recall that does
not quite grow with a knob costs a step more than needed, never a wrong answer: what counts was measured.
"""

import dataclasses

# How much slower than the best a value has to be for its sweep to be given up: more than passes differ by.
GIVE_UP = 1.25


@dataclasses.dataclass
class Sweep:
    """`fixed` knobs, and the `values` of `knob` to choose from, in the order of growing recall."""

    knob: str
    values: list
    fixed: dict = dataclasses.field(default_factory=dict)

    def knobs(self, at):
        return {**self.fixed, self.knob: self.values[at]}


@dataclasses.dataclass
class Trial:
    """What a pass over the tuning queries gave: over all, or over a sample."""

    knobs: dict
    recall: float
    qps: float
    whole: bool = True


class OutOfTime(Exception):
    """There is no time for another pass."""


def ladder(first, last, ratio=1.12):
    """Whole numbers from `first` to `last`, each about `ratio` times the one before."""
    values = [first]
    while values[-1] < last:
        values.append(min(last, max(values[-1] + 1, round(values[-1] * ratio))))
    return values


def first_to_reach(count, target, trial_at, qps_least=0.0):
    """The first of `count` places whose recall reaches the target.

    None where the last does not, or where one that does not is slower than `qps_least`: the later ones are as
    well. Without that bound the last place is looked at first.
    """
    low, high = 0, count - 1
    if not qps_least and trial_at(high).recall < target:
        return None
    while low < high:
        middle = (low + high) // 2
        trial = trial_at(middle)
        if trial.recall >= target:
            high = middle
        elif trial.qps < qps_least:
            return None
        else:
            low = middle + 1
    return high if trial_at(high).recall >= target else None


def settled(at, count, target, trial_at):
    """The first place around `at` whose recall reaches the target; None where none does."""
    while at + 1 < count and trial_at(at).recall < target:
        at += 1
    while at > 0 and trial_at(at - 1).recall >= target:
        at -= 1
    return at if trial_at(at).recall >= target else None


def tune(sweeps, targets, measure):
    """The best Trial of each target, None where none reaches it, and all Trials that were made.

    `measure(knobs, whole)` makes them, over all queries or as many as it likes; it may raise OutOfTime.
    """
    trials = {}

    def tried(knobs, whole=False):
        key = tuple(sorted(knobs.items()))
        if key not in trials or (whole and not trials[key].whole):
            trials[key] = measure(knobs, whole)
        return trials[key]

    best = {}
    for target in targets:
        try:
            best[target] = fastest(sweeps, target, tried)
        except OutOfTime:
            reached = [trial for trial in trials.values() if trial.recall >= target]
            best[target] = max(reached, key=lambda trial: trial.qps, default=None)
    return best, list(trials.values())


def fastest(sweeps, target, tried):
    """The fastest of the sweeps' first Trials that reach the target."""
    best, place = None, None
    for sweep in sweeps:
        least = best.qps / GIVE_UP if best else 0.0
        at = first_to_reach(len(sweep.values), target, lambda at: tried(sweep.knobs(at)), least)
        trial = None if at is None else tried(sweep.knobs(at))
        if trial and (not best or trial.qps > best.qps):
            best, place = trial, (sweep, at)
    if best:
        sweep, at = place
        at = settled(at, len(sweep.values), target, lambda at: tried(sweep.knobs(at), whole=True))
        best = None if at is None else tried(sweep.knobs(at), whole=True)
    return best
