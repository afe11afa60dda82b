"""The first value that reaches a target is found, and the fastest sweep is chosen."""

import unittest

from tune import OutOfTime, Sweep, Trial, first_to_reach, ladder, tune


def trial(recall):
    return Trial({}, recall, 1.0)


class Tune(unittest.TestCase):
    def test_ladders_rise_to_their_end(self):
        for first, last in ((1, 1), (1, 7), (10, 2000), (10, 10)):
            values = ladder(first, last)
            self.assertEqual((values[0], values[-1]), (first, last))
            self.assertEqual(values, sorted(set(values)))

    def test_the_first_to_reach_is_found(self):
        for count in (1, 2, 7, 64):
            for first in range(count):
                for qps_least in (0.0, 0.5):
                    trials = [trial(0.9 if at >= first else 0.5) for at in range(count)]
                    self.assertEqual(first_to_reach(count, 0.9, trials.__getitem__, qps_least), first)
            for qps_least in (0.0, 0.5, 2.0):
                self.assertIsNone(first_to_reach(count, 0.9, lambda at: trial(0.89), qps_least))

    def test_a_sweep_that_is_too_slow_already_is_given_up(self):
        asked = []
        found = first_to_reach(100, 0.9, lambda at: asked.append(at) or trial(0.5), qps_least=1.5)
        self.assertEqual((found, len(asked)), (None, 1))

    def test_the_fastest_sweep_that_reaches_counts(self):
        sweeps = [Sweep("ef", list(range(1, 101))), Sweep("ef", list(range(1, 101)), {"refine": 2})]
        measured = []

        def measure(knobs, whole):
            measured.append(knobs)
            refined = "refine" in knobs
            recall = min(1.0 if refined else 0.95, knobs["ef"] / 100 * (2 if refined else 1))
            return Trial(knobs, recall, 1000 / knobs["ef"] / (3 if refined else 1))

        best, trials = tune(sweeps, [0.5, 0.99], measure)
        self.assertEqual(best[0.5].knobs, {"ef": 50})
        self.assertEqual(best[0.99].knobs, {"refine": 2, "ef": 50})
        self.assertEqual(len(measured), len(trials), "nothing is measured twice")
        self.assertLess(len(measured), 30)

    def test_a_target_out_of_reach_has_no_setting(self):
        best, trials = tune([Sweep("ef", [1, 2])], [0.9], lambda knobs, whole: Trial(knobs, 0.8, 1.0))
        self.assertEqual((best, len(trials)), ({0.9: None}, 1))

    def test_samples_are_settled_by_whole_passes(self):
        for error in (-0.05, 0.0, 0.05):

            def measure(knobs, whole):
                recall = knobs["ef"] / 100 + (0.0 if whole else error)
                return Trial(knobs, recall, 1000 / knobs["ef"], whole)

            best, _ = tune([Sweep("ef", list(range(1, 101)))], [0.5], measure)
            self.assertEqual((best[0.5].knobs, best[0.5].whole), ({"ef": 50}, True))

    def test_the_best_so_far_is_taken_when_time_is_over(self):
        left = iter(range(3))

        def measure(knobs, whole):
            if next(left, None) is None:
                raise OutOfTime
            return Trial(knobs, knobs["ef"] / 100, 1000 / knobs["ef"])

        best, trials = tune([Sweep("ef", list(range(1, 101)))], [0.2, 0.9, 1.1], measure)
        self.assertEqual((best[0.2].knobs, best[0.9].knobs, best[1.1]), ({"ef": 25}, {"ef": 100}, None))
        self.assertEqual(len(trials), 3)


if __name__ == "__main__":
    unittest.main()
