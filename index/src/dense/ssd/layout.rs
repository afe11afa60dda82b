//! The bytes of the section that holds a field's cells.
//!
//! A header of one page, then parts that each begin at a page, in this order; numbers are little-endian.
//!
//! | part | what |
//! |---|---|
//! | mean | f32 a dimension of the space |
//! | axes | projection: `coded dims x dims` f32 |
//! | words | `lookups x width x 16` f32 |
//! | centroids | `cells x coded dims` f32 |
//! | radii | root mean squared distance of a cell's vectors from its centroid, f32 |
//! | starts | first block of each cell, and the end, u32 |
//! | groups | first cell of each group, and the end, u32 |
//! | partitions | first and end of the vectors, of the cells and of the groups of each, u32 |
//! | firsts | first vector of each cell, and the end of the last, u32; none where vectors are not in order |
//! | more axes | projection beyond the coded dimensions: `(halves - coded dims) x dims` f32 |
//! | steps | of `halves` half bytes, f32 |
//! | halves | `vectors` rows of [`halves`](super::halves) |
//! | refine | `vectors` rows of [`refine`](super::refine) |
//! | postings | blocks of [`nibble`](crate::simd::nibble), cell after cell; those it is the first of first |

use spandrel_storage::Metric;
use spandrel_storage::codec::{Decoder, Encoder, Truncated};

use super::calibration::Calibration;
use super::halves;
use super::refine;
use crate::dense::vectors::PAGE_BYTES;
use crate::simd::{HALF_GROUP, nibble};

const MAGIC: &[u8; 8] = b"SPCELLS\0";
const VERSION: u16 = 9;
pub(super) const HEADER_BYTES: u64 = PAGE_BYTES;

/// What the header says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layout {
    pub(super) metric: Metric,
    /// Whether the vectors of a cell lie side by side.
    pub(super) ordered: bool,
    pub(super) field_dim: u32,
    pub(super) vectors: u32,
    pub(super) cells: u32,
    pub(super) groups: u32,
    pub(super) partitions: u32,
    pub(super) lookups: u32,
    pub(super) width: u32,
    pub(super) blocks: u32,
    /// Values of a row of half bytes; 0 when there are none.
    pub(super) halves: u32,
    /// How many vectors axes, words and steps were learned from.
    pub(super) learned: u32,
    /// How many vectors the largest partition had when recall was measured on it.
    pub(super) measured: u32,
    /// Mean of the cells' squared radii when axes, words and steps were learned.
    pub(super) spread: f64,
    pub(super) scale: f64,
    pub(super) radius: f64,
    pub(super) query_norm: f64,
    pub(super) calibration: Calibration,
}

/// Parts after the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Mean,
    Axes,
    Words,
    Centroids,
    Radii,
    Starts,
    Groups,
    Partitions,
    Firsts,
    MoreAxes,
    Steps,
    Halves,
    Refine,
    Postings,
}

pub(super) const PARTS: [Part; 14] = [
    Part::Mean,
    Part::Axes,
    Part::Words,
    Part::Centroids,
    Part::Radii,
    Part::Starts,
    Part::Groups,
    Part::Partitions,
    Part::Firsts,
    Part::MoreAxes,
    Part::Steps,
    Part::Halves,
    Part::Refine,
    Part::Postings,
];

impl Layout {
    pub(super) fn dims(&self) -> usize {
        self.field_dim as usize + usize::from(self.metric == Metric::Ip)
    }

    pub(super) fn coded(&self) -> usize {
        (self.lookups * self.width) as usize
    }

    /// Bytes of a part.
    pub(super) fn bytes(&self, part: Part) -> u64 {
        let (dims, coded) = (self.dims() as u64, self.coded() as u64);
        let (cells, lookups) = (u64::from(self.cells), u64::from(self.lookups));
        match part {
            Part::Mean => 4 * dims,
            Part::Axes => 4 * dims * coded,
            Part::Words => 64 * coded,
            Part::Centroids => 4 * cells * coded,
            Part::Radii => 4 * cells,
            Part::Starts => 4 * (cells + 1),
            Part::Groups => 4 * (u64::from(self.groups) + 1),
            Part::Partitions => 24 * u64::from(self.partitions),
            Part::Firsts if !self.ordered => 0,
            Part::Firsts => 4 * (cells + 1),
            Part::MoreAxes => 4 * dims * u64::from(self.halves).saturating_sub(coded),
            Part::Steps => 4 * u64::from(self.halves),
            Part::Halves if self.halves == 0 => 0,
            Part::Halves => u64::from(self.vectors) * halves::stride(self.halves as usize) as u64,
            Part::Refine => u64::from(self.vectors) * refine::stride(self.field_dim as usize) as u64,
            Part::Postings => u64::from(self.blocks) * nibble::block_bytes(lookups as usize) as u64,
        }
    }

    /// Where a part begins.
    pub(super) fn at(&self, part: Part) -> u64 {
        let before = PARTS.iter().take_while(|other| **other != part);
        HEADER_BYTES + before.map(|part| self.bytes(*part).next_multiple_of(PAGE_BYTES)).sum::<u64>()
    }

    /// Bytes of the section.
    pub(super) fn section_bytes(&self) -> u64 {
        self.at(Part::Postings) + self.bytes(Part::Postings)
    }

    /// The header.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut header = Encoder::with_capacity(HEADER_BYTES as usize);
        header.raw(MAGIC).u16(VERSION);
        header.u8(match self.metric {
            Metric::L2 => 0,
            Metric::Ip => 1,
            Metric::Cosine => 2,
        });
        header.u8(u8::from(self.ordered));
        let sizes = [self.field_dim, self.vectors, self.cells, self.groups, self.partitions, self.lookups];
        let more = [self.width, self.blocks, self.halves, self.learned, self.measured];
        for value in sizes.into_iter().chain(more) {
            header.u32(value);
        }
        for value in [self.spread, self.scale, self.radius, self.query_norm] {
            header.u64(value.to_bits());
        }
        self.calibration.encode(&mut header);
        let mut header = header.finish();
        header.resize(HEADER_BYTES as usize, 0);
        header
    }

    /// Reads a header; what is wrong with it otherwise.
    pub(super) fn decode(header: &[u8]) -> Result<Self, String> {
        let layout = Self::fields(header).map_err(|truncated| truncated.to_string())?;
        let layout = layout.ok_or("its header is not that of cells of this version")?;
        let halves_range = layout.coded()..=layout.dims().max(layout.coded()) + HALF_GROUP;
        let fits = (1..=spandrel_storage::schema::DIM_MAX).contains(&layout.field_dim)
            && (1..=3).contains(&layout.width)
            && (nibble::GROUP..=nibble::LOOKUPS_MAX).contains(&(layout.lookups as usize))
            && (layout.lookups as usize).is_multiple_of(nibble::GROUP)
            && layout.cells <= layout.vectors
            && layout.groups <= layout.cells
            && layout.partitions <= layout.groups
            && (layout.partitions == 0) == (layout.cells == 0)
            && layout.blocks <= layout.vectors.saturating_mul(2)
            && [layout.scale, layout.query_norm].iter().all(|value| value.is_normal() && *value > 0.0)
            && (layout.halves == 0 || halves_range.contains(&(layout.halves as usize)))
            && (layout.halves as usize).is_multiple_of(HALF_GROUP)
            && layout.radius.is_finite()
            && layout.spread >= 0.0
            && layout.calibration.is_sound();
        if !fits {
            return Err(format!(
                "{} vectors in {} cells, {} blocks and {} lookups of {} dimensions do not go together",
                layout.vectors, layout.cells, layout.blocks, layout.lookups, layout.width
            ));
        }
        Ok(layout)
    }

    fn fields(header: &[u8]) -> Result<Option<Self>, Truncated> {
        let mut header = Decoder::new(header);
        let ours = header.take(MAGIC.len(), "magic")? == MAGIC && header.u16("version")? == VERSION;
        let metric = [Metric::L2, Metric::Ip, Metric::Cosine].get(usize::from(header.u8("metric")?)).copied();
        let ordered = match header.u8("order")? {
            0 => false,
            1 => true,
            _ => return Ok(None),
        };
        let mut sizes = [0; 11];
        for size in &mut sizes {
            *size = header.u32("sizes")?;
        }
        let [field_dim, vectors, cells, groups, partitions, lookups, width, rest @ ..] = sizes;
        let [blocks, halves, learned, measured] = rest;
        let mut scales = [0.0; 4];
        for scale in &mut scales {
            *scale = f64::from_bits(header.u64("scales")?);
        }
        let [spread, scale, radius, query_norm] = scales;
        let calibration = Calibration::decode(&mut header)?;
        Ok(match metric.zip(calibration) {
            Some((metric, calibration)) if ours => Some(Self {
                metric,
                ordered,
                field_dim,
                vectors,
                cells,
                groups,
                partitions,
                lookups,
                width,
                blocks,
                halves,
                learned,
                measured,
                spread,
                scale,
                radius,
                query_norm,
                calibration,
            }),
            _ => None,
        })
    }
}
