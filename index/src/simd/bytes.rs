//! The products of a query with vectors of bytes: one integer query, many rows, in their order or picked.
//!
//! A row is `dim` unsigned bytes, a quantized value each; what a byte stands for is linear, so that the
//! product with the decoded row is these sums times a step plus a constant. The query is i16, so that it adds
//! next to no error of its own, and exact in i32 as long as [`QUERY_MAX`] is kept.
//!
//! Rows of half bytes are read the same way, picked ones: groups of 32 bytes hold 64 values, the first 32 in
//! the lower halves, the others in the upper. Their query is i8, for theirs are the larger errors.

use super::dispatch::Kernels;

/// The largest absolute value of a query of `dim` dimensions for which no sum overflows.
pub fn query_max(dim: usize) -> i16 {
    (i32::MAX as usize / (255 * dim.max(1))).min(QUERY_MAX as usize) as i16
}

/// No query value is larger: 14 bits are more than the bytes have.
const QUERY_MAX: i16 = 16_383;

/// Rows ahead of the one being read that are asked for when rows are picked.
const AHEAD: usize = 4;

/// `(query, rows, stride, picks, products)`.
type Picked = fn(&[i16], &[u8], usize, &[u32], &mut [i32]);

/// Values of a group of half bytes.
pub const HALF_GROUP: usize = 64;

/// As [`Picked`], rows of half bytes.
type HalfPicked = fn(&[i8], &[u8], usize, &[u32], &mut [i32]);

/// The kernels of a level: `(query, rows, stride, picks, products)`; with picks of none, all rows.
pub(super) struct ByteKernels {
    pub(super) dots: fn(&[i16], &[u8], usize, &mut [i32]),
    pub(super) picked: Picked,
    pub(super) half_picked: HalfPicked,
    pub(super) prefetch: fn(*const u8, usize),
}

impl Kernels {
    /// The product of `query` with each row: row `i` begins at byte `i * stride` of `rows`.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn byte_dots(&self, query: &[i16], rows: &[u8], stride: usize, products: &mut [i32]) {
        check(query, rows, stride, products.len());
        (self.bytes.dots)(query, rows, stride, products);
    }

    /// The product of `query` with each of the picked rows.
    ///
    /// # Panics
    /// When the shapes do not fit or a row does not exist.
    pub fn byte_dots_picked(
        &self,
        query: &[i16],
        rows: &[u8],
        stride: usize,
        picks: &[u32],
        products: &mut [i32],
    ) {
        assert_eq!(picks.len(), products.len(), "one product a pick");
        let last = picks.iter().copied().max();
        check(query, rows, stride, last.map_or(0, |last| last as usize + 1));
        (self.bytes.picked)(query, rows, stride, picks, products);
    }

    /// The product of `query`, of whole groups, with each of the picked rows of half bytes.
    ///
    /// # Panics
    /// When the shapes do not fit or a row does not exist.
    pub fn half_dots_picked(
        &self,
        query: &[i8],
        rows: &[u8],
        stride: usize,
        picks: &[u32],
        products: &mut [i32],
    ) {
        assert_eq!(picks.len(), products.len(), "one product a pick");
        assert!(
            !query.is_empty() && query.len().is_multiple_of(HALF_GROUP) && query.len() / 2 <= stride,
            "{} values are no row of half bytes in a stride of {stride}",
            query.len()
        );
        let last = picks.iter().copied().max();
        let need = last.map_or(0, |last| last as usize * stride + query.len() / 2);
        assert!(need <= rows.len(), "row {last:?} of {stride} bytes in {}", rows.len());
        (self.bytes.half_picked)(query, rows, stride, picks, products);
    }

    /// Asks for values that will be read soon; a hint.
    #[inline]
    pub(crate) fn prefetch<T>(&self, values: &[T]) {
        (self.bytes.prefetch)(values.as_ptr().cast(), size_of_val(values));
    }
}

/// Checks that `count` rows are there.
fn check(query: &[i16], rows: &[u8], stride: usize, count: usize) {
    assert!(!query.is_empty() && query.len() <= stride, "a row of {} in a stride of {stride}", query.len());
    let need = if count == 0 { 0 } else { (count - 1) * stride + query.len() };
    assert!(need <= rows.len(), "{count} rows of {stride} bytes in {}", rows.len());
    debug_assert!(query.iter().all(|value| value.unsigned_abs() <= QUERY_MAX as u16), "the query fits");
}

#[inline(always)]
fn dot(query: &[i16], row: &[u8]) -> i32 {
    query.iter().zip(row).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}

/// One row at a time; the oracle, and what the compiler makes vector code of for `portable`.
pub(super) const SCALAR: ByteKernels = ByteKernels {
    dots: |query, rows, stride, products| {
        for (row, product) in products.iter_mut().enumerate() {
            *product = dot(query, &rows[row * stride..]);
        }
    },
    picked: |query, rows, stride, picks, products| {
        for (row, product) in picks.iter().zip(products) {
            *product = dot(query, &rows[*row as usize * stride..]);
        }
    },
    half_picked: |query, rows, stride, picks, products| {
        for (row, product) in picks.iter().zip(products) {
            let row = &rows[*row as usize * stride..];
            let groups = query.chunks_exact(HALF_GROUP).zip(row.chunks(HALF_GROUP / 2));
            let of_group = |(query, bytes): (&[i8], &[u8])| -> i32 {
                let (low, high) = query.split_at(HALF_GROUP / 2);
                let both = low.iter().zip(high).zip(bytes);
                both.map(|((low, high), byte)| {
                    i32::from(*low) * i32::from(byte & 15) + i32::from(*high) * i32::from(byte >> 4)
                })
                .sum()
            };
            *product = groups.map(of_group).sum();
        }
    },
    prefetch: |_, _| {},
};

/// Writes a value of a row of half bytes.
pub fn put_half(row: &mut [u8], at: usize, value: u8) {
    debug_assert!(value < 16, "half a byte");
    let byte = &mut row[at / HALF_GROUP * (HALF_GROUP / 2) + at % (HALF_GROUP / 2)];
    match at % HALF_GROUP < HALF_GROUP / 2 {
        true => *byte = (*byte & 0xf0) | value,
        false => *byte = (*byte & 0x0f) | value << 4,
    }
}

/// The row that is asked for while the one `at` is read.
#[cfg(target_arch = "x86_64")]
pub(super) fn ahead(picks: &[u32], at: usize) -> Option<usize> {
    picks.get(at + AHEAD).map(|row| *row as usize)
}
