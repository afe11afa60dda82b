"""The JSON that a run hands back: machine, settings, rows and goals, with the names and units of
`spandrel-bench ann`."""

import os
import platform
import statistics

import numpy as np

MIB = 1024 * 1024
PAGE_BYTES = 4096
FEATURES = (
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_vpopcntdq",
    "avx512_fp16",
    "amx_int8",
    "asimd",
    "asimdhp",
    "sve",
)


def machine():
    """Where it runs, as bench/src/machine.rs describes it."""
    cpu, memory = colon_lines("/proc/cpuinfo"), colon_lines("/proc/meminfo")
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    return {
        "cpu": cpu.get("model name") or cpu.get("Model") or "unknown",
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "features": [name for name in FEATURES if name in flags],
        "memory_mb": int(memory.get("MemTotal", "0").split()[0]) // 1024,
        "system": f"{platform.system().lower()} {platform.machine()} {platform.release()}",
        "load_average": list(os.getloadavg()),
        "build": "packages from PyPI",
    }


def colon_lines(path):
    """The first value of each name in a file of `name: value` lines."""
    values = {}
    try:
        with open(path) as file:
            for line in file:
                name, _, value = line.partition(":")
                values.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    return values


def row(point, passes, recalls, held_out, memory):
    """One measured point over its runs. `held_out`: the queries that did not choose the setting."""
    queries = len(recalls)
    qps_runs = [queries / run["wall_s"] for run in passes]
    times_us = np.concatenate([run["times_ns"] for run in passes]) / 1e3
    p50, p95, p99 = np.quantile(times_us, (0.5, 0.95, 0.99), method="inverted_cdf")
    read = [run["read_bytes"] / PAGE_BYTES / queries for run in passes if run["read_bytes"] is not None]
    cached = [run["cached_bytes"] / MIB for run in passes if run["cached_bytes"] is not None]
    index, figures = point.index, {}
    if memory["now"] is not None:
        grown_mb = memory["now"]["now"] - memory["idle"]["now"]
        figures = {
            "rss_mb": max(index.build_peak_mb or 0, memory["now"]["peak"]),
            "search_rss_mb": memory["now"]["peak"],
            "rss_now_mb": memory["now"]["now"],
            "rss_idle_mb": memory["idle"]["now"],
            "memory_bytes_per_vector": grown_mb * MIB / index.rows,
            "private_mb": memory["now"]["private"] - memory["idle"]["private"],
        }
    return {
        "peer": index.peer,
        "set": index.set_name,
        "recall_target": point.target,
        "threads": index.threads,
        "batch": 1,
        "recall": float(recalls.mean()),
        "recall_min": float(recalls.min()),
        "recall_held_out": float(recalls[held_out].mean()) if held_out else None,
        "qps": statistics.median(qps_runs),
        "qps_runs": qps_runs,
        "p50_us": float(p50),
        "p95_us": float(p95),
        "p99_us": float(p99),
        "build_s": index.build_s,
        **figures,
        "disk_mb": index.disk_bytes / MIB,
        "bytes_per_vector": index.disk_bytes / index.rows,
        "pages_per_query": statistics.median(read) if read else None,
        "build": index.settings,
        "knobs": point.knobs,
        "cached_mb": max(cached, default=None),
        "memory_mb": index.memory_mb,
    }


def goal(what, value, wanted):
    return {"what": what, "value": value, "goal": wanted, "met": value >= wanted}
