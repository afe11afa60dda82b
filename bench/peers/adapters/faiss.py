"""faiss: HNSW over float32; IVF with 4-bit PQ and a refining pass, or with RaBitQ, both by fast-scan."""

import math
import os

import faiss

from adapters import Peer, single_rows
from tune import Sweep, ladder

REFINE_FACTORS = (1, 2, 4, 8, 16, 32)


class Faiss(Peer):
    package = "faiss-cpu"

    def build(self, base, folder, threads, settings):
        faiss.omp_set_num_threads(threads)
        metric = faiss.METRIC_L2 if self.shape["metric"] == "l2" else faiss.METRIC_INNER_PRODUCT
        index = faiss.index_factory(self.shape["dim"], settings["factory"], metric)
        self.before_training(index, settings)
        index.train(base)
        index.add(base)
        faiss.write_index(index, os.path.join(folder, "index"))

    def before_training(self, index, settings):
        """What the factory's words do not say."""

    def open(self, folder, threads, settings):
        # Of the thread that calls; those that search inherit OMP_NUM_THREADS=1.
        faiss.omp_set_num_threads(1)
        self.index = faiss.read_index(os.path.join(folder, "index"))

    def search(self, request):
        return self.index.search(request, self.shape["k"])

    def rows(self, answer):
        return answer[1][0].tolist()


class Hnsw(Faiss):
    def builds(self):
        return [{"factory": f"HNSW{degree},Flat", "ef_construction": 200} for degree in (16, 32, 48)]

    def before_training(self, index, settings):
        index.hnsw.efConstruction = settings["ef_construction"]

    def sweeps(self, settings):
        return [Sweep("ef", ladder(self.shape["k"], 2000))]

    def requests(self, queries, knobs):
        self.index.hnsw.efSearch = knobs["ef"]
        return single_rows(queries)


class Ivf(Faiss):
    """Lists: 4 sqrt(rows), as faiss advises for sets of this size."""

    def lists(self):
        return round(4 * math.sqrt(self.shape["rows"]))

    def sweeps(self, settings):
        probes = ladder(1, self.lists())
        if not settings["refined"]:
            return [Sweep("nprobe", probes)]
        return [Sweep("nprobe", probes, {"k_factor": factor}) for factor in REFINE_FACTORS]

    def requests(self, queries, knobs):
        faiss.extract_index_ivf(self.index).nprobe = knobs["nprobe"]
        if "k_factor" in knobs:
            self.index.k_factor = knobs["k_factor"]
        return single_rows(queries)


class IvfPq(Ivf):
    """Two dimensions a 4-bit code; refined by 8-bit scalars, or by the vectors themselves."""

    def builds(self):
        codes = f"IVF{self.lists()},PQ{self.shape['dim'] // 2}x4fs"
        return [{"factory": f"{codes},{refine}", "refined": True} for refine in ("Refine(SQ8)", "RFlat")]


class IvfRabitq(Ivf):
    """RR rotates, which RaBitQ counts on and faiss leaves to the caller. Codes of 1 bit need refining."""

    def builds(self):
        codes = f"IVF{self.lists()},RaBitQfs"
        return [
            {"factory": f"RR,{codes}4", "refined": False},
            {"factory": f"RR,{codes}7", "refined": False},
            {"factory": f"{codes},RFlat", "refined": True},
        ]
