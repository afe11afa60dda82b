//! The graph as it is kept: layers of links, in memory and as the bytes of a section.
//!
//! Layer 0 has every vector that is not the copy of another; a layer above has about a sixteenth of the one
//! below and stands for it. In a layer a vector is known by its position there; a row of links has a fixed
//! number of places, those in use first. 128 bytes a vector, and about 8 % for the layers above.
//!
//! The section, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `SPGRAPH` and a zero |
//! | 2 | layout version, 1 |
//! | 1 | metric: 0 L2, 1 inner product, 2 cosine |
//! | 1 | whether there are copies |
//! | 12 | dimension of the field, vectors, position of the entry in the top layer, u32 each |
//! | 4 | layers, then for each how many vectors it has, u32 |
//! | 4 | rungs of the calibration, then each: beam u32, cost f32, recall at 1, 10 and 100, f32 |
//! | 4 | more starts, then each: a vector, u32 |
//! | 4 x vectors | next copy of each vector; left out where there are no copies |
//! | then | of each layer, from the lowest: its vectors, ascending (all, and left out, in layer 0); links |

use spandrel_storage::codec::{Decoder, Encoder, Truncated};
use spandrel_storage::{DenseSpec, Metric};

use super::calibrate::{Calibration, RUNGS_MAX, Rung};
use crate::error::{Error, Result};
use crate::large::Large;

const MAGIC: &[u8; 8] = b"SPGRAPH\0";
const VERSION: u16 = 1;
/// Links of a vector in layer 0, and in those above.
pub(super) const DEGREES: [usize; 2] = [32, 16];
/// Most starts besides the entry.
pub(super) const STARTS_MAX: usize = 64;
/// Most layers.
pub(super) const LAYERS_MAX: usize = 16;
/// No vector.
pub(super) const NONE: u32 = u32::MAX;
/// Values converted at once.
const WRITE_VALUES: usize = 16 << 10;

/// Links among some vectors.
pub(super) struct Layer {
    /// The vector at each position, ascending; empty in layer 0, where the position is the vector.
    pub(super) vectors: Vec<u32>,
    degree: usize,
    links: Large<u32>,
}

impl Layer {
    /// The layer `at` of `count` vectors, without links.
    pub(super) fn new(at: usize, vectors: Vec<u32>, count: usize) -> Self {
        let degree = DEGREES[at.min(1)];
        let mut links = Large::zeroed(count * degree);
        links.fill(NONE);
        Self { vectors, degree, links }
    }

    /// How many vectors it has.
    pub(super) fn count(&self) -> usize {
        self.links.len() / self.degree
    }

    /// Places of a row of links.
    pub(super) fn degree(&self) -> usize {
        self.degree
    }

    /// The vector at a position.
    pub(super) fn vector(&self, at: u32) -> u32 {
        self.vectors.get(at as usize).copied().unwrap_or(at)
    }

    /// The position of a vector; none when it is not in this layer.
    pub(super) fn position(&self, vector: u32) -> Option<u32> {
        match self.vectors.is_empty() {
            true => Some(vector),
            false => self.vectors.binary_search(&vector).ok().map(|at| at as u32),
        }
    }

    fn row(&self, at: u32) -> &[u32] {
        &self.links[at as usize * self.degree..(at as usize + 1) * self.degree]
    }

    /// The positions that one is linked to.
    pub(super) fn links(&self, at: u32) -> impl Iterator<Item = u32> {
        self.row(at).iter().copied().take_while(|link| *link != NONE)
    }

    /// All rows of links, to be filled.
    pub(super) fn rows_mut(&mut self) -> &mut [u32] {
        &mut self.links
    }

    /// Links one position to another where its row has a place left.
    pub(super) fn link(&mut self, from: u32, to: u32) -> bool {
        let row = &mut self.links[from as usize * self.degree..(from as usize + 1) * self.degree];
        let place = row.iter_mut().find(|link| **link == NONE);
        let linked = place.is_some();
        place.into_iter().for_each(|place| *place = to);
        linked
    }

    /// Whether every link is to a vector of the layer that `may` be linked to, and rows are filled from the
    /// front.
    fn is_sound(&self, may: impl Fn(u32) -> bool) -> bool {
        let count = self.count() as u32;
        let row_is = |row: &[u32]| {
            let used = row.iter().take_while(|link| **link != NONE).count();
            row[..used].iter().all(|link| *link < count && may(*link))
                && row[used..].iter().all(|link| *link == NONE)
        };
        self.links.chunks_exact(self.degree).all(row_is) && self.vectors.is_sorted_by(|a, b| a < b)
    }
}

/// Links over the vectors of a field, and how far to follow them.
pub struct Graph {
    pub(super) metric: Metric,
    pub(super) field_dim: u32,
    /// From the lowest.
    pub(super) layers: Vec<Layer>,
    /// Where a search begins: a position in the top layer.
    pub(super) entry: u32,
    /// Vectors that a search begins at as well, in layer 0: under inner product, the longest.
    pub(super) starts: Vec<u32>,
    /// For each vector the next one that is equal to it, [`NONE`] for the last; empty without copies. Only
    /// the first of them is linked.
    pub(super) copies: Vec<u32>,
    pub(super) calibration: Calibration,
}

impl Graph {
    /// How many vectors it is over.
    pub(super) fn vectors(&self) -> u32 {
        self.layers[0].count() as u32
    }

    /// A vector and those equal to it, ascending.
    pub(super) fn copies_of(&self, vector: u32) -> impl Iterator<Item = u32> {
        let next = |at: &u32| self.copies.get(*at as usize).copied().filter(|next| *next != NONE);
        std::iter::successors(Some(vector), next)
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        let layers = self.layers.iter().map(|layer| layer.links.bytes() + layer.vectors.len() * 4);
        layers.sum::<usize>() + self.copies.len() * 4
    }

    /// Writes the section.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        let mut header = Encoder::with_capacity(256);
        header.raw(MAGIC).u16(VERSION);
        header.u8(match self.metric {
            Metric::L2 => 0,
            Metric::Ip => 1,
            Metric::Cosine => 2,
        });
        header.u8(u8::from(!self.copies.is_empty()));
        header.u32(self.field_dim).u32(self.vectors()).u32(self.entry);
        header.u32(self.layers.len() as u32);
        for layer in &self.layers {
            header.u32(layer.count() as u32);
        }
        header.u32(self.calibration.rungs.len() as u32);
        for rung in &self.calibration.rungs {
            header.u32(rung.beam).f32(rung.cost);
            rung.recalls.iter().for_each(|recall| {
                header.f32(*recall);
            });
        }
        header.u32s(&self.starts);
        out.write_all(&header.finish())?;
        write_values(&self.copies, out)?;
        for layer in &self.layers {
            write_values(&layer.vectors, out)?;
            write_values(&layer.links, out)?;
        }
        Ok(())
    }

    /// Reads the section of `vectors` vectors of a field.
    ///
    /// # Errors
    /// [`Error::Section`] when the bytes are not that.
    pub fn decode(section: &str, spec: &DenseSpec, vectors: u32, bytes: &[u8]) -> Result<Self> {
        let damaged = |what: String| Error::Section { section: section.to_owned(), what };
        let graph = Self::fields(spec, vectors, bytes).map_err(|truncated| damaged(truncated.to_string()))?;
        graph.ok_or_else(|| damaged("it is not a graph of this version over the vectors of its field".into()))
    }

    /// The graph that the bytes describe; none where they contradict the field or themselves.
    fn fields(spec: &DenseSpec, vectors: u32, bytes: &[u8]) -> Result<Option<Self>, Truncated> {
        let mut bytes = Decoder::new(bytes);
        let ours = bytes.take(MAGIC.len(), "magic")? == MAGIC && bytes.u16("version")? == VERSION;
        let metric = [Metric::L2, Metric::Ip, Metric::Cosine].get(usize::from(bytes.u8("metric")?)).copied();
        let has_copies = bytes.u8("copies")?;
        let (dim, count, entry) = (bytes.u32("dimension")?, bytes.u32("vectors")?, bytes.u32("entry")?);
        let fits = metric == Some(spec.metric) && (dim, count) == (spec.dim, vectors) && has_copies <= 1;
        let mut counts = Vec::new();
        for _ in 0..(bytes.u32("layers")? as usize).min(LAYERS_MAX + 1) {
            counts.push(bytes.u32("layer")?);
        }
        let mut rungs = Vec::new();
        for _ in 0..(bytes.u32("rungs")? as usize).min(RUNGS_MAX + 1) {
            let (beam, cost) = (bytes.u32("beam")?, f32::from_bits(bytes.u32("cost")?));
            let mut recalls = [0.0; 3];
            for recall in &mut recalls {
                *recall = f32::from_bits(bytes.u32("recall")?);
            }
            rungs.push(Rung { beam, cost, recalls });
        }
        let calibration = Calibration { rungs };
        let starts = bytes.u32s("starts")?;
        let narrows = counts.windows(2).all(|pair| pair[1] <= pair[0]) && counts.first() == Some(&vectors);
        let starts_are = starts.len() <= STARTS_MAX && starts.iter().all(|start| *start < vectors);
        let begins =
            starts_are && counts.len() <= LAYERS_MAX && counts.last().is_some_and(|count| entry < *count);
        if !(ours && fits && narrows && begins && calibration.is_sound()) {
            return Ok(None);
        }
        let copies = read_values(&mut bytes, if has_copies == 1 { vectors as usize } else { 0 })?.to_vec();
        let mut layers = Vec::new();
        for (at, count) in counts.iter().map(|count| *count as usize).enumerate() {
            let vectors = read_values(&mut bytes, if at == 0 { 0 } else { count })?.to_vec();
            let degree = DEGREES[at.min(1)];
            layers.push(Layer { vectors, degree, links: read_values(&mut bytes, count * degree)? });
        }
        let graph = Self { metric: spec.metric, field_dim: dim, layers, entry, starts, copies, calibration };
        Ok((bytes.left() == 0 && graph.is_sound()).then_some(graph))
    }

    /// Whether a search that follows it ends, at vectors that are there, and meets none twice.
    fn is_sound(&self) -> bool {
        let mut is_copy = vec![false; if self.copies.is_empty() { 0 } else { self.vectors() as usize }];
        for (at, next) in (0..).zip(&self.copies).filter(|(_, next)| **next != NONE) {
            let known = is_copy.get_mut(*next as usize);
            if *next <= at || known.is_none_or(|known| std::mem::replace(known, true)) {
                return false;
            }
        }
        let may = |vector: u32| !is_copy.get(vector as usize).copied().unwrap_or(false);
        let layer_is = |(layer, below): (&Layer, Option<&Layer>)| {
            let there =
                |vector: &u32| may(*vector) && below.is_some_and(|below| below.position(*vector).is_some());
            layer.is_sound(|at| may(layer.vector(at)))
                && layer.vectors.iter().all(|vector| *vector < self.vectors() && there(vector))
        };
        let below = std::iter::once(None).chain(self.layers.iter().map(Some));
        let top = &self.layers[self.layers.len() - 1];
        let starts_are = self.starts.iter().all(|start| may(*start)) && may(top.vector(self.entry));
        starts_are && self.layers.iter().zip(below).all(layer_is)
    }
}

fn write_values(values: &[u32], out: &mut impl std::io::Write) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for values in values.chunks(WRITE_VALUES) {
        bytes.clear();
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    Ok(())
}

fn read_values(bytes: &mut Decoder<'_>, count: usize) -> Result<Large<u32>, Truncated> {
    // Taken first: memory is only asked for where the bytes are there.
    let bytes = bytes.take(count * 4, "values")?;
    let mut values = Large::zeroed(count);
    values
        .iter_mut()
        .zip(bytes.as_chunks::<4>().0)
        .for_each(|(value, four)| *value = u32::from_le_bytes(*four));
    Ok(values)
}
