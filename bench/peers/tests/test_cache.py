"""What the page cache holds of a folder is counted, dropped, and held within a budget."""

import mmap
import pathlib
import tempfile
import unittest

import cache
import measure

PAGES = 64


class Cache(unittest.TestCase):
    def setUp(self):
        # Beside the tests: what /tmp is in may have no device to read from again.
        folder = tempfile.TemporaryDirectory(dir=pathlib.Path(__file__).parent)
        self.addCleanup(folder.cleanup)
        self.folder, self.path = folder.name, pathlib.Path(folder.name) / "index"
        self.path.write_bytes(bytes(PAGES * mmap.PAGESIZE))
        cache.write_back(self.folder)
        cache.drop(self.folder)
        if cache.cached_bytes(self.folder):
            self.skipTest("this file system keeps its files in memory")

    def test_pages_that_are_read_or_mapped_are_counted_and_dropped(self):
        with open(self.path, "rb", buffering=0) as file:
            file.read(mmap.PAGESIZE)
            self.assertGreaterEqual(cache.cached_bytes(self.folder), mmap.PAGESIZE)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                self.assertEqual(mapped.find(b"x"), -1)
                self.assertEqual(cache.cached_bytes(self.folder), PAGES * mmap.PAGESIZE)
                cache.drop(self.folder)
                self.assertEqual(cache.cached_bytes(self.folder), 0)
                self.assertEqual(mapped[-1], 0, "it can still be read")

    def test_a_budget_is_held(self):
        idle_mb, whole = measure.memory()["private"], PAGES * mmap.PAGESIZE
        for limit_mb, left in ((1000, whole), (0, 0)):
            self.path.read_bytes()
            budget = cache.Budget(self.folder, limit_mb, idle_mb - 1)
            budget.hold()
            self.assertEqual((cache.cached_bytes(self.folder), budget.most), (left, whole))


if __name__ == "__main__":
    unittest.main()
