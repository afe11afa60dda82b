//! Opens a segment file: rows and tenants are read and checked, indexes are opened, and each says whether it
//! fits the memory budget or stays on disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use spandrel_storage::file::SegmentFile;
use spandrel_storage::io::BatchRead;
use spandrel_storage::{DenseSpec, DocId, FieldKind, PayloadKind, RowId, Section, TenantId};

use super::build::{
    BY_ROW, KIND, LABELS, TEXT_PREFIX, cells_name, graph_name, section_name, signs_name, wanted,
};
use super::duplicates;
use super::keys::{self, Keys};
use super::source::SectionSource;
use super::warm::{Warm, WarmField};
use super::{FieldIndex, Indexer, Place, Segment};
use crate::budget::{MemoryBudget, Reservation};
use crate::dense::flat::Flat;
use crate::dense::ssd::{self, Ssd, Tier};
use crate::dense::vectors::{ChunkSource, Residency};
use crate::dense::{Hnsw, Signs, VectorIndex};
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::payload::PayloadIndex;
use crate::sparse::{SparseFlat, SparseIndex};
use crate::text::{SegmentText, TextIndex};

impl Segment {
    /// Opens the segment at `path`. Dense vectors are kept in memory where `memory` has room for them.
    ///
    /// # Errors
    /// [`Error::Storage`] for a missing, foreign or damaged file; [`Error::Section`] for one whose sections
    /// do not fit the schema or each other.
    pub fn open(
        indexer: &Indexer,
        path: &Path,
        reader: &Arc<dyn BatchRead>,
        memory: &Arc<MemoryBudget>,
    ) -> Result<Self> {
        Self::open_warm(indexer, path, reader, memory, Warm::default())
    }

    /// As [`open`](Self::open), with what is in memory already.
    pub(super) fn open_warm(
        indexer: &Indexer,
        path: &Path,
        reader: &Arc<dyn BatchRead>,
        memory: &Arc<MemoryBudget>,
        mut warm: Warm,
    ) -> Result<Self> {
        let file = SegmentFile::open(path, Arc::clone(reader))?;
        if file.kind() != KIND {
            return Err(damaged("header", format!("kind {:?} is not that of a segment", file.kind())));
        }
        let schema = Arc::clone(indexer.schema());
        let (range, rows) = read_rows(&file)?;
        let by_row = file.section(BY_ROW).map(|section| section.read_u32s()).transpose()?;
        let tenants = read_tenants(&file, &rows, by_row.as_deref())?;
        let (mut reserved, mut plain) = (Vec::new(), false);
        let mut fields = Vec::with_capacity(schema.fields.len());
        for (at, field) in schema.fields.iter().enumerate() {
            let Some(name) = section_name(&field.kind, at) else {
                fields.push(FieldIndex::None);
                continue;
            };
            fields.push(match &field.kind {
                FieldKind::Payload { kind: PayloadKind::Json } | FieldKind::Text(_) => FieldIndex::None,
                FieldKind::Dense(spec) => {
                    let index = open_dense(&file, (at, spec), memory, &mut reserved, warm.take(at))?;
                    let flat = index.flat();
                    check_docs(&name, flat.docs(), rows.len())?;
                    let wanted = wanted(spec, flat.vectors(), at);
                    plain |= wanted.is_some_and(|wanted| file.section(&wanted).is_none());
                    FieldIndex::Dense(index)
                }
                FieldKind::Sparse => {
                    let index = SparseFlat::read(&file.require(&name)?.read_all()?)?;
                    check_docs(&name, index.doc_count(), rows.len())?;
                    FieldIndex::Sparse(Box::new(index))
                }
                FieldKind::Payload { kind } => {
                    let index = PayloadIndex::read(&file.require(&name)?.read_all()?)?;
                    if index.kind() != *kind || index.doc_count() as usize > rows.len() {
                        return Err(damaged(
                            &name,
                            "it is not the index of this field and these docs".into(),
                        ));
                    }
                    FieldIndex::Payload(index)
                }
            });
        }
        let text = match schema.fields.iter().any(|field| matches!(field.kind, FieldKind::Text(_))) {
            true => Some(open_text(&file, rows.len())?),
            false => None,
        };
        let labels = match file.section(LABELS) {
            Some(section) => Some(Labels::read(&section.read_all()?, rows.len() as u32)?),
            None => None,
        };
        let comparer = indexer.comparer();
        let duplicates = comparer.map(|comparer| duplicates::open(comparer, &file, memory)).transpose()?;
        // Last: a hit's key can be had elsewhere too.
        let keys = open_keys(&file, rows.len(), memory, &mut reserved)?;
        let info = file.info();
        let place = Place::Disk { id: info.id, bytes: info.bytes, checksum: info.checksum, reserved };
        let mut segment = Self {
            schema,
            range,
            rows,
            by_row,
            tenants,
            fields,
            text,
            labels,
            duplicates,
            keys,
            place,
            plain,
            memory_bytes: 0,
        };
        segment.memory_bytes = segment.index_bytes();
        Ok(segment)
    }
}

fn damaged(section: &str, what: String) -> Error {
    Error::Section { section: section.to_owned(), what }
}

fn check_docs(section: &str, found: u32, expected: usize) -> Result<()> {
    match found as usize == expected {
        true => Ok(()),
        false => Err(damaged(section, format!("it has {found} docs, the segment has {expected}"))),
    }
}

/// The index of a dense field: the first of graph, cells, codes and scan that the file has and the budget has
/// room for.
fn open_dense(
    file: &SegmentFile,
    (at, spec): (usize, &DenseSpec),
    memory: &Arc<MemoryBudget>,
    reserved: &mut Vec<Reservation>,
    warm: Option<WarmField>,
) -> Result<Box<dyn VectorIndex>> {
    let name = format!("dense/{at}");
    let vectors = file.require(&name)?;
    let (warm_vectors, warm_cells, warm_signs) =
        warm.map_or((None, None, None), |warm| (Some(warm.vectors), warm.cells, warm.signs));
    let flat = |source: Section, residency| match warm_vectors.filter(|_| residency == Residency::Memory) {
        Some(vectors) => Ok(vectors.finish()),
        None => Flat::open(&name, spec, SectionSource::open(source, memory), residency),
    };
    if let Some(graph) = file.section(&graph_name(at))
        // Both or neither: a walk reads a vector at every step.
        && residency(memory, vectors.len() + graph.len(), reserved) == Residency::Memory
    {
        let flat = flat(vectors, Residency::Memory)?;
        let graph = SectionSource::open(graph, memory);
        return Ok(Box::new(Hnsw::open(&graph_name(at), spec, flat, &graph)?));
    }
    // What is searched first: it is what makes most searches fast.
    let cells = open_cells(file, (&cells_name(at), vectors.len()), memory, reserved)?;
    let signs = open_signs(file, &signs_name(at), memory, reserved);
    let residency = match &cells {
        Some(cells) => cells.vectors,
        None => residency(memory, vectors.len(), reserved),
    };
    let flat = flat(vectors, residency)?;
    let singles = cells.as_ref().is_some_and(|cells| cells.singles);
    let singled = |ssd: Ssd| if singles { ssd.with_singles() } else { ssd };
    Ok(match (cells, signs) {
        (Some(Opened { source, tier, .. }), _) => match warm_cells {
            Some(built) => Box::new(singled(Ssd::built(&cells_name(at), flat, &source, tier, built))),
            None => Box::new(singled(Ssd::open(&cells_name(at), spec, flat, &source, tier)?)),
        },
        (None, Some(codes)) => match warm_signs {
            Some(signs) => Box::new(Signs::new(flat, signs)),
            None => Box::new(Signs::open(&signs_name(at), spec, flat, &codes)?),
        },
        (None, None) => Box::new(flat),
    })
}

/// Cells, how much of them there is room for, whether for the vectors, too, and for codes one by one besides.
struct Opened {
    source: Arc<dyn ChunkSource>,
    tier: Tier,
    vectors: Residency,
    singles: bool,
}

/// What is kept of cells and of the vectors under them, what makes searches fastest first. Vectors come
/// before long codes: by short ones about two are scored for a result, and on disk each of them is a read.
fn kept(tier_max: Tier) -> impl Iterator<Item = (Tier, Residency)> {
    let both = [Tier::Hot, Tier::Default].map(|tier| (tier, Residency::Memory));
    let codes = Tier::ALL.map(|tier| (tier, Residency::Disk));
    let both = both.into_iter().filter(move |_| tier_max == Tier::Hot);
    both.chain(codes.into_iter().filter(move |(tier, _)| *tier <= tier_max))
}

/// The cells of a field, when it has some, over so many bytes of vectors, and as much of both as the budget
/// has room for.
fn open_cells(
    file: &SegmentFile,
    (name, vectors_bytes): (&str, u64),
    memory: &Arc<MemoryBudget>,
    reserved: &mut Vec<Reservation>,
) -> Result<Option<Opened>> {
    let Some(section) = file.section(name) else { return Ok(None) };
    let source = SectionSource::open(section, memory);
    for (tier, vectors) in kept(memory.tier_max()) {
        let beside = if vectors == Residency::Memory { vectors_bytes } else { 0 };
        let bytes = ssd::resident_bytes(name, source.as_ref(), tier)?.saturating_add(beside);
        if residency(memory, bytes, reserved) == Residency::Memory {
            let bytes = ssd::singles_bytes(name, source.as_ref(), tier)?;
            let singles = bytes > 0 && residency(memory, bytes, reserved) == Residency::Memory;
            return Ok(Some(Opened { source, tier, vectors, singles }));
        }
    }
    Ok(None)
}

/// The sign codes of a field, when it has some and the budget has room for them.
fn open_signs(
    file: &SegmentFile,
    name: &str,
    memory: &Arc<MemoryBudget>,
    reserved: &mut Vec<Reservation>,
) -> Option<Arc<dyn ChunkSource>> {
    let section = file.section(name)?;
    let resident = residency(memory, section.len(), reserved) == Residency::Memory;
    resident.then(|| SectionSource::open(section, memory))
}

/// The keys, when there are some and the budget has room for them.
fn open_keys(
    file: &SegmentFile,
    docs: usize,
    memory: &Arc<MemoryBudget>,
    reserved: &mut Vec<Reservation>,
) -> Result<Option<Keys>> {
    let Some(section) = file.section(keys::SECTION) else { return Ok(None) };
    match residency(memory, section.len(), reserved) {
        Residency::Memory => Keys::decode(&section.read_all()?, docs).map(Some),
        Residency::Disk => Ok(None),
    }
}

/// Keeps a section in memory where the budget has room.
fn residency(memory: &Arc<MemoryBudget>, bytes: u64, reserved: &mut Vec<Reservation>) -> Residency {
    match memory.reserve(bytes) {
        Some(reservation) => {
            reserved.push(reservation);
            Residency::Memory
        }
        None => Residency::Disk,
    }
}

fn read_rows(file: &SegmentFile) -> Result<(std::ops::RangeInclusive<RowId>, Vec<RowId>)> {
    let values = file.require("rows")?.read_u64s()?;
    let [first, last, rows @ ..] = values.as_slice() else {
        return Err(damaged("rows", "it is shorter than its range".into()));
    };
    if first > last || rows.is_empty() || u32::try_from(rows.len()).is_err() {
        return Err(damaged("rows", format!("{} rows in writes {first} to {last}", rows.len())));
    }
    if let Some(row) = rows.iter().find(|row| !(first..=last).contains(row)) {
        return Err(damaged("rows", format!("row {row} is outside of writes {first} to {last}")));
    }
    Ok((RowId(*first)..=RowId(*last), rows.iter().map(|row| RowId(*row)).collect()))
}

/// The tenants, whose docs have these rows; by ascending row, where they are not in that order, `by_row`.
fn read_tenants(
    file: &SegmentFile,
    rows: &[RowId],
    by_row: Option<&[DocId]>,
) -> Result<Vec<(TenantId, DocId)>> {
    let values = file.require("tenants")?.read_u32s()?;
    let (pairs, rest) = values.as_chunks::<2>();
    let tenants: Vec<(TenantId, u32)> =
        pairs.iter().map(|[tenant, start]| (TenantId(*tenant), *start)).collect();
    let ascending = tenants.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
    let starts = tenants.first().is_some_and(|(_, start)| *start == 0);
    let ends = tenants.last().is_some_and(|(_, start)| (*start as usize) < rows.len());
    if !rest.is_empty() || !ascending || !starts || !ends {
        return Err(damaged(
            "tenants",
            format!("{} entries do not divide {} docs", tenants.len(), rows.len()),
        ));
    }
    let mut bounds: Vec<usize> = tenants.iter().map(|(_, start)| *start as usize).collect();
    bounds.push(rows.len());
    let sorted = bounds.windows(2).all(|pair| match by_row {
        None => rows[pair[0]..pair[1]].is_sorted_by(|a, b| a < b),
        Some(by_row) => {
            let docs = by_row.get(pair[0]..pair[1]).unwrap_or_default();
            let within = |doc: &DocId| (pair[0]..pair[1]).contains(&(*doc as usize));
            docs.len() == pair[1] - pair[0]
                && docs.iter().all(within)
                && docs.is_sorted_by(|a, b| rows[*a as usize] < rows[*b as usize])
        }
    });
    if !sorted || by_row.is_some_and(|by_row| by_row.len() != rows.len()) {
        return Err(damaged("rows", "the rows of a tenant do not ascend".into()));
    }
    Ok(tenants)
}

fn open_text(file: &SegmentFile, docs: usize) -> Result<Box<dyn TextIndex>> {
    let mut files = BTreeMap::new();
    let names: Vec<String> = file.sections().map(|(name, _)| name.to_owned()).collect();
    for name in names {
        if let Some(short) = name.strip_prefix(TEXT_PREFIX) {
            files.insert(short.to_owned(), file.require(&name)?.read_all()?);
        }
    }
    let index = SegmentText::open(files)?;
    check_docs(TEXT_PREFIX, index.doc_count(), docs)?;
    Ok(Box::new(index))
}
