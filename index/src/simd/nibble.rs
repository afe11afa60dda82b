//! How near is a query to 32 vectors whose codes are nibbles: the sums of table entries that the nibbles
//! name, and which of the vectors a lower bound does not rule out.
//!
//! A code is `lookups` nibbles (a multiple of [`GROUP`]); a query brings 16 bytes for each, so that a sum is
//! the query's product with the coded vector, quantized. Both product codes of 16 words a subspace and sign
//! codes (a nibble is four signs) are read this way; which of the two it is only the table knows.
//!
//! A block is [`BLOCK_ROWS`] vectors, padded at the end by [`pad`]:
//!
//! | bytes | what |
//! |---|---|
//! | 64 a group of 4 lookups | byte `4 * lane + lookup`: nibbles of vectors `lane` (low) and `lane + 16` |
//! | 4 x 32 | `add`, f32 |
//! | 2 x 32 | `scale`, f16 |
//! | 2 x 32 | `error`, f16 |
//! | 4 x 32 | `id`, u32: what a candidate is called |
//!
//! The four bytes of a vector are neighbours, so that one instruction adds them up (`vpdpbusd`), and the 64
//! table bytes of a group fill the register that `vpermb` looks up in: 0.75 ns a vector of 64 lookups in the
//! second-level cache, where the usual order (Andre et al., "Quick(er) ADC") with 16 vectors of one lookup
//! side by side takes 1.17 (Sapphire Rapids, one thread). CPUs without VBMI sort the bytes back.
//!
//! The bound of a vector is `(base + add) + scale * (sum * step + bias) - error * slack`, every operation
//! rounded by itself in this order: all levels give the same bits.

use half::f16;

use super::dispatch::Kernels;
use super::nibble_rows::{PickWanted, Picked, by_blocks, one_by_one};

/// Vectors of a block.
pub const BLOCK_ROWS: usize = 32;
/// Lookups that are stored together; their number is a multiple of it.
pub const GROUP: usize = 4;
/// Bytes of the factors and ids of a block.
pub const TAIL_BYTES: usize = 12 * BLOCK_ROWS;
/// Most lookups of a code: beyond, 16-bit sums of some levels overflow.
pub const LOOKUPS_MAX: usize = 256;
/// Table bytes a lookup.
pub(crate) const ENTRIES: usize = 16;

/// Where the ids are, counted from the end of the codes.
pub(super) const IDS_AT: usize = 8 * BLOCK_ROWS;

/// Bytes of the codes of a block.
pub const fn code_bytes(lookups: usize) -> usize {
    lookups * BLOCK_ROWS / 2
}

/// Bytes of a block, factors and ids included.
pub const fn block_bytes(lookups: usize) -> usize {
    code_bytes(lookups) + TAIL_BYTES
}

/// What turns a sum into a bound on a distance; see the head of this file.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The query's part of the distance, the same for all vectors.
    pub base: f32,
    /// What a unit of a sum is worth.
    pub step: f32,
    /// The product when the sum is 0.
    pub bias: f32,
    /// How much a unit of `error` lowers the bound.
    pub slack: f32,
    /// Vectors whose bound is below are candidates.
    pub threshold: f32,
}

/// The factors of one vector, and its id.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// Added to the query's part.
    pub add: f32,
    /// Times the product.
    pub scale: f16,
    /// Times the slack.
    pub error: f16,
    /// What a candidate is called.
    pub id: u32,
}

/// Vectors that a bound did not rule out.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    /// The id of each.
    pub ids: Vec<u32>,
    /// The lower bound of each.
    pub bounds: Vec<f32>,
}

impl Candidates {
    /// Forgets all, keeping the memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.bounds.clear();
    }
}

/// The kernels of a level.
pub(super) struct NibbleKernels {
    /// `(table, blocks without factors, sums)`.
    pub(super) sums: fn(&[u8], &[u8], &mut [i32]),
    /// `(table, blocks, bounds, candidates)`.
    pub(super) scan: fn(&[u8], &[u8], &Bounds, &mut Candidates),
    pub(super) picked: Picked,
    pub(super) wanted: PickWanted,
}

impl Kernels {
    /// The sums of all vectors of `codes`, blocks without factors, by the `table` of `lookups x 16` bytes.
    ///
    /// # Panics
    /// When the shapes do not fit, or there are more than [`LOOKUPS_MAX`] lookups.
    pub fn nibble_sums(&self, table: &[u8], codes: &[u8], sums: &mut [i32]) {
        let blocks = blocks(table, codes, code_bytes);
        assert_eq!(sums.len(), blocks * BLOCK_ROWS, "one sum a vector");
        (self.nibble.sums)(table, codes, sums);
    }

    /// Adds the vectors of a posting, which is blocks, whose lower bound is below the threshold to
    /// `candidates`, in order.
    ///
    /// # Panics
    /// As [`nibble_sums`](Self::nibble_sums).
    pub fn nibble_scan(&self, table: &[u8], posting: &[u8], bounds: &Bounds, candidates: &mut Candidates) {
        blocks(table, posting, block_bytes);
        (self.nibble.scan)(table, posting, bounds, candidates);
    }
}

/// How many blocks there are.
fn blocks(table: &[u8], bytes: &[u8], block_bytes: fn(usize) -> usize) -> usize {
    let lookups = table.len() / ENTRIES;
    assert!(
        (1..=LOOKUPS_MAX).contains(&lookups) && table.len().is_multiple_of(GROUP * ENTRIES),
        "{} bytes are no table",
        table.len()
    );
    let block = block_bytes(lookups);
    assert!(bytes.len().is_multiple_of(block), "{} bytes are no blocks of {block}", bytes.len());
    bytes.len() / block
}

/// Where the nibble of vector `row` for `lookup` is: the byte, and the shift in it.
fn place(row: usize, lookup: usize) -> (usize, u32) {
    let byte = lookup / GROUP * GROUP * ENTRIES + row % ENTRIES * GROUP + lookup % GROUP;
    (byte, if row < ENTRIES { 0 } else { 4 })
}

/// Sets the code of vector `row` of a block of zeros; `code` has one value below 16 a lookup.
pub fn put_code(block: &mut [u8], row: usize, code: &[u8]) {
    for (lookup, nibble) in code.iter().enumerate() {
        let (byte, shift) = place(row, lookup);
        block[byte] |= (nibble & 15) << shift;
    }
}

/// The code of vector `row` of a block.
pub fn code(block: &[u8], row: usize, code: &mut [u8]) {
    for (lookup, nibble) in code.iter_mut().enumerate() {
        let (byte, shift) = place(row, lookup);
        *nibble = block[byte] >> shift & 15;
    }
}

/// Sets the factors of vector `row` of a block.
pub fn put_factors(block: &mut [u8], lookups: usize, row: usize, factors: Factors) {
    let block = &mut block[code_bytes(lookups)..];
    let (scales, errors) = (4 * BLOCK_ROWS, 6 * BLOCK_ROWS);
    block[4 * row..][..4].copy_from_slice(&factors.add.to_le_bytes());
    block[scales + 2 * row..][..2].copy_from_slice(&factors.scale.to_le_bytes());
    block[errors + 2 * row..][..2].copy_from_slice(&factors.error.to_le_bytes());
    block[IDS_AT + 4 * row..][..4].copy_from_slice(&factors.id.to_le_bytes());
}

/// The factors of vector `row` of a block.
pub fn factors(block: &[u8], lookups: usize, row: usize) -> Factors {
    let block = &block[code_bytes(lookups)..];
    let (scales, errors) = (4 * BLOCK_ROWS, 6 * BLOCK_ROWS);
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
    let four = |at: usize| [block[at], block[at + 1], block[at + 2], block[at + 3]];
    Factors {
        add: f32::from_le_bytes(four(4 * row)),
        scale: half(scales + 2 * row),
        error: half(errors + 2 * row),
        id: u32::from_le_bytes(four(IDS_AT + 4 * row)),
    }
}

/// Makes the vectors of a block from `row` on infinitely far, so that they are never candidates.
pub fn pad(block: &mut [u8], lookups: usize, row: usize) {
    let nowhere = Factors { add: f32::INFINITY, scale: f16::ZERO, error: f16::ZERO, id: u32::MAX };
    (row..BLOCK_ROWS).for_each(|row| put_factors(block, lookups, row, nowhere));
}

/// The oracle: one nibble at a time.
pub(super) mod scalar {
    use super::*;

    pub(in crate::simd) const KERNELS: NibbleKernels = NibbleKernels {
        sums,
        scan,
        picked: |table, rows, picks, bounds, out| by_blocks(sums, (table, rows, picks), bounds, out),
        wanted: one_by_one,
    };

    fn sums(table: &[u8], codes: &[u8], out: &mut [i32]) {
        let lookups = table.len() / ENTRIES;
        let mut nibbles = [0; LOOKUPS_MAX];
        let nibbles = &mut nibbles[..lookups];
        for (block, out) in codes.chunks_exact(code_bytes(lookups)).zip(out.chunks_exact_mut(BLOCK_ROWS)) {
            for (row, out) in out.iter_mut().enumerate() {
                code(block, row, nibbles);
                let entry = |(lookup, nibble): (usize, &u8)| table[lookup * ENTRIES + usize::from(*nibble)];
                *out = nibbles.iter().enumerate().map(|pair| i32::from(entry(pair))).sum();
            }
        }
    }

    fn scan(table: &[u8], posting: &[u8], bounds: &Bounds, candidates: &mut Candidates) {
        scan_by(sums, table, posting, bounds, candidates);
    }
}

/// A scan by the sums of one block at a time.
#[inline(always)]
fn scan_by(
    sums: impl Fn(&[u8], &[u8], &mut [i32]),
    table: &[u8],
    posting: &[u8],
    bounds: &Bounds,
    candidates: &mut Candidates,
) {
    let lookups = table.len() / ENTRIES;
    let mut sum = [0; BLOCK_ROWS];
    for block in posting.chunks_exact(block_bytes(lookups)) {
        sums(table, &block[..code_bytes(lookups)], &mut sum);
        for (row, sum) in sum.iter().enumerate() {
            let Factors { add, scale, error, id } = factors(block, lookups, row);
            let product = *sum as f32 * bounds.step + bounds.bias;
            let estimate = (add + bounds.base) + scale.to_f32() * product;
            let bound = estimate - error.to_f32() * bounds.slack;
            if bound < bounds.threshold {
                candidates.ids.push(id);
                candidates.bounds.push(bound);
            }
        }
    }
}

/// Sixteen vectors side by side, as the compiler sees fit.
pub(super) mod portable {
    use super::*;

    pub(in crate::simd) const KERNELS: NibbleKernels = NibbleKernels {
        sums,
        scan,
        picked: |table, rows, picks, bounds, out| by_blocks(sums, (table, rows, picks), bounds, out),
        wanted: one_by_one,
    };

    #[inline(always)]
    fn sums(table: &[u8], codes: &[u8], out: &mut [i32]) {
        let (groups, _) = table.as_chunks::<{ GROUP * ENTRIES }>();
        let code_bytes = groups.len() * GROUP * ENTRIES;
        for (block, out) in codes.chunks_exact(code_bytes).zip(out.chunks_exact_mut(BLOCK_ROWS)) {
            let (low, high) = out.split_at_mut(ENTRIES);
            low.fill(0);
            high.fill(0);
            let (bytes, _) = block.as_chunks::<{ GROUP * ENTRIES }>();
            for (table, bytes) in groups.iter().zip(bytes) {
                let (vectors, _) = bytes.as_chunks::<GROUP>();
                for (bytes, (low, high)) in vectors.iter().zip(low.iter_mut().zip(high.iter_mut())) {
                    for (lookup, byte) in bytes.iter().enumerate() {
                        *low += i32::from(table[lookup * ENTRIES + usize::from(byte & 15)]);
                        *high += i32::from(table[lookup * ENTRIES + usize::from(byte >> 4)]);
                    }
                }
            }
        }
    }

    fn scan(table: &[u8], posting: &[u8], bounds: &Bounds, candidates: &mut Candidates) {
        scan_by(sums, table, posting, bounds, candidates);
    }
}
