//! Which kernels this CPU runs: one table of functions a level, probed once.
//!
//! A table is plain data. Code that computes takes a `&'static Kernels`: [`Kernels::best`] in production,
//! each of [`Kernels::available`] in tests.

use std::sync::OnceLock;

use half::f16;

use super::bytes::ByteKernels;
use super::minhash::Lower;
use super::nibble::NibbleKernels;
use super::{portable, scalar};

/// Every query against every row: `(queries: q x dim, rows: r x dim, dim, out: q x r)`, all row-major.
pub(super) type Tile<Q, T, O> = fn(&[Q], &[T], usize, &mut [O]);

/// f32 queries against rows of `T`.
pub struct FloatKernels<T> {
    pub(super) dot: Tile<f32, T, f32>,
    pub(super) l2: Tile<f32, T, f32>,
}

/// i8 queries against i8 rows, exact.
pub(super) struct IntKernels {
    pub(super) dot: Tile<i8, i8, i32>,
    pub(super) l2: Tile<i8, i8, i32>,
}

/// The instructions that [`Kernels::vectorized`] compiles for.
#[derive(Clone, Copy)]
pub(super) enum Vectors {
    /// Those of every CPU of the architecture.
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// The kernels of one level. Its methods are in [`simd`](super).
pub struct Kernels {
    pub(super) level: &'static str,
    pub(super) vectors: Vectors,
    pub(super) f32: FloatKernels<f32>,
    pub(super) f16: FloatKernels<f16>,
    pub(super) i8: FloatKernels<i8>,
    pub(super) int: IntKernels,
    pub(super) nibble: NibbleKernels,
    pub(super) bytes: ByteKernels,
    pub(super) lower: Lower,
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kernels").field(&self.level).finish()
    }
}

struct Levels {
    present: Vec<&'static Kernels>,
    absent: Vec<&'static str>,
}

fn levels() -> &'static Levels {
    static LEVELS: OnceLock<Levels> = OnceLock::new();
    LEVELS.get_or_init(|| {
        let mut levels = Levels { present: vec![&scalar::KERNELS, &portable::KERNELS], absent: Vec::new() };
        #[cfg(target_arch = "x86_64")]
        super::x86_64::levels(&mut levels.present, &mut levels.absent);
        levels
    })
}

impl Kernels {
    /// The fastest level that this CPU has.
    pub fn best() -> &'static Self {
        levels().present.last().copied().unwrap_or(&portable::KERNELS)
    }

    /// Every level that this CPU can run: `scalar` (the oracle) and `portable` first, the fastest last.
    pub fn available() -> Vec<&'static Self> {
        levels().present.clone()
    }

    /// Names of the levels that were built for this architecture but that this CPU lacks.
    pub fn absent() -> Vec<&'static str> {
        levels().absent.clone()
    }

    /// Runs `work` compiled for this level: loops over plain values that are inlined into it become the
    /// vector instructions that the level has. Results are the same on every level.
    #[inline(always)]
    pub(crate) fn vectorized<R>(&self, work: impl FnOnce() -> R) -> R {
        match self.vectors {
            Vectors::Baseline => work(),
            #[cfg(target_arch = "x86_64")]
            vectors => super::x86_64::vectorized(vectors, work),
        }
    }

    /// `scalar`, `portable`, `avx2`, `avx512`, `avx512vnni` or `avx512vbmi`.
    pub fn level(&self) -> &'static str {
        self.level
    }
}

/// Checks `queries: q x dim`, `rows: r x dim`, `out: q x r` and returns `(q, r)`.
///
/// # Panics
/// When `dim` is 0 or a slice has another shape.
#[inline]
pub(super) fn shape<Q, T, O>(queries: &[Q], rows: &[T], dim: usize, out: &[O]) -> (usize, usize) {
    assert!(dim > 0, "vectors have at least one dimension");
    let (query_count, row_count) = (queries.len() / dim, rows.len() / dim);
    assert_eq!(queries.len(), query_count * dim, "queries are whole vectors of {dim} dimensions");
    assert_eq!(rows.len(), row_count * dim, "rows are whole vectors of {dim} dimensions");
    assert_eq!(out.len(), query_count * row_count, "one result for each query and row");
    (query_count, row_count)
}
