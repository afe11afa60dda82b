"""Rows, ratios and goals of a run: what each peer came to in each class of scopes, over all rounds."""

import statistics

import numpy as np

import report
import table

# Ours against an index for each scope: as fast, with an eighth of the memory. Against one index with filters:
# no more than 1.1 times its memory, and ten times as fast where one in a hundred passes.
EACH_P50, EACH_MEMORY = 1.0, 8.0
SHARED_MEMORY = 1 / 1.1
ONE_PERCENT, ONE_PERCENT_P50 = "1% ", 10.0
MEMORY = "memory"

COLUMNS = (
    ("class", 0),
    ("peer", 0),
    ("asks", 0),
    ("recall", 4),
    ("p50_us", 1),
    ("p99_us", 1),
    ("mean_us", 1),
    ("p50_over", 2),
    ("p50_less_call_over", 2),
    ("memory_grown_mb", 1),
    ("memory_over", 2),
    ("disk_mb", 1),
    ("build_s", 1),
    ("setting", 0),
)


def rounds_of_class(places, rounds):
    """The figures of the questions at these places of each round's (recalls, times in ns)."""
    times = [np.array(times_ns)[places] / 1e3 for _, times_ns in rounds]
    p50s, p99s = (
        [float(np.quantile(one, share, method="inverted_cdf")) for one in times] for share in (0.5, 0.99)
    )
    return {
        "asks": len(places),
        "recall": float(np.mean([np.asarray(recalls)[places].mean() for recalls, _ in rounds])),
        "p50_us": statistics.median(p50s),
        "p99_us": statistics.median(p99s),
        "mean_us": statistics.median(float(one.mean()) for one in times),
        "p50_us_runs": p50s,
    }


def rows_of_peer(run, index, rounds, memory):
    """A row for each class that was asked, and for all questions."""
    place_of = {ask: place for place, ask in enumerate(index.asks)}
    rows = []
    for name, asks in run.dump.by_class(index.asks).items():
        rows.append(
            {
                "workload": run.dump.name,
                "class": name,
                "peer": index.peer,
                "recall_target": run.target,
                **rounds_of_class([place_of[ask] for ask in asks], rounds),
                "call_us": index.call_us,
                "memory_grown_mb": memory["grown_mb"],
                "memory_estimated": memory["estimated"],
                "filters_mb": memory["filters_mb"],
                "rss_idle_mb": memory["idle"] and memory["idle"]["now"],
                "rss_now_mb": memory["now"] and memory["now"]["now"],
                "disk_mb": index.disk_mb,
                "build_s": index.build_s,
                "open_s": index.open_s,
                "build": index.settings,
                "knobs": index.knobs.get(name),
                "recall_tuned": index.tuned.get(name),
                "shared": index.shared,
                "in_memory": index.in_memory,
            }
        )
    return rows


def rows_of_command(name, dump, reports):
    """One row for each class of a command's reports, of one a round (also.py)."""
    by_round = []
    for one in reports:
        by_round.append({row["class"]: row for row in one["rows"] if row["workload"] == dump.name})
        if by_round[-1].get("all", {}).get("asks") != len(dump.asks):
            raise ValueError(f"--also {name} did not ask the {len(dump.asks)} questions of {dump.name}")
    rows = []
    for which, last in by_round[-1].items():
        points = [rows_of[which] for rows_of in by_round]
        row = {**last, "peer": name, "p50_us_runs": [point["p50_us"] for point in points]}
        for figure in ("recall", "p50_us", "p99_us", "mean_us", "memory_grown_mb", "memory_mb"):
            values = [point[figure] for point in points if point.get(figure) is not None]
            row[figure] = statistics.median(values) if values else None
        rows.append(row)
    return rows


def with_ratios(rows, base_name):
    """The rows, each with its time and memory over those of the base in the same class and round."""
    bases = {row["class"]: row for row in rows if row["peer"] == base_name}
    return [{**row, **ratios(row, bases.get(row["class"]))} for row in rows]


def ratios(row, base):
    if base is None or len(row["p50_us_runs"]) != len(base["p50_us_runs"]):
        return {}
    pairs, figures = list(zip(row["p50_us_runs"], base["p50_us_runs"])), {}
    figures["p50_over"] = statistics.median(mine / theirs for mine, theirs in pairs)
    if row.get("call_us"):
        # What Python adds, and with it what any search at all takes.
        figures["p50_less_call_over"] = statistics.median(
            (mine - row["call_us"]) / theirs for mine, theirs in pairs
        )
    if row.get("memory_grown_mb") and base.get("memory_grown_mb"):
        figures["memory_over"] = row["memory_grown_mb"] / base["memory_grown_mb"]
    return figures


def goals_of(rows, base_name, target):
    """Goals of the base against the others, and recalls that were not reached."""
    goals = [
        report.goal(f"{named(row)}: recall", row["recall"], target)
        for row in rows
        if row["recall"] < target or (row["peer"] == base_name and row["class"] == "all")
    ]
    for row in rows:
        goals += [
            report.goal(
                f"{named(row)}: {what} over {base_name}{at_recall(row, target, what)}", row[figure], wanted
            )
            for what, figure, wanted in wanted_of(row)
            if row["peer"] != base_name and row.get(figure) is not None
        ]
    return goals


def named(row):
    return f"{row['peer']}, {row['class']}"


def at_recall(row, target, what):
    """Said of a time that is for less than was wanted."""
    return f" at recall {row['recall']:.3f}" if what != MEMORY and row["recall"] < target else ""


def wanted_of(row):
    """What is wanted of a peer's figures in a class: what, figure, at least."""
    if row.get("shared") is False and row["class"] == "all":
        yield "p50", "p50_over", EACH_P50
        yield "p50 less that of an empty call", "p50_less_call_over", EACH_P50
        yield MEMORY, "memory_over", EACH_MEMORY
    if row.get("shared") and row["in_memory"] and row["class"] == "all":
        yield MEMORY, "memory_over", SHARED_MEMORY
    if row.get("shared") and row["class"].startswith(ONE_PERCENT):
        yield "p50", "p50_over", ONE_PERCENT_P50


def render(done, base_name):
    """The whole text: a table by classes, the goals, and what could not be measured."""
    rows = done["rows"]
    classes = list(dict.fromkeys(row["class"] for row in rows if row["class"] != "all")) + ["all"]
    ordered = sorted(rows, key=lambda row: classes.index(row["class"]))
    settings, machine = done["settings"], done["machine"]
    shown = [{**row, "setting": table.setting(row)} for row in ordered]
    load = " ".join(f"{value:.2f}" for value in machine["load_average"])
    parts = [
        f"{settings['workload']['name']}, {settings['rounds']} rounds; over: of {base_name}",
        table.text_table(shown, COLUMNS),
        f"{machine['cpu']}, {machine['threads']} threads, {machine['system']}, load {load}",
    ]
    for goal in done["goals"]:
        verdict = "met" if goal["met"] else "NOT met"
        parts.append(f"{verdict}: {goal['what']} = {goal['value']:.4g} (goal {goal['goal']:.4g})")
    parts += [f"tuning cut short: {which}" for which in settings["tuning_cut_short"]]
    parts += [f"memory estimated: {peer}" for peer in dict.fromkeys(estimated(rows))]
    parts += [f"not available: {peer}: {why}" for peer, why in settings["not_available"].items()]
    return "\n".join(parts)


def estimated(rows):
    return [row["peer"] for row in rows if row.get("memory_estimated")]
