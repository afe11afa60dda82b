"""LanceDB: IVF with RaBitQ codes, and with PQ, on disk; optionally refined by the stored vectors.

Searched through the asynchronous API with an event loop in each thread that calls: the synchronous one hands
every query to a loop in a thread of its own, which takes about half as long again. Queries are built before
the clock starts; ids are the row ids of one fragment, in the order of the base. The environment holds the
library's own pool to one thread (process.py), beside the one that calls.
"""

import asyncio
import math
import threading

import lancedb
import pyarrow
from lancedb.index import IvfPq as PqConfig
from lancedb.index import IvfRq as RqConfig

from adapters import Peer
from tune import Sweep, ladder

METRICS = {"l2": "l2", "ip": "dot"}
TABLE = "vectors"
COLUMN = "vector"
INDEX = "vectors_index"
REFINE_FACTORS = (1, 2, 4, 8, 16)
MIB = 1024 * 1024
# Share of --memory-mb for the cache of index pages.
CACHE_SHARE = 0.5


class Lancedb(Peer):
    package = "lancedb"
    on_disk = True

    def config(self, settings):
        """The library's description of the index."""
        raise NotImplementedError

    def partitions(self):
        return round(math.sqrt(self.shape["rows"]))

    def build(self, base, folder, threads, settings):
        vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(base.reshape(-1)), self.shape["dim"])
        table = lancedb.connect(folder).create_table(TABLE, pyarrow.table({COLUMN: vectors}))
        table.create_index(COLUMN, config=self.config(settings), name=INDEX)
        table.wait_for_index([INDEX])

    def open(self, folder, threads, settings):
        self.local = threading.local()
        session = None
        if self.memory_mb:
            session = lancedb.Session(index_cache_size_bytes=int(self.memory_mb * MIB * CACHE_SHARE))
        self.table = self.wait(self.open_table(folder, session))
        if not self.memory_mb:
            self.wait(self.table.prewarm_index(INDEX))

    async def open_table(self, folder, session):
        connection = await lancedb.connect_async(folder, session=session)
        return await connection.open_table(TABLE)

    def wait(self, coming):
        """The result of an asynchronous call, by the event loop of this thread."""
        if not hasattr(self.local, "loop"):
            self.local.loop = asyncio.new_event_loop()
        return self.local.loop.run_until_complete(coming)

    def sweeps(self, settings):
        probes = ladder(1, settings["num_partitions"])
        refined = [Sweep("nprobes", probes, {"refine_factor": factor}) for factor in REFINE_FACTORS]
        return [Sweep("nprobes", probes), *refined]

    def requests(self, queries, knobs):
        requests = []
        for query in queries:
            request = self.table.query().nearest_to(query).column(COLUMN).limit(self.shape["k"])
            request = request.distance_type(METRICS[self.shape["metric"]]).nprobes(knobs["nprobes"])
            if "refine_factor" in knobs:
                request = request.refine_factor(knobs["refine_factor"])
            requests.append(request.select(["_distance"]).with_row_id())
        return requests

    def search(self, request):
        return self.wait(request.to_arrow())

    def rows(self, answer):
        return answer["_rowid"].to_pylist()


class IvfRq(Lancedb):
    """5 bits a dimension are what LanceDB advises; 1 bit is its default and leans on refining."""

    def builds(self):
        return [{"num_partitions": self.partitions(), "num_bits": bits} for bits in (5, 1)]

    def config(self, settings):
        return RqConfig(distance_type=METRICS[self.shape["metric"]], **settings)


class IvfPq(Lancedb):
    """Four dimensions a byte, as against the default of sixteen, whose recall is poor."""

    def builds(self):
        return [{"num_partitions": self.partitions(), "num_sub_vectors": self.shape["dim"] // 4}]

    def config(self, settings):
        return PqConfig(distance_type=METRICS[self.shape["metric"]], **settings)
