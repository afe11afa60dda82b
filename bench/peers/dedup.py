#!/usr/bin/env python3
"""Near copies by datasketch's MinHashLSH and MinHashLSHBloom, driven by `spandrel-bench dedup` over stdin and stdout.

One JSON object a line in, one value out. Texts, decisions (a byte each) and signatures (u32 a lane) go through files.

    {"do": "versions"}
    {"do": "load", "words": PATH, "lanes": 128, "folder": PATH}    texts of words, one a line, a space between words
    {"do": "sides"}
    {"do": "decide", "side": "datasketch xxh32", "threshold": 0.8}
    {"do": "quit"}

Each text is asked for, then kept unless it is called a copy, on one thread. `disk_mb` of the LSH is its pickle, which is
how datasketch keeps one; of the LSHBloom the files that it writes, with the default promise of the engine, 1e-5 over all
bands. Of the hash functions, sha1 is datasketch's own choice and xxh32 the fastest that it takes.
"""

import importlib.metadata
import json
import os
import pickle
import shutil
import sys
import time

import numpy as np
import xxhash
from datasketch import MinHash, MinHashLSH

try:
    import pybloomfilter  # MinHashLSHBloom needs it, and says so only when one is made.
    from datasketch import MinHashLSHBloom
except ImportError:
    pybloomfilter = None

WORDS = 5
PROMISE = 1e-5
SHA1, XXH32, BLOOM = "datasketch sha1", "datasketch xxh32", "datasketch LSHBloom"


def shingles(words):
    return list({" ".join(words[at : at + WORDS]).encode() for at in range(max(1, len(words) - WORDS + 1))})


def timed(work):
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


class Corpus:
    def __init__(self, words, lanes, folder):
        self.lanes, self.folder = lanes, folder
        with open(words, encoding="utf-8", newline="\n") as lines:
            texts = lines.read().split("\n")[:-1]
        sets, self.shingle_s = timed(lambda: [shingles(text.split()) for text in texts])
        sha1, sha1_s = timed(lambda: MinHash.bulk(sets, num_perm=lanes))
        fast, fast_s = timed(lambda: MinHash.bulk(sets, num_perm=lanes, hashfunc=xxhash.xxh32_intdigest))
        self.hashes = {SHA1: (sha1, sha1_s), XXH32: (fast, fast_s), BLOOM: (fast, fast_s)}

    def decide(self, side, threshold):
        minhashes, sign_s = self.hashes[side]
        decisions = np.zeros(len(minhashes), np.uint8)
        lsh = MinHashLSH(threshold=threshold, num_perm=self.lanes)
        bands, rows = lsh.b, lsh.r
        if side == BLOOM:
            index_s, size = self.bloom(minhashes, threshold, bands, decisions)
        else:
            start = time.perf_counter()
            for at, minhash in enumerate(minhashes):
                if lsh.query(minhash):
                    decisions[at] = 1
                else:
                    lsh.insert(at, minhash, check_duplication=False)
            index_s = time.perf_counter() - start
            size = len(pickle.dumps(lsh, protocol=5))
        path, signatures = os.path.join(self.folder, "decisions"), None
        decisions.tofile(path)
        if side == XXH32:
            signatures = os.path.join(self.folder, "signatures")
            np.stack([minhash.hashvalues for minhash in minhashes]).astype("<u4").tofile(signatures)
        times = {"shingle_s": self.shingle_s, "sign_s": sign_s, "index_s": index_s}
        files = {"decisions": path, "signatures": signatures}
        return {"bands": bands, "rows": rows, "disk_mb": size / 1e6, **times, **files}

    def bloom(self, minhashes, threshold, bands, decisions):
        folder = os.path.join(self.folder, "bloom")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        rate = 1 - (1 - PROMISE) ** (1 / bands)
        sizes = {"threshold": threshold, "num_perm": self.lanes, "n": len(minhashes), "fp": rate}
        lsh = MinHashLSHBloom(**sizes, save_dir=folder)
        start = time.perf_counter()
        for at, minhash in enumerate(minhashes):
            if lsh.query(minhash):
                decisions[at] = 1
            else:
                lsh.insert(minhash)
        index_s = time.perf_counter() - start
        lsh.sync()
        files = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
        return index_s, sum(os.path.getsize(file) for file in files)


def versions():
    names = ["datasketch", "numpy", "xxhash"] + (["pybloomfilter3"] if pybloomfilter else [])
    return {"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in names}}


def main():
    corpus = None
    for line in sys.stdin:
        ask = json.loads(line)
        do = ask.pop("do")
        try:
            if do == "quit":
                return
            if do == "versions":
                answer = versions()
            elif do == "sides":
                answer = [SHA1, XXH32] + ([BLOOM] if pybloomfilter else [])
            elif do == "load":
                corpus = None
                corpus, answer = Corpus(**ask), {}
            elif do == "decide":
                answer = corpus.decide(**ask)
            else:
                answer = {"error": f"what is {do}?"}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
