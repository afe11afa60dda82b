"""The first value that reaches a target is found, and the fastest sweep is chosen."""

import unittest

from tune import Sweep, Trial, first_to_reach, ladder, tune


class Tune(unittest.TestCase):
    def test_ladders_rise_to_their_end(self):
        for first, last in ((1, 1), (1, 7), (10, 2000), (10, 10)):
            values = ladder(first, last)
            self.assertEqual((values[0], values[-1]), (first, last))
            self.assertEqual(values, sorted(set(values)))

    def test_the_first_to_reach_is_found(self):
        for count in (1, 2, 7, 64):
            for first in range(count):
                found = first_to_reach(count, 0.9, lambda at: 0.9 if at >= first else 0.5)
                self.assertEqual(found, first)
            self.assertIsNone(first_to_reach(count, 0.9, lambda at: 0.89))

    def test_the_fastest_sweep_that_reaches_counts(self):
        sweeps = [Sweep("ef", list(range(1, 101))), Sweep("ef", list(range(1, 101)), {"refine": 2})]
        measured = []

        def measure(knobs):
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
        best, trials = tune([Sweep("ef", [1, 2])], [0.9], lambda knobs: Trial(knobs, 0.8, 1.0))
        self.assertEqual((best, len(trials)), ({0.9: None}, 1))


if __name__ == "__main__":
    unittest.main()
