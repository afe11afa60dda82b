"""Inner products become distances by one dimension more, and the budget is shared out."""

import unittest

import numpy as np

from adapters import diskann_disk


class DiskannDisk(unittest.TestCase):
    def test_distances_of_lengthened_vectors_order_as_inner_products(self):
        random = np.random.default_rng(1)
        base, query = random.normal(size=(50, 8)), random.normal(size=8)
        longest = np.square(base).sum(axis=1).max()
        longer = diskann_disk.lengthened(base.astype(np.float32), longest)
        self.assertTrue(np.allclose(np.square(longer).sum(axis=1), longest))
        distances = np.square(longer - np.append(query, 0)).sum(axis=1)
        self.assertEqual(np.argsort(distances).tolist(), np.argsort(-(base @ query)).tolist())

    def test_codes_and_kept_nodes_stay_within_the_budget(self):
        shape, settings = {"rows": 100_000, "dim": 384, "metric": "ip", "k": 10}, {"degree": 64}
        for memory_mb, share in ((22, 0.5), (22, 1.0), (500, 0.5), (1, 0.5)):
            code_bytes, nodes = diskann_disk.held(shape, memory_mb, {**settings, "code_share": share})
            self.assertTrue(1 <= code_bytes <= 384)
            self.assertLessEqual(code_bytes * 100_000 + nodes * 4 * (384 + 65), memory_mb * 1024 * 1024)
        self.assertEqual(diskann_disk.held(shape, None, settings), (96, 0))


if __name__ == "__main__":
    unittest.main()
