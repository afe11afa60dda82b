//! Every decoder of bytes from disk as a function of bytes, for a fuzzer: what it opens is also asked, and
//! nothing may panic or take memory that the bytes do not justify. Behind the feature `fuzz`; no part of the
//! engine.

use std::ops::Bound;
use std::sync::Arc;

use roaring::RoaringBitmap;
use spandrel_storage::io::Extent;
use spandrel_storage::{DenseSpec, Element, IndexKind, LabelId, Metric, RowId, SparseVector, Value};

use crate::dedup::table::{Table, TableBuilder};
use crate::dedup::{Dedup, Spec};
use crate::dense::flat::{Flat, FlatBuilder};
use crate::dense::hnsw::{self, Graph};
use crate::dense::signs::Codes;
use crate::dense::ssd::{self, Ssd, Tier};
use crate::dense::vectors::{ChunkSource, Residency, page_bytes};
use crate::dense::{Ask, Hnsw, Signs};
use crate::labels::{self, Labels, Overlay};
use crate::payload::{PayloadIndex, Predicate};
use crate::sparse::{SparseFlat, SparseIndex};
use crate::{Allow, Counters, Error, Result, Scratch, TopK, VectorIndex};

/// Rows named to a search; segments that claim more docs are refused by it.
const ROWS: u32 = 1024;

/// A payload section.
pub fn payload(bytes: &[u8]) {
    let Ok(index) = PayloadIndex::read(bytes) else { return };
    let (low, high) = (Value::Integer(-5), Value::Float(1e6));
    let (word, flag) = (Value::from("word"), Value::Bool(true));
    let range = Predicate::Range { lower: Bound::Excluded(&low), upper: Bound::Included(&high) };
    let words = Predicate::Range { lower: Bound::Included(&word), upper: Bound::Unbounded };
    let equal = [Predicate::Equals(&low), Predicate::Equals(&word), Predicate::Equals(&flag)];
    let other = [range, words, Predicate::Prefix("w"), Predicate::Matches("a word"), Predicate::Exists];
    for predicate in equal.iter().chain(&other) {
        let _ = (index.select(predicate, 0..u32::MAX), index.select(predicate, 7..19));
        let _ = index.estimate(predicate);
    }
}

/// The section of labels of a segment, behind its number of docs as u32.
pub fn labels(bytes: &[u8]) {
    let Some((docs, section)) = bytes.split_first_chunk().map(|(d, rest)| (u32::from_le_bytes(*d), rest))
    else {
        return;
    };
    let Ok(labels) = Labels::read(section, docs) else { return };
    let wanted = [0, 1, 7, u32::MAX].map(LabelId);
    for docs in [0..docs, 3..20] {
        let _ = labels::select(Some(&labels), &Overlay::default(), &wanted, &docs);
    }
}

/// What has changed of the labels of a segment, as a manifest has it, behind its number of docs as u32.
pub fn overlay(bytes: &[u8]) {
    let Some((docs, section)) = bytes.split_first_chunk().map(|(d, rest)| (u32::from_le_bytes(*d), rest))
    else {
        return;
    };
    let Ok(overlay) = Overlay::decode(section, docs) else { return };
    let _ = labels::select(None, &overlay, &[0, 1, 7].map(LabelId), &(0..docs));
    let _ = (overlay.since(&Overlay::default()), overlay.memory_bytes());
}

/// The bytes of some labels and of some changes, as [`labels`] and [`overlay`] take them.
pub fn labels_samples(docs: u32) -> (Vec<u8>, Vec<u8>) {
    let pairs = (0..docs).flat_map(|doc| (0..1 + doc % 3).map(move |at| (LabelId(at * 7 + doc % 2), doc)));
    let (mut overlay, head) = (Overlay::default(), docs.to_le_bytes().to_vec());
    (0..docs).step_by(3).for_each(|doc| overlay.set(LabelId(doc % 5), doc, doc % 2 == 0));
    let labels = Labels::of(pairs.collect(), docs).map_or(Vec::new(), |labels| labels.encode());
    ([&head[..], &labels].concat(), [&head[..], &overlay.encode()].concat())
}

/// A sparse section.
pub fn sparse(bytes: &[u8]) {
    let Ok(index) = SparseFlat::read(bytes) else { return };
    let query =
        SparseVector { dims: vec![0, 1, 7, 100, u32::MAX], weights: vec![1.0, -2.0, 3e38, 0.5, 1e-3] };
    let docs: Vec<u32> = (0..index.doc_count().min(ROWS)).collect();
    let (mut scratch, mut counters, mut top) = (Scratch::new(), Counters::default(), TopK::new(10));
    let allow = Allow::all(index.doc_count());
    let _ = index.search(&query, &rows(), &allow, &mut top, &mut scratch, &mut counters);
    let _ = index.score(&query, &docs, &mut vec![0.0; docs.len()], &mut scratch);
}

/// A flat section, as that of every kind of field of 4 dimensions.
pub fn flat(bytes: &[u8]) {
    let source: Arc<dyn ChunkSource> = Arc::new(Bytes(bytes.to_vec()));
    for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
        for element in [Element::F32, Element::F16, Element::I8] {
            let spec = DenseSpec { dim: 4, metric, element, index: Default::default() };
            for residency in [Residency::Disk, Residency::Memory] {
                let Ok(index) = Flat::open("fuzz", &spec, Arc::clone(&source), residency) else { continue };
                let docs: Vec<u32> = (0..index.docs().min(ROWS)).collect();
                let (mut scratch, mut counters, mut top) =
                    (Scratch::new(), Counters::default(), TopK::new(10));
                for query in [[1.0, -2.0, 0.5, 3.0], [3.0, 2.0, 1.0, 0.0]] {
                    let scores = &mut vec![0.0; docs.len()];
                    let allow = Allow::all(index.docs());
                    let _ = index.search(
                        &query,
                        &Ask::new(&rows(), &allow),
                        &mut top,
                        &mut scratch,
                        &mut counters,
                    );
                    let _ = index.score(&query, &docs, scores, &mut scratch, &mut counters);
                }
            }
        }
    }
}

/// A section of sign codes, as that of every metric of 64 dimensions.
pub fn signs(bytes: &[u8]) {
    let Some(count) = bytes.get(16..20).and_then(|four| four.try_into().ok()).map(u32::from_le_bytes) else {
        return;
    };
    for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
        let spec = DenseSpec { dim: 64, metric, element: Element::F32, index: Default::default() };
        let count = count.min(ROWS);
        let Ok(codes) = Codes::decode("fuzz", &spec, count, bytes) else { continue };
        let Ok(mut flat) = FlatBuilder::new(&spec) else { continue };
        let vector =
            |at: u32| (0..64).map(|dim| ((at * 7 + dim * 13) % 31) as f32 - 15.0).collect::<Vec<f32>>();
        if (0..count).any(|at| flat.push(Some(&vector(at))).is_err()) {
            continue;
        }
        let index = Signs::new(flat.finish(), codes);
        let (mut scratch, mut counters) = (Scratch::new(), Counters::default());
        for query in [vector(3), vec![1e18; 64]] {
            let (mut top, allow) = (TopK::new(10), Allow::all(count));
            let _ = index.search(&query, &Ask::new(&rows(), &allow), &mut top, &mut scratch, &mut counters);
        }
    }
}

/// A section of cells, as that of every metric of 8 dimensions, with all of it in memory or not. What it
/// starts with is the number of its vectors.
pub fn cells(bytes: &[u8]) {
    let Some((count, bytes)) = bytes.split_first_chunk() else { return };
    // With fewer allowed docs no cell would be searched.
    let count = u32::from_le_bytes(*count).min(4 * ROWS);
    let source: Arc<dyn ChunkSource> = Arc::new(Bytes(bytes.to_vec()));
    let rows: Vec<RowId> = (0..u64::from(count)).map(RowId).collect();
    // So many that their posting codes are looked at one by one, and so many that cells are visited.
    let [some, most]: [RoaringBitmap; 2] =
        [(0..count).step_by(5).collect(), (0..count).filter(|doc| doc % 7 > 0).collect()];
    for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
        let spec = DenseSpec { dim: 8, metric, element: Element::F32, index: Default::default() };
        for tier in [Tier::Hot, Tier::Default, Tier::Lean] {
            let Ok(flat) = some_vectors(&spec, count) else { continue };
            let Ok(index) = Ssd::open("fuzz", &spec, flat.finish(), &source, tier) else { continue };
            let index = index.with_singles();
            let (mut scratch, mut counters) = (Scratch::new(), Counters::default());
            for query in [[1.0, -2.0, 0.5, 3.0, 0.0, 90.0, -7.0, 1.0], [1e18; 8]] {
                for filter in [None, Some(&some), Some(&most)] {
                    let (mut top, allow) = (TopK::new(10), Allow { filter, ..Allow::all(count) });
                    let ask = Ask::new(&rows, &allow);
                    let _ = index.search(&query, &ask, &mut top, &mut scratch, &mut counters);
                }
            }
            let _ = index.trained();
        }
    }
}

/// A graph, as that of every metric of 4 dimensions. What it starts with is the number of its vectors.
pub fn graph(bytes: &[u8]) {
    let Some((count, bytes)) = bytes.split_first_chunk() else { return };
    let count = u32::from_le_bytes(*count).min(2 * hnsw::VECTORS_MIN);
    for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
        let spec = DenseSpec { dim: 4, metric, element: Element::F32, index: IndexKind::Hnsw };
        let Ok(graph) = Graph::decode("fuzz", &spec, count, bytes) else { continue };
        let Ok(flat) = some_vectors(&spec, count) else { continue };
        let index = Hnsw::new(flat.finish(), graph);
        let (mut scratch, mut counters) = (Scratch::new(), Counters::default());
        let rows: Vec<RowId> = (0..u64::from(count)).map(RowId).collect();
        for query in [[1.0, -2.0, 0.5, 3.0], [1e18; 4]] {
            let (mut top, allow) = (TopK::new(10), Allow::all(count));
            let _ = index.search(&query, &Ask::new(&rows, &allow), &mut top, &mut scratch, &mut counters);
        }
    }
}

/// The section of cells over some vectors, as [`cells`] takes it.
pub fn cells_sample(count: u32) -> Vec<u8> {
    let spec = DenseSpec { dim: 8, metric: Metric::Ip, element: Element::F32, index: Default::default() };
    let mut bytes = count.to_le_bytes().to_vec();
    let Ok(flat) = some_vectors(&spec, count) else { return bytes };
    let rows = |at: usize, out: &mut [f32]| flat.rows(at, out);
    // Of two tenants, the second of which has no cells.
    let tenants = if count > 20 { &[0, count - 20][..] } else { &[0] };
    let vectors = ssd::Vectors { rows: &rows, count, tenants, ordered: true };
    let built = ssd::build(&spec, vectors, None, ssd::Room::of_threads(1));
    let written = built.is_ok_and(|built| built.write(&mut bytes).is_ok());
    debug_assert!(written, "a buffer takes everything");
    bytes
}

/// The section of a graph over some vectors, as [`graph`] takes it.
pub fn graph_sample(count: u32) -> Vec<u8> {
    let spec = DenseSpec { dim: 4, metric: Metric::L2, element: Element::F32, index: IndexKind::Hnsw };
    let mut bytes = count.to_le_bytes().to_vec();
    let Ok(flat) = some_vectors(&spec, count) else { return bytes };
    let written = hnsw::build(&spec, &|at, out| flat.rows(at, out), count, 1).write(&mut bytes);
    debug_assert!(written.is_ok(), "a buffer takes everything");
    bytes
}

fn some_vectors(spec: &DenseSpec, count: u32) -> Result<FlatBuilder> {
    let mut flat = FlatBuilder::new(spec)?;
    for at in 0..count {
        // Some twice.
        let value = |dim: u32| ((at % 3000 * 7 + dim * 13) % 1009) as f32 - 504.5;
        flat.push(Some(&(0..spec.dim).map(value).collect::<Vec<f32>>()))?;
    }
    Ok(flat)
}

/// The statistics of a text index.
pub fn text_totals(bytes: &[u8]) {
    let _ = crate::text::read_totals(bytes);
}

/// The texts that de-duplication has kept.
pub fn dedup(bytes: &[u8]) {
    let Ok(mut dedup) = Dedup::decode(bytes) else { return };
    let signature = dedup.signer().sign("Some words, and some more of them.");
    let _ = dedup.seen(&signature);
    // The first text takes what the room says; later ones grow by what there is.
    if dedup.docs() > 0 {
        let _ = dedup.insert(&signature);
    }
    let again = Dedup::decode(&dedup.encode());
    debug_assert!(again.is_ok_and(|again| again.docs() == dedup.docs()), "what is written is read");
}

/// A table of the docs of keys.
pub fn dedup_table(bytes: &[u8]) {
    // As many docs as the head says.
    let field = |at: std::ops::Range<usize>| bytes.get(at).and_then(|bytes| bytes.try_into().ok());
    let count = field(3..11).map_or(0, u64::from_le_bytes).min(1 << 16);
    let width = bytes.get(2).map_or(0, |width| u64::from(*width));
    let docs = Bytes(vec![0x5a; (count * width).div_ceil(8) as usize]);
    let Ok(table) = Table::open(bytes, Arc::new(docs)) else { return };
    let read = table.find(&[0, 1 << 63, u64::MAX], &mut |_, _| {});
    debug_assert!(read.is_ok(), "there are docs for all keys");
    debug_assert!(table.encode() == bytes, "what is read is written the same");
}

/// What [`dedup`] and [`dedup_table`] take, of some texts.
pub fn dedup_samples(count: u32) -> (Vec<u8>, Vec<u8>) {
    let Ok(mut dedup) = Dedup::new(Spec { room: 16, ..Spec::default() }) else { return Default::default() };
    let texts = (0..count).map(|at| format!("text {at} of some with {} words", at % 7));
    let signatures: Vec<_> = texts.map(|text| dedup.signer().sign(&text)).collect();
    let kept = signatures.iter().all(|signature| dedup.insert(signature).is_ok());
    debug_assert!(kept, "there is memory for a few");
    let mut table = TableBuilder::new(10, 1e-6, None);
    let mut each = signatures.iter().zip(0..);
    let built = each.try_for_each(|(signature, doc)| table.push(doc, signature.keys()));
    let built = built.and_then(|()| table.finish());
    (dedup.encode(), built.map(|table| table.encode()).unwrap_or_default())
}

fn rows() -> Vec<RowId> {
    (0..u64::from(ROWS)).map(RowId).collect()
}

/// A section in memory; reads past the end fail as a file's do.
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl ChunkSource for Bytes {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let bytes = usize::try_from(at).ok().and_then(|at| self.0.get(at..at.checked_add(out.len())?));
        out.copy_from_slice(bytes.ok_or_else(|| Error::Invalid("read past the end".into()))?);
        Ok(())
    }

    /// Lands the extents last one first, as a device may.
    fn read_batch(&self, extents: &[Extent], done: &mut dyn FnMut(usize, &[u8])) -> Result<u64> {
        assert!(!extents.is_empty() && extents.iter().all(|extent| extent.len > 0), "nothing to read");
        for (index, extent) in extents.iter().enumerate().rev() {
            let mut bytes = vec![0; extent.len];
            self.read(extent.offset, &mut bytes)?;
            done(index, &bytes);
        }
        Ok(page_bytes(extents))
    }
}
