"""Dumps are read and judged, classes are tuned, and ratios are those of rounds."""

import json
import pathlib
import tempfile
import unittest

import numpy as np

from scoped import dump, figures, tuning
from tune import OutOfTime, Sweep, Trial

# Four scopes over six rows, of which the first and the last have the same.
STARTS, ROWS = [0, 2, 2, 5, 7], [1, 4, 0, 2, 5, 1, 4]
CLASSES = ["1+ rows", "0 rows", "2+ rows", "1+ rows"]


def written(folder, metric="ip"):
    """A dump in a folder, and the vectors that it is of."""
    base, queries = np.eye(6, dtype=np.float32), np.array([[1, 2, 3, 4, 5, 6]], np.float32)
    arrays = {
        "scope_starts": np.array(STARTS, np.int64),
        "scope_rows": np.array(ROWS, np.uint32),
        "asks": np.array([[0, 0], [0, 2], [0, 2], [0, 3]], np.uint32),
        "truth": np.array([[5, 2, np.nan], [6, 3, 1], [6, 3, 1], [5, 2, np.nan]]),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    about = {"name": "some:4", "kind": "labels", "metric": metric, "k": 3, "classes": CLASSES}
    (folder / "workload.json").write_text(json.dumps(about))
    return base, queries


class Dumps(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.base, self.queries = written(self.folder)

    def test_scopes_and_classes_are_read(self):
        read, cosine = dump.read(self.folder)
        self.assertEqual((read.scopes(), read.metric, cosine), (4, "ip", False))
        self.assertEqual([read.scope(at).tolist() for at in range(4)], [[1, 4], [], [0, 2, 5], [1, 4]])
        self.assertEqual(read.by_class([0, 1, 3]), {"1+ rows": [0, 3], "2+ rows": [1], "all": [0, 1, 3]})
        self.assertEqual(read.first_equal(), [0, 1, 2, 0])
        self.assertEqual(read.scopes_of_rows(6), [[2], [0], [2], [], [0], [2]])
        written(self.folder, "cosine")
        read, cosine = dump.read(self.folder)
        self.assertEqual((read.metric, cosine), ("ip", True))

    def test_files_of_two_workloads_are_refused(self):
        np.save(self.folder / "truth.npy", np.zeros((2, 3)))
        with self.assertRaisesRegex(ValueError, "not of one workload"):
            dump.read(self.folder)

    def test_answers_are_judged_within_their_scope(self):
        judge = dump.Judge(dump.read(self.folder)[0], self.base, self.queries)
        self.assertEqual(judge.recalls([0, 1, 2], [[4, 1, -1], [5, 2], []]).tolist(), [1.0, 2 / 3, 0.0])
        for row in (0, 5):
            with self.assertRaisesRegex(ValueError, "not of scope 0"):
                judge.recall(0, [row])


class Tuning(unittest.TestCase):
    def test_the_first_to_reach_is_found_from_below(self):
        for count in (1, 2, 7, 64):
            for first in range(count):
                asked = []

                def trial_at(at):
                    asked.append(at)
                    return Trial({}, 0.9 if at >= first else 0.5, 1.0)

                self.assertEqual(tuning.first_to_reach(count, 0.9, trial_at), first)
                self.assertLessEqual(max(asked), 2 * first, "nothing far above it is tried")
            self.assertIsNone(tuning.first_to_reach(count, 0.9, lambda at: Trial({}, 0.8, 1.0)))

    def test_the_fastest_sweep_that_reaches_counts(self):
        sweeps = [Sweep("bypass", [True]), Sweep("ef", list(range(1, 101)))]

        def measure(knobs):
            if "bypass" in knobs:
                return Trial(knobs, 1.0, 15.0)
            return Trial(knobs, knobs["ef"] / 100, 1000 / knobs["ef"])

        for target, knobs in ((0.4, {"ef": 40}), (0.9, {"bypass": True})):
            best, in_time = tuning.tune(sweeps, target, measure)
            self.assertEqual((best.knobs, in_time), (knobs, True))

    def test_out_of_reach_the_most_recall_counts_and_out_of_time_the_best_so_far(self):
        best, in_time = tuning.tune(
            [Sweep("ef", [1, 2, 3])], 0.9, lambda knobs: Trial(knobs, 0.1 * knobs["ef"], 1.0)
        )
        self.assertEqual((best.knobs, in_time), ({"ef": 3}, True))
        left = iter(range(4))

        def measure(knobs):
            if next(left, None) is None:
                raise OutOfTime
            return Trial(knobs, knobs["ef"] / 100, 1000 / knobs["ef"])

        best, in_time = tuning.tune([Sweep("ef", list(range(1, 101)))], 0.05, measure)
        self.assertEqual((best.knobs, in_time), ({"ef": 8}, False))


def row(peer, p50_us_runs, **more):
    return {"peer": peer, "class": "all", "recall": 0.96, "p50_us_runs": p50_us_runs, **more}


class Figures(unittest.TestCase):
    def test_percentiles_are_of_rounds(self):
        rounds = [(np.array([1.0, 0.5, 1.0]), [1000, 9000, 3000]), (np.ones(3), [5000, 9000, 7000])]
        got = figures.rounds_of_class([0, 2], rounds)
        self.assertEqual((got["asks"], got["recall"]), (2, 1.0))
        self.assertEqual((got["p50_us_runs"], got["p50_us"], got["p99_us"]), ([1.0, 5.0], 3.0, 5.0))
        self.assertEqual(figures.rounds_of_class([1], rounds)["recall"], 0.75)

    def test_ratios_are_taken_within_rounds(self):
        # The machine halves its speed in the second round.
        ours = row("ours", [10.0, 20.0, 11.0], memory_grown_mb=100.0)
        theirs = row("theirs", [30.0, 60.0, 33.0], memory_grown_mb=850.0, call_us=10.0, shared=False)
        both = figures.with_ratios([ours, theirs], "ours")
        self.assertEqual((both[1]["p50_over"], both[1]["memory_over"]), (3.0, 8.5))
        self.assertAlmostEqual(both[1]["p50_less_call_over"], 23 / 11)
        goals = figures.goals_of(both, "ours", 0.95)
        self.assertEqual([goal["goal"] for goal in goals], [0.95, 1.0, 1.0, 8.0])
        self.assertTrue(all(goal["met"] for goal in goals))

    def test_goals_depend_on_the_kind_of_peer_and_class(self):
        shared = {"shared": True, "in_memory": True, "p50_over": 9.0, "memory_over": 0.95}
        rows = [
            row("theirs", [1.0], **shared),
            {**row("theirs", [1.0], **shared), "class": "1% near", "recall": 0.5},
            {**row("theirs", [1.0], **shared), "class": "0.1% near"},
            row("on-disk", [1.0], **{**shared, "in_memory": False}),
        ]
        goals = [(goal["what"], goal["met"]) for goal in figures.goals_of(rows, "ours", 0.95)]
        self.assertEqual(
            goals,
            [
                ("theirs, 1% near: recall", False),
                ("theirs, all: memory over ours", True),
                ("theirs, 1% near: p50 over ours at recall 0.500", False),
            ],
        )

    def test_reports_of_other_questions_are_refused(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        written(pathlib.Path(folder.name))
        read, _ = dump.read(folder.name)
        point = {"workload": "some:4", "class": "all", "asks": 4, "p50_us": 2.0, "recall": 1.0}
        reports = [{"rows": [point]}, {"rows": [{**point, "p50_us": 4.0}]}]
        (merged,) = figures.rows_of_command("ours", read, reports)
        self.assertEqual((merged["p50_us"], merged["p50_us_runs"], merged["peer"]), (3.0, [2.0, 4.0], "ours"))
        for wrong in ({"asks": 5}, {"workload": "other"}):
            with self.assertRaisesRegex(ValueError, "did not ask the 4 questions"):
                figures.rows_of_command("ours", read, [{"rows": [{**point, **wrong}]}])


if __name__ == "__main__":
    unittest.main()
