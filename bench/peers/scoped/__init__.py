"""Searching a part of the rows: one class for each way that a library has of it.

A scope is a tenant, a label or a filter with the rows that it has (dump.py). The process that builds an index
saves it and ends; another opens it, and asks one question a call in a single thread. What a question takes
that does not depend on the query - a bitmap, a set, a condition - is made by `filter_of`, before the memory of
the index is measured and outside of the clock.
"""

import importlib
import importlib.metadata


class Scoped:
    """What a class has to answer. `shape` has rows, dim, metric ("l2" or "ip") and k."""

    package = None
    # How it is built.
    settings = {}
    # Whether one index serves all scopes, and whether it depends on the vectors alone and not on the scopes.
    shared, of_vectors = True, False
    # Whether the vectors are in memory, so that its memory is comparable.
    in_memory = True

    def __init__(self, shape):
        self.shape = shape

    def version(self):
        return importlib.metadata.version(self.package)

    def build(self, base, dump, folder, threads):
        """Builds an index, or several, over `base` for the scopes of `dump`, and saves it in `folder`."""
        raise NotImplementedError

    def make_filters(self, dump, scopes):
        """Makes what stands for each of these scopes in a call; scopes of the same rows share it."""
        first, made = dump.first_equal(), {}
        for scope in scopes:
            if first[scope] not in made:
                made[first[scope]] = self.filter_of(dump.scope(scope), first[scope])
        self.filters = {scope: made[first[scope]] for scope in scopes}

    def filter_of(self, rows, name):
        """What says that these rows may be found, those of the scope with the number `name`."""
        return None

    def open(self, folder, dump):
        """Opens what is in `folder`."""
        raise NotImplementedError

    def answers(self, scope):
        """Whether this scope can be asked, now that it is open."""
        return True

    def memory_of_all(self, grown_mb):
        """The memory that it takes to answer for all scopes, by what opening it has taken."""
        return grown_mb

    def sweeps(self):
        """Search settings to choose from: a list of tune.Sweep."""
        raise NotImplementedError

    def request(self, query, scope, knobs):
        """What `search` takes for a question: the query is a row of one vector."""
        raise NotImplementedError

    def ready(self, request):
        """What has to be done before a call and is not in its time."""

    def search(self, request):
        """The library's answer."""
        raise NotImplementedError

    def rows(self, answer):
        """The row numbers in an answer; negative ones stand for none."""
        raise NotImplementedError

    def least(self, query):
        """A request with next to nothing to search: its time is that of a call. None where there is none."""
        return None


# Name on the command line: module and class.
PEERS = {
    "hnswlib-each": ("hnswlib", "Each"),
    "hnswlib-filter": ("hnswlib", "Filtered"),
    "faiss-hnsw": ("faiss", "Selected"),
    "qdrant-edge-scan": ("qdrant", "Scanned"),
    "qdrant-edge-graphs": ("qdrant", "Graphs"),
    "lancedb": ("lancedb", "Prefiltered"),
}


def peer_class(name):
    """The class of a peer; its library is imported here."""
    module, which = PEERS[name]
    return getattr(importlib.import_module(f"scoped.{module}"), which)
