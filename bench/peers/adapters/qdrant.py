"""Qdrant Edge (the engine of qdrant in this process): HNSW over float32, or over 8-bit scalars with
rescoring.

One segment. Points are Python objects, which the build time includes; search requests are made before the
clock starts. With --memory-mb, vectors and graph stay on disk and quantized vectors in memory.
"""

import qdrant_edge as qdrant

from adapters import Peer
from tune import Sweep, ladder

METRICS = {"l2": qdrant.Distance.Euclid, "ip": qdrant.Distance.Dot}
LOAD_ROWS = 1024
# A segment larger than any set here (kilobytes), and an index from the first vector on.
SEGMENT_KB_MAX = 1_000_000_000
INDEX_FROM_KB = 1
OVERSAMPLING = (1.0, 2.0, 4.0)


class QdrantEdge(Peer):
    package = "qdrant-edge-py"
    on_disk = True

    def builds(self):
        graph = {"m": 16, "ef_construct": 200}
        return [{**graph, "quantization": "int8"}, {**graph, "quantization": None}]

    def config(self, threads, settings):
        pinned, cold = qdrant.Memory.Pinned, qdrant.Memory.Cold if self.memory_mb else qdrant.Memory.Pinned
        scalars = None
        if settings["quantization"]:
            scalars = qdrant.ScalarQuantizationConfig(qdrant.ScalarType.Int8, quantile=0.99, memory=pinned)
        vectors = qdrant.EdgeVectorParams(
            self.shape["dim"],
            METRICS[self.shape["metric"]],
            quantization_config=scalars,
            memory=cold,
            hnsw_config=qdrant.HnswIndexConfig(
                settings["m"],
                settings["ef_construct"],
                INDEX_FROM_KB,
                max_indexing_threads=threads,
                memory=cold,
            ),
        )
        optimizers = qdrant.EdgeOptimizersConfig(
            default_segment_number=1,
            max_segment_size=SEGMENT_KB_MAX,
            indexing_threshold=INDEX_FROM_KB,
        )
        return qdrant.EdgeConfig(vectors, optimizers=optimizers, max_search_threads=threads)

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
        if not settings["quantization"]:
            return [Sweep("hnsw_ef", efs)]
        return [Sweep("hnsw_ef", efs, {"oversampling": factor}) for factor in OVERSAMPLING]

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
