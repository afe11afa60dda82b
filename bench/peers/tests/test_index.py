"""Samples of the tuning queries are as large as asked, and even."""

import unittest

import index


class Samples(unittest.TestCase):
    def test_samples_are_even_and_have_their_size(self):
        numbers = list(range(0, 1000, 2))
        for count, size in ((0.1, 100), (130, 130), (499, 499), (500, 500), (1e9, 500)):
            chosen = index.sample(numbers, count)
            self.assertEqual((len(chosen), len(set(chosen))), (size, size))
            self.assertLess(chosen[0], 10)
            self.assertGreater(chosen[-1], 980)
        self.assertEqual(index.sample(numbers[:30], 5), numbers[:30])


if __name__ == "__main__":
    unittest.main()
