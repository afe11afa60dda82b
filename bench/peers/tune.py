"""Finds, for each recall target, the fastest search setting of a library that reaches it.

A `Sweep` holds all knobs but one and lists the values of that one in the order of growing recall and cost.
Each sweep is bisected for its first value that reaches a target; among the sweeps, the fastest counts. Recall
that does not quite grow with a knob costs a step more than needed, never a wrong answer: what counts was
measured.
"""

import dataclasses


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
    """What a pass over the tuning queries gave."""

    knobs: dict
    recall: float
    qps: float


def ladder(first, last, ratio=1.12):
    """Whole numbers from `first` to `last`, each about `ratio` times the one before."""
    values = [first]
    while values[-1] < last:
        values.append(min(last, max(values[-1] + 1, round(values[-1] * ratio))))
    return values


def first_to_reach(count, target, recall_at):
    """The first of `count` places whose recall reaches the target; None where the last does not."""
    if recall_at(count - 1) < target:
        return None
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        if recall_at(middle) >= target:
            high = middle
        else:
            low = middle + 1
    return high


def tune(sweeps, targets, measure):
    """The best Trial of each target, None where none reaches it, and all that `measure(knobs)` gave."""
    trials = {}

    def tried(knobs):
        key = tuple(sorted(knobs.items()))
        if key not in trials:
            trials[key] = measure(knobs)
        return trials[key]

    best = {}
    for target in targets:
        reached = []
        for sweep in sweeps:
            at = first_to_reach(len(sweep.values), target, lambda at: tried(sweep.knobs(at)).recall)
            if at is not None:
                reached.append(tried(sweep.knobs(at)))
        best[target] = max(reached, key=lambda trial: trial.qps, default=None)
    return best, list(trials.values())
