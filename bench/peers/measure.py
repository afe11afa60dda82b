"""Passes over queries and the memory of this process: what a worker measures.

As bench/src/drive.rs: a closed loop, each thread with its own share of the queries, one query a call.
Requests are made before the clock starts and answers are read after it has stopped; warm-up calls are not
counted, and there are none where cold reads are measured.
"""

import gc
import pathlib
import threading
import time

WARM_UP_QUERIES = 100
MIB = 1024 * 1024


def run_pass(search, requests, threads, warm_up=True, between=None):
    """Wall time in seconds, the time of each call in ns and the raw answers, both in the order of the
    requests. What is to be done `between` calls is not in the times; it is for a single thread.

    Each thread reads the clock itself, after all are warm: a thread that only waits for the others would get
    its turn too late to tell when they began.
    """
    times, answers, errors = [0] * len(requests), [None] * len(requests), []
    begins, ends = [0] * threads, [0] * threads
    gate = threading.Barrier(threads)

    def work(first):
        mine = range(first, len(requests), threads)
        try:
            for at in mine[: WARM_UP_QUERIES if warm_up else 0]:
                search(requests[at])
            gate.wait()
            begins[first] = time.perf_counter_ns()
            for at in mine:
                begin = time.perf_counter_ns()
                answers[at] = search(requests[at])
                times[at] = time.perf_counter_ns() - begin
                if between:
                    between()
            ends[first] = time.perf_counter_ns()
        except Exception as error:
            errors.append(error)
            gate.abort()

    workers = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
    gc.collect()
    gc.disable()
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        gc.enable()
    if errors:
        raise errors[0]
    wall = sum(times) if between else max(ends) - min(begins)
    return wall / 1e9, times, answers


def proc_lines(process, name):
    """The fields of a file in a process's folder of /proc."""
    text = pathlib.Path(f"/proc/{process}/{name}").read_text()
    return dict(line.split(":", 1) for line in text.splitlines())


def memory(process="self"):
    """Resident MiB: now, at most since the start or `reset_peak`, and now without those of files. None where
    /proc does not tell."""
    try:
        lines = proc_lines(process, "status")
    except OSError:
        return None
    fields = (("now", "VmRSS"), ("peak", "VmHWM"), ("private", "RssAnon"))
    return {name: int(lines[field].split()[0]) / 1024 for name, field in fields}


def reset_peak(process="self"):
    """Makes the peak start again from now, where the kernel allows it."""
    try:
        pathlib.Path(f"/proc/{process}/clear_refs").write_text("5")
    except OSError:
        pass


def read_bytes(process="self"):
    """Bytes that a process has fetched from disk; None where /proc does not tell."""
    try:
        lines = proc_lines(process, "io")
    except OSError:
        return None
    return int(lines["read_bytes"])


def folder_bytes(folder):
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())
