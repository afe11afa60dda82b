//! The levels of x86-64 CPUs, and the only unsafe code of this crate.
//!
//! [`float`] and [`int`] are the loops, written once over a register trait; [`avx2`] and [`avx512`] implement
//! the traits and compile the loops for their level. [`codes`] reads quantized vectors, [`minhash`] makes
//! signatures of sets. Every kernel is a safe function over whole blocks that checks its shapes; the tables
//! are handed out only where the CPU has the level.
#![allow(unsafe_code)]
// The loops index several arrays by one small constant-bounded counter; iterator chains would hide which
// registers live.
#![allow(clippy::needless_range_loop)]

mod avx2;
mod avx512;
mod codes;
mod float;
mod int;
mod minhash;
mod strewn;

use super::dispatch::{Kernels, Vectors};

/// A kernel of a table: checks the shapes, then runs the loops compiled with the features of the level.
macro_rules! kernel {
    ($features:literal, $name:ident($query:ty, $row:ty) -> $out:ty, $($loops:tt)+) => {
        fn $name(queries: &[$query], rows: &[$row], dim: usize, out: &mut [$out]) {
            #[target_feature(enable = $features)]
            unsafe fn run(queries: (&[$query], usize), rows: (&[$row], usize), dim: usize, out: &mut [$out]) {
                // SAFETY: the caller checked that the three slices have the shapes that the loops ask for.
                unsafe {
                    $($loops)+(queries.0.as_ptr(), queries.1, rows.0.as_ptr(), rows.1, dim, out.as_mut_ptr());
                }
            }
            let (query_count, row_count) = $crate::simd::dispatch::shape(queries, rows, dim, out);
            // SAFETY: shapes are checked; the table of this level is handed out only where the CPU has its
            // features.
            unsafe { run((queries, query_count), (rows, row_count), dim, out) }
        }
    };
}
use kernel;

/// Runs `work` compiled for a level.
#[inline(always)]
pub(super) fn vectorized<R>(vectors: Vectors, work: impl FnOnce() -> R) -> R {
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<R>(work: impl FnOnce() -> R) -> R {
        work()
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn avx512<R>(work: impl FnOnce() -> R) -> R {
        work()
    }
    match vectors {
        Vectors::Baseline => work(),
        // SAFETY: a table with these vectors is handed out only where the CPU has its features.
        Vectors::Avx2 => unsafe { avx2(work) },
        // SAFETY: as above.
        Vectors::Avx512 => unsafe { avx512(work) },
    }
}

/// Adds the levels that this CPU has, slowest first, and names those that it lacks.
pub(super) fn levels(present: &mut Vec<&'static Kernels>, absent: &mut Vec<&'static str>) {
    let levels = [
        (&avx2::KERNELS, avx2::present()),
        (&avx512::KERNELS, avx512::present()),
        (&avx512::KERNELS_VNNI, avx512::present_vnni()),
        (&avx512::KERNELS_VBMI, avx512::present_vbmi()),
    ];
    for (kernels, has) in levels {
        if has {
            present.push(kernels);
        } else {
            absent.push(kernels.level());
        }
    }
}

#[cfg(test)]
mod tests;
