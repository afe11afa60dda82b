"""usearch: HNSW over half-precision vectors."""

import os

from usearch.index import Index

from adapters import Peer
from tune import Sweep, ladder

METRICS = {"l2": "l2sq", "ip": "ip"}


class Usearch(Peer):
    package = "usearch"

    def builds(self):
        return [{"dtype": "f16", "connectivity": degree, "expansion_add": 200} for degree in (16, 32, 48)]

    def build(self, base, folder, threads, settings):
        index = Index(ndim=self.shape["dim"], metric=METRICS[self.shape["metric"]], **settings)
        index.add(range(len(base)), base, threads=threads)
        index.save(os.path.join(folder, "index"))

    def open(self, folder, threads, settings):
        self.index = Index(ndim=self.shape["dim"], metric=METRICS[self.shape["metric"]], **settings)
        self.index.load(os.path.join(folder, "index"))

    def sweeps(self, settings):
        return [Sweep("expansion_search", ladder(self.shape["k"], 2000))]

    def requests(self, queries, knobs):
        self.index.expansion_search = knobs["expansion_search"]
        return list(queries)

    def search(self, request):
        return self.index.search(request, self.shape["k"], threads=1)

    def rows(self, answer):
        return answer.keys.tolist()
