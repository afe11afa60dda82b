//! Every decoder of bytes that are not ours to trust, as a function of bytes that returns whatever they are.
//!
//! tests/it/fuzz.rs runs each over mutations of real bytes, within every `cargo test`; tests/fuzz lets a
//! coverage-guided fuzzer at the same functions. From disk: manifest, records, segment files, row store logs,
//! and the sections of each index with a search behind them. From users: import files of every format,
//! filters as JSON, messages of the wire.

use prost::Message;
use spandrel::import::{self, ImportOptions, VectorFile};
use spandrel::{Filter, Metric};
use spandrel_index::fuzz as index;
use spandrel_proto::v1 as pb;
use spandrel_server::convert;
use spandrel_storage::fuzz as storage;

/// A decoder.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Target); 28] = [
    ("manifest", storage::manifest),
    ("record", storage::record),
    ("seal", storage::seal),
    ("segment_header", storage::segment_header),
    ("segment_footer", storage::segment_footer),
    ("segment_sections", storage::segment_sections),
    ("witness", storage::witness),
    ("audit", storage::audit),
    ("catalogue", storage::catalogue),
    ("dense", index::flat),
    ("signs", index::signs),
    ("cells", index::cells),
    ("graph", index::graph),
    ("sparse", index::sparse),
    ("payload", index::payload),
    ("labels", index::labels),
    ("overlay", index::overlay),
    ("text_stats", index::text_totals),
    ("dedup", index::dedup),
    ("dedup_table", index::dedup_table),
    ("fvecs", |bytes| vectors(bytes, "fvecs")),
    ("bvecs", |bytes| vectors(bytes, "bvecs")),
    ("fbin", |bytes| vectors(bytes, "fbin")),
    ("npy", |bytes| vectors(bytes, "npy")),
    ("jsonl", |bytes| rows(bytes, "jsonl")),
    ("parquet", |bytes| rows(bytes, "parquet")),
    ("filter", filter),
    ("wire", wire),
];

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
    let mut rows = Vec::new();
    for _ in 0..8 {
        if reader.next_batch(64, &mut rows).is_err() || rows.is_empty() {
            return;
        }
    }
}

fn filter(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Filter>(bytes);
    let _ = serde_json::from_slice::<spandrel::SearchRequest>(bytes);
    let _ = serde_json::from_slice::<spandrel::RetrieveRequest>(bytes);
    let _ = serde_json::from_slice::<spandrel::Schema>(bytes);
}

/// Messages as a client may send them, converted where they decode.
fn wire(bytes: &[u8]) {
    if let Ok(request) = pb::SearchRequest::decode(bytes) {
        let _ = convert::request::search_from_wire(request);
    }
    if let Ok(request) = pb::RetrieveRequest::decode(bytes) {
        let _ = convert::retrieve::request_from_wire(request);
    }
    if let Ok(request) = pb::UpsertRequest::decode(bytes) {
        let _ = convert::row::rows_from_wire(request.rows);
    }
    if let Ok(request) = pb::PutChunkCachesRequest::decode(bytes) {
        let _ = convert::chunk_cache::caches_from_wire(("docs", ""), request.caches);
    }
    if let Ok(request) = pb::LookupChunkCachesRequest::decode(bytes) {
        let _ = convert::chunk_cache::lookup_from_wire(request.model, &request.chunks);
    }
    if let Ok(request) = pb::TouchChunkCachesRequest::decode(bytes) {
        let _ = convert::chunk_cache::uses_from_wire(request.uses);
    }
    if let Ok(schema) = pb::Schema::decode(bytes) {
        let _ = convert::schema::schema_from_wire(schema);
    }
}
