"""The wire as another implementation sees it: Python's grpcio, with stubs made from proto/schema, against the real
`spandrel` binary.

Run by `make test-python`, with the binary as its argument. Answers are computed again here, in plain Python, from the
comments of the .proto files and nothing else: dense order and scores, BM25, reciprocal rank fusion, filters, spans.
"""

import hashlib
import json
import math
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

if len(sys.argv) < 2:
    sys.exit("usage: client_test.py BINARY [unittest's arguments]")
BINARY = sys.argv.pop(1)
# The server's settings are the defaults, whatever the environment of the person who runs this says.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("SPANDREL_")}
SCHEMA = Path(__file__).resolve().parents[2] / "proto" / "schema"
SEED = 7
DIM = 16
ROWS = 300
DEADLINE_S = 20
WORDS = "amber basalt cedar delta ember fjord grove harbour island juniper kelp lagoon".split()


def make_stubs(folder):
    """Generates modules of every .proto file into `folder` and imports them."""
    files = sorted(str(path.relative_to(SCHEMA)) for path in SCHEMA.rglob("*.proto"))
    arguments = ["protoc", f"-I{SCHEMA}", f"--python_out={folder}", f"--grpc_python_out={folder}", *files]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc refused proto/schema")
    sys.path.insert(0, folder)


STUBS = tempfile.TemporaryDirectory()
make_stubs(STUBS.name)

from spandrel.v1 import admin_pb2 as admin  # noqa: E402
from spandrel.v1 import admin_pb2_grpc  # noqa: E402
from spandrel.v1 import chunk_caches_pb2 as caches  # noqa: E402
from spandrel.v1 import chunk_caches_pb2_grpc  # noqa: E402
from spandrel.v1 import collections_pb2 as collections  # noqa: E402
from spandrel.v1 import collections_pb2_grpc  # noqa: E402
from spandrel.v1 import common_pb2 as common  # noqa: E402
from spandrel.v1 import retrieve_pb2 as retrieve  # noqa: E402
from spandrel.v1 import rows_pb2 as rows  # noqa: E402
from spandrel.v1 import rows_pb2_grpc  # noqa: E402
from spandrel.v1 import search_pb2 as search  # noqa: E402
from spandrel.v1 import search_pb2_grpc  # noqa: E402


class Server:
    """`spandrel serve` over a folder, on a free port."""

    def __init__(self, data, *arguments):
        command = [BINARY, "--json", "serve", "--data", str(data), "--listen", "127.0.0.1:0"]
        command += ["--metrics-listen", "off", *arguments]
        log = open(f"{data}.log", "ab")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=ENVIRONMENT)
        log.close()
        # The announcement is one JSON object, on one line or several.
        text, decoder = "", json.JSONDecoder()
        while True:
            line = self.process.stdout.readline().decode()
            if not line:
                raise RuntimeError(f"the server ended: {Path(f'{data}.log').read_text()}")
            text += line
            try:
                self.address = decoder.decode(text)["listen"]
                break
            except json.JSONDecodeError:
                continue

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        code = self.process.wait(timeout=DEADLINE_S)
        self.process.stdout.close()
        return code


class Client:
    """Stubs of all services over one channel."""

    def __init__(self, address, key=None):
        self.channel = grpc.insecure_channel(address)
        self.metadata = [("authorization", f"Bearer {key}")] if key else []
        self.stubs = [
            collections_pb2_grpc.CollectionServiceStub(self.channel),
            rows_pb2_grpc.RowServiceStub(self.channel),
            search_pb2_grpc.SearchServiceStub(self.channel),
            admin_pb2_grpc.AdminServiceStub(self.channel),
            chunk_caches_pb2_grpc.ChunkCacheServiceStub(self.channel),
        ]

    def call(self, service, method, request, timeout=DEADLINE_S):
        stub = {"collections": 0, "rows": 1, "search": 2, "admin": 3, "caches": 4}[service]
        return getattr(self.stubs[stub], method)(request, timeout=timeout, metadata=self.metadata)

    def search(self, **fields):
        return self.call("search", "Search", search.SearchRequest(collection="docs", **fields))


def schema():
    payload = lambda kind: common.PayloadField(kind=kind)
    return common.Schema(
        fields=[
            common.Field(name="body", text=common.TextField()),
            common.Field(name="l2", dense=common.DenseField(dim=DIM, metric=common.METRIC_L2)),
            common.Field(name="cos", dense=common.DenseField(dim=DIM, metric=common.METRIC_COSINE)),
            common.Field(name="terms", sparse=common.SparseField()),
            common.Field(name="year", payload=payload(common.PAYLOAD_KIND_INTEGER)),
            common.Field(name="tag", payload=payload(common.PAYLOAD_KIND_KEYWORD)),
            common.Field(name="at", payload=payload(common.PAYLOAD_KIND_DATETIME)),
        ]
    )


def f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


class Doc:
    """One row as Python knows it."""

    def __init__(self, at, rng):
        self.key, self.tenant = f"k{at:04}", ("acme", "beta")[at % 3 == 0]
        self.vector = [f32(rng.gauss(0, 1)) for _ in range(DIM)]
        self.words = [rng.choice(WORDS) for _ in range(rng.randint(3, 30))]
        self.terms = {dim: f32(rng.random() + 0.1) for dim in rng.sample(range(500), 8)}
        self.year, self.tag = 1990 + at % 40, f"tag-{at % 5}"

    def row(self, packed):
        """As a message; dense vectors in either of their two forms."""
        if packed:
            dense = common.DenseVector(f32_le=struct.pack(f"<{DIM}f", *self.vector))
        else:
            dense = common.DenseVector(values=self.vector)
        dims = sorted(self.terms)
        text = " ".join(self.words)
        value = lambda **kind: common.FieldValue(payload=common.Value(**kind))
        return common.Row(
            key=self.key,
            tenant=self.tenant,
            fields={
                "body": common.FieldValue(text=text),
                "l2": common.FieldValue(dense=dense),
                "cos": common.FieldValue(dense=dense),
                "terms": common.FieldValue(
                    sparse=common.SparseVector(dims=dims, weights=[self.terms[dim] for dim in dims])
                ),
                "year": value(integer_value=self.year),
                "tag": value(string_value=self.tag),
                "at": value(string_value=f"{self.year}-03-01T00:00:00Z"),
            },
            chunk=common.Chunk(document=f"doc-{self.key}", span_start=3, span_end=3 + len(text), tokens=9),
        )

    def l2(self, query):
        return -sum((a - b) ** 2 for a, b in zip(self.vector, query))

    def cosine(self, query):
        norm = lambda vector: math.sqrt(sum(a * a for a in vector))
        return sum(a * b for a, b in zip(self.vector, query)) / norm(self.vector) / norm(query)

    def sparse(self, query):
        return sum(self.terms.get(dim, 0.0) * weight for dim, weight in query.items())


def token_hash(*ids):
    """The name of a chunk of these token ids."""
    return hashlib.sha256(b"".join(struct.pack("<I", token) for token in ids)).digest()[:16]


def bm25(docs, question):
    """Score of every doc that holds a word of the question: k1 = 1.2, b = 0.75. Lengths below 40 are kept exactly."""
    mean = sum(len(doc.words) for doc in docs) / len(docs)
    scores = {}
    for word in set(question):
        holders = [doc for doc in docs if word in doc.words]
        idf = math.log(1 + (len(docs) - len(holders) + 0.5) / (len(holders) + 0.5))
        for doc in holders:
            count = doc.words.count(word)
            part = count / (count + 1.2 * (1 - 0.75 + 0.75 * len(doc.words) / mean))
            scores[doc.key] = scores.get(doc.key, 0.0) + idf * 2.2 * part
    return scores


def order(scores, k):
    """Keys of the k best; equal scores in the order the rows were written, which is the order of their keys here."""
    return sorted(scores, key=lambda key: (-scores[key], key))[:k]


class Served(unittest.TestCase):
    """Two tenants' rows in one collection."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        room = "engine.chunk_caches.bytes_max=1MiB, 0, 0"
        cls.server = Server(Path(cls.folder.name) / "data", "--set", room)
        cls.client = Client(cls.server.address)
        rng = random.Random(SEED)
        cls.docs = [Doc(at, rng) for at in range(ROWS)]
        cls.rng = rng
        create = collections.CreateCollectionRequest(name="docs", schema=schema())
        assert cls.client.call("collections", "Create", create).created
        half = ROWS // 2
        upsert = rows.UpsertRequest(collection="docs", rows=[doc.row(True) for doc in cls.docs[:half]])
        assert cls.client.call("rows", "Upsert", upsert).written.rows == half
        cls.client.call("admin", "Flush", admin.FlushRequest(collection="docs"))
        batches = [cls.docs[at : at + 40] for at in range(half, ROWS, 40)]
        messages = (
            rows.UpsertStreamRequest(collection="docs", rows=[doc.row(False) for doc in batch])
            for batch in batches
        )
        streamed = cls.client.call("rows", "UpsertStream", messages)
        assert (streamed.written.rows, streamed.batches) == (ROWS - half, len(batches))

    @classmethod
    def tearDownClass(cls):
        cls.client.channel.close()
        assert cls.server.end() == 0, "SIGTERM ends with exit code 0"
        cls.folder.cleanup()

    def of(self, tenant):
        return [doc for doc in self.docs if doc.tenant == tenant]

    def same(self, response, scores, k=10):
        """The hits are the k best of `scores`, with these scores."""
        found = [(hit.row.key, hit.score) for hit in response.hits]
        self.assertEqual([key for key, _ in found], order(scores, k))
        for key, score in found:
            self.assertAlmostEqual(score, scores[key], delta=2e-4 * max(1.0, abs(scores[key])))

    def fails(self, code, *parts):
        """Expects a call to fail with this code and a message that has these parts."""
        return Fails(self, code, parts)

    def test_rows_come_back_as_they_were_sent(self):
        doc = self.of("acme")[3]
        fields = common.Fields(mode=common.Fields.MODE_ALL)
        get = rows.GetRowsRequest(collection="docs", tenant="acme", keys=[doc.key, "none"], fields=fields)
        found, nothing = self.client.call("rows", "Get", get).rows
        self.assertEqual(found.row, doc.row(True))
        self.assertFalse(nothing.HasField("row"))

    def test_dense_order_and_scores(self):
        for tenant in ("acme", "beta"):
            for _ in range(5):
                query = [f32(self.rng.gauss(0, 1)) for _ in range(DIM)]
                vector = common.DenseVector(values=query)
                for field, score in (("l2", Doc.l2), ("cos", Doc.cosine)):
                    route = search.Route(field=field, dense=vector)
                    response = self.client.search(tenant=tenant, routes=[route], k=10)
                    self.same(response, {doc.key: score(doc, query) for doc in self.of(tenant)})

    def test_filters(self):
        query = self.docs[0].vector
        route = search.Route(field="l2", dense=common.DenseVector(values=query))
        bound = lambda year: common.Value(integer_value=year)
        between = common.RangeCondition(field="year", gte=bound(2000), lt=bound(2015))
        tags = common.OneOfCondition(field="tag", values=[common.Value(string_value="tag-1")])
        instant = common.Value(string_value="2010-01-01T00:00:00+00:00")
        cases = [
            (common.Filter(range=between), lambda doc: 2000 <= doc.year < 2015),
            (common.Filter(negate=common.Filter(range=between)), lambda doc: not 2000 <= doc.year < 2015),
            (
                common.Filter(
                    all_of=common.FilterList(
                        filters=[common.Filter(range=between), common.Filter(one_of=tags)]
                    )
                ),
                lambda doc: 2000 <= doc.year < 2015 and doc.tag == "tag-1",
            ),
            (
                common.Filter(range=common.RangeCondition(field="at", gt=instant)),
                lambda doc: doc.year >= 2010,
            ),
            (common.Filter(prefix=common.PrefixCondition(field="tag", prefix="tag-")), lambda doc: True),
            (common.Filter(keys=common.KeysCondition(keys=["k0001", "k0002"])), lambda doc: doc.key in ("k0001", "k0002")),
        ]
        for condition, passes in cases:
            expected = [doc for doc in self.of("acme") if passes(doc)]
            count = rows.CountRequest(collection="docs", tenant="acme", filter=condition)
            self.assertEqual(self.client.call("rows", "Count", count).rows, len(expected))
            response = self.client.search(tenant="acme", routes=[route], filter=condition, k=10)
            self.same(response, {doc.key: doc.l2(query) for doc in expected})
            self.assertEqual(response.short != search.SHORT_UNSPECIFIED, len(expected) < 10)

    def test_sparse(self):
        query = {dim: f32(self.rng.random() + 0.5) for dim in self.rng.sample(range(500), 40)}
        dims = sorted(query)
        vector = common.SparseVector(dims=dims, weights=[query[dim] for dim in dims])
        scores = {doc.key: doc.sparse(query) for doc in self.of("acme")}
        response = self.client.search(tenant="acme", routes=[search.Route(field="terms", sparse=vector)], k=10)
        self.same(response, {key: score for key, score in scores.items() if score > 0})

    def test_bm25_with_the_tenants_own_statistics(self):
        for tenant in ("acme", "beta"):
            question = ["fjord", "kelp"]
            route = search.Route(field="body", text=" ".join(question))
            response = self.client.search(tenant=tenant, routes=[route], k=10)
            self.same(response, bm25(self.of(tenant), question))

    def test_reciprocal_rank_fusion(self):
        query, question = self.docs[1].vector, ["lagoon", "cedar"]
        docs = self.of("acme")
        rankings = [
            (order({doc.key: doc.l2(query) for doc in docs}, 50), 1.0),
            (order(bm25(docs, question), 50), 2.0),
        ]
        fused = {}
        for keys, weight in rankings:
            for rank, key in enumerate(keys, 1):
                fused[key] = fused.get(key, 0.0) + weight / (60 + rank)
        routes = [
            search.Route(field="l2", dense=common.DenseVector(values=query), candidates=50),
            search.Route(field="body", text=" ".join(question), candidates=50, weight=2.0),
        ]
        response = self.client.search(tenant="acme", routes=routes, k=10, explain=True)
        self.same(response, fused)
        self.assertTrue(response.explain.stages and response.explain.tenant_rows == len(docs))

    def test_batches_answer_as_single_searches(self):
        requests = []
        for doc in self.docs[:20]:
            route = search.Route(field="cos", dense=common.DenseVector(values=doc.vector))
            requests.append(search.SearchRequest(tenant=doc.tenant, routes=[route], k=5))
        batch = search.SearchBatchRequest(collection="docs", searches=requests)
        together = self.client.call("search", "SearchBatch", batch).responses
        for request, response in zip(requests, together, strict=True):
            alone = self.client.search(tenant=request.tenant, routes=request.routes, k=5)
            self.assertEqual(response, alone)

    def test_retrieve_packs_whole_chunks(self):
        route = search.Route(field="body", text="amber island")
        inner = search.SearchRequest(collection="docs", tenant="beta", routes=[route], k=20)
        request = search.RetrieveRequest(search=inner, budget_tokens=60, separator="\n--\n")
        response = self.client.call("search", "Retrieve", request)
        self.assertTrue(0 < response.tokens <= 60)
        texts = {doc.key: " ".join(doc.words) for doc in self.of("beta")}
        context = response.context.encode()
        packed = [texts[chunk.hit.row.key] for chunk in response.chunks]
        self.assertEqual(response.context, "\n--\n".join(packed))
        for chunk, text in zip(response.chunks, packed):
            self.assertEqual(context[chunk.context_start : chunk.context_end].decode(), text)
            self.assertEqual(chunk.hit.row.chunk.document, f"doc-{chunk.hit.row.key}")
        self.assertEqual(response.candidates, len(response.chunks) + response.skipped)

    def test_retrieve_says_how_it_chose(self):
        """Three chunks that touch, and a copy of one, in a tenant of their own."""
        texts = ["The fjord freezes late. ", "Its harbour has a lighthouse. ", "Ferries leave at dawn."]
        written, start = [], 0
        for at, text in enumerate([*texts, texts[0]]):
            copy = at == len(texts)
            begin = 0 if copy else start
            document = "copy" if copy else "fjord"
            span = common.Chunk(document=document, span_start=begin, span_end=begin + len(text))
            fields = {"body": common.FieldValue(text=text)}
            written.append(common.Row(key=f"{document}#{0 if copy else at}", tenant="fjords", fields=fields, chunk=span))
            start += len(text)
        self.client.call("rows", "Upsert", rows.UpsertRequest(collection="docs", rows=written))
        route = search.Route(field="body", text="fjord harbour ferries")
        inner = search.SearchRequest(collection="docs", tenant="fjords", routes=[route], k=20)
        method = retrieve.SelectMethod(submodular=retrieve.SubmodularMethod())
        request = search.RetrieveRequest(
            search=inner,
            budget_tokens=200,
            post=[retrieve.PostStage(dedup=retrieve.DedupStage())],
            select=retrieve.Select(method=method, must_include=["fjord#0"], fill=True),
            assemble=retrieve.Assemble(order=retrieve.ORDER_DOCUMENT, merge_adjacent=True),
        )
        response = self.client.call("search", "Retrieve", request)
        self.assertEqual(response.context, "".join(texts))
        (chunk,) = response.chunks
        self.assertEqual(list(chunk.merged_from), ["fjord#0", "fjord#1", "fjord#2"])
        self.assertEqual((chunk.source_start, chunk.source_end), (0, len("".join(texts))))
        report = response.selection
        self.assertEqual((report.method, report.order), ("submodular", retrieve.ORDER_DOCUMENT))
        self.assertEqual(report.unused_tokens, 200 - response.tokens)
        self.assertNotEqual(report.stopped_by, retrieve.STOPPED_BY_UNSPECIFIED)
        self.assertFalse(report.HasField("bound"))
        (rejected,) = response.rejected
        self.assertEqual((rejected.key, rejected.reason), ("copy#0", retrieve.REASON_DUPLICATE))
        self.assertEqual(rejected.duplicate_of, "fjord#0")
        again = self.client.call("search", "Retrieve", request)
        self.assertEqual(again.SerializeToString(deterministic=True), response.SerializeToString(deterministic=True))
        request.dry_run = True
        response = self.client.call("search", "Retrieve", request)
        self.assertFalse(response.chunks or response.context)
        self.assertEqual((response.estimate.tenant_rows, response.estimate.matches), (4, 4))
        with self.fails(grpc.StatusCode.INVALID_ARGUMENT, "select.must_include", "nobody"):
            request.dry_run = False
            request.select.must_include.append("nobody")
            self.client.call("search", "Retrieve", request)

    def test_chunk_caches_are_told_by_the_formulas(self):
        model = caches.ModelKey(model="m", revision="1", tokenizer="t", dtype="bf16")
        first, second, other, last = (token_hash(at, at + 1) for at in range(4))
        cache = caches.ChunkCache(
            content=last,
            model=model,
            prefix=[first, second],
            tokens=100,
            bytes=1 << 20,
            tier=caches.CACHE_TIER_HBM,
            uri="kv://1",
            cci=0.5,
            inter=[caches.Attention(chunk=first, share=0.75)],
            recompute_us=10_000,
        )
        of = {"collection": "docs", "tenant": "beta"}
        put = self.client.call("caches", "Put", caches.PutChunkCachesRequest(caches=[cache], **of))
        (kept,) = (outcome.id for outcome in put.outcomes)

        def found(*chunks, tenant="beta"):
            chunks = [caches.WantedChunk(content=content, tokens=100) for content in chunks]
            request = caches.LookupChunkCachesRequest(collection="docs", tenant=tenant, model=model, chunks=chunks)
            return self.client.call("caches", "Lookup", request).chunks[-1]

        # What comes before, the attention it had, and the share of it that the cache has seen.
        cases = [
            ((first, second), None),
            ((first, other), 0.75 * 1 / 2),
            ((second, first), 0.0),
            ((other, second), 0.25 * 1 / 2),
            ((), 0.0),
        ]
        for before, overlap in cases:
            chunk = found(*before, last)
            share = 0.0 if overlap is None else 0.5 * (1 - overlap)
            self.assertEqual(chunk.best.id, kept)
            self.assertEqual(chunk.recompute_tokens, math.ceil(100 * share))
            self.assertAlmostEqual(chunk.reuse.saved_us, 10_000 * (1 - share))
            self.assertEqual(chunk.reuse.exact, overlap is None)
        self.assertFalse(found(last, tenant="acme").HasField("best"))

        # There is room for one: what is worth more takes it, and the tensors of the other are to be freed.
        dearer = caches.ChunkCache()
        dearer.CopyFrom(cache)
        dearer.content, dearer.uri, dearer.recompute_us = other, "kv://2", 1_000_000
        self.client.call("caches", "Put", caches.PutChunkCachesRequest(caches=[dearer], **of))
        request = caches.ChunkCacheNoticesRequest(limit=10, **of)
        page = self.client.call("caches", "Notices", request)
        told = [(notice.id, notice.uri, notice.to_tier) for notice in page.notices]
        self.assertEqual(told, [(kept, "kv://1", caches.CACHE_TIER_UNSPECIFIED)])
        self.assertEqual(self.client.call("caches", "Notices", request), page)
        request.after = page.next
        self.assertEqual(list(self.client.call("caches", "Notices", request).notices), [])
        with self.fails(grpc.StatusCode.INVALID_ARGUMENT, "caches[0].cci: is required"):
            cache.ClearField("cci")
            self.client.call("caches", "Put", caches.PutChunkCachesRequest(caches=[cache], **of))

    def test_scroll_walks_all_keys(self):
        after, seen = None, []
        while True:
            page = rows.ScrollRequest(collection="docs", tenant="beta", limit=17, after=after)
            answer = self.client.call("rows", "Scroll", page)
            seen += [row.key for row in answer.rows]
            if not answer.HasField("next"):
                break
            after = answer.next
        self.assertEqual(seen, sorted(doc.key for doc in self.of("beta")))

    def test_mistakes_have_codes(self):
        vector = common.DenseVector(values=[1.0] * (DIM - 1))
        with self.fails(grpc.StatusCode.INVALID_ARGUMENT, "dimension"):
            self.client.search(tenant="acme", routes=[search.Route(field="l2", dense=vector)], k=1)
        nan = common.DenseVector(values=[math.nan] * DIM)
        with self.fails(grpc.StatusCode.INVALID_ARGUMENT, "routes[0].dense[0]"):
            self.client.search(tenant="acme", routes=[search.Route(field="l2", dense=nan)], k=1)
        with self.fails(grpc.StatusCode.NOT_FOUND, "nothing"):
            self.client.call("collections", "Get", collections.GetCollectionRequest(name="nothing"))
        with self.fails(grpc.StatusCode.ALREADY_EXISTS, "docs"):
            create = collections.CreateCollectionRequest(name="docs", schema=schema())
            self.client.call("collections", "Create", create)

    def test_health_and_reflection(self):
        health = health_pb2_grpc.HealthStub(self.client.channel)
        service = health_pb2.HealthCheckRequest(service="spandrel.v1.SearchService")
        answer = health.Check(service, timeout=DEADLINE_S)
        self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)
        reflected = ProtoReflectionDescriptorDatabase(self.client.channel)
        self.assertIn("spandrel.v1.SearchService", reflected.get_services())
        descriptor = reflected.FindFileContainingSymbol("spandrel.v1.SearchRequest")
        fields = next(m for m in descriptor.message_type if m.name == "SearchRequest").field
        self.assertEqual({f.name for f in fields}, {f.name for f in search.SearchRequest.DESCRIPTOR.fields})


class Fails:
    """Context in which a call has to fail."""

    def __init__(self, test, code, parts):
        self.test, self.code, self.parts = test, code, parts

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        self.test.assertIsInstance(error, grpc.RpcError, f"{self.code} was expected")
        self.test.assertEqual(error.code(), self.code, error.details())
        for part in self.parts:
            self.test.assertIn(part, error.details())
        return True


class Lives(unittest.TestCase):
    """What needs a server of its own."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.data = Path(self.folder.name) / "data"
        self.addCleanup(self.folder.cleanup)

    def test_what_was_acknowledged_survives_sigkill(self):
        docs = [Doc(at, random.Random(at)) for at in range(30)]
        server = Server(self.data, "--durability", "sync")
        client = Client(server.address)
        client.call("collections", "Create", collections.CreateCollectionRequest(name="docs", schema=schema()))
        for doc in docs:
            client.call("rows", "Upsert", rows.UpsertRequest(collection="docs", rows=[doc.row(True)]))
        server.end(signal.SIGKILL)
        client.channel.close()
        server = Server(self.data)
        client = Client(server.address)
        for tenant in ("acme", "beta"):
            count = rows.CountRequest(collection="docs", tenant=tenant)
            expected = sum(doc.tenant == tenant for doc in docs)
            self.assertEqual(client.call("rows", "Count", count).rows, expected)
        client.channel.close()
        self.assertEqual(server.end(), 0)

    def test_keys_are_bound_to_tenants(self):
        key = lambda *arguments: json.loads(
            subprocess.run(
                [BINARY, "--json", "key", "create", "--data", str(self.data), *arguments],
                check=True,
                capture_output=True,
                env=ENVIRONMENT,
            ).stdout
        )["key"]
        operator = key("--name", "operator", "--access", "admin", "--tenant", "*")
        acme = key("--name", "acme", "--access", "write", "--tenant", "acme")
        server = Server(self.data)
        admins, tenants, nobody = (Client(server.address, each) for each in (operator, acme, None))
        admins.call("collections", "Create", collections.CreateCollectionRequest(name="docs", schema=schema()))
        docs = [Doc(at, random.Random(at)) for at in range(6)]
        upsert = rows.UpsertRequest(collection="docs", rows=[doc.row(True) for doc in docs])
        admins.call("rows", "Upsert", upsert)
        route = search.Route(field="l2", dense=common.DenseVector(values=docs[0].vector))
        request = search.SearchRequest(collection="docs", routes=[route], k=10)
        # A key of one tenant needs not name it.
        found = tenants.call("search", "Search", request).hits
        self.assertEqual({hit.row.tenant for hit in found}, {"acme"})
        foreign = search.SearchRequest(collection="docs", tenant="beta", routes=[route], k=10)
        with Fails(self, grpc.StatusCode.PERMISSION_DENIED, []):
            tenants.call("search", "Search", foreign)
        with Fails(self, grpc.StatusCode.PERMISSION_DENIED, []):
            tenants.call("rows", "Upsert", upsert)
        with Fails(self, grpc.StatusCode.UNAUTHENTICATED, []):
            nobody.call("search", "Search", request)
        for client in (admins, tenants, nobody):
            client.channel.close()
        self.assertEqual(server.end(), 0)


if __name__ == "__main__":
    unittest.main()
