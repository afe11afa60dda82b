//! The products of a query with vectors of bytes: one integer query, many rows, in their order or picked.
//!
//! A row is `dim` unsigned bytes, a quantized value each; what a byte stands for is linear, so that the
//! product with the decoded row is these sums times a step plus a constant. The query is i16, so that it adds
//! next to no error of its own, and exact in i32 as long as [`QUERY_MAX`] is kept.

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

/// The kernels of a level: `(query, rows, stride, picks, products)`; with picks of none, all rows.
pub(super) struct ByteKernels {
    pub(super) dots: fn(&[i16], &[u8], usize, &mut [i32]),
    pub(super) picked: Picked,
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
    prefetch: |_, _| {},
};

/// The row that is asked for while the one `at` is read.
#[cfg(target_arch = "x86_64")]
pub(super) fn ahead(picks: &[u32], at: usize) -> Option<usize> {
    picks.get(at + AHEAD).map(|row| *row as usize)
}
