"""An external command takes part and its rounds become one row."""

import json
import pathlib
import tempfile
import unittest

from also import Also, merged


class External(unittest.TestCase):
    def test_rounds_become_one_row(self):
        rounds = [
            {"qps": 10.0, "p50_us": 5.0, "recall": 0.9, "build_s": 3.0, "threads": 1},
            {"qps": 30.0, "p50_us": 7.0, "recall": 0.9, "build_s": None, "threads": 1},
            {"qps": 20.0, "p50_us": 6.0, "recall": 0.9, "build_s": None, "threads": 1},
        ]
        row = merged(rounds)
        self.assertEqual((row["qps"], row["qps_runs"]), (20.0, [10.0, 30.0, 20.0]))
        self.assertEqual((row["p50_us"], row["build_s"], row["threads"]), (6.0, 3.0, 1))

    def test_a_command_writes_a_file_or_prints(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            report = folder / "report"
            report.write_text(json.dumps({"rows": [{"qps": 10.0, "recall": 0.9}]}))
            writing = f"sh -c 'cp {report} {{json}}; test {{recall}} = 0.9'"
            for words, target in ((f"cat {report}", None), (writing, 0.9)):
                also = Also(f"ours={words}", folder)
                self.assertEqual(also.by_target, target is not None)
                also.run(target)
                also.run(target)
                (row,) = also.rows("a-set")
                self.assertEqual((row["peer"], row["set"], row["recall_target"]), ("ours", "a-set", target))
                self.assertEqual(row["qps_runs"], [10.0, 10.0])

    def test_faults_are_explained(self):
        with self.assertRaisesRegex(ValueError, "NAME=COMMAND"):
            Also("spandrel-bench ann", pathlib.Path("."))
        with self.assertRaisesRegex(ValueError, "ended with status 1"):
            Also("ours=false", pathlib.Path(".")).run()


if __name__ == "__main__":
    unittest.main()
