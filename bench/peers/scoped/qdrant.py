"""Qdrant Edge: one segment whose points name their scopes in an indexed keyword field.

Where a filter lets no more vectors pass than `full_scan_kb` holds, they are compared one by one; otherwise the
graph is walked, which is built with that field there and so has edges for each of its values of more points.
"""

import qdrant_edge as qdrant

from adapters.qdrant import LOAD_ROWS, QdrantEdge
from scoped import Scoped
from tune import Sweep, ladder

FIELD = "scopes"
EF_MAX = 4000


class Scanned(Scoped):
    package = "qdrant-edge-py"
    # The library's default; nothing is a full scan at 1.
    settings = {"m": 16, "ef_construct": 200, "quantization": None, "full_scan_kb": 10_000}

    def build(self, base, dump, folder, threads):
        shard = qdrant.EdgeShard.create(folder, QdrantEdge(self.shape).config(threads, self.settings))
        keyword = qdrant.KeywordIndexParams(is_tenant=dump.kind == "tenants", memory=qdrant.Memory.Pinned)
        shard.update(qdrant.UpdateOperation.create_field_index(FIELD, keyword))
        scopes_of = dump.scopes_of_rows(len(base))
        for first in range(0, len(base), LOAD_ROWS):
            rows = base[first : first + LOAD_ROWS].tolist()
            points = [
                qdrant.Point(first + at, row, {FIELD: [str(scope) for scope in scopes_of[first + at]]})
                for at, row in enumerate(rows)
            ]
            shard.update(qdrant.UpdateOperation.upsert_points(points))
        shard.optimize()
        shard.flush()
        shard.close()

    def filter_of(self, rows, name):
        if len(rows) == self.shape["rows"]:
            return None
        match = qdrant.MatchValue(str(name))
        return qdrant.Filter(must=[qdrant.FieldCondition(FIELD, match=match)])

    def open(self, folder, dump):
        self.shard = qdrant.EdgeShard.load(folder)

    def sweeps(self):
        return [Sweep("hnsw_ef", ladder(self.shape["k"], EF_MAX))]

    def request(self, query, scope, knobs):
        return qdrant.QueryRequest(
            self.shape["k"],
            query=qdrant.Query.Nearest(query[0].tolist()),
            filter=self.filters[scope],
            params=qdrant.SearchParams(hnsw_ef=knobs["hnsw_ef"]),
        )

    def search(self, request):
        return self.shard.query(request)

    def rows(self, answer):
        return [hit.id for hit in answer]


class Graphs(Scanned):
    """Edges for each value: more of them, a longer build, and no scans."""

    settings = {**Scanned.settings, "full_scan_kb": 1}
