"""The command line as a shell sees it: files in, JSON and exit codes out.

Run by `make test-python`, with the binary as its argument. Only the standard library; every input file is written
here, byte by byte, so that the formats are those of the world and not of our own writers. Parquet has no writer here;
the tests of the importers have one.
"""

import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

if len(sys.argv) < 2:
    sys.exit("usage: cli_test.py BINARY [unittest's arguments]")
BINARY = sys.argv.pop(1)
# Settings are the defaults, whatever the environment of the person who runs this says.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("SPANDREL_")}
DEADLINE_S = 120
ROWS, DIM = 40, 6
DONE, WRONG_INPUT, NOT_FOUND, NOT_ALLOWED, TRY_LATER = 0, 2, 3, 4, 5


def run(*arguments, code=DONE, env=None):
    """Runs a command with --json and returns what it printed; fails unless it ends with `code`."""
    command = [BINARY, "--json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, env=ENVIRONMENT | (env or {}), timeout=DEADLINE_S)
    if done.returncode != code:
        raise AssertionError(f"{command} ended with {done.returncode}, not {code}: {done.stderr.decode()}")
    if code != DONE:
        return done.stderr.decode()
    return json.loads(done.stdout)


def vectors():
    """Whole numbers of 0 to 127: the same in every format."""
    rng = random.Random(11)
    return [[rng.randint(0, 127) for _ in range(DIM)] for _ in range(ROWS)]


def npy(rows, kind, code):
    """numpy's format, version 1.0."""
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({len(rows)}, {DIM}), }}"
    head += " " * (-(10 + len(head) + 1) % 64) + "\n"
    body = b"".join(struct.pack(f"<{DIM}{code}", *row) for row in rows)
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + body


def zst(data):
    """A Zstandard frame (RFC 8878) of blocks that are not compressed."""
    frame = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(data))
    size = 1 << 16
    starts = range(0, max(len(data), 1), size)
    for start in starts:
        block = data[start : start + size]
        head = int(start == starts[-1]) | len(block) << 3
        frame += head.to_bytes(3, "little") + block
    return frame


def vector_files(rows):
    """The rows in every format of vectors."""
    floats = [struct.pack(f"<{DIM}f", *row) for row in rows]
    count = struct.pack("<II", len(rows), DIM)
    dim = struct.pack("<i", DIM)
    return {
        "v.fvecs": b"".join(dim + row for row in floats),
        "v.bvecs": b"".join(dim + bytes(row) for row in rows),
        "v.fbin": count + b"".join(floats),
        "v.u8bin": count + b"".join(map(bytes, rows)),
        "v.f16.npy": npy(rows, "<f2", "e"),
        "v.f32.npy": npy(rows, "<f4", "f"),
        "v.fbin.zst": zst(count + b"".join(floats)),
    }


PASSAGES = [
    {"key": "returns", "tenant": "acme", "text": "Returns are free within 30 days.", "year": 2026, "embedding": [1, 0]},
    {"key": "shipping", "tenant": "acme", "text": "We ship to every country.", "year": 2025, "embedding": [0, 1]},
    {"key": "opening", "tenant": "beta", "text": "Open from nine to five.", "year": 2024, "embedding": [1, 1]},
]


class CommandLine(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.at = Path(self.folder.name)
        self.data = self.at / "data"

    def passages(self):
        """Three passages in collection `docs`."""
        file = self.at / "passages.jsonl"
        file.write_text("".join(json.dumps(passage) + "\n" for passage in PASSAGES))
        arguments = ["-c", "docs", "--create", "--tenant-field", "tenant", "--metric", "ip"]
        return run("import", file, *arguments, "--data", self.data)

    def test_every_format_of_vectors_is_imported(self):
        rows = vectors()
        for name, content in vector_files(rows).items():
            with self.subTest(name):
                file, collection = self.at / name, name.replace(".", "_")
                file.write_bytes(content)
                done = run("import", file, "-c", collection, "--create", "--metric", "l2", "--data", self.data)
                self.assertEqual((done["collection"], done["rows"]), (collection, ROWS))
                self.assertIs(done["created"], True)
                self.assertIs(done["cut_short"], False)
                self.assertLessEqual(
                    {"batches", "last_row", "seconds", "rows_per_s"}, set(done), "figures of an import"
                )
                question = ["-c", collection, "--vector", json.dumps(rows[3]), "-k", 2, "--data", self.data]
                best = run("search", *question)["hits"][0]
                self.assertEqual((best["key"], best["score"]), ("3", 0.0))

    def test_rows_are_imported_searched_and_packed(self):
        done = self.passages()
        self.assertEqual((done["rows"], done["created"]), (3, True))
        asked = ["-c", "docs", "--tenant", "acme", "--data", self.data]
        found = run("search", *asked, "--text", "free returns", "--vector", "[1, 0]", "--explain")
        self.assertEqual(set(found), {"hits", "short", "explain", "took_us"})
        best = found["hits"][0]
        self.assertEqual((best["key"], best["tenant"]), ("returns", "acme"))
        self.assertEqual(set(best), {"key", "tenant", "score", "fields", "routes"})
        self.assertEqual(best["fields"]["year"], 2026)
        self.assertEqual(found["short"], "few_matches")
        self.assertTrue(found["explain"]["stages"])

        year = json.dumps({"equals": {"field": "year", "value": 2025}})
        found = run("search", *asked, "--vector", "[1, 0]", "--filter", year)
        self.assertEqual([hit["key"] for hit in found["hits"]], ["shipping"])
        request = self.at / "request.json"
        request.write_text(json.dumps({"routes": [{"field": "text", "query": {"text": "country"}}], "k": 1}))
        found = run("search", *asked, "--request", f"@{request}")
        self.assertEqual([hit["key"] for hit in found["hits"]], ["shipping"])

        packed = run("retrieve", *asked, "--text", "free returns", "--budget", 50)
        self.assertIn("Returns are free", packed["context"])
        self.assertLessEqual(packed["tokens"], 50)
        self.assertEqual(packed["budget_tokens"], 50)
        start, end = packed["chunks"][0]["context_span"]
        self.assertEqual(packed["context"].encode()[start:end].decode(), PASSAGES[0]["text"])

    def test_a_retrieve_is_chosen_and_put_together(self):
        self.passages()
        asked = ["-c", "docs", "--tenant", "acme", "--data", self.data]
        question = ["--text", "free returns ship", "--need", "country", "--budget", 50, "--select", "submodular"]
        shape = ["--dedup", "0.8", "--order", "document", "--merge", "--seed", 3]
        packed = run("retrieve", *asked, *question, *shape)
        report = packed["selection"]
        self.assertEqual((report["method"], report["order"], report["seed"]), ("submodular", "document", 3))
        self.assertEqual(report["unused_tokens"], 50 - packed["tokens"])
        self.assertEqual([stage["name"] for stage in packed["stages"]], ["dedup"])
        self.assertLessEqual({"rank", "merged_from", "source_span"}, set(packed["chunks"][0]))
        dry = run("retrieve", *asked, *question, "--dry-run")
        self.assertEqual((dry["context"], dry["estimate"]["tenant_rows"]), ("", 2))
        whole = {
            "search": {"routes": [{"field": "text", "query": {"text": "returns country"}}]},
            "budget_tokens": 50,
            "select": {"must_include": ["shipping"], "exclude": ["returns"]},
        }
        request = self.at / "retrieve.json"
        request.write_text(json.dumps(whole))
        packed = run("retrieve", *asked, "--request", f"@{request}")
        self.assertEqual([chunk["key"] for chunk in packed["chunks"]], ["shipping"])
        self.assertEqual(packed["rejected"], [{"key": "returns", "reason": "excluded"}])
        run("retrieve", *asked, "--request", f"@{request}", "--merge", code=WRONG_INPUT)
        self.assertIn("--lambda", run("retrieve", *asked, *question, "--lambda", 1, code=WRONG_INPUT))

    def test_failures_have_their_codes(self):
        self.passages()
        here = ["--data", self.data]
        self.assertIn("docs", run("search", "-c", "nothing", "--text", "x", *here, code=NOT_FOUND))
        self.assertIn("no data folder", run("stats", "--data", self.at / "none", code=NOT_FOUND))
        run("search", "-c", "docs", "--vector", "[1, 2, 3]", *here, code=WRONG_INPUT)
        run("search", "-c", "docs", "--request", "{}", "-k", "3", *here, code=WRONG_INPUT)
        damaged = self.at / "damaged.fbin"
        damaged.write_bytes(b"\x01\x00")
        self.assertIn("damaged.fbin", run("import", damaged, "-c", "x", "--create", *here, code=WRONG_INPUT))
        unknown = run("stats", *here, code=WRONG_INPUT, env={"SPANDREL_LIMITS_KMAX": "1"})
        self.assertIn("SPANDREL_LIMITS_K_MAX", unknown)
        run("stats", *here, env={"SPANDREL_CACHE": "/x", "SPANDREL_SETUP": "check", "SPANDREL_PYTHON_TESTS": "required"})
        run("stats", "--url", "http://127.0.0.1:1", code=TRY_LATER)

    def test_a_backup_becomes_a_data_folder(self):
        self.passages()
        stats = run("stats", "--data", self.data)
        self.assertEqual([(one["name"], one["rows"], one["tenants"]) for one in stats["collections"]], [("docs", 3, 2)])
        backup, restored = self.at / "backup", self.at / "restored"
        self.assertEqual(run("backup", backup, "--data", self.data), {"backup": str(backup)})
        done = run("restore", backup, restored)
        self.assertEqual(done, {"data": str(restored), "backup": str(backup)})
        found = run("search", "-c", "docs", "--tenant", "beta", "--text", "nine", "--data", restored)
        self.assertEqual([hit["key"] for hit in found["hits"]], ["opening"])

    def test_keys_are_made_listed_and_revoked(self):
        here = ["--data", self.data]
        key = run("key", "create", "--name", "shop", "--access", "read", "--tenant", "acme", *here)
        self.assertEqual(set(key), {"id", "name", "access", "tenants", "labels", "created", "key", "keys_file"})
        self.assertTrue(key["key"].startswith(f"spd_{key['id']}_"))
        self.assertEqual(key["keys_file"], f"{self.data}.keys.json")
        # The same file, however the folder is written.
        listed = run("key", "list", "--data", f"{self.data}/")
        self.assertEqual(listed["keys_file"], key["keys_file"])
        record = {name: key[name] for name in ("id", "name", "access", "tenants", "labels", "created")}
        self.assertEqual(listed["keys"], [record])
        self.assertEqual((record["access"], record["tenants"]), ("read", ["acme"]))
        revoked = run("key", "revoke", key["id"], *here)
        self.assertEqual(revoked, {"revoked": record, "keys_file": key["keys_file"]})
        self.assertEqual(run("key", "list", *here)["keys"], [])
        run("key", "revoke", key["id"], *here, code=NOT_FOUND)

    def test_a_server_is_asked_like_a_folder(self):
        self.passages()
        key = run("key", "create", "--access", "admin", "--tenant", "*", "--data", self.data)["key"]
        command = [BINARY, "--json", "serve", "--data", str(self.data), "--listen", "127.0.0.1:0", "--metrics-listen", "off"]
        log = open(self.at / "log", "wb")
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=ENVIRONMENT)
        log.close()
        try:
            text, said = "", None
            while said is None:
                line = server.stdout.readline().decode()
                self.assertTrue(line, (self.at / "log").read_text())
                text += line
                if line.rstrip() == "}":
                    said = json.loads(text)
            url = ["--url", f"http://{said['listen']}"]
            keyed = [*url, "--api-key", key]
            run("stats", *url, code=NOT_ALLOWED)
            found = run("search", "-c", "docs", "--tenant", "acme", "--text", "free returns", *keyed)
            self.assertEqual(found["hits"][0]["key"], "returns")
            self.assertEqual(run("import", self.at / "passages.jsonl", "-c", "docs", "--tenant-field", "tenant", *keyed)["rows"], 3)
            backup = run("backup", "monday", *keyed)["backup"]
            # Beside the data folder, not in it.
            self.assertEqual(backup, f"{self.data}.backups/monday")
        finally:
            server.send_signal(signal.SIGTERM)
            self.assertEqual(server.wait(timeout=DEADLINE_S), 0)
            server.stdout.close()

    def test_what_cannot_be_meant_is_refused(self):
        self.passages()
        docs = ["-c", "docs", "--data", self.data]
        lines = (self.at / "passages.jsonl").read_text().splitlines()
        (self.at / "bad.jsonl").write_text("\n".join([*lines, '{"id": ']))
        error = run("import", self.at / "bad.jsonl", *docs, "--tenant-field", "tenant", code=WRONG_INPUT)
        self.assertIn(f"{len(lines)} rows before it are written", error)
        error = run("import", self.at / "passages.jsonl", *docs, "--create", "--schema", '{"fields": []}', code=WRONG_INPUT)
        self.assertIn("is there already", error)
        (self.at / "none.jsonl").write_text("")
        error = run("import", self.at / "none.jsonl", "-c", "none", "--create", "--data", self.data, code=WRONG_INPUT)
        self.assertIn("no rows", error)
        run("restore", self.at / "nowhere", self.at / "new", code=NOT_FOUND)
        run("key", "revoke", "nobody", "--data", self.data, code=NOT_FOUND)
        # A folder that is no backup leaves nothing behind.
        run("restore", self.at, self.at / "new", code=WRONG_INPUT)
        self.assertFalse((self.at / "new").exists())
        error = run("serve", "--data", self.data, "--log-level", "inof", code=WRONG_INPUT)
        self.assertIn("'inof' is not a level", error)

    def test_the_demo_can_be_done_again(self):
        for _ in range(2):
            done = run("demo", "--data", self.data)
            self.assertGreater(done["recall_at_10"], 0.99)
        self.assertEqual(sorted(path.name for path in self.at.iterdir()), ["data"], "no keys are left behind")
        self.assertEqual(run("stats", "--data", self.data)["collections"][0]["rows"], done["rows"])


if __name__ == "__main__":
    unittest.main()
