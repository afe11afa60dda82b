#!/usr/bin/env python3
"""Makes the demo corpus in server/demo from SQuAD 1.1 dev: passages, questions and their embeddings.

    python3 scripts/make_demo_corpus.py ../shared/data/squad-dev-1.1 server/demo

Reads from the source folder corpus.jsonl.zst (id, title, text), corpus_minilm384.f16.npy, queries.jsonl.zst
(id, text, article, gold, answerable, answers) and queries_minilm384.f16.npy: row i of an array belongs to line
i of its jsonl. Writes every passage and QUESTIONS answerable questions. The same input gives the same files
(npy byte for byte; the zst bytes also depend on the zstd release).

Needs numpy and zstandard: python3 -m pip install numpy==2.4.6 zstandard==0.25.0
"""

import collections
import json
import pathlib
import sys

import numpy as np
import zstandard

QUESTIONS = 400
BYTES_MAX = 6 << 20
ZSTD_LEVEL = 19


def read_lines(path):
    with open(path, "rb") as file:
        data = zstandard.ZstdDecompressor().stream_reader(file).read()
    return [json.loads(line) for line in data.splitlines()]


def write_lines(path, records):
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_bytes(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(lines.encode()))


def passages_of(corpus):
    """One record a paragraph; `paragraph` counts from 0 within its article."""
    seen = collections.Counter()
    records = []
    for passage in corpus:
        article = passage["title"]
        records.append(
            {"key": passage["id"], "tenant": article, "paragraph": seen[article], "text": passage["text"]}
        )
        seen[article] += 1
    return records


def pick_questions(queries):
    """Row numbers of QUESTIONS questions: as many of each article, its paragraphs spread evenly.

    A paragraph is asked about once as long as its article has paragraphs that were not asked about.
    """
    by_article = collections.defaultdict(dict)
    for row, query in enumerate(queries):
        if query["answerable"] and len(query["gold"]) == 1:
            by_article[query["article"]].setdefault(query["gold"][0], row)
    articles = sorted(by_article)
    share = {article: QUESTIONS // len(articles) for article in articles}
    most = sorted(articles, key=lambda article: (-len(by_article[article]), article))
    for article in most[: QUESTIONS % len(articles)]:
        share[article] += 1
    picked = []
    for article in articles:
        rows = [by_article[article][gold] for gold in sorted(by_article[article])]
        wanted = min(share[article], len(rows))
        picked += [rows[at * len(rows) // wanted] for at in range(wanted)]
    return picked


def question_of(query):
    answers = list(dict.fromkeys(answer["text"] for answer in query["answers"]))
    return {
        "key": query["id"],
        "tenant": query["article"],
        "text": query["text"],
        "gold": query["gold"][0],
        "answers": answers,
    }


def check(passages, questions):
    by_key = {passage["key"]: passage for passage in passages}
    assert len(by_key) == len(passages), "keys are unique"
    for question in questions:
        gold = by_key[question["gold"]]
        assert gold["tenant"] == question["tenant"], question
        assert all(answer in gold["text"] for answer in question["answers"]), question


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = map(pathlib.Path, sys.argv[1:])
    target.mkdir(parents=True, exist_ok=True)
    corpus, queries = read_lines(source / "corpus.jsonl.zst"), read_lines(source / "queries.jsonl.zst")
    corpus_vectors = np.load(source / "corpus_minilm384.f16.npy")
    query_vectors = np.load(source / "queries_minilm384.f16.npy")
    assert corpus_vectors.dtype == query_vectors.dtype == np.float16
    assert len(corpus) == len(corpus_vectors) and len(queries) == len(query_vectors)

    passages = passages_of(corpus)
    rows = pick_questions(queries)
    questions = [question_of(queries[row]) for row in rows]
    check(passages, questions)

    write_lines(target / "passages.jsonl.zst", passages)
    np.save(target / "passages.f16.npy", np.ascontiguousarray(corpus_vectors))
    write_lines(target / "questions.jsonl.zst", questions)
    np.save(target / "questions.f16.npy", np.ascontiguousarray(query_vectors[rows]))

    names = ["passages.jsonl.zst", "passages.f16.npy", "questions.jsonl.zst", "questions.f16.npy"]
    total = sum((target / name).stat().st_size for name in names)
    assert total <= BYTES_MAX, f"{total} bytes are more than {BYTES_MAX}"
    tenants = {passage["tenant"] for passage in passages}
    asked = {question["tenant"] for question in questions}
    print(f"{len(passages)} passages of {len(tenants)} articles, {len(questions)} questions on {len(asked)}")

    scores = query_vectors[rows].astype(np.float32) @ corpus_vectors.astype(np.float32).T
    key_of = np.array([passage["key"] for passage in passages])
    best = key_of[np.argsort(-scores, axis=1, kind="stable")[:, :10]]
    gold = np.array([question["gold"] for question in questions])
    for k in (1, 5, 10):
        print(f"exact search over all articles: gold passage in the top {k}: "
              f"{np.mean((best[:, :k] == gold[:, None]).any(axis=1)):.3f}")
    print(f"{total} bytes in {target}")


if __name__ == "__main__":
    main()
