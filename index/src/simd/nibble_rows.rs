//! Codes of nibbles one by one: the sums of vectors that lie anywhere, where few of a posting's matter.
//!
//! A block of [`nibble`] holds 32 vectors side by side; one of them alone is strewn over all its lines. Here
//! a vector is a row: half a byte a lookup, and the factors of its bound, which for 64 lookups are 48 bytes
//! and one or two cache lines. Rows are put back side by side and summed as blocks are; AVX-512 does so in
//! registers.
//!
//! | bytes of a row | what |
//! |---|---|
//! | 4 for every 8 lookups | byte `b`: lookup `8 i + b` (low nibble) and `8 i + 4 + b`; up to 16, zeros |
//! | 3 x 4 | `add`, `scale` and `error`, f32 |
//! | 4 | what the code is relative to, u32 |
//!
//! The bound is `(add + distance) + scale * (sum * step + bias) - error * (slack * root of distance)`, every
//! operation rounded by itself in this order: all levels give the same bits.

use super::dispatch::Kernels;
use super::nibble::{self, BLOCK_ROWS, ENTRIES, Factors, GROUP, LOOKUPS_MAX};

/// What the bytes of a code are a multiple of.
const PIECE_BYTES: usize = 16;
/// Bytes of a row's factors.
const FACTOR_BYTES: usize = 16;
/// Bytes of a group of lookups in a block, and of its table.
const GROUP_BYTES: usize = GROUP * ENTRIES;
/// The low nibbles of four bytes.
const LOW: u32 = 0x0f0f_0f0f;

/// Bytes of the code of a row.
pub(super) const fn code_bytes(lookups: usize) -> usize {
    (lookups / 2).next_multiple_of(PIECE_BYTES)
}

/// Bytes of a row.
pub const fn row_bytes(lookups: usize) -> usize {
    code_bytes(lookups) + FACTOR_BYTES
}

/// Writes vector `at` of a block into its row; `of` is what its code is relative to.
pub fn put_row(row: &mut [u8], block: &[u8], lookups: usize, at: usize, of: u32) {
    let (codes, factors) = row.split_at_mut(code_bytes(lookups));
    let (groups, _) = block[..nibble::code_bytes(lookups)].as_chunks::<GROUP_BYTES>();
    let four = |group: &[u8; GROUP_BYTES]| {
        let from = at % ENTRIES * GROUP;
        let bytes = u32::from_le_bytes([group[from], group[from + 1], group[from + 2], group[from + 3]]);
        bytes >> if at < ENTRIES { 0 } else { 4 } & LOW
    };
    codes.fill(0);
    for (pair, to) in groups.chunks(2).zip(codes.chunks_exact_mut(GROUP)) {
        let bytes = four(&pair[0]) | pair.get(1).map_or(0, four) << 4;
        to.copy_from_slice(&bytes.to_le_bytes());
    }
    let Factors { add, scale, error, .. } = nibble::factors(block, lookups, at);
    put_factors(factors, [add, scale.to_f32(), error.to_f32()], of);
}

/// Makes a row one that no bound rules out.
pub fn put_unknown(row: &mut [u8], lookups: usize, of: u32) {
    let (codes, factors) = row.split_at_mut(code_bytes(lookups));
    codes.fill(0);
    put_factors(factors, [f32::NEG_INFINITY, 0.0, 0.0], of);
}

fn put_factors(to: &mut [u8], factors: [f32; 3], of: u32) {
    let (floats, last) = to.split_at_mut(FACTOR_BYTES - 4);
    floats.chunks_exact_mut(4).zip(factors).for_each(|(to, value)| to.copy_from_slice(&value.to_le_bytes()));
    last.copy_from_slice(&of.to_le_bytes());
}

/// `add`, `scale` and `error` of a row, and what its code is relative to.
#[inline(always)]
pub fn factors(row: &[u8]) -> ([f32; 3], u32) {
    let bytes = row.last_chunk::<FACTOR_BYTES>().copied().unwrap_or_default();
    let four = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    ([0, 4, 8].map(|at| f32::from_le_bytes(four(at))), u32::from_le_bytes(four(12)))
}

/// What turns sums into bounds: as [`nibble::Bounds`], but that what codes are relative to differs.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// The query's squared distance from what codes are relative to; one beyond the end is the last.
    pub distances: &'a [f32],
    /// What a unit of a sum is worth.
    pub step: f32,
    /// The product when the sum is 0.
    pub bias: f32,
    /// How much a unit of `error` lowers the bound, by the root of the distance.
    pub slack: f32,
}

/// Which bounds are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Those from here on.
    pub from: f32,
    /// And below this.
    pub below: f32,
    /// And those that are no number.
    pub unknown: bool,
}

impl Wanted {
    #[inline(always)]
    fn has(self, bound: f32) -> bool {
        ((bound >= self.from) & (bound < self.below)) | (self.unknown & bound.is_nan())
    }
}

/// `(ids, bounds, wanted, out)`, all of one length. Returns how many there are.
pub(super) type PickWanted = fn(&[u32], &[f32], Wanted, &mut [u32]) -> usize;

/// `(table, rows, picks, bounds, out)`.
pub(super) type Picked = fn(&[u8], &[u8], &[u32], &Bounds<'_>, &mut [f32]);

impl Kernels {
    /// The lower bounds of the picked rows by the `table` of `lookups x 16` bytes.
    ///
    /// # Panics
    /// When the shapes do not fit, a row does not exist, there is no distance, or there are more than
    /// [`LOOKUPS_MAX`] lookups.
    pub fn nibble_bounds_picked(
        &self,
        table: &[u8],
        rows: &[u8],
        picks: &[u32],
        bounds: &Bounds<'_>,
        out: &mut [f32],
    ) {
        assert_eq!(picks.len(), out.len(), "one bound a pick");
        let lookups = table.len() / ENTRIES;
        assert!(
            (1..=LOOKUPS_MAX).contains(&lookups) && table.len().is_multiple_of(GROUP_BYTES),
            "{} bytes are no table",
            table.len()
        );
        let need = picks.iter().max().map_or(0, |last| (*last as usize + 1) * row_bytes(lookups));
        assert!(need <= rows.len(), "{need} bytes of rows in {}", rows.len());
        assert!(!bounds.distances.is_empty(), "codes are relative to something");
        (self.nibble.picked)(table, rows, picks, bounds, out);
    }

    /// Those of `ids` whose bound is wanted, in order, in `out`.
    ///
    /// # Panics
    /// When there are not as many bounds.
    pub fn pick_wanted(&self, ids: &[u32], bounds: &[f32], wanted: Wanted, out: &mut Vec<u32>) {
        assert_eq!(ids.len(), bounds.len(), "a bound for each");
        out.resize(ids.len(), 0);
        let count = (self.nibble.wanted)(ids, bounds, wanted, out);
        out.truncate(count);
    }
}

/// The picks one by one, without a branch: which are wanted cannot be foreseen.
pub(super) fn one_by_one(ids: &[u32], bounds: &[f32], wanted: Wanted, out: &mut [u32]) -> usize {
    let mut count = 0;
    for (id, bound) in ids.iter().zip(bounds) {
        out[count] = *id;
        count += usize::from(wanted.has(*bound));
    }
    count
}

/// The bounds by the sums of blocks.
#[inline(always)]
pub(super) fn by_blocks(
    sums: fn(&[u8], &[u8], &mut [i32]),
    (table, rows, picks): (&[u8], &[u8], &[u32]),
    bounds: &Bounds<'_>,
    out: &mut [f32],
) {
    let lookups = table.len() / ENTRIES;
    let (stride, bytes) = (row_bytes(lookups), lookups.div_ceil(2 * GROUP) * GROUP);
    let mut block = [0_u8; LOOKUPS_MAX * BLOCK_ROWS / 2];
    let block = &mut block[..nibble::code_bytes(lookups)];
    let mut found = [0; BLOCK_ROWS];
    for (picks, out) in picks.chunks(BLOCK_ROWS).zip(out.chunks_mut(BLOCK_ROWS)) {
        let row = |at: usize| {
            let at = picks.get(at).or(picks.last()).map_or(0, |pick| *pick as usize * stride);
            &rows[at..][..stride]
        };
        for lane in 0..ENTRIES {
            put_lane(block, lane, &row(lane)[..bytes], &row(lane + ENTRIES)[..bytes]);
        }
        sums(table, block, &mut found);
        for (at, (sum, out)) in found.iter().zip(out).enumerate() {
            let ([add, scale, error], of) = factors(row(at));
            let of = (of as usize).min(bounds.distances.len() - 1);
            let distance = bounds.distances[of];
            let product = *sum as f32 * bounds.step + bounds.bias;
            *out = (add + distance) + scale * product - error * (bounds.slack * distance.sqrt());
        }
    }
}

/// Puts two codes side by side with those of other lanes.
#[inline(always)]
fn put_lane(block: &mut [u8], lane: usize, low: &[u8], high: &[u8]) {
    let place = lane * GROUP;
    let (pairs, last) = block.as_chunks_mut::<{ 2 * GROUP_BYTES }>();
    let fours = low.as_chunks::<4>().0.iter().zip(high.as_chunks::<4>().0);
    let mut fours = fours.map(|(low, high)| (u32::from_le_bytes(*low), u32::from_le_bytes(*high)));
    let first = |low: u32, high: u32| (low & LOW | (high & LOW) << 4).to_le_bytes();
    for (pair, (low, high)) in pairs.iter_mut().zip(&mut fours) {
        pair[place..][..GROUP].copy_from_slice(&first(low, high));
        pair[GROUP_BYTES + place..][..GROUP].copy_from_slice(&(low >> 4 & LOW | high & !LOW).to_le_bytes());
    }
    // A group without another beside it.
    for (group, (low, high)) in last.chunks_exact_mut(GROUP_BYTES).zip(fours) {
        group[place..][..GROUP].copy_from_slice(&first(low, high));
    }
}
