//! The sign codes of a field's vectors: made in one pass, scanned 32 at a time.
//!
//! A vector is placed in [`Space`], rotated at random and written as the signs of its coordinates, four to a
//! nibble (RaBitQ of one bit, see [`rabitq`](crate::quant::rabitq)). Nothing is trained, so that codes of new
//! rows cost 2 us a vector of 384 dimensions. More than 1,024 coordinates are not coded: which ones the
//! rotation decides, so that those left out are a sample, and they count as error.
//!
//! The section, little-endian:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `SPSIGNS` and a zero |
//! | 8 | 2 | layout version, 1 |
//! | 10 | 1 | metric: 0 L2, 1 inner product, 2 cosine |
//! | 11 | 1 | zero |
//! | 12 | 4 | dimension of the field |
//! | 16 | 4 | vectors |
//! | 20 | 24 | scale, radius and query norm of the space, f64 each |
//! | 44 | 20 | zeros |
//! | 64 | 4 x dims | mean of the space, f32 each |
//! | then | | blocks of [`nibble`], the vectors in order |

use half::f16;
use spandrel_storage::codec::{Decoder, Encoder, Truncated};
use spandrel_storage::{DenseSpec, Metric};

use crate::dense::space::{QUERY_SQUARED_MAX, Rows, Space};
use crate::error::{Error, Result};
use crate::large::Large;
use crate::quant::{Factors, Rotation};
use crate::random::Random;
use crate::simd::lanes::fold;
use crate::simd::nibble::{self, BLOCK_ROWS, Bounds, Candidates, ENTRIES, GROUP, LOOKUPS_MAX};
use crate::simd::{Kernels, norm_squared};

const MAGIC: &[u8; 8] = b"SPSIGNS\0";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 64;
/// Seed of the rotation: part of the layout.
const SEED: u64 = 0x5167_6e73;
/// Dimensions of a lookup.
const LOOKUP_DIMS: usize = 4;
/// Rows that the mean and scale are measured on, at most.
const SAMPLE_ROWS: usize = 1024;
/// Rows that a space is tried on, and how many times the spread about their own mean it may leave.
const SUITED_ROWS: usize = 256;
const SUITED_SPREAD: f64 = 1.1;
/// Share of a query that is across any vector, squared, at least.
const ACROSS_MIN: f32 = 0.1;
/// Codes whose errors are measured, about.
const ERRORS_MEASURED: u32 = 1024;
/// Squared norm of a mean, in units of the spread, up to which the difference of a query and it is as good
/// after the rotation as before.
const MEAN_SQUARED_MAX: f64 = 1e4;
/// Scales that f16 holds; a vector that needs a larger one is a candidate always.
const SCALE_MAX: f32 = 60_000.0;

/// Codes that were made before, and where among them each of some vectors is: at which position of which.
#[derive(Clone, Copy, Default)]
pub struct Before<'a> {
    /// The codes.
    pub made: &'a [&'a Codes],
    /// The codes and the position there of each vector, if any; may be shorter.
    pub known: &'a [Option<(u32, u32)>],
}

/// Sign codes of vectors, in order.
pub struct Codes {
    pub(super) space: Space,
    rotation: Rotation,
    /// The mean, rotated; empty where it is so far from zero that a query has to be centred before.
    rotated_mean: Vec<f32>,
    vectors: u32,
    blocks: Large<u8>,
    /// Root mean square of the errors of some codes, and mean of their squared distances from the mean.
    usual_error: f32,
    usual_squared: f32,
}

/// A query made ready. What does not depend on the segment is kept for the next one.
#[derive(Debug, Default)]
pub(super) struct SignQuery {
    query: Vec<f32>,
    /// What all of this but the rotated query is made for, and whether it could be.
    space: Option<Space>,
    comparable: bool,
    pub(super) norm: f64,
    /// The query over its norm, rotated.
    rotated: Vec<f32>,
    placed: Vec<f32>,
    table: Vec<u8>,
    /// Its squared distance from the mean.
    squared: f32,
    step: f32,
    bias: f32,
}

/// The rotation of vectors with so many dimensions in the space.
fn rotation(dims: usize) -> Rotation {
    Rotation::new(dims.next_multiple_of(LOOKUP_DIMS * GROUP), SEED)
}

/// The space of vectors: what it is of others if that suits these about as well as their own, so that codes
/// of both are of one kind.
fn fit(spec: &DenseSpec, rows: Rows<'_>, count: usize, other: Option<&Space>) -> Space {
    let own = Space::fit(spec.metric, rows, count, spec.dim as usize, (SEED, SAMPLE_ROWS));
    let Some(other) = other.filter(|other| other.dims() == own.dims()) else { return own };
    let sample = Random(SEED).sample(count, SUITED_ROWS);
    let (mut row, mut placed) = (vec![0.0; spec.dim as usize], vec![0.0; own.dims()]);
    let mut spread = |space: &Space| -> f64 {
        let mut each = |at: &usize| {
            rows(*at, &mut row);
            space.place(&row, &mut placed);
            norm_squared(&placed)
        };
        sample.iter().map(&mut each).sum::<f64>() / (space.scale * space.scale)
    };
    match other.holds(rows, count) && spread(other) <= SUITED_SPREAD * spread(&own) {
        true => other.clone(),
        false => own,
    }
}

/// See [`Codes::rotated_mean`].
fn rotated_mean(space: &Space, rotation: &Rotation) -> Vec<f32> {
    if norm_squared(&space.mean) > MEAN_SQUARED_MAX {
        return Vec::new();
    }
    let mut mean = space.mean.clone();
    mean.resize(rotation.dim(), 0.0);
    rotation.apply(&mut mean);
    mean
}

/// Lookups of a code of so many coordinates.
fn lookups(rotation: &Rotation) -> usize {
    (rotation.dim() / LOOKUP_DIMS).min(LOOKUPS_MAX)
}

impl Codes {
    /// The codes of `count` vectors, of which `rows` gives one by its position. They are in the space of what
    /// was made before, where that suits them, and copied where they are known.
    ///
    /// # Panics
    /// When there are no such codes or positions.
    pub fn encode(spec: &DenseSpec, rows: Rows<'_>, count: u32, Before { made, known }: Before<'_>) -> Self {
        let kernels = Kernels::best();
        let largest = made.iter().max_by_key(|codes| codes.vectors).map(|codes| &codes.space);
        let space = fit(spec, rows, count as usize, largest);
        let same: Vec<Option<&Self>> =
            made.iter().map(|codes| (codes.space == space).then_some(*codes)).collect();
        let rotation = rotation(space.dims());
        let lookups = lookups(&rotation);
        let block_bytes = nibble::block_bytes(lookups);
        let mut blocks = Large::zeroed((count as usize).div_ceil(BLOCK_ROWS) * block_bytes);
        let mut row = vec![0.0; spec.dim as usize];
        let (mut placed, mut code) = (vec![0.0; rotation.dim()], vec![0; lookups]);
        for (first, block) in (0..count).step_by(BLOCK_ROWS).zip(blocks.chunks_exact_mut(block_bytes)) {
            let here = BLOCK_ROWS.min((count - first) as usize);
            for at in 0..here {
                let id = first + at as u32;
                let known = known.get(id as usize).copied().flatten();
                if let Some((of, ordinal)) =
                    known.and_then(|(of, ordinal)| Some((same[of as usize]?, ordinal)))
                {
                    let factors = of.code(ordinal, &mut code);
                    nibble::put_code(block, at, &code);
                    nibble::put_factors(block, lookups, at, nibble::Factors { id, ..factors });
                    continue;
                }
                rows(id as usize, &mut row);
                placed[space.dims()..].fill(0.0);
                kernels.vectorized(
                    #[inline(always)]
                    || space.place(&row, &mut placed[..space.dims()]),
                );
                let norm_squared = norm_squared(&placed);
                rotation.apply(&mut placed);
                let (groups, _) = placed.as_chunks::<LOOKUP_DIMS>();
                let mut magnitude = 0.0;
                for (code, group) in code.iter_mut().zip(groups) {
                    let bit = |at: usize| u8::from(group[at] > 0.0) << at;
                    *code = bit(0) | bit(1) | bit(2) | bit(3);
                    magnitude += f64::from(group.iter().map(|value| value.abs()).sum::<f32>());
                }
                nibble::put_code(block, at, &code);
                // What a code decodes to is half of each sign.
                let decoded_squared = 0.25 * (lookups * LOOKUP_DIMS) as f64;
                let factors = Factors::from_sums(norm_squared, 0.5 * magnitude, decoded_squared);
                nibble::put_factors(block, lookups, at, stored(factors, id));
            }
            nibble::pad(block, lookups, here);
        }
        Self::new(space, rotation, count, blocks)
    }

    fn new(space: Space, rotation: Rotation, vectors: u32, blocks: Large<u8>) -> Self {
        let (rotated_mean, lookups) = (rotated_mean(&space, &rotation), lookups(&rotation));
        let every = (vectors / ERRORS_MEASURED).max(1) as usize;
        let (mut sum, mut squares, mut count) = (0.0, 0.0, 0);
        for at in (0..vectors as usize).step_by(every) {
            let block = &blocks[at / BLOCK_ROWS * nibble::block_bytes(lookups)..];
            let factors = nibble::factors(block, lookups, at % BLOCK_ROWS);
            if factors.error.is_finite() {
                sum += f64::from(factors.error).powi(2);
                squares += f64::from(factors.add);
                count += 1;
            }
        }
        let usual_error = (sum / f64::from(count.max(1))).sqrt() as f32;
        let usual_squared = (squares / f64::from(count.max(1))) as f32;
        Self { space, rotation, rotated_mean, vectors, blocks, usual_error, usual_squared }
    }

    /// What estimates of about this distance from a query are usually off by: their standard deviation.
    pub(super) fn deviation(&self, query: &SignQuery, distance: f32) -> f32 {
        self.usual_error * self.per_error(query, distance)
    }

    /// The standard deviation of estimates of about this distance, in units of the errors of their codes.
    /// What counts is how much of the query is across the vector: less for near ones. Measured on real
    /// vectors, the deviations of the hundred nearest are within 1 % of this.
    fn per_error(&self, query: &SignQuery, distance: f32) -> f32 {
        let along = (0.5 * (query.squared + self.usual_squared - distance)).max(0.0);
        let across = query.squared - along * along / self.usual_squared.max(f32::MIN_POSITIVE);
        (across.max(ACROSS_MIN * query.squared) / (self.rotation.dim() - 1) as f32).sqrt()
    }

    /// The code of a vector, and its factors.
    fn code(&self, ordinal: u32, code: &mut [u8]) -> nibble::Factors {
        let (bytes, at) = (nibble::block_bytes(code.len()), ordinal as usize);
        let block = &self.blocks[at / BLOCK_ROWS * bytes..][..bytes];
        nibble::code(block, at % BLOCK_ROWS, code);
        nibble::factors(block, code.len(), at % BLOCK_ROWS)
    }

    /// How many vectors there are.
    pub(super) fn vectors(&self) -> u32 {
        self.vectors
    }

    /// Bytes of memory in use.
    pub(crate) fn memory_bytes(&self) -> usize {
        let floats = self.space.dims() + self.rotated_mean.len();
        self.blocks.bytes() + floats * 4 + self.rotation.memory_bytes()
    }

    /// Makes a query ready; false when it is too far from all vectors to be compared by codes.
    pub(super) fn prepare(&self, kernels: &Kernels, query: &[f32], ready: &mut SignQuery) -> bool {
        let SignQuery { query: known, space, comparable, norm, rotated, placed, table, squared, step, bias } =
            ready;
        if known != query || rotated.len() != self.rotation.dim() {
            query.clone_into(known);
            *norm = crate::simd::norm(query);
            rotated.clear();
            rotated
                .extend(query.iter().map(|value| (f64::from(*value) / norm.max(f64::MIN_POSITIVE)) as f32));
            rotated.resize(self.rotation.dim(), 0.0);
            self.rotation.apply(rotated);
            *space = None;
        }
        if space.as_ref() == Some(&self.space) {
            return *comparable;
        }
        match space {
            Some(space) => space.clone_from(&self.space),
            None => *space = Some(self.space.clone()),
        }
        *comparable = false;
        placed.resize(self.rotation.dim(), 0.0);
        let distance = if self.rotated_mean.is_empty() {
            let dims = self.space.dims();
            placed[dims..].fill(0.0);
            let distance = self.space.place_query(query, &mut placed[..dims]);
            self.rotation.apply(placed);
            distance
        } else {
            let by = (self.space.query_factor(*norm) * *norm) as f32;
            f64::from(kernels.vectorized(
                #[inline(always)]
                || {
                    for ((placed, value), mean) in placed.iter_mut().zip(&*rotated).zip(&self.rotated_mean) {
                        *placed = value * by - mean;
                    }
                    fold(placed, 0.0, |value| value * value, |a, b| a + b)
                },
            ))
        };
        if distance.is_nan() || distance > QUERY_SQUARED_MAX {
            return false;
        }
        *squared = distance as f32;
        table.resize(lookups(&self.rotation) * ENTRIES, 0);
        (*step, *bias) = kernels.vectorized(
            #[inline(always)]
            || fill_table(placed, table),
        );
        *comparable = true;
        true
    }

    /// Adds the vectors of a range of blocks that may be nearer than `limit`, a squared distance, to the
    /// candidates: their bounds lie `slack` standard deviations below the estimates.
    pub(super) fn scan(
        &self,
        kernels: &Kernels,
        query: &SignQuery,
        blocks: std::ops::Range<u32>,
        (limit, slack): (f32, f32),
        candidates: &mut Candidates,
    ) {
        let block_bytes = nibble::block_bytes(lookups(&self.rotation));
        let blocks = &self.blocks[blocks.start as usize * block_bytes..blocks.end as usize * block_bytes];
        let deviations = slack * self.per_error(query, limit);
        let bounds = Bounds {
            base: query.squared,
            step: query.step,
            bias: query.bias,
            // Not nothing, so that an infinite error times it is infinite.
            slack: deviations.max(f32::MIN_POSITIVE),
            threshold: limit,
        };
        kernels.nibble_scan(&query.table, blocks, &bounds, candidates);
    }

    /// Writes the section.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        let mut header = Encoder::with_capacity(HEADER_BYTES);
        header.raw(MAGIC).u16(VERSION);
        header.u8(match self.space.metric {
            Metric::L2 => 0,
            Metric::Ip => 1,
            Metric::Cosine => 2,
        });
        header.u8(0).u32(self.space.field_dim() as u32).u32(self.vectors);
        for value in [self.space.scale, self.space.radius, self.space.query_norm] {
            header.u64(value.to_bits());
        }
        let mut bytes = header.finish();
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend(self.space.mean.iter().flat_map(|value| value.to_le_bytes()));
        out.write_all(&bytes)?;
        out.write_all(&self.blocks)
    }

    /// Bytes of the section of so many vectors of a field.
    pub fn section_bytes(spec: &DenseSpec, vectors: u32) -> u64 {
        let dims = Space::dims_of(spec.metric, spec.dim as usize);
        let lookups = (dims.next_multiple_of(LOOKUP_DIMS * GROUP) / LOOKUP_DIMS).min(LOOKUPS_MAX);
        let blocks = u64::from(vectors).div_ceil(BLOCK_ROWS as u64) * nibble::block_bytes(lookups) as u64;
        (HEADER_BYTES + 4 * dims) as u64 + blocks
    }

    /// Reads the section of `vectors` vectors of a field.
    ///
    /// # Errors
    /// [`Error::Section`] when the bytes are not that.
    pub fn decode(section: &str, spec: &DenseSpec, vectors: u32, bytes: &[u8]) -> Result<Self> {
        let damaged = |what: &str| Error::Section { section: section.to_owned(), what: what.to_owned() };
        if vectors == 0 || bytes.len() as u64 != Self::section_bytes(spec, vectors) {
            return Err(damaged("its length is not that of the signs of its field's vectors"));
        }
        let space = Self::space(spec, vectors, bytes).map_err(|truncated| damaged(&truncated.to_string()))?;
        let space = space.ok_or_else(|| damaged("it does not hold signs of this version and field"))?;
        let rotation = rotation(space.dims());
        let mut blocks = Large::zeroed(bytes.len() - HEADER_BYTES - 4 * space.dims());
        blocks.copy_from_slice(&bytes[HEADER_BYTES + 4 * space.dims()..]);
        let lookups = lookups(&rotation);
        let in_order = blocks.chunks_exact(nibble::block_bytes(lookups)).zip((0..).step_by(BLOCK_ROWS)).all(
            |(block, first): (&[u8], u32)| {
                let id = |row: usize| nibble::factors(block, lookups, row).id;
                (0..BLOCK_ROWS)
                    .zip(first..)
                    .all(|(row, at)| id(row) == if at < vectors { at } else { u32::MAX })
            },
        );
        match in_order {
            true => Ok(Self::new(space, rotation, vectors, blocks)),
            false => Err(damaged("its codes are not in the order of the vectors")),
        }
    }

    /// The space that the header describes; `None` when it is another field's, or none's.
    fn space(spec: &DenseSpec, vectors: u32, bytes: &[u8]) -> Result<Option<Space>, Truncated> {
        let mut header = Decoder::new(bytes);
        let ours = header.take(MAGIC.len(), "magic")? == MAGIC && header.u16("version")? == VERSION;
        let metric = [Metric::L2, Metric::Ip, Metric::Cosine].get(usize::from(header.u8("metric")?)).copied();
        header.u8("zero")?;
        let sizes = (header.u32("dimension")?, header.u32("vectors")?);
        let mut scales = [0.0; 3];
        for scale in &mut scales {
            *scale = f64::from_bits(header.u64("scales")?);
        }
        let [scale, radius, query_norm] = scales;
        let dims = Space::dims_of(spec.metric, spec.dim as usize);
        let mean = &bytes[HEADER_BYTES..HEADER_BYTES + 4 * dims];
        let mean = mean.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
        let sound = scale.is_normal() && scale > 0.0 && radius.is_finite() && query_norm.is_normal();
        let space = Space { metric: spec.metric, scale, mean, radius, query_norm };
        let fits = ours && metric == Some(spec.metric) && sizes == (spec.dim, vectors);
        Ok((fits && sound && space.mean.iter().all(|value| value.is_finite())).then_some(space))
    }
}

/// The factors as a block keeps them. Errors that f16 does not hold are infinite: their vectors are always
/// candidates.
fn stored(factors: Factors, id: u32) -> nibble::Factors {
    let scale = 2.0 * factors.scale;
    let fits = scale <= SCALE_MAX && factors.norm_squared.is_finite();
    nibble::Factors {
        add: if fits { factors.norm_squared } else { 0.0 },
        scale: f16::from_f32(if fits { -scale } else { 0.0 }),
        error: if fits { f16::from_f32(2.0 * factors.error) } else { f16::INFINITY },
        id,
    }
}

/// Whether a nibble has each of its bits set.
const SIGNS: [[f32; LOOKUP_DIMS]; ENTRIES] = {
    let mut signs = [[0.0; LOOKUP_DIMS]; ENTRIES];
    let mut entry = 0;
    while entry < ENTRIES * LOOKUP_DIMS {
        let (nibble, bit) = (entry / LOOKUP_DIMS, entry % LOOKUP_DIMS);
        signs[nibble][bit] = (nibble >> bit & 1) as f32;
        entry += 1;
    }
    signs
};

/// The sums of signs that each nibble stands for, as bytes; what one is worth, and what all lowest ones sum
/// up to.
#[inline(always)]
fn fill_table(rotated: &[f32], table: &mut [u8]) -> (f32, f32) {
    let (groups, _) = rotated.as_chunks::<LOOKUP_DIMS>();
    let (entries, _) = table.as_chunks_mut::<ENTRIES>();
    let groups = &groups[..entries.len()];
    let width = |group: &[f32; LOOKUP_DIMS]| group.iter().map(|value| value.abs()).sum::<f32>();
    let (mut widest, mut magnitude) = (f32::MIN_POSITIVE, 0.0);
    for group in groups {
        let width = width(group);
        widest = if width > widest { width } else { widest };
        magnitude += width;
    }
    // One step for all, so that sums are of one unit.
    let per_step = 255.0 / widest;
    for (entries, [a, b, c, d]) in entries.iter_mut().zip(groups) {
        let low = |value: &f32| if *value < 0.0 { *value } else { 0.0 };
        let least = low(a) + low(b) + low(c) + low(d);
        let mut sums = [0.0; ENTRIES];
        for entry in 0..ENTRIES {
            let [in_a, in_b, in_c, in_d] = SIGNS[entry];
            sums[entry] = a * in_a + b * in_b + (c * in_c + d * in_d) - least;
        }
        for (entry, sum) in entries.iter_mut().zip(sums) {
            // Adding 2^23 rounds to a whole number and leaves it in the low bits.
            *entry = (sum * per_step + 8_388_608.0).to_bits() as u8;
        }
    }
    (widest / 255.0, -0.5 * magnitude)
}
