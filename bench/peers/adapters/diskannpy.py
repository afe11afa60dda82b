"""DiskANN (C++): a Vamana graph and the vectors on disk, PQ codes in memory.

`--memory-mb` is what it is told search may use, from which it derives the bytes of a code; left out, codes
get a byte for every four dimensions.
"""

import diskannpy

from adapters import Peer
from tune import Sweep, ladder

METRICS = {"l2": "l2", "ip": "mips"}
GIB = 1024**3
BUILD_MEMORY_GIB = 8
BEAM_WIDTHS = (2, 4, 8)


class Diskann(Peer):
    package = "diskannpy"
    on_disk = True

    def builds(self):
        return [{"complexity": 125, "graph_degree": 64}]

    def build(self, base, folder, threads, settings):
        code_bytes = self.shape["rows"] * (self.shape["dim"] // 4)
        memory_gib = self.memory_mb / 1024 if self.memory_mb else code_bytes / GIB
        diskannpy.build_disk_index(
            base,
            METRICS[self.shape["metric"]],
            folder,
            search_memory_maximum=memory_gib,
            build_memory_maximum=BUILD_MEMORY_GIB,
            num_threads=threads,
            **settings,
        )

    def open(self, folder, threads, settings):
        # One context more than threads that call: with a single one it waits for itself while it opens.
        self.index = diskannpy.StaticDiskIndex(folder, num_threads=threads + 1, num_nodes_to_cache=0)

    def sweeps(self, settings):
        return [
            Sweep("complexity", ladder(self.shape["k"], 1000), {"beam_width": width}) for width in BEAM_WIDTHS
        ]

    def requests(self, queries, knobs):
        self.knobs = knobs
        return list(queries)

    def search(self, request):
        return self.index.search(request, self.shape["k"], **self.knobs)

    def rows(self, answer):
        return answer.identifiers.tolist()
