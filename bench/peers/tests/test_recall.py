"""Recall counts as bench/src/recall.rs does."""

import types
import unittest

import numpy as np

import dataset
import recall


class Recall(unittest.TestCase):
    def test_ties_count_and_repeats_do_not(self):
        truth = [-1.0, -2.0, -2.0]
        self.assertEqual(recall.recall_of(truth, [1, 2, 9], [-1.0, -2.0, -2.0]), 1.0)
        self.assertEqual(recall.recall_of(truth, [1, 1, 1], [-1.0, -1.0, -1.0]), 1 / 3)
        self.assertEqual(recall.recall_of(truth, [1, 2, 3], [-1.0, -2.000_001, -2.1]), 2 / 3)
        self.assertEqual(recall.recall_of(truth, [1, 2, 3, 4], [-1.0, -1.0, -1.0, -1.0]), 1.0)
        self.assertEqual(recall.recall_of(truth, [], []), 0.0)
        self.assertEqual(recall.recall_of([], [], []), 1.0)

    def test_the_judge_scores_rows_itself(self):
        base = np.array([[0, 0], [1, 0], [0, 1], [3, 3]], np.float32)
        for metric, query, truth in (("l2", [0.9, 0.1], [1, 0]), ("ip", [1, 2], [3, 2])):
            queries = np.array([query], np.float32)
            computed = dataset.compute_truth(base, queries, metric, 2)
            self.assertEqual(computed.tolist(), [truth])
            judge = recall.Judge(
                types.SimpleNamespace(base=base, queries=queries, truth=computed, metric=metric)
            )
            self.assertEqual(judge.recalls([0], [truth]).tolist(), [1.0])
            # Rows that are no rows (-1: a library found fewer) count for nothing.
            self.assertEqual(judge.recalls([0], [[truth[0], -1]]).tolist(), [0.5])

    def test_padded_truth_is_left_out(self):
        base = np.eye(3, dtype=np.float32)
        truth = np.array([[0, -1]])
        judge = recall.Judge(types.SimpleNamespace(base=base, queries=base[:1], truth=truth, metric="ip"))
        self.assertEqual(judge.recalls([0], [[0, 1]]).tolist(), [1.0])


if __name__ == "__main__":
    unittest.main()
