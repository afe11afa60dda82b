//! Damaged bytes are an error and never a panic: every decoder over thousands of mutations of bytes that were
//! really written.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use half::f16;
use prost::Message;
use spandrel::{Database, Metric, PayloadKind, Row, Schema, Settings, SparseVector};
use spandrel_proto::v1 as pb;
use spandrel_storage::file::SegmentFile;
use spandrel_tests::targets::TARGETS;

use crate::rng::Rng;

/// Mutations of each sample.
const ROUNDS: usize = 400;
/// Longest sample kept whole; of a longer one, the beginning.
const SAMPLE_BYTES_MAX: usize = 512 << 10;

/// Files and sections of a database with every kind of field.
fn disk_samples(samples: &mut Vec<(&'static str, Vec<u8>)>) {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(folder.path(), Settings::default()).unwrap();
    let schema = Schema::new()
        .text("body")
        .dense("v", 4, Metric::Cosine)
        .sparse("s")
        .payload("tag", PayloadKind::Keyword)
        .payload("n", PayloadKind::Integer)
        .payload("x", PayloadKind::Float)
        .payload("words", PayloadKind::Text);
    let collection = database.create_collection("rows", schema.clone()).unwrap();
    let many = database.create_collection("many", Schema::new().dense("v", 64, Metric::Ip)).unwrap();
    let vector = |at: u32| (0..64).map(|dim| ((at * 5 + dim * 11) % 23) as f32 - 11.0).collect();
    many.upsert((0..200).map(|at| Row::new(format!("k{at}")).dense("v", vector(at))).collect()).unwrap();
    many.flush().unwrap();
    let row = |at: u32| {
        let row = Row::new(format!("k{at}"))
            .text("body", format!("row {at}"))
            .payload("tag", vec!["a", "b"])
            .payload("n", i64::from(at))
            .payload("x", f64::from(at) / 3.0)
            .payload("words", "some words");
        let row = row.sparse("s", SparseVector { dims: vec![1, 5 + at % 7], weights: vec![1.0, -0.5] });
        if at.is_multiple_of(5) {
            row
        } else {
            row.dense("v", (0..4).map(|d| (d * at) as f32 + 1.0).collect())
        }
    };
    collection.upsert((0..60).map(row).collect()).unwrap();
    collection.flush().unwrap();
    collection.delete("", &["k3".into()]).unwrap();
    collection.grant("", &["k4".into(), "k5".into()], &["staff".into()]).unwrap();
    collection.flush().unwrap();
    database.close().unwrap();
    drop((collection, many, database));

    let segment = |folder: &Path| {
        let file = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
        file.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "seg")).unwrap()
    };
    let file =
        SegmentFile::open(&segment(&folder.path().join("segments").join("2")), spandrel_storage::io::probe())
            .unwrap();
    samples.push(("signs", file.require("signs/0").unwrap().read_all().unwrap()));
    samples.push(("cells", spandrel_index::fuzz::cells_sample(2_500)));
    samples.push(("graph", spandrel_index::fuzz::graph_sample(2_500)));
    let (labels, overlay) = spandrel_index::fuzz::labels_samples(3_000);
    samples.extend([("labels", labels), ("overlay", overlay)]);
    let (dedup, dedup_table) = spandrel_index::fuzz::dedup_samples(60);
    samples.extend([("dedup", dedup), ("dedup_table", dedup_table)]);
    let segments = folder.path().join("segments").join("1");
    samples.push(("manifest", std::fs::read(segments.join("MANIFEST")).unwrap()));
    let path = segment(&segments);
    let bytes = std::fs::read(&path).unwrap();
    samples.push(("segment_header", bytes[..4096].to_vec()));
    let mut footer = (bytes.len() as u64).to_le_bytes().to_vec();
    footer.extend_from_slice(&bytes[bytes.len() - 4096..]);
    samples.push(("segment_footer", footer));
    let mut table = [7_u32.to_le_bytes(), 9_u32.to_le_bytes()].concat();
    table.extend_from_slice(&bytes[bytes.len().saturating_sub(8192)..]);
    samples.push(("segment_sections", table));
    let file = SegmentFile::open(&path, spandrel_storage::io::probe()).unwrap();
    for name in file.sections().map(|(name, _)| name.to_owned()).collect::<Vec<_>>() {
        let bytes = file.require(&name).unwrap().read_all().unwrap();
        let target = match name.split_once('/') {
            Some(("dense", _)) => "dense",
            Some(("sparse", _)) => "sparse",
            Some(("payload", _)) => "payload",
            Some(("text", "text.stats")) => "text_stats",
            _ => continue,
        };
        samples.push((target, bytes));
    }
    row_store_samples(&folder.path().join("rows"), samples);
    samples.push((
        "catalogue",
        serde_json::to_vec(&serde_json::json!({"name": "rows", "schema": schema})).unwrap(),
    ));
}

fn row_store_samples(folder: &Path, samples: &mut Vec<(&'static str, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            row_store_samples(&path, samples);
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        if name == "WITNESS" {
            samples.push(("witness", bytes));
        } else if name.ends_with(".log") || name.starts_with("MANIFEST-") {
            samples.push(("audit", bytes));
        }
    }
    let stored = spandrel_storage::record::StoredRow {
        key: "key".into(),
        fields: vec![(spandrel_storage::FieldId(0), spandrel::FieldValue::Text("some text".into()))],
        ..Default::default()
    };
    samples.push(("record", stored.encode()));
    samples.push(("seal", b"SPANDMAN\x01\0\0\0body".to_vec()));
}

/// Files of users and messages of clients.
fn foreign_samples(samples: &mut Vec<(&'static str, Vec<u8>)>) {
    let floats: Vec<u8> = (0..12).flat_map(|at| (at as f32).to_le_bytes()).collect();
    let shape = |rows: u32, dim: u32| [rows.to_le_bytes(), dim.to_le_bytes()].concat();
    samples.push(("fbin", [shape(3, 4), floats.clone()].concat()));
    let prefixed = |bytes: &[u8]| [&4_u32.to_le_bytes()[..], bytes].concat();
    samples.push(("fvecs", floats.chunks(16).flat_map(prefixed).collect()));
    samples.push(("bvecs", [1_u8, 2, 3, 4, 5, 6, 7, 8].chunks(4).flat_map(prefixed).collect()));
    let mut header = b"{'descr': '<f2', 'fortran_order': False, 'shape': (3, 4), }".to_vec();
    header.resize(117, b' ');
    header.push(b'\n');
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend_from_slice(&(header.len() as u16).to_le_bytes());
    npy.extend_from_slice(&header);
    npy.extend((0..12).flat_map(|at| f16::from_f32(at as f32).to_le_bytes()));
    samples.push(("npy", npy));
    let line = r#"{"id": "a", "text": "words", "vector": [0.5, 1.0], "n": 3, "at": "2026-01-31T12:00:00Z"}"#;
    samples.push(("jsonl", format!("{line}\n{line}\n").into_bytes()));
    samples.push(("parquet", b"PAR1\x15\x04\x15\x10\x15\x14L\x15\x02\x15\0\x12\0\0PAR1".to_vec()));
    let filter = r#"{"and": [{"range": {"field": "n", "gte": 3}}, {"not": {"keys": ["a", "b"]}}]}"#;
    samples.push(("filter", filter.into()));
    let mut search =
        crate::served::search("t", "v", pb::route::Query::Dense(crate::served::dense(&[1.0, 2.0])));
    search.filter = Some(crate::served::year_is(2001));
    samples.push(("wire", search.encode_to_vec()));
    let rows = crate::served::rows(0..3);
    samples.push(("wire", pb::UpsertRequest { rows, ..pb::UpsertRequest::default() }.encode_to_vec()));
    samples.push(("wire", crate::served::schema().encode_to_vec()));
    let caches = vec![crate::chunk_caches_grpc::cache(1, &[2, 3])];
    let put = pb::PutChunkCachesRequest { caches, ..pb::PutChunkCachesRequest::default() };
    samples.push(("wire", put.encode_to_vec()));
}

fn mutate(rng: &mut Rng, sample: &[u8]) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..1 + rng.below(4) {
        let at = rng.below(bytes.len().max(1));
        match rng.below(7) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            2 if at < bytes.len() => bytes[at] = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            3 => {
                // A length or a count, most of the time.
                let number = *rng.pick(&[0, 1, 0xffff, 0x7fff_ffff, 0x8000_0000, u32::MAX]);
                let number = number.to_le_bytes();
                let end = bytes.len().min(at + 4);
                bytes[at.min(end)..end].copy_from_slice(&number[..end - at.min(end)]);
            }
            4 => bytes.truncate(at),
            5 => bytes.extend((0..rng.below(40)).map(|_| rng.next() as u8)),
            _ => {
                let piece = bytes[at.min(bytes.len())..bytes.len().min(at + 16)].to_vec();
                let to = rng.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
        }
    }
    bytes
}

/// Writes the samples where a coverage-guided fuzzer begins: a folder a decoder, below what
/// SPANDREL_FUZZ_CORPUS names.
fn save(samples: &[(&str, Vec<u8>)]) {
    let Some(corpus) = std::env::var_os("SPANDREL_FUZZ_CORPUS") else { return };
    for (at, (name, bytes)) in samples.iter().enumerate() {
        let folder = Path::new(&corpus).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("sample{at}")), bytes).unwrap();
    }
}

#[test]
fn no_decoder_panics_on_damaged_bytes() {
    let mut samples = Vec::new();
    disk_samples(&mut samples);
    foreign_samples(&mut samples);
    save(&samples);
    let mut rng = Rng::announced("fuzz", 11);
    for (name, target) in TARGETS {
        let mut runs = 0;
        for (_, sample) in samples.iter().filter(|(of, _)| *of == name) {
            let sample = &sample[..sample.len().min(SAMPLE_BYTES_MAX)];
            target(sample);
            for _ in 0..ROUNDS {
                let bytes = mutate(&mut rng, sample);
                let outcome = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
                assert!(outcome.is_ok(), "{name} panicked on {} bytes: {bytes:02x?}", bytes.len());
                runs += 1;
            }
        }
        assert!(runs > 0, "there is no sample for {name}");
    }
}
