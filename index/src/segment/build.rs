//! Builds a segment on disk: one file of named sections.
//!
//! | section | what |
//! |---|---|
//! | `rows` | first and last write covered, then the row of each doc, u64 each |
//! | `tenants` | (tenant, first doc) of each tenant, u32 each |
//! | `dense/N`, `sparse/N`, `payload/N` | the index of field N, in its own layout |
//! | `signs/N` | the sign codes of the vectors of field N, when there are enough of them and no cells |
//! | `cells/N` | the cells over the vectors of field N, when there are enough of them |
//! | `graph/N` | the graph over the vectors of field N, when it asks for one and there are enough of them |
//! | `text/FILE` | the files of the text index |
//!
//! Docs are read once for everything but dense fields, and once more for each of those, so that one field's
//! vectors are in memory at a time, and of those before it what [stays there](super::warm). A merge takes
//! vectors from its inputs instead.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use spandrel_storage::file::SegmentWriter;
use spandrel_storage::io::BatchRead;
use spandrel_storage::record::FieldSet;
use spandrel_storage::{DenseSpec, FieldId, FieldKind, IndexKind, RowId, Schema};

use super::coded::Coded;
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
use crate::text::TextBuilder;

/// What wrote the sections.
pub(super) const KIND: [u8; 4] = *b"SPSG";

/// Gives the docs of a segment, in doc order, with at least the wanted fields; the same docs each time it is
/// called.
pub type DocSource<'a> =
    &'a mut dyn FnMut(&FieldSet, &mut dyn FnMut(Arc<IndexDoc>) -> Result<()>) -> Result<()>;

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

    /// Builds the cells of a field of so many vectors, of which `rows` gives those from a position on.
    fn build_cells(
        &self,
        (id, spec): (FieldId, &DenseSpec),
        (rows, count): (Rows<'_>, u32),
        room: Room<'_>,
    ) -> Result<Built> {
        let (trained, kept) = (self.trained(id)?, self.kept(id));
        let prior = trained.as_ref().map(|trained| ssd::Prior { trained, kept: kept.as_deref() });
        ssd::build(spec, rows, count, prior, room)
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
    /// What `source` fails with; [`Error::Storage`] when the file cannot be written, or inputs of a merge
    /// cannot be read; [`Error::Section`] when one of those is damaged; those of [`Segment::open`].
    pub fn create(
        indexer: &Indexer,
        (path, id): (&Path, u64),
        range: RangeInclusive<RowId>,
        plan: Plan<'_>,
        source: DocSource<'_>,
        (reader, memory): (&Arc<dyn BatchRead>, &Arc<MemoryBudget>),
    ) -> Result<Self> {
        let mut warm = Warm::with_room(memory.room_bytes());
        write(indexer, (path, id), range, plan, source, &mut warm)?;
        Self::open_warm(indexer, path, reader, memory, warm)
    }
}

/// Writes a segment file.
pub(super) fn write(
    indexer: &Indexer,
    (path, id): (&Path, u64),
    range: RangeInclusive<RowId>,
    plan: Plan<'_>,
    source: DocSource<'_>,
    warm: &mut Warm,
) -> Result<()> {
    let schema = indexer.schema();
    let mut writer = SegmentWriter::create(path, id, KIND)?;
    let docs = write_light(schema, &mut writer, &range, source)?;
    for (at, field) in schema.fields.iter().enumerate() {
        if let FieldKind::Dense(spec) = &field.kind {
            let id = FieldId(at as u16);
            if let Some(left) = write_dense(spec, &mut writer, id, (docs, plan, path.parent()), source)? {
                warm.keep(at, left);
            }
        }
    }
    writer.finish()?;
    Ok(())
}

/// Everything but dense fields, in one pass; returns how many docs there are.
fn write_light(
    schema: &Schema,
    writer: &mut SegmentWriter,
    range: &RangeInclusive<RowId>,
    source: DocSource<'_>,
) -> Result<u32> {
    let light = |kind: &FieldKind| !matches!(kind, FieldKind::Dense(_));
    let ids = schema.fields.iter().enumerate().filter(|(_, field)| light(&field.kind));
    let wanted = FieldSet::of(ids.map(|(at, _)| FieldId(at as u16)));
    let mut builders = schema
        .fields
        .iter()
        .map(|field| if light(&field.kind) { FieldBuilder::new(&field.kind) } else { Ok(FieldBuilder::None) })
        .collect::<Result<Vec<_>>>()?;
    let text_fields =
        schema.fields.iter().enumerate().filter(|(_, field)| matches!(field.kind, FieldKind::Text(_)));
    let text_fields: Vec<FieldId> = text_fields.map(|(at, _)| FieldId(at as u16)).collect();
    let mut text = if text_fields.is_empty() { None } else { Some(TextBuilder::new(&text_fields)?) };
    let mut order = Order::new();
    let mut keys = Some(Keys::default());
    source(&wanted, &mut |doc| {
        let at = u32::try_from(order.rows.len())
            .map_err(|_| Error::Invalid("a segment has at most 2^32 - 1 docs".into()))?;
        order.push(doc.tenant, doc.row);
        keys = keys.take().and_then(|mut keys| keys.push(doc.key.as_deref()?).then_some(keys));
        for (id, builder) in (0..).map(FieldId).zip(&mut builders) {
            builder.push(at, doc.value(id))?;
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
    if let Some(keys) = keys {
        writer.section(keys::SECTION)?;
        writer.write(&keys.encode())?;
    }
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
    Ok(order.rows.len() as u32)
}

fn write_dense(
    spec: &DenseSpec,
    writer: &mut SegmentWriter,
    id: FieldId,
    (docs, plan, folder): (u32, Plan<'_>, Option<&Path>),
    source: DocSource<'_>,
) -> Result<Option<WarmField>> {
    let room =
        Room { threads: crate::parallel::threads(plan.threads), memory_bytes: plan.memory_bytes, folder };
    let row_bytes = u64::from(spec.dim) * spec.element.bytes() as u64;
    let fits = ssd::build_bytes(spec, docs) + u64::from(docs) * row_bytes <= plan.memory_bytes;
    let cells = plan.cells && wants_cells(spec, docs);
    if let Some(merge) = plan.merge.filter(|_| cells && !fits)
        && write_streamed(spec, writer, id, (docs, plan, merge), room)?
    {
        return Ok(None);
    }
    let (mut builder, mut coded) = (FlatBuilder::new(spec)?, Coded::new(plan.coded, id));
    builder.reserve(docs);
    match &plan.merge {
        Some(merge) => merge.copy_vectors(id, &mut builder)?,
        None => source(&FieldSet::of([id]), &mut |doc| match doc.value(id) {
            Some(IndexValue::Dense(vector)) => {
                coded.push(&doc);
                builder.push(Some(vector))
            }
            _ => builder.push(None),
        })?,
    }
    check_docs(builder.docs(), docs)?;
    let (vectors, at) = (builder.vectors(), usize::from(id.0));
    write_section(writer, &format!("dense/{at}"), |section| builder.write(section))?;
    let rows = |at: usize, out: &mut [f32]| builder.rows(at, out);
    if plan.cells && hnsw::has_graph(spec, vectors) {
        let graph = hnsw::build(spec, &rows, vectors, room.threads);
        write_section(writer, &graph_name(at), |section| graph.write(section))?;
    }
    let (mut built, mut codes) = (None, None);
    if cells && fits && wants_cells(spec, vectors) {
        let cells = plan.build_cells((id, spec), (&rows, vectors), room)?;
        write_section(writer, &cells_name(at), |section| cells.write(section))?;
        built = Some(cells).filter(Built::is_at_hand);
    } else if signs::has_signs(spec, vectors) {
        // Beside a graph, too: they serve where memory has no room for that.
        let signs = signs::Codes::encode(spec, &rows, vectors, coded.before());
        write_section(writer, &signs_name(at), |section| signs.write(section))?;
        codes = Some(signs);
    }
    Ok(Some(WarmField { vectors: builder, cells: built, signs: codes }))
}

/// A merge of more vectors than there is memory for; says whether they get cells, and nothing is written
/// otherwise.
fn write_streamed(
    spec: &DenseSpec,
    writer: &mut SegmentWriter,
    id: FieldId,
    (docs, plan, merge): (u32, Plan<'_>, Merge<'_>),
    room: Room<'_>,
) -> Result<bool> {
    let (streamed, at) = (merge.streamed(id, spec)?, usize::from(id.0));
    check_docs(streamed.docs(), docs)?;
    if !wants_cells(spec, streamed.vectors()) {
        return Ok(false);
    }
    let written = write_section(writer, &format!("dense/{at}"), |section| streamed.write(merge, id, section));
    streamed.check().and(written)?;
    let rows = |at: usize, out: &mut [f32]| streamed.rows(at, out);
    let cells = plan.build_cells((id, spec), (&rows, streamed.vectors()), room);
    // What could not be read explains everything else.
    let cells = streamed.check().and(cells)?;
    write_section(writer, &cells_name(at), |section| cells.write(section))?;
    Ok(true)
}

fn check_docs(found: u32, docs: u32) -> Result<()> {
    match found == docs {
        true => Ok(()),
        false => Err(Error::Invalid(format!(
            "the second pass over the docs of a segment gave {found}, the first {docs}"
        ))),
    }
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
