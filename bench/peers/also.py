"""An external command that takes part in the rounds: `--also NAME=COMMAND`, for example our own bench.

The command prints or writes the JSON of `spandrel-bench ann`. `{json}` in it stands for a file to write;
without one its stdout is read. `{recall}` stands for a recall target: with it the command runs once a target
and round, without it once a round.
"""

import json
import re
import shlex
import statistics
import subprocess

MEDIANS = ("p50_us", "p95_us", "p99_us", "recall", "rss_now_mb", "pages_per_query")


class Also:
    def __init__(self, text, scratch):
        named = re.match(r"([\w.-]+)=(.+)", text, re.DOTALL)
        if not named:
            raise ValueError(
                f"--also '{text}' is not NAME=COMMAND, for example spandrel='spandrel-bench ann ...'"
            )
        self.name, self.command = named.groups()
        self.file = scratch / f"also-{self.name}.json"
        self.by_target = "{recall}" in self.command
        self.reports = {}

    def run(self, target=None):
        """Runs the command once; its report joins those of the rounds before."""
        words = [
            word.replace("{json}", str(self.file)).replace("{recall}", str(target))
            for word in shlex.split(self.command)
        ]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode != 0:
            raise ValueError(
                f"--also {self.name} ended with status {done.returncode}: {done.stderr.strip()[-500:]}"
            )
        text = self.file.read_text() if "{json}" in self.command else done.stdout
        self.reports.setdefault(target, []).append(json.loads(text))

    def rows(self, set_name):
        """One row for each of the command's points, over all rounds."""
        rows = []
        for target, reports in self.reports.items():
            for points in zip(*(report["rows"] for report in reports)):
                rows.append({"peer": self.name, "set": set_name, "recall_target": target, **merged(points)})
        return rows


def merged(points):
    """The same point of several rounds: QPS as rounds, medians of what varies, the build if there was one."""
    row = dict(points[-1])
    row["qps_runs"] = [point["qps"] for point in points]
    row["qps"] = statistics.median(row["qps_runs"])
    row["build_s"] = next((point["build_s"] for point in points if point.get("build_s") is not None), None)
    for name in MEDIANS:
        values = [point[name] for point in points if point.get(name) is not None]
        if values:
            row[name] = statistics.median(values)
    return row
