//! What a segment is merged from: vectors are taken from its inputs as they are stored there.
//!
//! A merge that has the memory copies them all at once. One that has not ([`Streamed`]) reads them again
//! for every pass over them, a few at a time and in order: from disk, or from an input that has them in
//! memory.

use std::io::{self, Write};

use spandrel_storage::{DenseSpec, DocId, FieldId, LabelId};

use super::Segment;
use crate::dense::flat::{AppendBuffers, FirstFailure, FlatBuilder};
use crate::dense::{Flat, ssd};
use crate::error::Result;
use crate::labels::{self, Labels, Overlay};
use crate::pace;

/// Vectors copied between two looks at the [pace](crate::pace).
const COPY_DOCS: usize = 16_384;

/// The inputs of a merge.
#[derive(Clone, Copy)]
pub struct Merge<'a> {
    /// The segments.
    pub inputs: &'a [&'a Segment],
    /// The input and the doc there of every doc, by its position; the docs of an input ascend.
    pub places: &'a [(u32, DocId)],
    /// What has changed of the labels of each input.
    pub overlays: &'a [&'a Overlay],
    /// Whether a label is still there.
    pub has_label: &'a dyn Fn(LabelId) -> bool,
}

impl<'a> Merge<'a> {
    /// Takes the vectors of a field.
    pub(super) fn copy_vectors(&self, id: FieldId, builder: &mut FlatBuilder) -> Result<()> {
        let mut buffers = AppendBuffers::default();
        self.each_run(|input, docs| match self.flat(input, id) {
            Some(flat) => builder.append(flat, docs, &mut buffers),
            None => docs.iter().try_for_each(|_| builder.push(None)),
        })
    }

    /// The vectors of a field, to be read when they are needed.
    pub(super) fn streamed(&self, id: FieldId, spec: &DenseSpec) -> Result<Streamed<'a>> {
        let (mut docs, mut places) = (FlatBuilder::new(spec)?, Vec::new());
        self.each_run(|input, of| match self.flat(input, id) {
            Some(flat) => {
                places.extend(docs.append_docs(flat, of)?.into_iter().map(|ordinal| (input, ordinal)));
                Ok(())
            }
            None => of.iter().try_for_each(|_| docs.push(None)),
        })?;
        let flats = (0..self.inputs.len() as u32).map(|input| self.flat(input, id)).collect();
        Ok(Streamed { spec: spec.clone(), flats, docs, places, failure: FirstFailure::default() })
    }

    /// The place that every vector of a field has in one of the inputs, or none, by its position.
    pub(super) fn positions(&self, id: FieldId, of: u32) -> Vec<u32> {
        let mut positions = Vec::with_capacity(self.places.len());
        for run in self.places.chunk_by(|a, b| a.0 == b.0) {
            let Some(flat) = self.flat(run[0].0, id) else { continue };
            let here = flat.positions(run.iter().map(|(_, doc)| *doc)).flatten();
            positions.extend(here.map(|position| if run[0].0 == of { position } else { ssd::NONE }));
        }
        positions
    }

    /// The labels of docs, which are in this order.
    pub(super) fn labels(&self, order: &[u32]) -> Option<Labels> {
        let mut docs: Vec<Vec<DocId>> =
            self.inputs.iter().map(|input| vec![labels::NONE; input.docs() as usize]).collect();
        for (doc, at) in (0..).zip(order) {
            let (input, old) = self.places[*at as usize];
            docs[input as usize][old as usize] = doc;
        }
        let each = self.inputs.iter().zip(self.overlays).zip(docs);
        let sources: Vec<labels::Source<'_>> = each
            .map(|((input, overlay), docs)| labels::Source { labels: input.labels(), overlay, docs })
            .collect();
        labels::merged(&sources, self.has_label, order.len() as u32)
    }

    fn flat(&self, input: u32, id: FieldId) -> Option<&'a Flat> {
        self.inputs[input as usize].dense(id).map(|index| index.flat())
    }

    /// Calls `each` with an input and docs there, in doc order.
    fn each_run(&self, mut each: impl FnMut(u32, &[DocId]) -> Result<()>) -> Result<()> {
        let (mut docs, mut next) = (Vec::new(), vec![0; self.inputs.len()]);
        for (input, doc) in self.places {
            // One that is passed over would be lost in silence.
            assert!(*doc >= next[*input as usize], "docs of an input ascend");
            next[*input as usize] = doc + 1;
        }
        for run in self.places.chunk_by(|a, b| a.0 == b.0).flat_map(|run| run.chunks(COPY_DOCS)) {
            pace::breathe();
            docs.clear();
            docs.extend(run.iter().map(|(_, doc)| *doc));
            each(run[0].0, &docs)?;
        }
        Ok(())
    }
}

/// Vectors of a field that stay in the inputs.
pub(super) struct Streamed<'a> {
    spec: DenseSpec,
    flats: Vec<Option<&'a Flat>>,
    /// Which docs have a vector.
    docs: FlatBuilder,
    /// The input and the position there of every vector.
    places: Vec<(u32, u32)>,
    /// The first failure to read one.
    failure: FirstFailure,
}

impl Streamed<'_> {
    pub(super) fn vectors(&self) -> u32 {
        self.places.len() as u32
    }

    /// Fills `out` with vectors from `first` on: zeros where one cannot be read, which
    /// [`check`](Self::check) tells.
    pub(super) fn rows(&self, first: usize, out: &mut [f32]) {
        let dim = self.spec.dim as usize;
        let (mut out, mut ordinals) = (out, Vec::new());
        let wanted = &self.places[first..first + out.len() / dim];
        for run in wanted.chunk_by(|a, b| a.0 == b.0 && a.1 < b.1) {
            let (here, rest) = out.split_at_mut(run.len() * dim);
            out = rest;
            ordinals.clear();
            ordinals.extend(run.iter().map(|(_, ordinal)| *ordinal));
            let Some(flat) = self.flats[run[0].0 as usize] else { continue };
            self.failure.rows(flat, &ordinals, here);
        }
    }

    /// Whether all vectors that were asked for could be read.
    pub(super) fn check(&self) -> Result<()> {
        self.failure.check()
    }

    /// Puts the vectors into another order, given by the positions that they have; `present` are then the
    /// docs that have one.
    pub(super) fn permute(&mut self, order: &[u32], present: Vec<DocId>) {
        self.places = order.iter().map(|at| self.places[*at as usize]).collect();
        self.docs.permute(order, present);
    }

    /// The docs that have a vector.
    pub(super) fn present(&self) -> &[DocId] {
        self.docs.present()
    }

    /// Writes the section of the vectors; [`check`](Self::check) tells when they could not be read.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        self.docs.write_head(out)?;
        let (mut buffers, mut ordinals) = (AppendBuffers::default(), Vec::new());
        let runs = self.places.chunk_by(|a, b| a.0 == b.0 && a.1 < b.1);
        for run in runs.flat_map(|run| run.chunks(COPY_DOCS)) {
            pace::breathe();
            let Some(flat) = self.flats[run[0].0 as usize] else { continue };
            ordinals.clear();
            ordinals.extend(run.iter().map(|(_, ordinal)| *ordinal));
            let read = FlatBuilder::new(&self.spec).and_then(|mut part| {
                part.append_vectors(flat, &ordinals, &mut buffers)?;
                Ok(part)
            });
            match read {
                Ok(part) => part.write_vectors(out)?,
                Err(error) => {
                    self.failure.note(error);
                    return Err(io::ErrorKind::Other.into());
                }
            }
        }
        Ok(())
    }
}
