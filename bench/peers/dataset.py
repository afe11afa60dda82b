"""Vector files, data sets by folder or name, and their exact neighbours.

A set is a folder with `base.*` and `query.*` (npy, fvecs, fbin or u8bin, each also as .zst) and `gt100.ibin`.
The metric is the end of its name (`-ip`, `-euclidean`, `-cosine`) unless it is given. Vectors of a cosine set
are normalized here, once for all peers, and compared by inner product from then on.
"""

import dataclasses
import io
import pathlib
import struct

import numpy as np
import zstandard

SUFFIXES = ("npy", "fvecs", "fbin", "u8bin")
METRICS = {"ip": "ip", "euclidean": "l2", "l2": "l2", "cosine": "cosine", "angular": "cosine"}
TRUTH = "gt100.ibin"
TRUTH_BLOCK = 64


@dataclasses.dataclass
class Dataset:
    """`base` and `queries` are float32 in rows; `truth` has k rows of the base for each query; -1 pads."""

    name: str
    metric: str
    base: np.ndarray
    queries: np.ndarray
    truth: np.ndarray


def read_vectors(path):
    """Rows of an npy, fbin, u8bin or fvecs file, or of its .zst, as C-ordered float32."""
    with open(path, "rb") as file:
        if path.endswith(".zst"):
            data, path = zstandard.ZstdDecompressor().stream_reader(file).read(), path[: -len(".zst")]
        else:
            data = file.read()
    if path.endswith(".npy"):
        vectors = np.load(io.BytesIO(data))
    elif path.endswith(".fvecs"):
        (dim,) = struct.unpack("<i", data[:4])
        vectors = np.frombuffer(data, np.float32).reshape(-1, dim + 1)[:, 1:]
    else:
        rows, dim = struct.unpack("<II", data[:8])
        element = np.uint8 if path.endswith(".u8bin") else np.float32
        vectors = np.frombuffer(data, element, count=rows * dim, offset=8).reshape(rows, dim)
    return np.ascontiguousarray(vectors, dtype=np.float32)


def read_truth(path, queries, k):
    """The first `k` columns of the first `queries` lines of an ibin file."""
    data = path.read_bytes()
    lines, width = struct.unpack("<II", data[:8])
    if lines < queries or width < k:
        raise ValueError(
            f"{path} has {lines} x {width} neighbours, but {queries} x {k} are needed: lower --k"
        )
    return np.frombuffer(data, np.int32, offset=8).reshape(lines, width)[:queries, :k].astype(np.int64)


def compute_truth(base, queries, metric, k):
    """The `k` best rows of each query in float64; equal scores in row order."""
    wide, best = base.astype(np.float64), []
    norms = np.einsum("ij,ij->i", wide, wide)
    for at in range(0, len(queries), TRUTH_BLOCK):
        products = queries[at : at + TRUTH_BLOCK].astype(np.float64) @ wide.T
        scores = 2.0 * products - norms if metric == "l2" else products
        best.append(np.argsort(-scores, axis=1, kind="stable")[:, :k])
    return np.concatenate(best)


def load(dataset, data, metric=None, k=10, query_limit=None, base_limit=None):
    """The set in the folder `dataset`, or in the folder of that name in `data`."""
    folder = next(
        (path for path in (pathlib.Path(dataset), pathlib.Path(data) / dataset) if path.is_dir()), None
    )
    if folder is None:
        raise ValueError(f"no data set '{dataset}': name a folder, or one in {data} (--data)")
    name = folder.resolve().name
    metric = metric or METRICS.get(name.rsplit("-", 1)[-1])
    if metric is None:
        raise ValueError(f"the name '{name}' does not end in a metric: say --metric l2, ip or cosine")
    base, queries = (
        read_vectors(find(folder, stem))[:limit]
        for stem, limit in (("base", base_limit), ("query", query_limit))
    )
    if metric == "cosine":
        metric, base, queries = "ip", normalized(base), normalized(queries)
    if base_limit is None:
        truth = read_truth(folder / TRUTH, len(queries), k)
    else:
        truth = compute_truth(base, queries, metric, k)
    return Dataset(name, metric, base, queries, truth)


def find(folder, stem):
    """The vector file of that stem in a folder."""
    names = [
        f"{stem}{middle}.{suffix}{end}"
        for middle in ("", ".f16", ".f32")
        for suffix in SUFFIXES
        for end in ("", ".zst")
    ]
    for name in names:
        if (folder / name).is_file():
            return str(folder / name)
    raise ValueError(f"{folder} has no {stem} vectors: {stem}.npy, .fvecs, .fbin or .u8bin, or one with .zst")


def normalized(vectors):
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms == 0, 1, norms)
