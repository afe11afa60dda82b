"""LanceDB: IVF with RaBitQ codes on disk, and a column of scopes that is the filter, applied first.

A row's one tenant is a number with a B-tree, several labels or filters are a list with an index of labels.
Besides the partitions that are looked at, it is tried without the index of vectors: the rows that pass are
then compared one by one, which is the faster way where there are few.
"""

import lancedb
import pyarrow
from lancedb.index import BTree, IvfRq, LabelList

from adapters.lancedb import COLUMN, INDEX, METRICS, TABLE
from adapters.lancedb import IvfRq as Adapter
from scoped import Scoped
from tune import Sweep, ladder

FIELD = "scopes"
SCOPES_INDEX = "scopes_index"
REFINE_FACTOR = 2


class Prefiltered(Scoped):
    package = "lancedb"
    settings = {"num_bits": 5}
    in_memory = False

    def partitions(self):
        return Adapter(self.shape).partitions()

    def build(self, base, dump, folder, threads):
        vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(base.reshape(-1)), self.shape["dim"])
        scopes = dump.scopes_of_rows(len(base))
        # Of 64 bits, as a number in a condition: with a cast in between the index is not used.
        if dump.kind == "tenants":
            scopes, index = pyarrow.array([tenant for (tenant,) in scopes], pyarrow.int64()), BTree()
        else:
            scopes, index = pyarrow.array(scopes, pyarrow.list_(pyarrow.int64())), LabelList()
        table = lancedb.connect(folder).create_table(TABLE, pyarrow.table({COLUMN: vectors, FIELD: scopes}))
        config = IvfRq(
            distance_type=METRICS[self.shape["metric"]], num_partitions=self.partitions(), **self.settings
        )
        table.create_index(COLUMN, config=config, name=INDEX)
        table.create_index(FIELD, config=index, name=SCOPES_INDEX)
        table.wait_for_index([INDEX, SCOPES_INDEX])

    def make_filters(self, dump, scopes):
        self.condition = "{} = {}" if dump.kind == "tenants" else "array_has_any({}, [{}])"
        super().make_filters(dump, scopes)

    def filter_of(self, rows, name):
        return None if len(rows) == self.shape["rows"] else self.condition.format(FIELD, name)

    def open(self, folder, dump):
        # The table, prewarmed, and the event loop of this thread are as those of a search without a filter.
        self.adapter = Adapter(self.shape)
        self.adapter.open(folder, 1, None)
        self.adapter.wait(self.adapter.table.prewarm_index(SCOPES_INDEX))

    def sweeps(self):
        probes = ladder(1, self.partitions())
        return [
            Sweep("bypass", [True]),
            Sweep("nprobes", probes),
            Sweep("nprobes", probes, {"refine_factor": REFINE_FACTOR}),
        ]

    def request(self, query, scope, knobs):
        request = self.adapter.table.query().nearest_to(query[0]).column(COLUMN).limit(self.shape["k"])
        request = request.distance_type(METRICS[self.shape["metric"]])
        if self.filters[scope]:
            request = request.where(self.filters[scope])
        if knobs.get("bypass"):
            request = request.bypass_vector_index()
        else:
            request = request.nprobes(knobs["nprobes"])
        if "refine_factor" in knobs:
            request = request.refine_factor(knobs["refine_factor"])
        return request.select(["_distance"]).with_row_id()

    def search(self, request):
        return self.adapter.wait(request.to_arrow())

    def rows(self, answer):
        return answer["_rowid"].to_pylist()
