#!/usr/bin/env python3
"""One table from the JSON of one or more runs, ours included, with ratios over a chosen one.

    table.py peers.json ann.json --base spandrel

Rows are grouped by set, recall target, threads and batch. A row that was not measured for a target stands in
every group whose target its recall reaches, the fastest one only. A ratio is a row's QPS over that of the
base; where both come from the same rounds it is the median of the rounds' ratios, otherwise that of the
medians, marked with ~.
"""

import argparse
import json
import pathlib
import statistics
import sys

COLUMNS = (
    ("target", 2),
    ("peer", 0),
    ("recall", 4),
    ("qps", 1),
    ("ratio", 2),
    ("p50_us", 0),
    ("p95_us", 0),
    ("p99_us", 0),
    ("build_s", 1),
    ("rss_now_mb", 0),
    ("private_mb", 0),
    ("cached_mb", 0),
    ("disk_mb", 1),
    ("bytes_per_vector", 0),
    ("memory_bytes_per_vector", 0),
    ("pages_per_query", 1),
    ("setting", 0),
)


def named_rows(reports):
    """The rows of all reports, each with its peer, set and the number of its report."""
    rows = []
    for number, report in enumerate(reports):
        arguments = report["settings"].get("arguments", {})
        set_name = (
            report["settings"].get("set", {}).get("name")
            or pathlib.Path(arguments.get("base", "")).parent.name
        )
        for row in report["rows"]:
            rows.append({"peer": "spandrel", "set": set_name, "recall_target": None, **row, "report": number})
    return rows


def grouped(rows):
    """Rows by (set, threads, batch, target), in this order; target None: rows that reach no target."""
    kinds = {}
    for row in rows:
        kinds.setdefault((row["set"], row["threads"], row["batch"]), []).append(row)
    groups = {}
    for kind, members in sorted(kinds.items()):
        targets = sorted({row["recall_target"] for row in members if row["recall_target"]})
        free = [row for row in members if not row["recall_target"]]
        for target in targets:
            groups[*kind, target] = [row for row in members if row["recall_target"] == target]
            groups[*kind, target] += fastest([row for row in free if row["recall"] >= target])
        left = [row for row in free if not targets or row["recall"] < targets[0]]
        if left:
            groups[*kind, None] = left
    return groups


def fastest(rows):
    """The fastest row of each peer and report."""
    best = {}
    for row in sorted(rows, key=lambda row: row["qps"]):
        best[row["peer"], row["report"]] = row
    return list(best.values())


def ratio(row, base):
    """QPS over that of the base, and whether both come from the same rounds."""
    runs, base_runs = row.get("qps_runs", []), base.get("qps_runs", [])
    if row["report"] == base["report"] and runs and len(runs) == len(base_runs):
        return statistics.median(mine / theirs for mine, theirs in zip(runs, base_runs)), True
    return row["qps"] / base["qps"], False


def with_ratios(rows, base_name):
    """The rows, fastest first, with `ratio` as text where the base is among them."""
    base = next((row for row in rows if row["peer"] == base_name), None)
    ordered = sorted(rows, key=lambda row: -row["qps"])
    if base is None:
        return ordered
    values = [ratio(row, base) for row in ordered]
    return [
        {**row, "ratio": f"{value:.2f}" if paired else f"~{value:.2f}"}
        for row, (value, paired) in zip(ordered, values)
    ]


def cell(row, name, digits):
    value = row.get(name)
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else str(value)


def text_table(rows, columns):
    """Right-aligned columns; those that no row has are left out."""
    columns = [(name, digits) for name, digits in columns if any(row.get(name) is not None for row in rows)]
    lines = [[name for name, _ in columns]]
    lines += [[cell(row, name, digits) for name, digits in columns] for row in rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(line, widths)).rstrip() for line in lines
    )


def setting(row):
    """Build and search settings as words: M=16 / ef=64."""
    halves = [
        " ".join(f"{name}={value}" for name, value in (row.get(half) or {}).items())
        for half in ("build", "knobs")
    ]
    return " / ".join(filter(None, halves)) or None


def render(reports, base_name=None):
    """The whole text: a table for each set, threads and batch, and what could not be measured."""
    rows = named_rows(reports)
    base_name = base_name or (rows[0]["peer"] if rows else None)
    parts, kinds = [], {}
    for (*kind, target), members in grouped(rows).items():
        shown = [
            {**row, "target": target, "setting": setting(row)} for row in with_ratios(members, base_name)
        ]
        kinds.setdefault(tuple(kind), []).extend(shown)
    for (set_name, threads, batch), members in kinds.items():
        parts.append(f"{set_name}: {threads} threads, batch {batch}; ratio: QPS over {base_name}")
        parts.append(text_table(members, COLUMNS))
    for report in reports:
        machine = report["machine"]
        load = " ".join(f"{value:.2f}" for value in machine["load_average"])
        parts.append(f"{machine['cpu']}, {machine['threads']} threads, {machine['system']}, load {load}")
        niceness = report["settings"].get("niceness", 0)
        if niceness:
            parts.append(f"run at niceness {niceness}: not figures to quote")
        for goal in report["goals"]:
            if not goal["met"]:
                parts.append(f"NOT met: {goal['what']} = {goal['value']:.4f} (goal {goal['goal']})")
        for which in report["settings"].get("tuning_cut_short", []):
            parts.append(f"tuning cut short: {which}")
        for peer, why in report["settings"].get("not_available", {}).items():
            parts.append(f"not available: {peer}: {why}")
    return "\n".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", help="JSON of run.py or of spandrel-bench ann")
    parser.add_argument("--base", help="the name that ratios are over; left out: that of the first row")
    args = parser.parse_args()
    try:
        reports = [json.loads(pathlib.Path(file).read_text()) for file in args.files]
    except (OSError, json.JSONDecodeError) as error:
        sys.exit(f"table: {error}")
    print(render(reports, args.base))


if __name__ == "__main__":
    main()
