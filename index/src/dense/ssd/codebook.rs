//! Codes of nibbles: residuals in a projected space, cut into short pieces, each written as the nearest of
//! 16 words.
//!
//! Product quantization (Jegou et al., 2011) with 16 words, as read by [`nibble`](crate::simd::nibble). The
//! pieces are one to three dimensions wide and chosen so that the products of their variances are about
//! equal, which spends the bits where the variance is (the eigenvalue allocation of Ge et al., "Optimized
//! product quantization", 2013); directions of little variance are not coded at all, and their share goes
//! into the error. Measured on two real sets it needs two thirds to one third of the bytes of sign codes for
//! the same recall.

use crate::matrix::Matrix;
use crate::parallel::for_parts;
use crate::random::Random;
use crate::simd::nibble::{ENTRIES, GROUP};

use super::cluster::Work;
use super::lanes::{larger, smaller};

/// Rows that words are learned from.
pub(super) const SAMPLE_ROWS: usize = 8192;
/// Rounds of k-means a piece.
const ROUNDS: usize = 12;

/// Words for every piece.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Codebook {
    /// Dimensions of a piece.
    pub(super) width: usize,
    /// `pieces x width x 16`: coordinate by coordinate, the 16 words side by side.
    pub(super) words: Vec<f32>,
}

impl Codebook {
    /// Pieces, which is lookups, and their width, for `dims` dimensions: narrow pieces where there are few
    /// dimensions, so that a code is never coarse for want of lookups.
    pub(super) fn shape(dims: usize, lookups_max: usize) -> (usize, usize) {
        let width = dims.div_ceil(lookups_max).clamp(1, 3);
        (dims.div_ceil(width).min(lookups_max).next_multiple_of(GROUP), width)
    }

    /// How dimensions of these variances are dealt to pieces: the dimension at each place, piece after piece.
    pub(super) fn allocate(variances: &[f32], width: usize) -> Vec<usize> {
        let pieces = variances.len() / width;
        let least = variances.iter().copied().fold(f32::INFINITY, f32::min).max(1e-20);
        let mut order: Vec<usize> = (0..variances.len()).collect();
        order.sort_by(|a, b| variances[*b].total_cmp(&variances[*a]));
        let mut members: Vec<Vec<usize>> = vec![Vec::with_capacity(width); pieces];
        let mut logs = vec![0.0_f32; pieces];
        for dim in order {
            let open = (0..pieces).filter(|piece| members[*piece].len() < width);
            if let Some(piece) = open.min_by(|a, b| logs[*a].total_cmp(&logs[*b])) {
                members[piece].push(dim);
                logs[piece] += (variances[dim] / least).max(1.0).ln();
            }
        }
        members.concat()
    }

    /// Learns words from `rows`.
    pub(super) fn train(rows: Matrix<'_, f32>, width: usize, work: Work) -> Self {
        let pieces = rows.dim() / width;
        let mut words = vec![0.0; pieces * width * ENTRIES];
        for_parts(work.threads, &mut words, width * ENTRIES, |piece, words| {
            let values: Vec<f32> =
                rows.iter().flat_map(|row| &row[piece * width..(piece + 1) * width]).copied().collect();
            learn(Matrix::new(&values, width), words, &mut Random(work.seed ^ piece as u64));
        });
        Self { width, words }
    }

    /// Lookups of a code.
    pub(super) fn lookups(&self) -> usize {
        self.words.len() / (self.width * ENTRIES)
    }

    /// Dimensions that are coded.
    pub(super) fn dims(&self) -> usize {
        self.lookups() * self.width
    }

    /// How many dimensions matter: as many of equal variance have the same sum of variances and the same sum
    /// of their squares.
    pub(super) fn dims_that_matter(&self) -> f32 {
        let variance = |words: &[f32; ENTRIES]| words.iter().map(|word| word * word).sum::<f32>();
        let variances = self.words.as_chunks::<ENTRIES>().0.iter().map(variance);
        let (sum, squares) = variances.fold((0.0, 0.0), |(sum, squares), v| (sum + v, squares + v * v));
        if squares > 0.0 { sum * sum / squares } else { 1.0 }
    }

    /// The code of `row`, one value a lookup, and the vector that it stands for.
    pub(super) fn encode(&self, row: &[f32], code: &mut [u8], decoded: &mut [f32]) {
        let pieces = row.chunks_exact(self.width).zip(self.words.chunks_exact(self.width * ENTRIES));
        for ((piece, words), (code, decoded)) in
            pieces.zip(code.iter_mut().zip(decoded.chunks_exact_mut(self.width)))
        {
            let word = nearest_word(piece, words);
            *code = word as u8;
            for (at, decoded) in decoded.iter_mut().enumerate() {
                *decoded = words[at * ENTRIES + word];
            }
        }
    }

    /// Fills `table` (`lookups x 16`) with the query's products with all words, in u8: a product is
    /// `sum * step + bias` for the sum over a code. Returns `(step, bias)`.
    #[inline(always)]
    pub(super) fn table(
        &self,
        query: &[f32],
        products: &mut Vec<[f32; ENTRIES]>,
        table: &mut Vec<u8>,
    ) -> (f32, f32) {
        let (mut bias, mut range) = (0.0, 0.0_f32);
        products.clear();
        for (piece, words) in
            query.chunks_exact(self.width).zip(self.words.chunks_exact(self.width * ENTRIES))
        {
            let mut sums = [0.0; ENTRIES];
            let (words, _) = words.as_chunks::<ENTRIES>();
            for (value, words) in piece.iter().zip(words) {
                sums.iter_mut().zip(words).for_each(|(sum, word)| *sum += value * word);
            }
            let least = extreme(&sums, smaller);
            range = larger(range, extreme(&sums, larger) - least);
            bias += least;
            sums.iter_mut().for_each(|sum| *sum -= least);
            products.push(sums);
        }
        // The step is the same for all lookups, so that the widest one fills the byte.
        let step = (range / 255.0).max(f32::MIN_POSITIVE);
        let per_step = 1.0 / step;
        table.resize(products.len() * ENTRIES, 0);
        let (rows, _) = table.as_chunks_mut::<ENTRIES>();
        for (row, products) in rows.iter_mut().zip(products.iter()) {
            row.iter_mut().zip(products).for_each(|(entry, product)| *entry = round_byte(product * per_step));
        }
        (step, bias)
    }
}

/// Rounds a value in 0..=255 to the nearest integer: adding 2^23 leaves it in the low bits.
#[inline(always)]
fn round_byte(value: f32) -> u8 {
    (smaller(value, 255.0) + 8_388_608.0).to_bits() as u8
}

#[inline(always)]
fn extreme(values: &[f32; ENTRIES], of: impl Fn(f32, f32) -> f32) -> f32 {
    let mut left = *values;
    let mut width = ENTRIES / 2;
    while width > 0 {
        for at in 0..width {
            left[at] = of(left[at], left[at + width]);
        }
        width /= 2;
    }
    left[0]
}

/// The nearest of 16 words; the first of several.
#[inline]
fn nearest_word(piece: &[f32], words: &[f32]) -> usize {
    let mut distances = [0.0_f32; ENTRIES];
    let (words, _) = words.as_chunks::<ENTRIES>();
    for (value, words) in piece.iter().zip(words) {
        for (distance, word) in distances.iter_mut().zip(words) {
            let difference = value - word;
            *distance += difference * difference;
        }
    }
    let mut best = 0;
    for at in 1..ENTRIES {
        if distances[at] < distances[best] {
            best = at;
        }
    }
    best
}

/// K-means of one piece's values into `words`, coordinate by coordinate.
fn learn(values: Matrix<'_, f32>, words: &mut [f32], random: &mut Random) {
    let width = values.dim();
    if values.is_empty() {
        return;
    }
    let put = |words: &mut [f32], word: usize, value: &[f32]| {
        value.iter().enumerate().for_each(|(at, value)| words[at * ENTRIES + word] = *value);
    };
    (0..ENTRIES).for_each(|word| put(words, word, values.row(random.below(values.rows()))));
    for _ in 0..ROUNDS {
        let mut sums = vec![[0.0_f64; ENTRIES]; width];
        let mut counts = [0_usize; ENTRIES];
        for value in values.iter() {
            let word = nearest_word(value, words);
            counts[word] += 1;
            value.iter().zip(&mut sums).for_each(|(value, sums)| sums[word] += f64::from(*value));
        }
        for (word, count) in counts.into_iter().enumerate() {
            if count > 0 {
                for (at, sums) in sums.iter().enumerate() {
                    words[at * ENTRIES + word] = (sums[word] / count as f64) as f32;
                }
            } else {
                put(words, word, values.row(random.below(values.rows())));
            }
        }
    }
}
