"""What `spandrel-bench tenants --dump` has written: scopes, the questions to them, and their truth."""

import dataclasses
import json
import pathlib
import zlib

import numpy as np

import recall

ALL = "all"


@dataclasses.dataclass
class Dump:
    """`starts` and `rows` list the rows of each scope, `asks` query and scope of each question; `truth` has
    the k best exact scores of each, NaN where its scope has fewer rows."""

    name: str
    kind: str
    metric: str
    k: int
    classes: list
    starts: np.ndarray
    rows: np.ndarray
    asks: np.ndarray
    truth: np.ndarray

    def scope(self, number):
        """The rows of a scope, ascending."""
        return self.rows[self.starts[number] : self.starts[number + 1]]

    def scopes(self):
        return len(self.starts) - 1

    def class_of(self, ask):
        return self.classes[self.asks[ask, 1]]

    def by_class(self, asks):
        """These questions by the classes of their scopes, those of few rows first, and all of them."""
        members = {}
        for ask in asks:
            members.setdefault(self.class_of(ask), []).append(ask)
        sizes = np.diff(self.starts)
        mean = {name: sizes[self.asks[of, 1]].mean() for name, of in members.items()}
        return {**{name: members[name] for name in sorted(members, key=mean.get)}, ALL: list(asks)}

    def first_equal(self):
        """For each scope the first one of the same rows: one filter does for both."""
        first, seen = [], {}
        for number in range(self.scopes()):
            first.append(seen.setdefault(self.scope(number).tobytes(), number))
        return first

    def scopes_of_rows(self, rows):
        """For each row of the base the numbers of the scopes that it is in; of equal scopes the first."""
        lists = [[] for _ in range(rows)]
        for number, first in enumerate(self.first_equal()):
            if number == first:
                for row in self.scope(number).tolist():
                    lists[row].append(number)
        return lists

    def print_of(self):
        """A fingerprint of the scopes: an index of other ones is not used again."""
        return zlib.crc32(self.rows.tobytes(), zlib.crc32(self.starts.tobytes()))


def read(folder):
    """The dump in a folder."""
    folder = pathlib.Path(folder)
    about = json.loads((folder / "workload.json").read_text())
    names = {"starts": "scope_starts", "rows": "scope_rows", "asks": "asks", "truth": "truth"}
    arrays = {field: np.load(folder / f"{name}.npy") for field, name in names.items()}
    fields = {name: about[name] for name in ("name", "kind", "k", "classes")}
    # Vectors of a cosine set are normalized for all peers.
    metric = "ip" if about["metric"] == "cosine" else about["metric"]
    dump = Dump(metric=metric, **fields, **arrays)
    if len(dump.classes) != dump.scopes() or len(dump.truth) != len(dump.asks):
        raise ValueError(f"{folder}: its files are not of one workload")
    return dump, about["metric"] == "cosine"


class Judge:
    """Recall of answers, as recall.py counts it, among the rows of the scope that was asked."""

    def __init__(self, dump, base, queries):
        self.dump, self.base, self.queries = dump, base, queries

    def recall(self, ask, rows):
        query, scope = self.dump.asks[ask]
        rows = np.array([row for row in rows if row >= 0], np.int64)
        members = self.dump.scope(scope)
        at = np.minimum(np.searchsorted(members, rows), max(len(members) - 1, 0))
        if len(rows) and not (len(members) and np.array_equal(members[at], rows)):
            raise ValueError(f"a row was found that is not of scope {scope}")
        truth = self.dump.truth[ask]
        found = recall.scores(self.base, self.queries[query], rows, self.dump.metric)
        return recall.recall_of(truth[~np.isnan(truth)], rows.tolist(), found)

    def recalls(self, asks, found):
        return np.array([self.recall(ask, rows) for ask, rows in zip(asks, found)])
