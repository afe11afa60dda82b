"""The page cache: how much of an index is in it, emptying it of that, and holding it within a budget.

No rights are needed beyond those over the files: mincore says which pages are there, MADV_PAGEOUT lets go of
those that are mapped in this process, posix_fadvise of the others.
"""

import ctypes
import mmap
import os
import pathlib

import numpy as np

import measure

MADV_PAGEOUT = 21
LIBC = ctypes.CDLL(None, use_errno=True)


def files(folder):
    """All files below a folder that have bytes."""
    return [path for path in pathlib.Path(folder).rglob("*") if path.is_file() and path.stat().st_size]


def call(function, address, length, argument):
    """A call of the C library; its failure is an OSError."""
    if function(ctypes.c_void_p(address), ctypes.c_size_t(length), argument) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def cached_bytes(folder):
    """Bytes of the files below a folder that are in the page cache, mapped by a process or not."""
    pages = 0
    for path in files(folder):
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = np.frombuffer(mapped, np.uint8)
            there = np.empty(-(-len(view) // mmap.PAGESIZE), np.uint8)
            call(LIBC.mincore, view.ctypes.data, len(view), ctypes.c_void_p(there.ctypes.data))
            pages += int(np.count_nonzero(there & 1))
            del view
    return pages * mmap.PAGESIZE


def drop(folder):
    """Asks the kernel to forget the pages of all files below a folder, also those mapped in this process. Pages
    that are not written yet stay, but for mapped ones: see `write_back`."""
    inside = os.path.join(os.path.realpath(folder), "")
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        addresses, *_, path = line.split(None, 5)
        if path.startswith(inside):
            begin, end = (int(address, 16) for address in addresses.split("-"))
            call(LIBC.madvise, begin, end - begin, MADV_PAGEOUT)
    for path in files(folder):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_back(folder):
    """Waits until all files below a folder are on disk."""
    for path in files(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())


class Budget:
    """What an index may hold: memory of its own beyond `idle_mb`, and pages of its files in the page cache.

    The cache is emptied of them as soon as both are more than `limit_mb` together.
    """

    def __init__(self, folder, limit_mb, idle_mb):
        self.folder, self.limit, self.idle_mb, self.most = folder, limit_mb * measure.MIB, idle_mb, 0

    def hold(self):
        cached = cached_bytes(self.folder)
        private = (measure.memory()["private"] - self.idle_mb) * measure.MIB
        self.most = max(self.most, cached)
        if cached + private > self.limit:
            drop(self.folder)
