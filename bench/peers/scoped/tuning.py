"""Finds, for one class of scopes, the fastest search setting that reaches a recall target.

As tune.py, but from below: where few rows pass, large values of a knob cost a thousand times the smallest that
will do. Each sweep is walked up in growing steps until a value reaches the target, and back by bisection. A
class that no value reaches gets the one of most recall.
"""

from tune import GIVE_UP, OutOfTime


def first_to_reach(count, target, trial_at, qps_least=0.0):
    """The first of `count` places whose recall reaches the target, None where none does, or where one that
    does not is slower than `qps_least`: the later ones are as well."""
    low, high, step = -1, 0, 1
    while (trial := trial_at(high)).recall < target:
        if high == count - 1 or trial.qps < qps_least:
            return None
        low, high, step = high, min(count - 1, high + step), 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        if trial_at(middle).recall >= target:
            high = middle
        else:
            low = middle
    return high


def tune(sweeps, target, measure):
    """The best Trial, and whether there was time for all that were wanted. `measure(knobs)` makes one; it may
    raise OutOfTime."""
    trials, in_time = {}, True

    def tried(knobs):
        key = tuple(sorted(knobs.items()))
        if key not in trials:
            trials[key] = measure(knobs)
        return trials[key]

    def reached():
        return [trial for trial in trials.values() if trial.recall >= target]

    try:
        for sweep in sweeps:
            best = max((trial.qps for trial in reached()), default=0.0)
            first_to_reach(len(sweep.values), target, lambda at: tried(sweep.knobs(at)), best / GIVE_UP)
    except OutOfTime:
        in_time = False
    if reached():
        return max(reached(), key=lambda trial: trial.qps), in_time
    return max(trials.values(), key=lambda trial: (trial.recall, trial.qps), default=None), in_time
