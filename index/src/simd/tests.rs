//! Every level that this CPU has against the f64 oracle, at all lengths 1..=1100 and some long ones, in every
//! form, on unaligned slices that end where their allocation ends, so that a tool that watches memory sees a
//! read past them.

use half::f16;

use super::*;

const LENGTH_MAX: usize = 1100;
const QUERIES: usize = 9;
const ROWS: usize = 13;
/// Lengths whose rows are converted at every load, and so many queries that they pass in several chunks.
const LONG: [usize; 2] = [2049, 5000];
const LONG_QUERIES: usize = 14;
/// Values of queries and of rows that cover both.
const QUERY_VALUES: usize = LONG_QUERIES * 5000;
const ROW_VALUES: usize = ROWS * 5000;

/// A small generator (SplitMix64): the tests need no quality, only the same numbers every time.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    pub(super) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Uniform over all i8, with more of the extremes.
    fn int(&mut self) -> i8 {
        match self.next() % 8 {
            0 => -128,
            1 => 127,
            _ => self.next() as i8,
        }
    }
}

/// The levels to test; those that the CPU lacks are printed.
pub(super) fn levels() -> Vec<&'static Kernels> {
    for level in Kernels::absent() {
        println!("level {level} is not tested: this CPU does not have it");
    }
    Kernels::available()
}

/// Query and row counts tried at every length: all of them, one query, and a pair of counts that walks over
/// the rest.
fn counts(length: usize) -> [(usize, usize); 3] {
    [(QUERIES, ROWS), (1, 1 + length % ROWS), (1 + length % QUERIES, 1 + length / QUERIES % ROWS)]
}

/// The first `count` values, off any alignment, up to the end of their allocation; `start` values are in
/// front.
pub(super) fn exact_size<T: Copy>(values: &[T], start: usize, count: usize) -> Box<[T]> {
    values[..start].iter().chain(&values[..count]).copied().collect()
}

/// Checks one element type at every length.
fn check_floats<T: Element>(queries: &[f32], rows: &[T]) {
    let levels = levels();
    for length in 1..=LENGTH_MAX {
        check_length(&levels, (queries, QUERIES), rows, length, &counts(length));
    }
    for length in LONG {
        let shapes = [(LONG_QUERIES, ROWS), (1, ROWS), (LONG_QUERIES - 1, 4), (5, 6)];
        check_length(&levels, (queries, LONG_QUERIES), rows, length, &shapes);
    }
}

fn check_length<T: Element>(
    levels: &[&'static Kernels],
    (queries, count): (&[f32], usize),
    rows: &[T],
    length: usize,
    shapes: &[(usize, usize)],
) {
    let start = length % 5;
    let (queries, rows) =
        (exact_size(queries, start, count * length), exact_size(rows, start, ROWS * length));
    let widened: Vec<f32> = rows[start..].iter().map(|value| value.to_f32()).collect();
    let queries = Matrix::new(&queries[start..], length);
    let rows = Matrix::new(&rows[start..], length);
    let widened = Matrix::new(&widened, length);
    let (mut dots, mut l2s) = (vec![0.0f32; count * ROWS], vec![0.0f32; count * ROWS]);
    let exact: Vec<(f64, f64, f64)> = queries
        .iter()
        .flat_map(|query| widened.iter().map(move |row| (query, row)))
        .map(|(query, row)| {
            let magnitude = query.iter().zip(row).map(|(a, b)| f64::from(a * b).abs()).sum::<f64>();
            (dot_f64(query, row), l2_f64(query, row), magnitude)
        })
        .collect();
    for kernels in levels {
        let at = format!("{} at length {length}", kernels.level());
        kernels.dot_tile(queries, rows, &mut dots);
        kernels.l2_tile(queries, rows, &mut l2s);
        for (pair, (dot, l2, magnitude)) in exact.iter().enumerate() {
            let dot_error = (f64::from(dots[pair]) - dot).abs();
            assert!(
                dot_error <= dot_error_max(length, *magnitude),
                "dot {at}, pair {pair}: off by {dot_error}"
            );
            let l2_error = (f64::from(l2s[pair]) - l2).abs();
            assert!(l2_error <= l2_error_max(length, *l2), "l2 {at}, pair {pair}: off by {l2_error}");
        }
        for &(q, r) in shapes {
            same_bits(kernels, (queries.slice(0..q), rows.slice(0..r)), (&dots, &l2s), &at);
        }
    }
}

/// Tiles of any shape, one-to-many and one-to-one give the bits of the full tile.
fn same_bits<T: Element>(
    kernels: &Kernels,
    (queries, rows): (Matrix<'_, f32>, Matrix<'_, T>),
    (dots, l2s): (&[f32], &[f32]),
    at: &str,
) {
    let (q, r) = (queries.rows(), rows.rows());
    let mut out = vec![f32::NAN; q * r];
    let expect = |all: &[f32]| -> Vec<u32> {
        (0..q).flat_map(|q| all[q * ROWS..q * ROWS + r].iter().map(|value| value.to_bits())).collect()
    };
    let bits = |out: &[f32]| -> Vec<u32> { out.iter().map(|value| value.to_bits()).collect() };
    kernels.dot_tile(queries, rows, &mut out);
    assert_eq!(bits(&out), expect(dots), "dot {at}, {q} x {r}");
    kernels.l2_tile(queries, rows, &mut out);
    assert_eq!(bits(&out), expect(l2s), "l2 {at}, {q} x {r}");
    kernels.dot_rows(queries.row(q - 1), rows, &mut out[..r]);
    assert_eq!(bits(&out[..r]), expect(dots)[(q - 1) * r..], "dot {at}, one query to {r}");
    kernels.l2_rows(queries.row(q - 1), rows, &mut out[..r]);
    assert_eq!(bits(&out[..r]), expect(l2s)[(q - 1) * r..], "l2 {at}, one query to {r}");
    let last =
        (kernels.dot(queries.row(q - 1), rows.row(r - 1)), kernels.l2(queries.row(q - 1), rows.row(r - 1)));
    assert_eq!(last.0.to_bits(), expect(dots)[q * r - 1], "dot {at}, one pair");
    assert_eq!(last.1.to_bits(), expect(l2s)[q * r - 1], "l2 {at}, one pair");
}

fn floats(seed: u64, count: usize, scale: f32) -> Vec<f32> {
    let mut random = Random(seed);
    (0..count).map(|_| random.float() * scale).collect()
}

#[test]
fn f32_kernels_agree_with_the_oracle() {
    let values = floats(1, QUERY_VALUES + ROW_VALUES, 1.0);
    let (queries, rows) = values.split_at(QUERY_VALUES);
    check_floats(queries, rows);
}

#[test]
fn f16_kernels_agree_with_the_oracle() {
    let queries = floats(2, QUERY_VALUES, 1.0);
    // Subnormals, and values near the largest of f16, among ordinary ones.
    let scales = [1.0, 1e-7, 60_000.0, 0.1];
    let rows: Vec<f16> = floats(3, ROW_VALUES, 1.0)
        .iter()
        .enumerate()
        .map(|(at, value)| f16::from_f32(value * scales[at % 4]))
        .collect();
    check_floats(&queries, &rows);
}

#[test]
fn f32_queries_on_i8_rows_agree_with_the_oracle() {
    let queries = floats(4, QUERY_VALUES, 127.0);
    let mut random = Random(5);
    let rows: Vec<i8> = (0..ROW_VALUES).map(|_| random.int()).collect();
    check_floats(&queries, &rows);
}

/// Runs longer than a cache are read another way.
#[test]
fn long_runs_of_rows_give_the_bits_of_short_ones() {
    let values = floats(14, 103 * 41_002, 1.0);
    let (query, rows) = values.split_at(103);
    let rows = Matrix::new(rows, 103);
    let (mut long, mut short) = (vec![f32::NAN; rows.rows()], vec![f32::NAN; 64]);
    for kernels in levels() {
        for tile in [Kernels::dot_rows, Kernels::l2_rows] {
            tile(kernels, query, rows, &mut long);
            for (at, long) in (0..).step_by(64).zip(long.chunks(64)) {
                tile(kernels, query, rows.slice(at..at + long.len()), &mut short[..long.len()]);
                assert!(long.iter().zip(&short).all(|(a, b)| a.to_bits() == b.to_bits()), "{kernels:?}");
            }
        }
    }
}

#[test]
fn integer_kernels_are_the_same_on_every_level() {
    let levels = levels();
    let mut random = Random(6);
    let queries: Vec<i8> = (0..QUERY_VALUES).map(|_| random.int()).collect();
    let rows: Vec<i8> = (0..ROW_VALUES).map(|_| random.int()).collect();
    let long = LONG.map(|length| (length, [(LONG_QUERIES, ROWS), (1, ROWS), (LONG_QUERIES - 1, 4)]));
    for (length, shapes) in (1..=LENGTH_MAX).map(|length| (length, counts(length))).chain(long) {
        let start = length % 5;
        for (q, r) in shapes {
            let queries = exact_size(&queries, start, q * length);
            let rows = exact_size(&rows, start, r * length);
            let queries = Matrix::new(&queries[start..], length);
            let rows = Matrix::new(&rows[start..], length);
            let (mut expected, mut found) = (vec![0; q * r], vec![0; q * r]);
            for kernels in &levels[1..] {
                levels[0].int_dot_tile(queries, rows, &mut expected);
                kernels.int_dot_tile(queries, rows, &mut found);
                assert_eq!(expected, found, "dot {} at length {length}, {q} x {r}", kernels.level());
                levels[0].int_l2_tile(queries, rows, &mut expected);
                kernels.int_l2_tile(queries, rows, &mut found);
                assert_eq!(expected, found, "l2 {} at length {length}, {q} x {r}", kernels.level());
            }
        }
    }
}

#[test]
fn integer_kernels_hold_the_extremes_at_the_largest_dimension() {
    let (low, high) = (vec![-128i8; INT_DIM_MAX], vec![127i8; INT_DIM_MAX]);
    let matrix = |values| Matrix::new(values, INT_DIM_MAX);
    for kernels in levels() {
        let mut out = [0];
        kernels.int_dot_tile(matrix(&low), matrix(&low), &mut out);
        assert_eq!(out, [128 * 128 * INT_DIM_MAX as i32]);
        kernels.int_l2_tile(matrix(&low), matrix(&high), &mut out);
        assert_eq!(out, [255 * 255 * INT_DIM_MAX as i32]);
    }
}

#[test]
fn big_and_tiny_norms_stay_within_the_bound() {
    for (seed, scale) in [(7, 1e15), (8, 1e-15), (9, 1e-25)] {
        let (a, b) = (floats(seed, 777, scale), floats(seed + 10, 777, scale));
        let magnitude = norm(&a) * norm(&b);
        for kernels in levels() {
            let dot_error = (f64::from(kernels.dot(&a, &b)) - dot_f64(&a, &b)).abs();
            assert!(dot_error <= dot_error_max(777, magnitude), "{kernels:?} {scale}: {dot_error}");
            let l2_error = (f64::from(kernels.l2(&a, &b)) - l2_f64(&a, &b)).abs();
            assert!(l2_error <= l2_error_max(777, l2_f64(&a, &b)), "{kernels:?} {scale}: {l2_error}");
        }
    }
}

#[test]
fn no_rows_and_no_queries_give_no_results() {
    for kernels in levels() {
        kernels.dot_rows::<f32>(&[1.0], Matrix::new(&[], 1), &mut []);
        kernels.l2_tile::<i8>(Matrix::new(&[], 3), Matrix::new(&[1, 2, 3], 3), &mut []);
    }
}

#[test]
fn wrong_shapes_are_refused() {
    for kernels in levels() {
        let short = std::panic::catch_unwind(|| {
            kernels.dot_rows(&[1.0, 2.0], Matrix::new(&[1.0f32, 2.0, 3.0, 4.0], 2), &mut [0.0]);
        });
        assert!(short.is_err(), "{kernels:?} wrote past its results");
        let mixed = std::panic::catch_unwind(|| kernels.dot(&[1.0, 2.0, 3.0], &[1.0f32, 2.0]));
        assert!(mixed.is_err(), "{kernels:?} read past a row");
    }
}

#[test]
fn normalized_vectors_have_norm_one() {
    for (seed, scale) in [(11, 1.0), (12, 1e30), (13, 1e-30)] {
        let mut vector = floats(seed, 321, scale);
        let before = norm(&vector);
        assert_eq!(normalize(&mut vector), Some(before));
        assert!((norm(&vector) - 1.0).abs() < 1e-6);
    }
    let mut zeros = [0.0; 5];
    assert_eq!(normalize(&mut zeros), None);
    assert_eq!(normalize(&mut [1.0, f32::INFINITY]), None);
}
