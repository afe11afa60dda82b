"""hnswlib: an index for each scope, or one of all rows with a filter function.

The filter is the `__contains__` of a frozenset, the fastest way from the library into Python. It is called for
every row that would be a hit, and costs more than a filter in C++ would.
"""

import os

import hnswlib

import measure
from adapters.hnswlib import Hnswlib
from scoped import Scoped
from tune import Sweep, ladder

EF_MAX = 4000
# So many indexes of scopes are opened at most: see `Each`.
SCOPES_MAX = 2000


class Hnsw(Scoped):
    package = "hnswlib"
    settings = {"M": 16, "ef_construction": 200}

    def empty(self):
        return hnswlib.Index(space=self.shape["metric"], dim=self.shape["dim"])

    def opened(self, path):
        index = self.empty()
        index.load_index(path)
        index.set_num_threads(1)
        return index

    def sweeps(self):
        return [Sweep("ef", ladder(self.shape["k"], EF_MAX))]

    def ready(self, request):
        index, *_, ef = request
        index.set_ef(ef)

    def search(self, request):
        index, query, k, passes, _ = request
        try:
            return index.knn_query(query, k, num_threads=1, filter=passes)
        except RuntimeError:
            # It found fewer than k, and then answers with none of them.
            return None

    def rows(self, answer):
        return answer[0][0].tolist() if answer else []

    def least(self, query):
        index = self.empty()
        index.init_index(max_elements=1, **self.settings)
        index.add_items(query, num_threads=1)
        return index, query, 1, None, self.shape["k"]


class Each(Hnsw):
    """An index for each scope that has rows.

    An index holds 65,536 locks (2.5 MiB) whatever its size, also one that was saved and opened again. Where
    there are very many scopes, only some, evenly spread, are opened and asked, and the memory of all is
    estimated: the locks of as many more, and the bytes of their files.
    """

    shared = False

    def build(self, base, dump, folder, threads):
        for scope in range(dump.scopes()):
            rows = dump.scope(scope)
            if len(rows):
                index = self.empty()
                index.init_index(max_elements=len(rows), **self.settings)
                index.add_items(base[rows], rows, num_threads=threads)
                index.save_index(os.path.join(folder, str(scope)))

    def open(self, folder, dump):
        scopes = [scope for scope in range(dump.scopes()) if len(dump.scope(scope))]
        step = max(1, len(scopes) / SCOPES_MAX)
        chosen = [scopes[int(at * step)] for at in range(round(len(scopes) / step))]
        paths = {scope: os.path.join(folder, str(scope)) for scope in chosen}
        self.indexes = {scope: self.opened(path) for scope, path in paths.items()}
        self.scopes = len(scopes)
        self.opened_mb = sum(os.path.getsize(path) for path in paths.values()) / measure.MIB
        self.disk_mb = measure.folder_bytes(folder) / measure.MIB

    def answers(self, scope):
        return scope in self.indexes

    def memory_of_all(self, grown_mb):
        if len(self.indexes) == self.scopes:
            return grown_mb
        return (grown_mb - self.opened_mb) * self.scopes / len(self.indexes) + self.disk_mb

    def request(self, query, scope, knobs):
        index = self.indexes[scope]
        return index, query, min(self.shape["k"], index.get_current_count()), None, knobs["ef"]


class Filtered(Hnsw):
    """One index; a function says of each row whether it may be a hit."""

    of_vectors = True

    def build(self, base, dump, folder, threads):
        Hnswlib(self.shape).build(base, folder, threads, self.settings)

    def filter_of(self, rows, name):
        passes = None if len(rows) == self.shape["rows"] else frozenset(rows.tolist()).__contains__
        return min(self.shape["k"], len(rows)), passes

    def open(self, folder, dump):
        self.index = self.opened(os.path.join(folder, "index"))

    def request(self, query, scope, knobs):
        return self.index, query, *self.filters[scope], knobs["ef"]
