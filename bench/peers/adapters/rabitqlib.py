"""RaBitQ-Library: IVF, and SymphonyQG (a graph whose nodes carry the codes of their neighbours)."""

import math
import os

import rabitqlib

from adapters import Peer, single_rows
from tune import Sweep, ladder


class Rabitqlib(Peer):
    package = "rabitqlib"

    def rows(self, answer):
        return answer[0][0].tolist()


class Ivf(Rabitqlib):
    """Clusters: 4 sqrt(rows), as the library advises."""

    def builds(self):
        clusters = round(4 * math.sqrt(self.shape["rows"]))
        return [{"clusters": clusters, "nbits": 7}, {"clusters": clusters, "nbits": 4}]

    def build(self, base, folder, threads, settings):
        clustering = rabitqlib.RaBitQKMeans(self.shape["dim"], settings["clusters"], num_threads=threads)
        clustering.train(base)
        index = rabitqlib.IvfIndex(
            dim=self.shape["dim"],
            max_elements=len(base),
            num_clusters=settings["clusters"],
            nbits=settings["nbits"],
            metric=self.shape["metric"],
        )
        index.build(base, clustering.centroids, clustering.assignments, num_threads=threads)
        index.save(os.path.join(folder, "index"))

    def open(self, folder, threads, settings):
        self.index = rabitqlib.IvfIndex.load(os.path.join(folder, "index"))

    def sweeps(self, settings):
        return [Sweep("nprobe", ladder(1, settings["clusters"]))]

    def requests(self, queries, knobs):
        self.nprobe = knobs["nprobe"]
        return single_rows(queries)

    def search(self, request):
        return self.index.search(request, self.shape["k"], self.nprobe, num_threads=1)


class Symqg(Rabitqlib):
    """A node keeps its vector whole (0 bits) or quantized, which takes less memory."""

    def builds(self):
        return [
            {"max_degree": degree, "ef_construction": 200, "quantization_bits": bits}
            for degree, bits in ((32, 0), (64, 0), (32, 8))
        ]

    def build(self, base, folder, threads, settings):
        index = rabitqlib.SymqgIndex(
            self.shape["dim"],
            settings["max_degree"],
            metric=self.shape["metric"],
            quantization_bits=settings["quantization_bits"],
        )
        index.build(base, settings["ef_construction"], num_threads=threads)
        index.save(os.path.join(folder, "index"))

    def open(self, folder, threads, settings):
        self.index = rabitqlib.SymqgIndex.load(os.path.join(folder, "index"))

    def sweeps(self, settings):
        return [Sweep("ef", ladder(self.shape["k"], 2000))]

    def requests(self, queries, knobs):
        self.ef = knobs["ef"]
        return single_rows(queries)

    def search(self, request):
        return self.index.search(request, self.shape["k"], self.ef, num_threads=1)
