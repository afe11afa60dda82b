"""Qdrant Edge (the engine of qdrant in this process): HNSW over float32, or over codes (8-bit scalars) with
rescoring.

One segment. Points are Python objects, which the build time includes; search requests are made before the
clock starts. With --memory-mb, vectors and graph are on disk, mapped, and so are codes that do not fit it;
codes of two bits, which fit sooner, are then one more thing to build.
"""

import qdrant_edge as qdrant

from adapters import Peer
from measure import MIB
from tune import Sweep, ladder

METRICS = {"l2": qdrant.Distance.Euclid, "ip": qdrant.Distance.Dot}
LOAD_ROWS = 1024
# A segment larger than any set here (kilobytes), and an index from the first vector on.
SEGMENT_KB_MAX = 1_000_000_000
INDEX_FROM_KB = 1
# Of each kind of codes: bits a dimension, and how many more candidates than hits are scored by their vectors.
BITS = {"int8": 8, "binary2": 2}
OVERSAMPLING = {"int8": (1.0, 2.0, 4.0), "binary2": (8.0, 16.0, 4.0)}


class QdrantEdge(Peer):
    package = "qdrant-edge-py"
    on_disk = True

    def builds(self):
        graph = {"m": 16, "ef_construct": 200}
        kinds = ["int8", "binary2", None] if self.memory_mb else ["int8", None]
        return [{**graph, "quantization": kind} for kind in kinds]

    def config(self, threads, settings):
        # Where the parts are that have a choice: mapped, or in memory.
        cold = qdrant.Memory.Cold if self.memory_mb else qdrant.Memory.Pinned
        vectors = qdrant.EdgeVectorParams(
            self.shape["dim"],
            METRICS[self.shape["metric"]],
            quantization_config=self.codes(settings["quantization"]),
            memory=cold,
            hnsw_config=qdrant.HnswIndexConfig(
                settings["m"],
                settings["ef_construct"],
                settings.get("full_scan_kb", INDEX_FROM_KB),
                max_indexing_threads=threads,
                memory=cold,
            ),
        )
        optimizers = qdrant.EdgeOptimizersConfig(
            default_segment_number=1,
            max_segment_size=SEGMENT_KB_MAX,
            indexing_threshold=INDEX_FROM_KB,
        )
        return qdrant.EdgeConfig(
            vectors, optimizers=optimizers, max_search_threads=threads, id_tracker_memory=cold
        )

    def codes(self, kind):
        if kind is None:
            return None
        code_bytes = self.shape["rows"] * self.shape["dim"] * BITS[kind] // 8
        fits = not self.memory_mb or code_bytes <= self.memory_mb * MIB
        memory = qdrant.Memory.Pinned if fits else qdrant.Memory.Cold
        if kind == "int8":
            return qdrant.ScalarQuantizationConfig(qdrant.ScalarType.Int8, quantile=0.99, memory=memory)
        two_bits = qdrant.BinaryQuantizationEncoding.TwoBits
        return qdrant.BinaryQuantizationConfig(encoding=two_bits, memory=memory)

    def build(self, base, folder, threads, settings):
        shard = qdrant.EdgeShard.create(folder, self.config(threads, settings))
        for first in range(0, len(base), LOAD_ROWS):
            rows = base[first : first + LOAD_ROWS].tolist()
            points = [qdrant.Point(first + at, row) for at, row in enumerate(rows)]
            shard.update(qdrant.UpdateOperation.upsert_points(points))
        shard.optimize()
        shard.flush()
        shard.close()

    def open(self, folder, threads, settings):
        self.shard = qdrant.EdgeShard.load(folder)

    def sweeps(self, settings):
        efs = ladder(self.shape["k"], 2000)
        kind = settings["quantization"]
        if kind is None:
            return [Sweep("hnsw_ef", efs)]
        return [Sweep("hnsw_ef", efs, {"oversampling": factor}) for factor in OVERSAMPLING[kind]]

    def requests(self, queries, knobs):
        rescoring = None
        if "oversampling" in knobs:
            rescoring = qdrant.QuantizationSearchParams(rescore=True, oversampling=knobs["oversampling"])
        params = qdrant.SearchParams(hnsw_ef=knobs["hnsw_ef"], quantization=rescoring)
        return [
            qdrant.QueryRequest(self.shape["k"], query=qdrant.Query.Nearest(query), params=params)
            for query in queries.tolist()
        ]

    def search(self, request):
        return self.shard.query(request)

    def rows(self, answer):
        return [hit.id for hit in answer]
