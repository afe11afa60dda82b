"""The share of true neighbours found, as bench/src/recall.rs counts it: equal scores are equally true.

A hit counts when its exact score, computed in float64 from the base, reaches the k-th true score less a
relative slack of 1e-6. A row counts once.
"""

import numpy as np

SLACK = 1e-6


def scores(base, query, rows, metric):
    """Exact scores of some rows, larger is better: the inner product, or minus the squared distance."""
    vectors, query = base[rows].astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return -np.square(vectors - query).sum(axis=1)
    return vectors @ query


def recall_of(true_scores, rows, found_scores):
    """Recall of one query; 1 where there are no true neighbours."""
    if len(true_scores) == 0:
        return 1.0
    last = min(true_scores)
    floor = last - SLACK * abs(last)
    good = {row for row, score in zip(rows, found_scores) if score >= floor}
    return min(len(good), len(true_scores)) / len(true_scores)


class Judge:
    """Knows the exact neighbours of some queries."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.true_scores = [
            scores(dataset.base, query, truth[truth >= 0], dataset.metric)
            for query, truth in zip(dataset.queries, dataset.truth)
        ]

    def recalls(self, numbers, found):
        """Recall of each of the queries `numbers`; `found` are their rows."""
        recalls = []
        for number, rows in zip(numbers, found):
            rows = [row for row in rows if 0 <= row < len(self.dataset.base)]
            found_scores = scores(self.dataset.base, self.dataset.queries[number], rows, self.dataset.metric)
            recalls.append(recall_of(self.true_scores[number], rows, found_scores))
        return np.array(recalls)
