//! The loops with registers that are plain arrays: they run on any CPU, and reach the shapes that only 32
//! registers have.
//!
//! With 16 lanes these are the AVX-512 kernels but for the instructions themselves; with 8 they must give
//! AVX2's bits.

use half::f16;

use super::float::{self, Float, Load};
use super::int::{self, Int};
use crate::matrix::Matrix;
use crate::simd::{Element, Kernels, dot_error_max, dot_f64, l2_error_max, l2_f64};

/// `N` float lanes.
#[derive(Clone, Copy)]
struct Lanes<const N: usize>([f32; N]);

impl<const N: usize> Float for Lanes<N> {
    const WIDTH: usize = N;
    const WIDE: bool = N == 16;

    unsafe fn zero() -> Self {
        Self([0.0; N])
    }

    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for N values.
        Self(unsafe { from.cast::<[f32; N]>().read_unaligned() })
    }

    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller vouches for `count` values.
        Self(std::array::from_fn(|lane| if lane < count { unsafe { *from.add(lane) } } else { 0.0 }))
    }

    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for N places.
        unsafe { to.cast::<[f32; N]>().write_unaligned(self.0) }
    }

    unsafe fn multiply_add(a: Self, b: Self, sum: Self) -> Self {
        Self(std::array::from_fn(|lane| a.0[lane].mul_add(b.0[lane], sum.0[lane])))
    }

    unsafe fn subtract(a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|lane| a.0[lane] - b.0[lane]))
    }

    unsafe fn sums(registers: [Self; 4]) -> [f32; 4] {
        registers.map(|Self(lanes)| {
            let mut eight: [f32; 8] = std::array::from_fn(|lane| lanes[lane]);
            for lane in 8..N {
                eight[lane - 8] += lanes[lane];
            }
            let half = |l: usize| (eight[l] + eight[l + 2]) + (eight[l + 1] + eight[l + 3]);
            half(0) + half(4)
        })
    }
}

macro_rules! load {
    ($($element:ty),+) => {$(
        impl<const N: usize> Load<Lanes<N>> for $element {
            unsafe fn load(from: *const Self) -> Lanes<N> {
                // SAFETY: the caller vouches for N values.
                Lanes(std::array::from_fn(|lane| unsafe { *from.add(lane) }.to_f32()))
            }

            unsafe fn load_part(from: *const Self, count: usize, _after: bool) -> Lanes<N> {
                // SAFETY: the caller vouches for `count` values.
                let value = |lane| if lane < count { unsafe { *from.add(lane) }.to_f32() } else { 0.0 };
                Lanes(std::array::from_fn(value))
            }
        }
    )+};
}
load!(f16, i8);

/// 32 integer lanes; as sums, every lane of the array is one of i32.
#[derive(Clone, Copy)]
struct Ints([i32; 32]);

impl Int for Ints {
    const WIDTH: usize = 32;
    const WIDE: bool = true;

    unsafe fn zero() -> Self {
        Self([0; 32])
    }

    unsafe fn load(from: *const i8) -> Self {
        // SAFETY: the caller vouches for 32 values.
        unsafe { Self::load_part(from, 32, false) }
    }

    unsafe fn load_part(from: *const i8, count: usize, _after: bool) -> Self {
        // SAFETY: the caller vouches for `count` values.
        Self(std::array::from_fn(|lane| if lane < count { i32::from(unsafe { *from.add(lane) }) } else { 0 }))
    }

    unsafe fn multiply_add(a: Self, b: Self, sum: Self) -> Self {
        Self(std::array::from_fn(|lane| a.0[lane] * b.0[lane] + sum.0[lane]))
    }

    unsafe fn subtract(a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|lane| a.0[lane] - b.0[lane]))
    }

    unsafe fn sums(registers: [Self; 4]) -> [i32; 4] {
        registers.map(|Self(lanes)| lanes.iter().sum())
    }
}

/// Dots, then squared L2 distances.
fn run<F: Float, T: Load<F>>(queries: Matrix<'_, f32>, rows: Matrix<'_, T>) -> [Vec<f32>; 2] {
    let (q, r) = (queries.rows(), rows.rows());
    let mut out = [vec![f32::NAN; q * r], vec![f32::NAN; q * r]];
    let (queries, dim, rows) = (queries.values().as_ptr(), queries.dim(), rows.values().as_ptr());
    // SAFETY: the matrices have these shapes and there is a result for each pair; arrays need no CPU feature.
    unsafe {
        float::tile::<F, T, float::Dot>(queries, q, rows, r, dim, out[0].as_mut_ptr());
        float::tile::<F, T, float::L2>(queries, q, rows, r, dim, out[1].as_mut_ptr());
    }
    out
}

fn check<T: Element + Load<Lanes<8>> + Load<Lanes<16>>>(element: impl Fn(usize) -> T) {
    let avx2 = Kernels::available().into_iter().find(|kernels| kernels.level() == "avx2");
    for dim in (1..70).chain([127, 128, 200, 384, 5000]) {
        let queries: Vec<f32> = (0..14 * dim).map(|at| ((at * 37 % 101) as f32 - 50.0) / 7.0).collect();
        let rows: Vec<T> = (0..11 * dim).map(&element).collect();
        for (q, r) in [(14, 11), (7, 4), (6, 9), (5, 3), (1, 11)] {
            let (queries, rows) = (Matrix::new(&queries[..q * dim], dim), Matrix::new(&rows[..r * dim], dim));
            let [dots, l2s] = run::<Lanes<16>, T>(queries, rows);
            for (pair, (dot, l2)) in dots.iter().zip(&l2s).enumerate() {
                let (query, row) = (queries.row(pair / r), rows.row(pair % r));
                let magnitude = query.iter().zip(row).map(|(a, b)| f64::from(a * b.to_f32()).abs()).sum();
                let off = (f64::from(*dot) - dot_f64(query, row)).abs();
                assert!(off <= dot_error_max(dim, magnitude), "dot of {dim}, {q} x {r}, pair {pair}: {off}");
                let exact = l2_f64(query, row);
                let off = (f64::from(*l2) - exact).abs();
                assert!(off <= l2_error_max(dim, exact), "l2 of {dim}, {q} x {r}, pair {pair}: {off}");
                assert_eq!(
                    run::<Lanes<16>, T>(
                        queries.slice(pair / r..pair / r + 1),
                        rows.slice(pair % r..pair % r + 1)
                    ),
                    [vec![*dot], vec![*l2]],
                    "one pair of {dim}"
                );
            }
            if let Some(avx2) = avx2 {
                let [dots, l2s] = run::<Lanes<8>, T>(queries, rows);
                let mut out = vec![0.0; q * r];
                avx2.dot_tile(queries, rows, &mut out);
                assert_eq!(out, dots, "dot of {dim}, {q} x {r}");
                avx2.l2_tile(queries, rows, &mut out);
                assert_eq!(out, l2s, "l2 of {dim}, {q} x {r}");
            }
        }
    }
}

#[test]
fn float_loops_are_right_with_any_register() {
    check::<f32>(|at| ((at * 53 % 97) as f32 - 48.0) / 3.0);
    check::<f16>(|at| f16::from_f32(((at * 53 % 97) as f32 - 48.0) / 3.0));
    check::<i8>(|at| (at * 53 % 256) as u8 as i8);
}

#[test]
fn integer_loops_are_right_with_any_register() {
    let scalar = Kernels::available()[0];
    for dim in (1..100).chain([128, 384]) {
        let values: Vec<i8> = (0..25 * dim).map(|at| (at * 53 % 256) as u8 as i8).collect();
        for (q, r) in [(14, 11), (7, 4), (6, 9), (5, 3), (1, 11)] {
            let (queries, rows) = (&values[..q * dim], &values[14 * dim..(14 + r) * dim]);
            let (mut found, mut expected) = (vec![0; q * r], vec![0; q * r]);
            // SAFETY: the slices have these shapes; arrays need no CPU feature.
            unsafe {
                let (queries, rows, out) = (queries.as_ptr(), rows.as_ptr(), found.as_mut_ptr());
                int::tile::<Ints, int::Dot>(queries, q, rows, r, dim, out);
            }
            scalar.int_dot_tile(Matrix::new(queries, dim), Matrix::new(rows, dim), &mut expected);
            assert_eq!(found, expected, "dot of {dim}, {q} x {r}");
            // SAFETY: as above.
            unsafe {
                let (queries, rows, out) = (queries.as_ptr(), rows.as_ptr(), found.as_mut_ptr());
                int::tile::<Ints, int::L2>(queries, q, rows, r, dim, out);
            }
            scalar.int_l2_tile(Matrix::new(queries, dim), Matrix::new(rows, dim), &mut expected);
            assert_eq!(found, expected, "l2 of {dim}, {q} x {r}");
        }
    }
}
