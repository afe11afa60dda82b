//! Every decoder of bytes that are not ours to trust, as a function of bytes that returns whatever they are.
//!
//! tests/it/fuzz.rs runs each over mutations of real bytes, within every `cargo test`; a coverage-guided
//! fuzzer can be let at the same functions. From disk: manifest, records, segment files, row store logs, and
//! the sections of each index with a search behind them. From users: import files of every format, filters as
//! JSON, messages of the wire.

use std::ops::Bound;
use std::sync::Arc;

use prost::Message;
use spandrel::import::{self, ImportOptions, VectorFile};
use spandrel::{DenseSpec, Element, Filter, IndexKind, Metric, SparseVector, Value};
use spandrel_index::allow::Allow;
use spandrel_index::dense::flat::Flat;
use spandrel_index::dense::vectors::{ChunkSource, Residency};
use spandrel_index::dense::{Counters, VectorIndex};
use spandrel_index::payload::{PayloadIndex, Predicate};
use spandrel_index::scratch::Scratch;
use spandrel_index::sparse::{SparseCounters, SparseFlat, SparseIndex};
use spandrel_index::text::SegmentText;
use spandrel_index::topk::TopK;
use spandrel_proto::v1 as pb;
use spandrel_server::convert;
use spandrel_storage::{RowId, fuzz};

/// A decoder.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Target); 21] = [
    ("manifest", fuzz::manifest),
    ("record", fuzz::record),
    ("seal", fuzz::seal),
    ("segment_header", fuzz::segment_header),
    ("segment_footer", fuzz::segment_footer),
    ("segment_sections", fuzz::segment_sections),
    ("witness", fuzz::witness),
    ("audit", fuzz::audit),
    ("catalogue", fuzz::catalogue),
    ("dense", dense),
    ("sparse", sparse),
    ("payload", payload),
    ("text_stats", text_stats),
    ("fvecs", |bytes| vectors(bytes, "fvecs")),
    ("bvecs", |bytes| vectors(bytes, "bvecs")),
    ("fbin", |bytes| vectors(bytes, "fbin")),
    ("npy", |bytes| vectors(bytes, "npy")),
    ("jsonl", |bytes| rows(bytes, "jsonl")),
    ("parquet", |bytes| rows(bytes, "parquet")),
    ("filter", filter),
    ("wire", wire),
];

/// Docs that the fuzzed indexes are asked about.
const DOCS: u32 = 64;

struct Bytes(Vec<u8>);

impl ChunkSource for Bytes {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, at: u64, out: &mut [u8]) -> spandrel_index::Result<()> {
        let bytes = usize::try_from(at).ok().and_then(|at| self.0.get(at..)?.get(..out.len()));
        let bytes = bytes.ok_or_else(|| spandrel_index::Error::Invalid("past the end".into()))?;
        out.copy_from_slice(bytes);
        Ok(())
    }
}

fn row_ids(docs: usize) -> Vec<RowId> {
    (1..=docs as u64).map(RowId).collect()
}

/// The section of a flat index, opened as every metric and element, and searched where that works.
fn dense(bytes: &[u8]) {
    let source: Arc<dyn ChunkSource> = Arc::new(Bytes(bytes.to_vec()));
    for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
        for element in [Element::F32, Element::F16, Element::I8] {
            let spec = DenseSpec { dim: 8, metric, element, index: IndexKind::Flat };
            for residency in [Residency::Memory, Residency::Disk] {
                let Ok(index) = Flat::open("dense/0", &spec, Arc::clone(&source), residency) else {
                    continue;
                };
                if index.docs() > 1 << 16 {
                    continue;
                }
                let (mut top, mut scratch, mut counters) =
                    (TopK::new(5), Scratch::new(), Counters::default());
                let (query, rows) = ([1.0; 8], row_ids(index.docs() as usize));
                let allow = Allow::all(index.docs());
                let _ = index.search(&query, &rows, &allow, &mut top, &mut scratch, &mut counters);
                let docs: Vec<u32> = (0..index.docs().min(9)).collect();
                let mut scores = vec![0.0; docs.len()];
                let _ = index.score(&query, &docs, &mut scores, &mut scratch, &mut counters);
            }
        }
    }
}

fn sparse(bytes: &[u8]) {
    let Ok(index) = SparseFlat::read(bytes) else { return };
    let rows = row_ids(index.doc_count() as usize);
    let query = SparseVector { dims: vec![1, 5, 9], weights: vec![1.0, -1.0, 0.5] };
    let (mut top, mut counters) = (TopK::new(5), SparseCounters::default());
    let _ = index.search(&query, &rows, &Allow::all(index.doc_count()), &mut top, &mut counters);
    let docs: Vec<u32> = (0..index.doc_count().min(9)).collect();
    let _ = index.score(&query, &docs, &mut vec![0.0; docs.len()]);
}

fn payload(bytes: &[u8]) {
    let Ok(index) = PayloadIndex::read(bytes) else { return };
    let values = [Value::from("a"), Value::Integer(3), Value::Float(0.5), Value::Bool(true)];
    let _ = index.select(&Predicate::Exists);
    let _ = index.select(&Predicate::Matches("a b"));
    for value in &values {
        let _ = index.select(&Predicate::Equals(value));
        let range = Predicate::Range { lower: Bound::Included(value), upper: Bound::Unbounded };
        let _ = index.select(&range).map(|docs| docs.contains(DOCS));
    }
}

/// The part of a text index that is ours; tantivy checks its own files by their checksums.
fn text_stats(bytes: &[u8]) {
    let _ = SegmentText::open([("text.stats".to_owned(), bytes.to_vec())]);
}

/// Lets `read` at a file with this extension.
fn with_file(bytes: &[u8], extension: &str, read: impl FnOnce(&std::path::Path)) {
    let Ok(file) = tempfile::Builder::new().suffix(&format!(".{extension}")).tempfile() else { return };
    if std::fs::write(file.path(), bytes).is_ok() {
        read(file.path());
    }
}

fn vectors(bytes: &[u8], extension: &str) {
    with_file(bytes, extension, |path| {
        let _ = VectorFile::open(path).and_then(|mut file| file.read_all_f32());
        rows_of(path);
    });
}

fn rows(bytes: &[u8], extension: &str) {
    with_file(bytes, extension, rows_of);
}

fn rows_of(path: &std::path::Path) {
    let Ok(mut reader) = import::open(path, &ImportOptions::default()) else { return };
    let _ = reader.infer_schema(Metric::L2);
    for _ in 0..8 {
        match reader.next_batch(64) {
            Ok(rows) if !rows.is_empty() => {}
            _ => return,
        }
    }
}

fn filter(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Filter>(bytes);
    let _ = serde_json::from_slice::<spandrel::SearchRequest>(bytes);
    let _ = serde_json::from_slice::<spandrel::Schema>(bytes);
}

/// Messages as a client may send them, converted where they decode.
fn wire(bytes: &[u8]) {
    if let Ok(request) = pb::SearchRequest::decode(bytes) {
        let _ = convert::request::search_from_wire(request);
    }
    if let Ok(request) = pb::RetrieveRequest::decode(bytes) {
        let _ = convert::request::retrieve_from_wire(request);
    }
    if let Ok(request) = pb::UpsertRequest::decode(bytes) {
        let _ = convert::row::rows_from_wire(request.rows);
    }
    if let Ok(schema) = pb::Schema::decode(bytes) {
        let _ = convert::schema::schema_from_wire(schema);
    }
}
