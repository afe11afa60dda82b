"""ScaNN: a tree of partitions, 4-bit codes of two dimensions (anisotropic for inner products), exact
reordering."""

import math

import scann

from adapters import Peer
from tune import Sweep, ladder

METRICS = {"l2": "squared_l2", "ip": "dot_product"}
REORDERED = (1, 2, 4, 8, 16, 32)


class Scann(Peer):
    package = "scann"

    def builds(self):
        """ScaNN advises sqrt(rows) leaves. SOAR keeps rows in two leaves, for inner products only."""
        leaves = round(math.sqrt(self.shape["rows"]))
        builds = [{"leaves": leaves}, {"leaves": 4 * leaves}]
        if self.shape["metric"] == "ip":
            builds.append({"leaves": leaves, "soar_lambda": 1.5})
        return builds

    def build(self, base, folder, threads, settings):
        anisotropic = 0.2 if self.shape["metric"] == "ip" else float("nan")
        searcher = (
            scann.scann_ops_pybind.builder(base, self.shape["k"], METRICS[self.shape["metric"]])
            .set_n_training_threads(threads)
            .tree(
                num_leaves=settings["leaves"],
                num_leaves_to_search=settings["leaves"],
                training_sample_size=len(base),
                soar_lambda=settings.get("soar_lambda"),
            )
            .score_ah(2, anisotropic_quantization_threshold=anisotropic)
            .reorder(self.shape["k"] * max(REORDERED))
            .build()
        )
        searcher.serialize(folder)

    def open(self, folder, threads, settings):
        self.searcher = scann.scann_ops_pybind.load_searcher(folder)

    def sweeps(self, settings):
        k = self.shape["k"]
        return [
            Sweep(
                "leaves_to_search", ladder(1, settings["leaves"]), {"pre_reorder_num_neighbors": k * factor}
            )
            for factor in REORDERED
        ]

    def requests(self, queries, knobs):
        self.knobs = knobs
        return list(queries)

    def search(self, request):
        return self.searcher.search(request, final_num_neighbors=self.shape["k"], **self.knobs)

    def rows(self, answer):
        return answer[0].tolist()
