//! Collects the vectors of a segment's docs, in doc order, into a [`Flat`] in memory or the bytes of a
//! section.
//!
//! Time `O(dim)` and memory `dim x element` a vector. What is stored is decided here: rounding to f16,
//! normalising under cosine, norms; both forms of the result hold the same values.

use std::io;

use half::f16;
use half::slice::HalfFloatSliceExt;
use parking_lot::Mutex;
use spandrel_storage::schema::DIM_MAX;
use spandrel_storage::{DenseSpec, DocId, Element, Metric};

use super::layout::{HEADER_BYTES, Layout};
use super::{AnyVectors, Flat, Places};
use crate::counters::Counters;
use crate::dense::vectors::{Stored, VectorBuffers, Vectors};
use crate::error::{Error, Result};
use crate::large::Large;
use crate::simd::{self, Element as _};

/// Bytes encoded at once when a section is written.
const WRITE_VALUES: usize = 64 << 10;

/// Vectors copied at once, and those between two wanted ones that are read along.
const COPY_ROWS: usize = 512;
const GAP_MAX: u32 = 16;

/// Buffers of [`FlatBuilder::append`].
#[derive(Default)]
pub struct AppendBuffers {
    vectors: VectorBuffers,
    counters: Counters,
}

/// Vectors on their way into a flat index.
pub struct FlatBuilder {
    spec: DenseSpec,
    values: Values,
    docs: u32,
    /// Docs that have a vector.
    present: Vec<DocId>,
    norms: Vec<f32>,
}

enum Values {
    F32(Large<f32>),
    F16(Large<f16>),
    I8(Large<i8>),
}

impl FlatBuilder {
    /// A builder for a dense field.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the dimension is 0 or more than [`DIM_MAX`].
    pub fn new(spec: &DenseSpec) -> Result<Self> {
        if spec.dim == 0 || spec.dim > DIM_MAX {
            return Err(Error::Invalid(format!("dimension {} is outside 1..={DIM_MAX}", spec.dim)));
        }
        Ok(Self {
            spec: spec.clone(),
            values: match spec.element {
                Element::F32 => Values::F32(Large::default()),
                Element::F16 => Values::F16(Large::default()),
                Element::I8 => Values::I8(Large::default()),
            },
            docs: 0,
            present: Vec::new(),
            norms: Vec::new(),
        })
    }

    /// Makes room for the vectors of so many docs more.
    pub fn reserve(&mut self, docs: u32) {
        let more = docs as usize * self.spec.dim as usize;
        match &mut self.values {
            Values::F32(values) => values.reserve(more),
            Values::F16(values) => values.reserve(more),
            Values::I8(values) => values.reserve(more),
        }
    }

    /// Bytes of memory that its vectors take.
    pub(crate) fn memory_bytes(&self) -> usize {
        match &self.values {
            Values::F32(values) => values.bytes(),
            Values::F16(values) => values.bytes(),
            Values::I8(values) => values.bytes(),
        }
    }

    /// The field.
    pub fn spec(&self) -> &DenseSpec {
        &self.spec
    }

    /// Docs pushed so far, with a vector or without.
    pub fn docs(&self) -> u32 {
        self.docs
    }

    /// Vectors pushed so far.
    pub fn vectors(&self) -> u32 {
        self.present.len() as u32
    }

    /// Vectors from `first` of those pushed on, as they are stored: as many as `out` has room for.
    ///
    /// # Panics
    /// When there are not that many.
    pub fn rows(&self, first: usize, out: &mut [f32]) {
        let start = first * self.spec.dim as usize;
        let range = start..start + out.len();
        match &self.values {
            Values::F32(values) => out.copy_from_slice(&values[range]),
            Values::F16(values) => values[range].convert_to_f32_slice(out),
            Values::I8(values) => {
                out.iter_mut().zip(&values[range]).for_each(|(out, v)| *out = f32::from(*v))
            }
        }
    }

    /// Adds the next doc, with its vector as the user sent it or without one.
    ///
    /// # Errors
    /// [`Error::Invalid`], with the builder unchanged, when the vector has another dimension, a value that is
    /// not finite or that the element cannot hold, or is zero under cosine.
    pub fn push(&mut self, vector: Option<&[f32]>) -> Result<()> {
        let Some(vector) = vector else {
            return self.add_doc(false);
        };
        self.check(vector)?;
        let cosine = self.spec.metric == Metric::Cosine;
        let scale = if cosine && self.spec.element != Element::I8 { simd::norm(vector) } else { 1.0 };
        let has_norm = Layout::has_norms(self.spec.element, self.spec.metric);
        let norm_squared = match &mut self.values {
            Values::F32(values) => append(values, vector, scale, has_norm),
            Values::F16(values) => append(values, vector, scale, has_norm),
            Values::I8(values) => append(values, vector, scale, has_norm),
        };
        if let Some(norm_squared) = norm_squared {
            self.norms.push(if cosine { norm_squared.sqrt() } else { norm_squared } as f32);
        }
        self.add_doc(true)
    }

    /// Adds docs of another index over the same field, ascending, with their vectors as it stores them.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there are too many docs; a storage error when the vectors cannot be read. Some
    /// of the docs are then added.
    ///
    /// # Panics
    /// When the two are not of one field, or a doc is not of `flat`.
    pub fn append(&mut self, flat: &Flat, docs: &[DocId], buffers: &mut AppendBuffers) -> Result<()> {
        let ordinals = self.append_docs(flat, docs)?;
        self.append_vectors(flat, &ordinals, buffers)
    }

    /// Adds vectors of another index over the same field, at ascending positions, as it stores them. Nothing
    /// is known of their docs: no more can be done with the builder, unless it is told of them too, than
    /// [`write_vectors`](Self::write_vectors).
    ///
    /// # Errors
    /// A storage error when the vectors cannot be read.
    ///
    /// # Panics
    /// When the two are not of one field, or `flat` has not as many vectors.
    pub fn append_vectors(
        &mut self,
        flat: &Flat,
        ordinals: &[u32],
        buffers: &mut AppendBuffers,
    ) -> Result<()> {
        match (&mut self.values, &flat.vectors) {
            (Values::F32(values), AnyVectors::F32(vectors)) => {
                each_of(vectors, ordinals, buffers, |row| values.extend(row.iter().copied()))
            }
            (Values::F16(values), AnyVectors::F16(vectors)) => {
                each_of(vectors, ordinals, buffers, |row| values.extend(row.iter().copied()))
            }
            (Values::I8(values), AnyVectors::I8(vectors)) => {
                each_of(vectors, ordinals, buffers, |row| values.extend(row.iter().copied()))
            }
            _ => panic!("both are of one field"),
        }
    }

    /// Puts the vectors into another order, given by the positions that they have; `present` are then the
    /// docs that have one.
    ///
    /// # Panics
    /// When a position is named twice or not at all, or there are not as many docs.
    pub fn permute(&mut self, order: &[u32], present: Vec<DocId>) {
        assert!(
            order.len() == self.present.len() && present.len() == order.len(),
            "a place for every vector"
        );
        let dim = self.spec.dim as usize;
        match &mut self.values {
            // Vectors that are elsewhere are put in order there.
            Values::F32(values) if !values.is_empty() => permute_rows(values, dim, order),
            Values::F16(values) if !values.is_empty() => permute_rows(values, dim, order),
            Values::I8(values) if !values.is_empty() => permute_rows(values, dim, order),
            _ => {}
        }
        if !self.norms.is_empty() {
            permute_rows(&mut self.norms, 1, order);
        }
        self.present = present;
    }

    /// The docs that have a vector.
    pub fn present(&self) -> &[DocId] {
        &self.present
    }

    /// The same without their vectors, whose positions in `flat` it returns: those have to be written
    /// from elsewhere, and no more can be done with the builder than [`write_head`](Self::write_head).
    ///
    /// # Errors
    /// [`Error::Invalid`] when there are too many docs.
    pub fn append_docs(&mut self, flat: &Flat, docs: &[DocId]) -> Result<Vec<u32>> {
        let mut places = Places::new(flat);
        let mut ordinals = Vec::with_capacity(docs.len());
        for doc in docs {
            let ordinal = places.next(*doc);
            self.norms.extend(ordinal.and_then(|ordinal| flat.norms.get(ordinal as usize)));
            self.add_doc(ordinal.is_some())?;
            ordinals.extend(ordinal);
        }
        Ok(ordinals)
    }

    fn add_doc(&mut self, present: bool) -> Result<()> {
        let next = self.docs.checked_add(1);
        let next = next.ok_or_else(|| Error::Invalid("a segment has at most 4,294,967,295 docs".into()))?;
        if present {
            self.present.push(self.docs);
        }
        self.docs = next;
        Ok(())
    }

    fn check(&self, vector: &[f32]) -> Result<()> {
        let invalid = |what: String| Err(Error::Invalid(what));
        if self.docs == u32::MAX {
            return invalid("a segment has at most 4,294,967,295 docs".into());
        }
        if vector.len() != self.spec.dim as usize {
            return invalid(format!(
                "the vector has {} dimensions, the field has {}",
                vector.len(),
                self.spec.dim
            ));
        }
        for (at, value) in vector.iter().enumerate() {
            let (holds, needs) = match self.spec.element {
                _ if !value.is_finite() => (false, "a finite number"),
                Element::F32 => (true, ""),
                // Under cosine values are normalised before they are rounded.
                Element::F16 if self.spec.metric == Metric::Cosine => (true, ""),
                Element::F16 => (f16::from_f32(*value).is_finite(), "within -65504..=65504 (f16)"),
                Element::I8 => {
                    (value.trunc() == *value && value.abs() <= 127.0, "an integer in -127..=127 (i8)")
                }
            };
            if !holds {
                return invalid(format!("value {at} of the vector is {value}, it must be {needs}"));
            }
        }
        if self.spec.metric == Metric::Cosine && vector.iter().all(|value| *value == 0.0) {
            return invalid("a vector of zeros has no direction to compare by cosine".into());
        }
        Ok(())
    }

    fn layout(&self) -> Layout {
        Layout {
            element: self.spec.element,
            metric: self.spec.metric,
            dim: self.spec.dim,
            docs: self.docs,
            vectors: self.present.len() as u32,
        }
    }

    /// The index, in memory.
    pub fn finish(mut self) -> Flat {
        let layout = self.layout();
        let (dim, count) = (layout.dim as usize, layout.vectors);
        let mut present = if layout.is_complete() { Vec::new() } else { self.present };
        present.shrink_to_fit();
        self.norms.shrink_to_fit();
        let vectors = match self.values {
            Values::F32(values) => AnyVectors::F32(in_memory(values, dim, count)),
            Values::F16(values) => AnyVectors::F16(in_memory(values, dim, count)),
            Values::I8(values) => AnyVectors::I8(in_memory(values, dim, count)),
        };
        Flat::new(layout, present, self.norms, vectors)
    }

    /// Writes the section, in the byte layout at the head of `flat/layout.rs`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl io::Write) -> io::Result<()> {
        self.write_head(out)?;
        self.write_vectors(out)
    }

    /// Writes what comes before the vectors.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_head(&self, out: &mut impl io::Write) -> io::Result<()> {
        let layout = self.layout();
        out.write_all(&layout.encode())?;
        let mut bytes = Vec::new();
        if layout.docs_bytes() > 0 {
            bytes.extend(self.present.iter().flat_map(|doc| doc.to_le_bytes()));
        }
        f32::encode(&self.norms, &mut bytes);
        bytes.resize((layout.vectors_at() - HEADER_BYTES) as usize, 0);
        out.write_all(&bytes)
    }

    /// Writes the vectors.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_vectors(&self, out: &mut impl io::Write) -> io::Result<()> {
        let mut bytes = Vec::new();
        match &self.values {
            Values::F32(values) => write_values(values, &mut bytes, out),
            Values::F16(values) => write_values(values, &mut bytes, out),
            Values::I8(values) => write_values(values, &mut bytes, out),
        }
    }
}

impl Flat {
    /// The vectors at ascending positions, as f32.
    ///
    /// # Errors
    /// A storage error when they cannot be read.
    ///
    /// # Panics
    /// When there are not as many vectors, or `out` has no room for just those.
    fn rows(&self, ordinals: &[u32], out: &mut [f32], buffers: &mut AppendBuffers) -> Result<()> {
        let mut out = out.chunks_exact_mut(self.layout.dim as usize);
        assert_eq!(out.len(), ordinals.len(), "a row each");
        match &self.vectors {
            AnyVectors::F32(vectors) => each_of(vectors, ordinals, buffers, |row| widen(row, out.next())),
            AnyVectors::F16(vectors) => each_of(vectors, ordinals, buffers, |row| widen(row, out.next())),
            AnyVectors::I8(vectors) => each_of(vectors, ordinals, buffers, |row| widen(row, out.next())),
        }
    }
}

/// Reads vectors for those who cannot be told of a failure: the first one is kept.
#[derive(Default)]
pub(crate) struct FirstFailure(Mutex<Option<Error>>);

impl FirstFailure {
    /// As [`Flat::rows`]; zeros where they cannot be read.
    pub(crate) fn rows(&self, flat: &Flat, ordinals: &[u32], out: &mut [f32]) {
        if let Err(error) = flat.rows(ordinals, out, &mut AppendBuffers::default()) {
            out.fill(0.0);
            self.note(error);
        }
    }

    pub(crate) fn note(&self, error: Error) {
        self.0.lock().get_or_insert(error);
    }

    /// Whether there was none.
    pub(crate) fn check(&self) -> Result<()> {
        self.0.lock().take().map_or(Ok(()), Err)
    }
}

fn widen<T: Stored>(row: &[T], out: Option<&mut [f32]>) {
    out.into_iter().flatten().zip(row).for_each(|(out, value)| *out = value.to_f32());
}

/// Puts rows of `dim` values into another order where they lie, along its cycles.
fn permute_rows<T: Copy>(values: &mut [T], dim: usize, order: &[u32]) {
    assert_eq!(values.len(), order.len() * dim, "a row each");
    let mut moved = vec![false; order.len()];
    let mut held = Vec::with_capacity(dim);
    for start in 0..order.len() {
        let mut to = start;
        if moved[start] || order[start] as usize == start {
            continue;
        }
        held.clear();
        held.extend_from_slice(&values[start * dim..][..dim]);
        loop {
            moved[to] = true;
            let from = order[to] as usize;
            if from == start {
                values[to * dim..][..dim].copy_from_slice(&held);
                break;
            }
            assert!(!moved[from], "position {from} is named twice");
            values.copy_within(from * dim..(from + 1) * dim, to * dim);
            to = from;
        }
    }
}

/// Calls `each` with the vectors at ascending positions, as they are stored.
fn each_of<T: Stored>(
    vectors: &Vectors<T>,
    ordinals: &[u32],
    AppendBuffers { vectors: buffers, counters }: &mut AppendBuffers,
    mut each: impl FnMut(&[T]),
) -> Result<()> {
    // In one run each, dead vectors between live ones included: they are read in order.
    for chunk in ordinals.chunk_by(|a, b| b - a <= GAP_MAX) {
        for part in chunk.chunks(COPY_ROWS) {
            let (first, last) = (part[0], part[part.len() - 1]);
            for start in (first..=last).step_by(COPY_ROWS) {
                let window = start..(last + 1).min(start + COPY_ROWS as u32);
                let rows = vectors.window(window.clone(), buffers, counters)?;
                let inside = part.iter().filter(|ordinal| window.contains(ordinal));
                inside.for_each(|ordinal| each(rows.row((ordinal - start) as usize)));
            }
        }
    }
    Ok(())
}

/// Appends a vector, divided by `scale` and rounded to `T`; gives the squared norm of what was stored if it
/// is wanted.
fn append<T: Stored>(values: &mut Large<T>, vector: &[f32], scale: f64, has_norm: bool) -> Option<f64> {
    let start = values.len();
    if scale == 1.0 {
        values.extend(vector.iter().map(|value| T::from_f32(*value)));
    } else {
        values.extend(vector.iter().map(|value| T::from_f32((f64::from(*value) / scale) as f32)));
    }
    has_norm.then(|| simd::norm_squared(&values[start..]))
}

/// The vectors where they lie; only the room that the buffer grew by too much is given back.
fn in_memory<T: Stored>(mut values: Large<T>, dim: usize, count: u32) -> Vectors<T> {
    values.trim();
    Vectors::in_memory(values, dim, count)
}

fn write_values<T: Stored>(values: &[T], bytes: &mut Vec<u8>, out: &mut impl io::Write) -> io::Result<()> {
    for values in values.chunks(WRITE_VALUES) {
        bytes.clear();
        T::encode(values, bytes);
        out.write_all(bytes)?;
    }
    Ok(())
}
