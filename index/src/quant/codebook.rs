//! Words for the pieces of a vector: k-means of every piece by itself, and the products of a query with all
//! words.
//!
//! Product quantization (Jegou et al., 2011) with `N` words a piece: 16, which
//! [`nibble`](crate::simd::nibble) reads, or 256. Where pieces are dealt by
//! [`allocate`](Codebook::allocate), the products of their variances are about equal, which spends the
//! bits where the variance is (the eigenvalue allocation of Ge et al., "Optimized product quantization",
//! 2013). The dense index writes residuals in pieces of one to three dimensions this way; directions of
//! little variance are not coded at all, and their share goes into the error. Measured on two real sets
//! that needs two thirds to one third of the bytes of sign codes for the same recall.
//!
//! Balanced training gives every word of a piece about as many rows (RepCONC: Zhan et al., "Learning
//! discrete representations via constrained clustering for effective and efficient dense retrieval",
//! 2022), by a price for each word that Sinkhorn's iteration finds. As there, it constrains training only:
//! a row is written as its nearest word. What RepCONC does besides, training the encoder with it, is not
//! ours to do.

use crate::matrix::Matrix;
use crate::parallel::for_parts;
use crate::random::Random;
use crate::simd::lanes::{larger, smaller};
use crate::simd::nibble::{ENTRIES, GROUP};

/// Rows that words are learned from.
pub(crate) const SAMPLE_ROWS: usize = 8192;
/// Rounds of Sinkhorn's iteration for one of k-means; prices are kept from one to the next.
const SINKHORN_ROUNDS: usize = 2;
/// How soft an assignment is, over the mean distance to the nearest word.
const SOFTNESS: f32 = 0.1;

/// How words are learned.
#[derive(Clone, Copy, Debug)]
pub struct Training {
    /// Threads; the result does not depend on them.
    pub threads: usize,
    /// Of the first words.
    pub seed: u64,
    /// Rounds of k-means a piece.
    pub rounds: usize,
    /// Whether the words of a piece are to have equally many rows.
    pub balanced: bool,
}

impl Default for Training {
    fn default() -> Self {
        Self { threads: 1, seed: 1, rounds: 12, balanced: false }
    }
}

/// Words for every piece.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Codebook<const N: usize = ENTRIES> {
    /// Dimensions of a piece.
    pub(crate) width: usize,
    /// `pieces x width x N`: coordinate by coordinate, the words side by side.
    pub(crate) words: Vec<f32>,
}

impl Codebook {
    /// Pieces, which is lookups, and their width, for `dims` dimensions: narrow pieces where there are few
    /// dimensions, so that a code is never coarse for want of lookups.
    pub(crate) fn shape(dims: usize, lookups_max: usize) -> (usize, usize) {
        let width = dims.div_ceil(lookups_max).clamp(1, 3);
        (dims.div_ceil(width).min(lookups_max).next_multiple_of(GROUP), width)
    }

    /// How dimensions of these variances are dealt to pieces: the dimension at each place, piece after
    /// piece.
    pub(crate) fn allocate(variances: &[f32], width: usize) -> Vec<usize> {
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

    /// How many dimensions matter: as many of equal variance have the same sum of variances and the same sum
    /// of their squares.
    pub(crate) fn dims_that_matter(&self) -> f32 {
        let variance = |words: &[f32; ENTRIES]| words.iter().map(|word| word * word).sum::<f32>();
        let variances = self.words.as_chunks::<ENTRIES>().0.iter().map(variance);
        let (sum, squares) = variances.fold((0.0, 0.0), |(sum, squares), v| (sum + v, squares + v * v));
        if squares > 0.0 { sum * sum / squares } else { 1.0 }
    }

    /// Fills `table` (`lookups x 16`) with the query's products with all words, in u8: a product is
    /// `sum * step + bias` for the sum over a code. Returns `(step, bias)`.
    #[inline(always)]
    pub(crate) fn table(
        &self,
        query: &[f32],
        products: &mut Vec<[f32; ENTRIES]>,
        table: &mut Vec<u8>,
    ) -> (f32, f32) {
        self.products(query, products);
        quantize(products, table)
    }
}

impl<const N: usize> Codebook<N> {
    /// Learns words from `rows`.
    pub(crate) fn train(rows: Matrix<'_, f32>, width: usize, training: Training) -> Self {
        let pieces = rows.dim() / width;
        let mut words = vec![0.0; pieces * width * N];
        for_parts(training.threads, &mut words, width * N, |piece, words| {
            let values: Vec<f32> =
                rows.iter().flat_map(|row| &row[piece * width..(piece + 1) * width]).copied().collect();
            learn::<N>(
                Matrix::new(&values, width),
                words,
                training,
                &mut Random(training.seed ^ piece as u64),
            );
        });
        Self { width, words }
    }

    /// Lookups of a code.
    pub(crate) fn lookups(&self) -> usize {
        self.words.len() / (self.width * N)
    }

    /// Dimensions that are coded.
    pub(crate) fn dims(&self) -> usize {
        self.lookups() * self.width
    }

    /// The code of `row`, one value a lookup, and the vector that it stands for.
    pub(crate) fn encode(&self, row: &[f32], code: &mut [u8], decoded: &mut [f32]) {
        let pieces = row.chunks_exact(self.width).zip(self.words.chunks_exact(self.width * N));
        for ((piece, words), (code, decoded)) in
            pieces.zip(code.iter_mut().zip(decoded.chunks_exact_mut(self.width)))
        {
            let word = nearest_word::<N>(piece, words);
            *code = word as u8;
            for (at, decoded) in decoded.iter_mut().enumerate() {
                *decoded = words[at * N + word];
            }
        }
    }

    /// The vector that a code stands for.
    pub(crate) fn decode(&self, code: &[u8], decoded: &mut [f32]) {
        let words = self.words.chunks_exact(self.width * N);
        for ((words, code), decoded) in words.zip(code).zip(decoded.chunks_exact_mut(self.width)) {
            for (at, decoded) in decoded.iter_mut().enumerate() {
                *decoded = words[at * N + usize::from(*code)];
            }
        }
    }

    /// The products of a query's piece with its words, piece after piece.
    #[inline(always)]
    pub(crate) fn products(&self, query: &[f32], products: &mut Vec<[f32; N]>) {
        products.clear();
        for (piece, words) in query.chunks_exact(self.width).zip(self.words.chunks_exact(self.width * N)) {
            let mut sums = [0.0; N];
            let (words, _) = words.as_chunks::<N>();
            for (value, words) in piece.iter().zip(words) {
                sums.iter_mut().zip(words).for_each(|(sum, word)| *sum += value * word);
            }
            products.push(sums);
        }
    }
}

/// Products in u8; what is left in `products` is over the least of each piece.
#[inline(always)]
pub(super) fn quantize<const N: usize>(products: &mut [[f32; N]], table: &mut Vec<u8>) -> (f32, f32) {
    let (mut bias, mut range) = (0.0, 0.0_f32);
    for sums in products.iter_mut() {
        let least = extreme(sums, smaller);
        range = larger(range, extreme(sums, larger) - least);
        bias += least;
        sums.iter_mut().for_each(|sum| *sum -= least);
    }
    // The step is the same for all lookups, so that the widest one fills the byte.
    let step = (range / 255.0).max(f32::MIN_POSITIVE);
    let per_step = 1.0 / step;
    table.resize(products.len() * N, 0);
    let (rows, _) = table.as_chunks_mut::<N>();
    for (row, products) in rows.iter_mut().zip(products.iter()) {
        row.iter_mut().zip(products).for_each(|(entry, product)| *entry = round_byte(product * per_step));
    }
    (step, bias)
}

/// Rounds a value in 0..=255 to the nearest integer: adding 2^23 leaves it in the low bits.
#[inline(always)]
fn round_byte(value: f32) -> u8 {
    (smaller(value, 255.0) + 8_388_608.0).to_bits() as u8
}

#[inline(always)]
fn extreme<const N: usize>(values: &[f32; N], of: impl Fn(f32, f32) -> f32) -> f32 {
    let mut left = *values;
    let mut width = N / 2;
    while width > 0 {
        for at in 0..width {
            left[at] = of(left[at], left[at + width]);
        }
        width /= 2;
    }
    left[0]
}

/// The squared distances of a piece to all words.
#[inline(always)]
fn distances<const N: usize>(piece: &[f32], words: &[f32]) -> [f32; N] {
    let mut distances = [0.0_f32; N];
    let (words, _) = words.as_chunks::<N>();
    for (value, words) in piece.iter().zip(words) {
        for (distance, word) in distances.iter_mut().zip(words) {
            let difference = value - word;
            *distance += difference * difference;
        }
    }
    distances
}

/// The place of the least value; the first of several, and the first of all where none is a number.
#[inline(always)]
fn least<const N: usize>(values: &[f32; N]) -> usize {
    let least = extreme(values, f32::min);
    values.iter().position(|value| *value == least).unwrap_or(0)
}

/// The nearest word; the first of several.
#[inline]
fn nearest_word<const N: usize>(piece: &[f32], words: &[f32]) -> usize {
    least(&distances::<N>(piece, words))
}

/// K-means of one piece's values into `words`, coordinate by coordinate.
fn learn<const N: usize>(
    values: Matrix<'_, f32>,
    words: &mut [f32],
    training: Training,
    random: &mut Random,
) {
    let width = values.dim();
    if values.is_empty() {
        return;
    }
    let put = |words: &mut [f32], word: usize, value: &[f32]| {
        value.iter().enumerate().for_each(|(at, value)| words[at * N + word] = *value);
    };
    (0..N).for_each(|word| put(words, word, values.row(random.below(values.rows()))));
    let mut prices = [0.0; N];
    for _ in 0..training.rounds {
        if training.balanced {
            (0..SINKHORN_ROUNDS).for_each(|_| raise(values, words, &mut prices));
        }
        let mut sums = vec![[0.0_f64; N]; width];
        let mut counts = [0_usize; N];
        for value in values.iter() {
            let mut distances = distances::<N>(value, words);
            distances.iter_mut().zip(&prices).for_each(|(distance, price)| *distance += price);
            let word = least(&distances);
            counts[word] += 1;
            value.iter().zip(&mut sums).for_each(|(value, sums)| sums[word] += f64::from(*value));
        }
        for (word, count) in counts.into_iter().enumerate() {
            if count > 0 {
                for (at, sums) in sums.iter().enumerate() {
                    words[at * N + word] = (sums[word] / count as f64) as f32;
                }
            } else {
                put(words, word, values.row(random.below(values.rows())));
            }
        }
    }
}

/// One round of Sinkhorn's iteration: every row is shared out among the words by their distance and price,
/// and a word that got more than its share becomes dearer.
fn raise<const N: usize>(values: Matrix<'_, f32>, words: &[f32], prices: &mut [f32; N]) {
    let mean = values.iter().map(|value| f64::from(extreme(&distances::<N>(value, words), f32::min)));
    let softness = SOFTNESS * (mean.sum::<f64>() / values.rows() as f64) as f32;
    if !softness.is_normal() {
        return;
    }
    let mut mass = [0.0_f64; N];
    for value in values.iter() {
        let mut shares = distances::<N>(value, words);
        shares.iter_mut().zip(prices.iter()).for_each(|(share, price)| *share += price);
        let least = extreme(&shares, f32::min);
        shares.iter_mut().for_each(|share| *share = ((least - *share) / softness).exp());
        let sum: f32 = shares.iter().sum();
        mass.iter_mut().zip(&shares).for_each(|(mass, share)| *mass += f64::from(share / sum));
    }
    let share = values.rows() as f64 / N as f64;
    for (price, mass) in prices.iter_mut().zip(mass) {
        *price += softness * (mass / share).max(1e-6).ln() as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most values lie near 0, few far out.
    fn values() -> Vec<f32> {
        let mut random = Random(6);
        let mut unit = || (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        (0..6000).map(|_| unit().powi(3)).collect()
    }

    #[test]
    fn prices_share_rows_out_evenly() {
        let values = values();
        let rows = Matrix::new(&values, 2);
        let words = Codebook::<16>::train(rows, 2, Training::default()).words;
        let largest_share = |prices: &[f32; 16]| {
            let mut counts = [0_usize; 16];
            for row in rows.iter() {
                let mut distances = distances::<16>(row, &words);
                distances.iter_mut().zip(prices).for_each(|(distance, price)| *distance += price);
                counts[least(&distances)] += 1;
            }
            counts.iter().fold(0, |most, count| most.max(*count)) as f64 * 16.0 / rows.rows() as f64
        };
        let mut prices = [0.0; 16];
        let free = largest_share(&prices);
        (0..100).for_each(|_| raise(rows, &words, &mut prices));
        let balanced = largest_share(&prices);
        assert!(balanced < 1.5 && free > 1.2 * balanced, "{free}, {balanced}");
    }

    /// A row is written as its nearest word, but words are where the rows are.
    #[test]
    fn balanced_training_evens_words_out() {
        let values = values();
        let rows = Matrix::new(&values, 2);
        let largest_share = |balanced| {
            let training = Training { balanced, rounds: 30, ..Training::default() };
            let codebook = Codebook::<16>::train(rows, 2, training);
            let (mut counts, mut code, mut decoded) = ([0_usize; 16], [0], [0.0; 2]);
            for row in rows.iter() {
                codebook.encode(row, &mut code, &mut decoded);
                counts[usize::from(code[0])] += 1;
            }
            counts.iter().fold(0, |most, count| most.max(*count))
        };
        let (free, balanced) = (largest_share(false), largest_share(true));
        assert!(balanced < free, "{free}, {balanced}");
    }

    #[test]
    fn the_nearest_word_is_the_first_of_the_nearest() {
        let mut random = Random(3);
        for _ in 0..200 {
            let words: Vec<f32> = (0..2 * 256).map(|_| random.below(9) as f32).collect();
            let piece = [random.below(9) as f32, random.below(9) as f32];
            let distance = |at: usize| (words[at] - piece[0]).powi(2) + (words[256 + at] - piece[1]).powi(2);
            let expected = (0..256).min_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap();
            assert_eq!(nearest_word::<256>(&piece, &words), expected);
        }
        assert_eq!(nearest_word::<16>(&[f32::NAN], &[1.0; 16]), 0);
    }
}
