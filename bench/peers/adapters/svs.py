"""Scalable Vector Search: a Vamana graph over LVQ codes, 4 bits and 8 more for the last pass."""

import os

import svs

from adapters import Peer, single_rows
from tune import Sweep, ladder

METRICS = {"l2": svs.DistanceType.L2, "ip": svs.DistanceType.MIP}
PARTS = ("config", "graph", "data")
CODE_BITS = {"primary": 4, "residual": 8}
# Bytes that codes are aligned to: one of the two values that the library names as fastest.
PADDING_BYTES = 32


class Svs(Peer):
    package = "scalable-vs"

    def builds(self):
        return [{"graph_max_degree": degree, "window_size": 200} for degree in (32, 64)]

    def build(self, base, folder, threads, settings):
        vectors = os.path.join(folder, "base.fvecs")
        svs.write_vecs(base, vectors)
        loader = svs.VectorDataLoader(vectors, svs.DataType.float32, dims=self.shape["dim"])
        index = svs.Vamana.build(
            svs.VamanaBuildParameters(**settings),
            svs.LVQLoader(loader, padding=PADDING_BYTES, **CODE_BITS),
            METRICS[self.shape["metric"]],
            num_threads=threads,
        )
        os.remove(vectors)
        index.save(*self.parts(folder))

    def open(self, folder, threads, settings):
        config, graph, data = self.parts(folder)
        self.index = svs.Vamana(
            config,
            svs.GraphLoader(graph),
            svs.LVQLoader(data, padding=PADDING_BYTES),
            METRICS[self.shape["metric"]],
            num_threads=1,
        )

    def parts(self, folder):
        return [os.path.join(folder, part) for part in PARTS]

    def sweeps(self, settings):
        return [Sweep("search_window_size", ladder(self.shape["k"], 1500))]

    def requests(self, queries, knobs):
        self.index.search_window_size = knobs["search_window_size"]
        return single_rows(queries)

    def search(self, request):
        return self.index.search(request, self.shape["k"])

    def rows(self, answer):
        return answer[0][0].tolist()
