"""hnswlib: HNSW over float32 vectors."""

import os

import hnswlib

from adapters import Peer, single_rows
from tune import Sweep, ladder


class Hnswlib(Peer):
    package = "hnswlib"

    def builds(self):
        return [{"M": degree, "ef_construction": 200} for degree in (16, 32, 48)]

    def build(self, base, folder, threads, settings):
        index = self.empty()
        index.init_index(max_elements=len(base), **settings)
        index.add_items(base, num_threads=threads)
        index.save_index(os.path.join(folder, "index"))

    def open(self, folder, threads, settings):
        self.index = self.empty()
        self.index.load_index(os.path.join(folder, "index"))
        self.index.set_num_threads(1)

    def empty(self):
        return hnswlib.Index(space=self.shape["metric"], dim=self.shape["dim"])

    def sweeps(self, settings):
        return [Sweep("ef", ladder(self.shape["k"], 2000))]

    def requests(self, queries, knobs):
        self.index.set_ef(knobs["ef"])
        return single_rows(queries)

    def search(self, request):
        return self.index.knn_query(request, self.shape["k"], num_threads=1)

    def rows(self, answer):
        return answer[0][0].tolist()
