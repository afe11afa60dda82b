"""Rows of several reports become groups with ratios."""

import unittest

import table

MACHINE = {"cpu": "a CPU", "threads": 2, "system": "linux", "load_average": [0.5, 0.5, 0.5]}


def report(rows, settings=None, goals=()):
    return {
        "machine": MACHINE,
        "settings": settings or {"set": {"name": "a-set"}},
        "rows": rows,
        "goals": list(goals),
    }


def row(peer, target, recall, qps_runs):
    return {
        "peer": peer,
        "recall_target": target,
        "recall": recall,
        "qps": sorted(qps_runs)[len(qps_runs) // 2],
        "qps_runs": qps_runs,
        "threads": 1,
        "batch": 1,
    }


class Table(unittest.TestCase):
    def test_ratios_are_taken_within_rounds(self):
        # The machine halves its speed in the second round; the ratio is 2 in each.
        reports = [report([row("a", 0.9, 0.91, [200, 100, 220]), row("b", 0.9, 0.92, [100, 50, 110])])]
        (members,) = table.grouped(table.named_rows(reports)).values()
        shown = table.with_ratios(members, "b")
        self.assertEqual([(one["peer"], one["ratio"]) for one in shown], [("a", "2.00"), ("b", "1.00")])

    def test_ratios_across_reports_are_marked(self):
        reports = [report([row("a", 0.9, 0.91, [200, 220])]), report([row("b", 0.9, 0.9, [100, 110])])]
        (members,) = table.grouped(table.named_rows(reports)).values()
        self.assertEqual(table.with_ratios(members, "b")[0]["ratio"], "~2.00")

    def test_a_row_without_target_stands_where_it_reaches(self):
        ours = report(
            [
                {"recall": 0.96, "qps": 50.0, "threads": 1, "batch": 1},
                {"recall": 0.97, "qps": 40.0, "threads": 1, "batch": 1},
            ],
            {"arguments": {"base": "data/a-set/base.npy"}},
        )
        theirs = report([row("a", target, target, [10]) for target in (0.90, 0.95, 0.99)])
        groups = table.grouped(table.named_rows([ours, theirs]))
        ours_at = {
            key[3]: [one["qps"] for one in rows if one["peer"] == "spandrel"] for key, rows in groups.items()
        }
        self.assertEqual(ours_at, {0.90: [50.0], 0.95: [50.0], 0.99: []})

    def test_what_is_missing_is_said(self):
        settings = {"set": {"name": "a-set"}, "niceness": 19, "not_available": {"b": "no wheel"}}
        settings["tuning_cut_short"] = ["c {}"]
        goal = {"what": "a: recall@10", "value": 0.5, "goal": 0.9, "met": False}
        text = table.render([report([row("a", 0.9, 0.5, [10.0])], settings, [goal])])
        for part in (
            "niceness 19",
            "NOT met: a: recall@10 = 0.5000 (goal 0.9)",
            "not available: b: no wheel",
            "tuning cut short: c {}",
        ):
            self.assertIn(part, text)

    def test_columns_that_nobody_has_are_left_out(self):
        text = table.text_table([{"a": 1.25, "c": "x"}, {"a": None}], (("a", 1), ("b", 0), ("c", 0)))
        self.assertEqual(text, "  a  c\n1.2  x\n  -  -")


if __name__ == "__main__":
    unittest.main()
