"""The libraries: one file a package, one class a way of using it.

A class has a `package` (its name on PyPI) and the verbs of `Peer`. The process that builds an index saves it
and ends; another opens it and searches, with one thread inside the library for each that calls it.
"""

import importlib
import importlib.metadata

import measure


class Peer:
    """What a class has to answer. `shape` has rows, dim, metric ("l2" or "ip") and k."""

    package = None
    # Whether the index stays on disk and `--memory-mb` reaches it.
    on_disk = False
    # The process that holds the index, by its name in /proc.
    process = "self"

    def __init__(self, shape, memory_mb=None):
        self.shape, self.memory_mb = shape, memory_mb

    def version(self):
        return importlib.metadata.version(self.package)

    def builds(self):
        """Build settings to try, each a dict."""
        raise NotImplementedError

    def build(self, base, folder, threads, settings):
        """Builds an index over `base` (rows x dim, float32) and saves it in `folder`."""
        raise NotImplementedError

    def open(self, folder, threads, settings):
        """Opens the index in `folder`, for `threads` threads that call `search`."""
        raise NotImplementedError

    def sweeps(self, settings):
        """Search settings to choose from: a list of tune.Sweep."""
        raise NotImplementedError

    def requests(self, queries, knobs):
        """Sets the knobs, and makes what `search` takes, one for each query: a row of one query."""
        raise NotImplementedError

    def search(self, request):
        """The library's answer to one query."""
        raise NotImplementedError

    def rows(self, answer):
        """The row numbers in an answer, best first."""
        raise NotImplementedError

    def run_pass(self, queries, knobs, threads, warm_up, between=None):
        """Wall time in seconds, the time of each call in ns, and the rows that each found (measure.py)."""
        requests = self.requests(queries, knobs)
        wall_s, times, answers = measure.run_pass(self.search, requests, threads, warm_up, between)
        return wall_s, times, [self.rows(answer) for answer in answers]

    def close(self):
        """Ends what would outlive this object."""


def single_rows(queries):
    """One 1 x dim array for each query."""
    return [queries[at : at + 1] for at in range(len(queries))]


# Name on the command line: module and class.
PEERS = {
    "faiss-hnsw": ("faiss", "Hnsw"),
    "faiss-ivfpq": ("faiss", "IvfPq"),
    "faiss-ivfrabitq": ("faiss", "IvfRabitq"),
    "hnswlib": ("hnswlib", "Hnswlib"),
    "usearch": ("usearch", "Usearch"),
    "scann": ("scann", "Scann"),
    "svs": ("svs", "Svs"),
    "rabitqlib-ivf": ("rabitqlib", "Ivf"),
    "rabitqlib-symqg": ("rabitqlib", "Symqg"),
    "lancedb-ivfrq": ("lancedb", "IvfRq"),
    "lancedb-ivfpq": ("lancedb", "IvfPq"),
    "qdrant-edge": ("qdrant", "QdrantEdge"),
    "diskannpy": ("diskannpy", "Diskann"),
    "diskann-disk": ("diskann_disk", "DiskannDisk"),
}


def peer_class(name):
    """The class of a peer; its library is imported here."""
    module, which = PEERS[name]
    return getattr(importlib.import_module(f"adapters.{module}"), which)
