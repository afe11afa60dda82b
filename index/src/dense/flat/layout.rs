//! The bytes of a flat section.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `SPNDFLAT` |
//! | 8 | 2 | layout version, 2 |
//! | 10 | 1 | element: 0 f32, 1 f16, 2 i8 |
//! | 11 | 1 | metric: 0 L2, 1 inner product, 2 cosine |
//! | 12 | 4 | dimension |
//! | 16 | 4 | docs of the segment |
//! | 20 | 4 | vectors: docs that have one |
//! | 24 | 40 | zeros |
//! | 64 | 4 x vectors | docs of the vectors, strictly ascending; left out when every doc has a vector |
//! | then | 4 x vectors | norms, f32: squared under L2, of f16 and i8 under cosine; left out otherwise |
//! | then | to 4096 | zeros |
//! | then | dim x vectors x element | vectors in doc order, row after row |
//!
//! Everything is little-endian. A vector of a cosine field is normalised (f32, f16) or as sent (i8); rounding
//! to f16 changes its norm again, which is why that is kept. Version 1 kept none for f16 and is refused. The
//! section ends with the last vector. Checksums are the segment file's business; still no bytes make the
//! reader panic, and lengths are compared with the section's before anything is allocated.

use std::sync::Arc;

use spandrel_storage::codec::{Decoder, Encoder, Truncated};
use spandrel_storage::{DenseSpec, Element, Metric};

use crate::dense::vectors::{ChunkSource, PAGE_BYTES};
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"SPNDFLAT";
const VERSION: u16 = 2;
/// Bytes before the first list.
pub(super) const HEADER_BYTES: u64 = 64;
/// Bytes of the lists read at once.
const READ_BYTES_MAX: usize = 1 << 20;

/// What a flat section holds and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) element: Element,
    pub(super) metric: Metric,
    pub(super) dim: u32,
    pub(super) docs: u32,
    pub(super) vectors: u32,
}

impl Layout {
    /// Whether a norm is kept for each vector.
    pub(super) fn has_norms(element: Element, metric: Metric) -> bool {
        match metric {
            Metric::L2 => true,
            Metric::Ip => false,
            Metric::Cosine => element != Element::F32,
        }
    }

    /// Whether every doc has a vector, so that a doc is its own ordinal.
    pub(super) fn is_complete(&self) -> bool {
        self.vectors == self.docs
    }

    /// Bytes of the list of docs.
    pub(super) fn docs_bytes(&self) -> u64 {
        if self.is_complete() { 0 } else { 4 * u64::from(self.vectors) }
    }

    /// Bytes of the list of norms.
    pub(super) fn norms_bytes(&self) -> u64 {
        if Self::has_norms(self.element, self.metric) { 4 * u64::from(self.vectors) } else { 0 }
    }

    /// Where the vectors start.
    pub(super) fn vectors_at(&self) -> u64 {
        (HEADER_BYTES + self.docs_bytes() + self.norms_bytes()).next_multiple_of(PAGE_BYTES)
    }

    /// Bytes of the whole section; `None` when that is more than a `u64` holds.
    pub(super) fn bytes(&self) -> Option<u64> {
        let vector = u64::from(self.dim).checked_mul(self.element.bytes() as u64)?;
        vector.checked_mul(u64::from(self.vectors))?.checked_add(self.vectors_at())
    }

    /// The header.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut header = Encoder::with_capacity(HEADER_BYTES as usize);
        header.raw(MAGIC).u16(VERSION);
        header.u8(match self.element {
            Element::F32 => 0,
            Element::F16 => 1,
            Element::I8 => 2,
        });
        header.u8(match self.metric {
            Metric::L2 => 0,
            Metric::Ip => 1,
            Metric::Cosine => 2,
        });
        header.u32(self.dim).u32(self.docs).u32(self.vectors);
        let mut header = header.finish();
        header.resize(HEADER_BYTES as usize, 0);
        header
    }

    /// Reads the header of `section` and checks it against the section's length and the field.
    pub(super) fn read(section: &str, spec: &DenseSpec, source: &dyn ChunkSource) -> Result<Self> {
        let damaged = |what: String| Error::Section { section: section.to_owned(), what };
        if source.bytes() < HEADER_BYTES {
            return Err(damaged(format!("{} bytes are no header of {HEADER_BYTES}", source.bytes())));
        }
        let mut header = [0; HEADER_BYTES as usize];
        source.read(0, &mut header)?;
        let layout = Self::decode(&header)
            .map_err(|truncated| damaged(truncated.to_string()))?
            .ok_or_else(|| damaged("its header is not that of a flat index of this version".into()))?;
        if (layout.element, layout.metric, layout.dim) != (spec.element, spec.metric, spec.dim) {
            return Err(damaged(format!(
                "it holds {:?} vectors of {} dimensions under {:?}, the field has {:?}, {} and {:?}",
                layout.element, layout.dim, layout.metric, spec.element, spec.dim, spec.metric
            )));
        }
        if layout.dim == 0 || layout.vectors > layout.docs || layout.bytes() != Some(source.bytes()) {
            return Err(damaged(format!(
                "{} vectors of {} docs in {} dimensions do not fill its {} bytes",
                layout.vectors,
                layout.docs,
                layout.dim,
                source.bytes()
            )));
        }
        Ok(layout)
    }

    /// `None` for another magic, version, element or metric.
    fn decode(header: &[u8]) -> Result<Option<Self>, Truncated> {
        let mut header = Decoder::new(header);
        let ours = header.take(MAGIC.len(), "magic")? == MAGIC && header.u16("version")? == VERSION;
        let element =
            [Element::F32, Element::F16, Element::I8].get(usize::from(header.u8("element")?)).copied();
        let metric = [Metric::L2, Metric::Ip, Metric::Cosine].get(usize::from(header.u8("metric")?)).copied();
        let (dim, docs, vectors) = (header.u32("dimension")?, header.u32("docs")?, header.u32("vectors")?);
        Ok(match (ours, element, metric) {
            (true, Some(element), Some(metric)) => Some(Self { element, metric, dim, docs, vectors }),
            _ => None,
        })
    }
}

/// Reads `bytes` bytes of 4-byte values from `at`.
pub(super) fn read_list<V>(
    source: &Arc<dyn ChunkSource>,
    at: u64,
    bytes: u64,
    value: impl Fn([u8; 4]) -> V,
) -> Result<Vec<V>> {
    let mut values = Vec::with_capacity(bytes as usize / 4);
    let mut buffer = Vec::new();
    let mut done = 0;
    while done < bytes {
        buffer.resize((bytes - done).min(READ_BYTES_MAX as u64) as usize, 0);
        source.read(at + done, &mut buffer)?;
        values.extend(buffer.as_chunks::<4>().0.iter().map(|four| value(*four)));
        done += buffer.len() as u64;
    }
    Ok(values)
}
