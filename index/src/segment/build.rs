//! Builds a segment on disk: one file of named sections.
//!
//! | section | what |
//! |---|---|
//! | `rows` | first and last write covered, then the row of each doc, u64 each |
//! | `tenants` | (tenant, first doc) of each tenant, u32 each |
//! | `by_row` | the docs of each tenant by ascending row, u32 each, where docs are in another order |
//! | `dense/N`, `sparse/N`, `payload/N` | the index of field N, in its own layout |
//! | `signs/N` | the sign codes of the vectors of field N, when there are enough of them and no cells |
//! | `cells/N` | the cells over the vectors of field N, when there are enough of them |
//! | `graph/N` | the graph over the vectors of field N, when it asks for one and there are enough of them |
//! | `duplicates`, `duplicates/docs` | the docs of the [keys that rows are compared by](super::duplicates) |
//! | `labels` | the access labels of docs, where there are some |
//! | `text/FILE` | the files of the text index |
//!
//! Docs are sorted by tenant; within a tenant by the cells of the first dense field that has some, which are
//! built first for that, and by row where there are none. They are read once for everything but dense fields,
//! and once more for each of those, so that one field's vectors are in memory at a time, and of those before
//! it what [stays there](super::warm). A merge takes vectors from its inputs instead.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use roaring::RoaringBitmap;
use spandrel_storage::file::SegmentWriter;
use spandrel_storage::io::BatchRead;
use spandrel_storage::record::FieldSet;
use spandrel_storage::{DenseSpec, DocId, FieldId, FieldKind, IndexKind, RowId, TenantId};

use super::coded::Coded;
use super::duplicates::Duplicates;
use super::fresh::FieldBuilder;
use super::keys::{self, Keys};
use super::merge::Merge;
use super::warm::{Warm, WarmField};
use super::{IndexDoc, IndexValue, Indexer, Order, Segment};
use crate::budget::MemoryBudget;
use crate::dense::flat::FlatBuilder;
use crate::dense::ssd::{Built, Room};
use crate::dense::{Rows, hnsw, signs, ssd};
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::text::TextBuilder;

/// What wrote the sections.
pub(super) const KIND: [u8; 4] = *b"SPSG";

/// Gives the docs at these positions, in this order, with at least the wanted fields.
pub type DocSource<'a> =
    &'a mut dyn FnMut(&FieldSet, &[u32], &mut dyn FnMut(Arc<IndexDoc>) -> Result<()>) -> Result<()>;

/// The docs that a segment is made of.
pub struct Docs<'a> {
    /// The tenant and the row of each, tenants ascending; in a merge the docs of each input ascend there.
    pub ids: &'a [(TenantId, RowId)],
    /// Gives them.
    pub source: DocSource<'a>,
}

/// The section of a field's index.
pub(super) fn section_name(kind: &FieldKind, id: usize) -> Option<String> {
    match kind {
        FieldKind::Dense(_) => Some(format!("dense/{id}")),
        FieldKind::Sparse => Some(format!("sparse/{id}")),
        FieldKind::Payload { .. } => Some(format!("payload/{id}")),
        FieldKind::Text(_) => None,
    }
}

/// The section of the cells over a dense field.
pub(super) fn cells_name(id: usize) -> String {
    format!("cells/{id}")
}

/// The section of the sign codes of a dense field.
pub(super) fn signs_name(id: usize) -> String {
    format!("signs/{id}")
}

/// The section of the graph over a dense field.
pub(super) fn graph_name(id: usize) -> String {
    format!("graph/{id}")
}

/// The section of docs by row.
pub(super) const BY_ROW: &str = "by_row";

/// The section of access labels.
pub(super) const LABELS: &str = "labels";

/// Section names of the files of the text index start with this.
pub(super) const TEXT_PREFIX: &str = "text/";

/// How a segment is built.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    /// Threads that may work on it; 0: as many as the machine runs.
    pub threads: usize,
    /// Whether many vectors get cells, or the graph that their field asks for. Signs cost next to nothing,
    /// which suits a segment that is about to be merged.
    pub cells: bool,
    /// The segments that the docs are from: their vectors are taken as they are.
    pub merge: Option<Merge<'a>>,
    /// A segment whose cells are to be gone on from, where it has some.
    pub like: Option<&'a Segment>,
    /// Segments, in row order, whose sign codes docs keep that are in them; not of a merge.
    pub coded: &'a [&'a Segment],
    /// Memory that the vectors of a field and the build of its cells may take, in bytes: a merge of more
    /// works on disk, next to the segment; what is not a merge gets no cells then.
    pub memory_bytes: u64,
}

impl<'a> Plan<'a> {
    /// What cells of a field go on from.
    fn trained(&self, id: FieldId) -> Result<Option<ssd::Trained<'a>>> {
        self.like.and_then(|like| like.dense(id)).map_or(Ok(None), |index| index.trained())
    }

    /// Builds the cells of a field; `vectors` are those at these places among all that the inputs of a merge
    /// have.
    fn build_cells(
        &self,
        (id, spec): (FieldId, &DenseSpec),
        (vectors, places): (ssd::Vectors<'_>, &[u32]),
        room: Room<'_>,
    ) -> Result<Built> {
        let (trained, kept) = (self.trained(id)?, self.kept(id));
        let kept: Option<Vec<u32>> =
            kept.map(|kept| places.iter().map(|place| kept[*place as usize]).collect());
        let prior = trained.as_ref().map(|trained| ssd::Prior { trained, kept: kept.as_deref() });
        ssd::build(spec, vectors, prior, room)
    }

    /// The position there of every vector of a merge, or none.
    fn kept(&self, id: FieldId) -> Option<Vec<u32>> {
        let (merge, like) = self.merge.zip(self.like)?;
        let input = merge.inputs.iter().position(|input| std::ptr::eq(*input, like))?;
        Some(merge.positions(id, input as u32))
    }
}

impl Segment {
    /// Writes a segment file that covers `range`, durably, and opens it as [`Segment::open`] does. What is in
    /// memory when it is written and is to be there when it is open is not read again. The file is not there
    /// unless it was written.
    ///
    /// # Errors
    /// What `docs` fail with; [`Error::Storage`] when the file cannot be written, or inputs of a merge
    /// cannot be read; [`Error::Section`] when one of those is damaged; those of [`Segment::open`].
    pub fn create(
        indexer: &Indexer,
        (path, id): (&Path, u64),
        range: RangeInclusive<RowId>,
        plan: Plan<'_>,
        docs: Docs<'_>,
        (reader, memory): (&Arc<dyn BatchRead>, &Arc<MemoryBudget>),
    ) -> Result<Self> {
        let mut warm = Warm::with_room(memory.room_bytes());
        write(indexer, (path, id), range, plan, docs, &mut warm)?;
        Self::open_warm(indexer, path, reader, memory, warm)
    }
}

/// Writes a segment file.
pub(super) fn write(
    indexer: &Indexer,
    (path, id): (&Path, u64),
    range: RangeInclusive<RowId>,
    plan: Plan<'_>,
    docs: Docs<'_>,
    warm: &mut Warm,
) -> Result<()> {
    let (schema, folder) = (indexer.schema(), path.parent());
    let count = u32::try_from(docs.ids.len())
        .map_err(|_| Error::Invalid("a segment has at most 2^32 - 1 docs".into()))?;
    let mut build = Build { plan, docs, folder, order: (0..count).collect(), ordered: false };
    let mut writer = SegmentWriter::create(path, id, KIND)?;
    let dense = |at: usize| match &schema.fields[at].kind {
        FieldKind::Dense(spec) => Some(spec),
        _ => None,
    };
    let with_cells = |at: &usize| plan.cells && dense(*at).is_some_and(|spec| wants_cells(spec, count));
    let first = (0..schema.fields.len()).find(with_cells);
    let others = (0..schema.fields.len()).filter(|at| Some(*at) != first);
    for at in first.into_iter().chain(others) {
        build.ordered = Some(at) == first;
        if let Some(spec) = dense(at)
            && let Some(left) = build.write_dense(spec, &mut writer, FieldId(at as u16))?
        {
            warm.keep(at, left);
        }
    }
    build.write_light(indexer, &mut writer, &range)?;
    writer.finish()?;
    Ok(())
}

/// A segment that is being written.
struct Build<'p, 'd> {
    plan: Plan<'p>,
    docs: Docs<'d>,
    folder: Option<&'p Path>,
    /// The positions of docs, in doc order.
    order: Vec<u32>,
    /// Whether the field that is being written says how docs lie.
    ordered: bool,
}

impl Build<'_, '_> {
    /// Calls `each` with every doc, in doc order.
    fn each(&mut self, wanted: &FieldSet, each: &mut dyn FnMut(Arc<IndexDoc>) -> Result<()>) -> Result<()> {
        let (ids, mut left) = (self.docs.ids, self.order.iter());
        (self.docs.source)(wanted, &self.order, &mut |doc| match left.next().map(|at| ids[*at as usize]) {
            Some(id) if id == (doc.tenant, doc.row) => each(doc),
            _ => Err(Error::Invalid(format!("row {} is not the next doc of the segment", doc.row))),
        })?;
        match left.len() {
            0 => Ok(()),
            left => Err(Error::Invalid(format!("{left} docs of the segment did not come"))),
        }
    }

    /// Everything but dense fields, in one pass.
    fn write_light(
        &mut self,
        indexer: &Indexer,
        writer: &mut SegmentWriter,
        range: &RangeInclusive<RowId>,
    ) -> Result<()> {
        let schema = indexer.schema();
        let light = |kind: &FieldKind| !matches!(kind, FieldKind::Dense(_));
        let ids = schema.fields.iter().enumerate().filter(|(_, field)| light(&field.kind));
        let wanted = FieldSet::of(ids.map(|(at, _)| FieldId(at as u16)));
        let builder = |kind: &FieldKind| match light(kind) {
            true => FieldBuilder::new(kind),
            false => Ok(FieldBuilder::None),
        };
        let mut builders =
            schema.fields.iter().map(|field| builder(&field.kind)).collect::<Result<Vec<_>>>()?;
        let text_fields =
            schema.fields.iter().enumerate().filter(|(_, field)| matches!(field.kind, FieldKind::Text(_)));
        let text_fields: Vec<FieldId> = text_fields.map(|(at, _)| FieldId(at as u16)).collect();
        let mut text = if text_fields.is_empty() { None } else { Some(TextBuilder::new(&text_fields)?) };
        let mut order = Order::new();
        let (mut keys, mut labels) = (Some(Keys::default()), Vec::new());
        let mut duplicates = Duplicates::of(indexer, self.folder);
        self.each(&wanted, &mut |doc| {
            let at = order.rows.len() as DocId;
            order.push(doc.tenant, doc.row);
            labels.extend(doc.labels.iter().map(|label| (*label, at)));
            keys = keys.take().and_then(|mut keys| keys.push(doc.key.as_deref()?).then_some(keys));
            for (id, builder) in (0..).map(FieldId).zip(&mut builders) {
                builder.push(at, doc.value(id))?;
            }
            if let Some(duplicates) = &mut duplicates {
                duplicates.push(at, &doc)?;
            }
            if let Some(text) = &mut text {
                text.push(doc.tenant, doc.text())?;
            }
            Ok(())
        })?;
        writer.section("rows")?;
        writer.write_values(&[range.start().0, range.end().0])?;
        let rows: Vec<u64> = order.rows.iter().map(|row| row.0).collect();
        writer.write_values(&rows)?;
        writer.section("tenants")?;
        let tenants: Vec<u32> = order.tenants.iter().flat_map(|(tenant, start)| [tenant.0, *start]).collect();
        writer.write_values(&tenants)?;
        if let Some(by_row) = order.by_row() {
            writer.section(BY_ROW)?;
            writer.write_values(&by_row)?;
        }
        let labels = match self.plan.merge {
            Some(merge) => merge.labels(&self.order),
            None => Labels::of(labels, self.order.len() as u32),
        };
        if let Some(labels) = labels {
            writer.section(LABELS)?;
            writer.write(&labels.encode())?;
        }
        if let Some(keys) = keys {
            writer.section(keys::SECTION)?;
            writer.write(&keys.encode())?;
        }
        duplicates.map_or(Ok(()), |duplicates| duplicates.write(writer))?;
        for (at, (builder, field)) in builders.into_iter().zip(&schema.fields).enumerate() {
            let bytes = match builder {
                FieldBuilder::None | FieldBuilder::Dense(_) => continue,
                FieldBuilder::Sparse(builder) => builder.finish().encode(),
                FieldBuilder::Payload(builder) => builder.finish().encode(),
            };
            if let Some(name) = section_name(&field.kind, at) {
                writer.section(&name)?;
                writer.write(&bytes)?;
            }
        }
        if let Some(text) = text {
            for (name, bytes) in text.finish()? {
                writer.section(&format!("{TEXT_PREFIX}{name}"))?;
                writer.write(&bytes)?;
            }
        }
        Ok(())
    }

    fn write_dense(
        &mut self,
        spec: &DenseSpec,
        writer: &mut SegmentWriter,
        id: FieldId,
    ) -> Result<Option<WarmField>> {
        let (plan, docs) = (self.plan, self.order.len() as u32);
        let row_bytes = u64::from(spec.dim) * spec.element.bytes() as u64;
        let fits = ssd::build_bytes(spec, docs) + u64::from(docs) * row_bytes <= plan.memory_bytes;
        let cells = plan.cells && wants_cells(spec, docs);
        if let Some(merge) = plan.merge.filter(|_| cells && !fits)
            && self.write_streamed(spec, writer, id, merge)?
        {
            return Ok(None);
        }
        let (mut builder, mut coded) = (FlatBuilder::new(spec)?, Coded::new(plan.coded, id));
        builder.reserve(docs);
        match &plan.merge {
            Some(merge) => merge.copy_vectors(id, &mut builder)?,
            None => self.each(&FieldSet::of([id]), &mut |doc| match doc.value(id) {
                Some(IndexValue::Dense(vector)) => {
                    coded.push(&doc);
                    builder.push(Some(vector))
                }
                _ => builder.push(None),
            })?,
        }
        let (vectors, at) = (builder.vectors(), usize::from(id.0));
        let places = match plan.merge {
            Some(_) => {
                let (places, present) = in_order(&self.order, builder.present());
                builder.permute(&places, present);
                places
            }
            None => (0..vectors).collect(),
        };
        let (mut built, mut codes) = (None, None);
        if cells && fits && wants_cells(spec, vectors) {
            let cells = {
                let rows = |at: usize, out: &mut [f32]| builder.rows(at, out);
                self.build_cells((id, spec), (&rows, builder.present(), &places))?
            };
            if let Some((order, present)) = self.follow(&cells, builder.present()) {
                builder.permute(&order, present);
            }
            write_section(writer, &cells_name(at), |section| cells.write(section))?;
            built = Some(cells).filter(Built::is_at_hand);
        } else if signs::has_signs(spec, vectors) {
            let rows = |at: usize, out: &mut [f32]| builder.rows(at, out);
            // Beside a graph, too: they serve where memory has no room for that.
            let signs = signs::Codes::encode(spec, &rows, vectors, coded.before());
            write_section(writer, &signs_name(at), |section| signs.write(section))?;
            codes = Some(signs);
        }
        if plan.cells && hnsw::has_graph(spec, vectors) {
            let rows = |at: usize, out: &mut [f32]| builder.rows(at, out);
            let graph = hnsw::build(spec, &rows, vectors, self.room().threads);
            write_section(writer, &graph_name(at), |section| graph.write(section))?;
        }
        write_section(writer, &format!("dense/{at}"), |section| builder.write(section))?;
        Ok(Some(WarmField { vectors: builder, cells: built, signs: codes }))
    }

    /// A merge of more vectors than there is memory for; says whether they get cells, and nothing is written
    /// otherwise.
    fn write_streamed(
        &mut self,
        spec: &DenseSpec,
        writer: &mut SegmentWriter,
        id: FieldId,
        merge: Merge<'_>,
    ) -> Result<bool> {
        let (mut streamed, at) = (merge.streamed(id, spec)?, usize::from(id.0));
        if !wants_cells(spec, streamed.vectors()) {
            return Ok(false);
        }
        let (places, present) = in_order(&self.order, streamed.present());
        streamed.permute(&places, present);
        let cells = {
            let rows = |at: usize, out: &mut [f32]| streamed.rows(at, out);
            self.build_cells((id, spec), (&rows, streamed.present(), &places))
        };
        // What could not be read explains everything else.
        let cells = streamed.check().and(cells)?;
        if let Some((order, present)) = self.follow(&cells, streamed.present()) {
            streamed.permute(&order, present);
        }
        write_section(writer, &cells_name(at), |section| cells.write(section))?;
        let written = write_section(writer, &format!("dense/{at}"), |section| streamed.write(section));
        streamed.check().and(written)?;
        Ok(true)
    }

    /// Builds the cells of a field, whose vectors are those of the docs `present`; see [`Plan::build_cells`].
    fn build_cells(
        &self,
        field: (FieldId, &DenseSpec),
        (rows, present, places): (Rows<'_>, &[DocId], &[u32]),
    ) -> Result<Built> {
        let tenant = |doc: &DocId| self.docs.ids[self.order[*doc as usize] as usize].0;
        let mut tenants = Vec::new();
        let mut first = 0;
        for of in present.chunk_by(|a, b| tenant(a) == tenant(b)) {
            tenants.push(first);
            first += of.len() as u32;
        }
        let (count, ordered) = (present.len() as u32, self.ordered);
        let vectors = ssd::Vectors { rows, count, tenants: &tenants, ordered };
        self.plan.build_cells(field, (vectors, places), self.room())
    }

    /// Puts docs into the order of cells that were built over those that are `present`; returns the places
    /// that vectors had, and the docs that have one then. None where all stays as it is.
    fn follow(&mut self, cells: &Built, present: &[DocId]) -> Option<(Vec<u32>, Vec<DocId>)> {
        let vectors = present.len() as u32;
        let order = match cells.order() {
            Some(order) => order.to_vec(),
            // Docs without a vector may have to move.
            None if self.ordered && present.len() < self.order.len() => (0..vectors).collect(),
            None => return None,
        };
        let is_present: RoaringBitmap = present.iter().copied().collect();
        let mut docs: Vec<u32> = order.iter().map(|place| present[*place as usize]).collect();
        // Docs without a vector come last in their tenant.
        docs.extend((0..self.order.len() as u32).filter(|doc| !is_present.contains(*doc)));
        docs.sort_by_key(|doc| self.docs.ids[self.order[*doc as usize] as usize].0);
        let now = (0..).zip(&docs).filter(|(_, doc)| is_present.contains(**doc)).map(|(now, _)| now);
        let now = now.collect();
        self.order = docs.iter().map(|doc| self.order[*doc as usize]).collect();
        Some((order, now))
    }

    fn room(&self) -> Room<'_> {
        let threads = crate::parallel::threads(self.plan.threads);
        Room { threads, memory_bytes: self.plan.memory_bytes, folder: self.folder }
    }
}

/// The places among vectors of `present` docs, in the order of all docs; and which of those then have one.
fn in_order(order: &[u32], present: &[DocId]) -> (Vec<u32>, Vec<DocId>) {
    let docs = (0..).zip(order);
    docs.filter_map(|(doc, at)| Some((present.binary_search(at).ok()? as u32, doc))).unzip()
}

/// Whether so many vectors of a field are worth cells.
fn wants_cells(spec: &DenseSpec, vectors: u32) -> bool {
    spec.index == IndexKind::Auto && vectors >= ssd::VECTORS_MIN
}

/// The section that makes searches of so many vectors fast and that a segment may lack.
pub(super) fn wanted(spec: &DenseSpec, vectors: u32, id: usize) -> Option<String> {
    if hnsw::has_graph(spec, vectors) {
        return Some(graph_name(id));
    }
    wants_cells(spec, vectors).then(|| cells_name(id))
}

fn write_section(
    writer: &mut SegmentWriter,
    name: &str,
    write: impl FnOnce(&mut SectionBytes<'_>) -> std::io::Result<()>,
) -> Result<()> {
    writer.section(name)?;
    let mut section = SectionBytes { writer, failure: None };
    match (write(&mut section), section.failure) {
        (_, Some(failure)) => Err(failure.into()),
        (Err(error), None) => Err(spandrel_storage::Error::io("write", Path::new(name), error).into()),
        (Ok(()), None) => Ok(()),
    }
}

/// The section being written, as a stream; keeps the failure that a stream's error cannot carry.
struct SectionBytes<'a> {
    writer: &'a mut SegmentWriter,
    failure: Option<spandrel_storage::Error>,
}

impl std::io::Write for SectionBytes<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.writer.write(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(failure) => {
                self.failure = Some(failure);
                Err(std::io::ErrorKind::Other.into())
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
