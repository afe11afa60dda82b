"""faiss: one HNSW of all rows, and a bitmap that says which may be hits."""

import os

import faiss
import numpy as np

from adapters.faiss import Hnsw
from scoped import Scoped
from tune import Sweep, ladder

EF_MAX = 40_000


class Selected(Scoped):
    package = "faiss-cpu"
    settings = {"factory": "HNSW16,Flat", "ef_construction": 200}
    of_vectors = True

    def build(self, base, dump, folder, threads):
        Hnsw(self.shape).build(base, folder, threads, self.settings)

    def filter_of(self, rows, name):
        if len(rows) == self.shape["rows"]:
            return None
        members = np.zeros(self.shape["rows"], bool)
        members[rows] = True
        return faiss.IDSelectorBitmap(np.packbits(members, bitorder="little"))

    def open(self, folder, dump):
        # Of the thread that calls.
        faiss.omp_set_num_threads(1)
        self.index = faiss.read_index(os.path.join(folder, "index"))

    def sweeps(self):
        return [Sweep("ef", ladder(self.shape["k"], min(EF_MAX, self.shape["rows"])))]

    def request(self, query, scope, knobs):
        return self.index, query, self.params(knobs["ef"], self.filters[scope])

    def params(self, ef, selector):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=ef)

    def search(self, request):
        index, query, params = request
        return index.search(query, self.shape["k"], params=params)

    def rows(self, answer):
        return answer[1][0].tolist()

    def least(self, query):
        index = faiss.IndexHNSWFlat(self.shape["dim"], 16)
        index.add(query)
        return index, query, self.params(self.shape["k"], None)
