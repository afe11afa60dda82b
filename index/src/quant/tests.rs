//! Every family against the slow oracle, which is what its codes decode to: products, factors, picks; all
//! lengths, and vectors that nobody hopes for. Every set is made from a seed that is printed with what
//! fails.

use half::f16;

use super::rabitq::RabitqQuery;
use super::staged::{Stage, by_distance, by_product, funnel};
use super::*;
use crate::random::Random;
use crate::simd::{Kernels, dot_f64, norm};

pub(super) const DIMS: [usize; 9] = [1, 2, 3, 31, 96, 100, 384, 784, 1050];

/// `count` vectors about zero whose spread falls from dimension to dimension, as that of real ones does.
pub(super) fn rows(count: usize, dim: usize, scale: f32, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let mut values = Vec::with_capacity(count * dim);
    for at in 0..count * dim {
        let unit = |bits: u64| (bits >> 40) as f32 / (1 << 23) as f32 - 1.0;
        let value = unit(random.next()) + unit(random.next()) + unit(random.next());
        values.push(value * scale / (1.0 + (at % dim) as f32 / 16.0));
    }
    values
}

pub(super) fn decode_all<Q: Quantizer>(quantizer: &Q, blocks: &[u8], count: usize) -> Vec<Vec<f32>> {
    let vector = |at: usize| {
        let (block, row) = block_of(blocks, quantizer.block_bytes(), at as u32);
        let mut vector = vec![f32::NAN; quantizer.dim()];
        quantizer.decode(block, row, &mut vector);
        vector
    };
    (0..count).map(vector).collect()
}

/// Everything that holds for a family; `tolerance` is of a product, in units of `|q|` times the
/// largest `|x'|`, as ranges are shared by vectors. `make` is given
/// rows to train on.
pub(super) fn check<Q: Quantizer>(what: &str, tolerance: f64, make: impl Fn(Matrix<'_, f32>, u64) -> Q) {
    for dim in DIMS {
        for (seed, scale) in [(1, 1.0), (2, 1e-9), (3, 1e15)] {
            let what = &format!("{what}, {dim} dimensions, seed {seed}, scale {scale}");
            let count = if dim > 500 { 70 } else { 133 };
            let mut values = rows(count, dim, scale, seed);
            // A zero vector, and one that is there twice, in another block.
            values[..dim].fill(0.0);
            values.copy_within(dim..2 * dim, 40 * dim);
            let rows = Matrix::new(&values, dim);
            let quantizer = make(rows, seed);
            agrees(what, &quantizer, rows, tolerance, seed, scale);
            survives(what, &quantizer, scale);
        }
    }
}

/// Products and factors are those of the decoded vectors.
fn agrees<Q: Quantizer>(
    what: &str,
    quantizer: &Q,
    rows: Matrix<'_, f32>,
    tolerance: f64,
    seed: u64,
    scale: f32,
) {
    let (blocks, factors) = encode_all(quantizer, rows);
    assert_eq!(blocks.len() % quantizer.block_bytes(), 0, "{what}");
    let decoded = decode_all(quantizer, &blocks, rows.rows());
    for (at, (row, decoded)) in rows.iter().zip(&decoded).enumerate() {
        let expected = Factors::of(row, decoded);
        let near = |a: f32, b: f32, most: f64| (f64::from(a) - f64::from(b)).abs() <= most;
        let found = factors[at];
        let size = norm(row);
        assert!(near(found.scale, expected.scale, 1e-3 * f64::from(expected.scale)), "{what}: {found:?}");
        assert!(near(found.norm_squared, expected.norm_squared, 1e-5 * size * size), "{what}: {found:?}");
        let least = f64::from(expected.error) - 2e-3 * size;
        assert!(f64::from(found.error) >= least, "{what}: {found:?}, not {expected:?}");
        let most = f64::from(expected.error).max(2.0 * size);
        assert!(f64::from(found.error) <= 1.001 * most, "{what}: {found:?}");
    }
    let (queries, mut prepared) = (super::tests::rows(4, rows.dim(), scale, seed + 100), Q::Query::default());
    let largest = decoded.iter().map(|vector| norm(vector)).fold(0.0, f64::max);
    for query in queries.chunks(rows.dim()).chain([rows.row(1), rows.row(0)]) {
        quantizer.prepare(query, &mut prepared);
        let mut products = vec![f32::NAN; rows.rows()];
        quantizer.products(&mut prepared, &blocks, &mut products);
        for (at, (product, decoded)) in products.iter().zip(&decoded).enumerate() {
            let (exact, size) = (dot_f64(query, decoded), norm(query) * largest);
            let off = (f64::from(*product) - exact).abs();
            assert!(off <= tolerance * size + 1e-30, "{what}, row {at}: {product}, not {exact} of {size}");
        }
        let picks: Vec<u32> = [1, 40, 0, 33, 1].into_iter().filter(|at| *at < rows.rows() as u32).collect();
        let mut picked = vec![f32::NAN; picks.len()];
        quantizer.products_picked(&mut prepared, &blocks, &picks, &mut picked);
        for (pick, product) in picks.iter().zip(picked) {
            let expected = products[*pick as usize];
            let size = norm(query) * largest;
            assert!(f64::from((product - expected).abs()) <= 1e-5 * size, "{what}, pick {pick}: {product}");
        }
        let mut few = [f32::NAN; 35];
        quantizer.products(&mut prepared, &blocks, &mut few);
        assert_eq!(few, products[..35], "{what}");
        assert_eq!(products[1], products[40], "{what}: the same vector twice");
        quantizer.products(&mut prepared, &[], &mut []);
    }
}

/// No rows; rows and queries that are not finite or as large as can be.
fn survives<Q: Quantizer>(what: &str, quantizer: &Q, scale: f32) {
    let dim = quantizer.dim();
    let (blocks, factors) = encode_all(quantizer, Matrix::new(&[], dim));
    assert!(blocks.is_empty() && factors.is_empty());
    let mut values = rows(6, dim, scale, 9);
    for (row, value) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN].iter().enumerate() {
        values[row * dim + row % dim] = *value;
    }
    let odd = f32::from_bits(0x7fc0_8000);
    values.extend(vec![odd; dim]);
    let values = Matrix::new(&values, dim);
    let (blocks, factors) = encode_all(quantizer, values);
    for bad in [0, 1, 2, 6] {
        assert_eq!((factors[bad].scale, factors[bad].error), (0.0, f32::INFINITY), "{what}, row {bad}");
    }
    assert!(factors[5].error.is_finite(), "{what}: {:?}", factors[5]);
    let (mut prepared, mut products) = (Q::Query::default(), vec![0.0; values.rows()]);
    for query in values.iter() {
        quantizer.prepare(query, &mut prepared);
        quantizer.products(&mut prepared, &blocks, &mut products);
        quantizer.products_picked(&mut prepared, &blocks, &[0, 6], &mut products[..2]);
    }
}

#[test]
fn full() {
    check("f32", 1e-5, |rows, _| Full::<f32>::new(rows.dim(), Kernels::best()));
    let quantizer = Full::<f32>::new(3, Kernels::best());
    let (_, factors) = encode_all(&quantizer, Matrix::new(&[1.0, 2.0, 2.0], 3));
    assert_eq!(factors[0], Factors { scale: 1.0, norm_squared: 9.0, error: 0.0 });
}

/// f16 has no room for 1e15 and none for 1e-9.
#[test]
fn halves() {
    for dim in DIMS {
        let values = rows(70, dim, 1.0, 4);
        let values = Matrix::new(&values, dim);
        let values = values.slice(0..70);
        let quantizer = Full::<f16>::new(dim, Kernels::best());
        let mut doubled = values.values().to_vec();
        doubled.copy_within(dim..2 * dim, 40 * dim);
        agrees("f16", &quantizer, Matrix::new(&doubled, dim), 1e-5, 4, 1.0);
        let (_, factors) = encode_all(&quantizer, values);
        assert!(factors.iter().all(|factors| factors.error < 6e-4 * factors.norm_squared.sqrt() + 1e-6));
        survives("f16", &quantizer, 1.0);
    }
}

#[test]
fn bytes() {
    check("by vector", 2e-3, |rows, _| Scalar::by_vector(rows.dim(), Kernels::best()));
    check("by dimension", 2e-3, |rows, _| Scalar::by_dimension(rows, Kernels::best()));
    let none = Scalar::by_dimension(Matrix::new(&[], 3), Kernels::best());
    survives("ranges of nothing", &none, 1.0);
}

/// Half a step of a range: a bound on the error of every value.
#[test]
fn bytes_are_off_by_half_a_step() {
    for dim in DIMS {
        let values = rows(64, dim, 1.0, 5);
        let values = Matrix::new(&values, dim);
        let quantizer = Scalar::by_vector(dim, Kernels::best());
        let (blocks, _) = encode_all(&quantizer, values);
        for (row, decoded) in values.iter().zip(decode_all(&quantizer, &blocks, 64)) {
            let ends =
                row.iter().fold((f32::MAX, f32::MIN), |(least, most), v| (least.min(*v), most.max(*v)));
            let half = (ends.1 - ends.0) / 510.0;
            let off = row.iter().zip(&decoded).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(off <= 1.01 * half + 1e-6, "{dim}: {off}, {half}");
        }
    }
}

#[test]
fn rabitq() {
    for bits in 1..=8 {
        // What rounding a query to tables adds has to be less the more a code keeps.
        let tolerance = if bits < 5 { 2e-2 } else { 5e-3 };
        let make =
            |rows: Matrix<'_, f32>, seed| Rabitq::new(rows.dim(), bits, Search::Fast, seed, Kernels::best());
        check(&format!("{bits} bits"), tolerance, make);
    }
}

/// Over rotations the estimate is right on average, and off by what its factors say.
#[test]
fn rabitq_is_unbiased_and_knows_its_error() {
    for (dim, bits) in [(31, 1), (96, 1), (96, 2), (100, 3), (96, 4), (384, 1)] {
        let values = rows(2, dim, 1.0, 7);
        let (row, query) = (Matrix::new(&values[..dim], dim), &values[dim..]);
        let (exact, seeds) = (dot_f64(query, row.row(0)), 400);
        let (mut sum, mut squares, mut beyond, mut deviations) = (0.0, 0.0, 0, 0.0);
        for seed in 0..seeds {
            let quantizer = Rabitq::new(dim, bits, Search::Fast, seed, Kernels::best());
            let (blocks, factors) = encode_all(&quantizer, row);
            let (mut prepared, mut products) = (RabitqQuery::default(), [0.0]);
            quantizer.prepare(query, &mut prepared);
            quantizer.products(&mut prepared, &blocks, &mut products);
            let off = f64::from(factors[0].scale * products[0]) - exact;
            let deviation = f64::from(factors[0].deviation(norm(query) as f32, dim.next_multiple_of(16)));
            (sum, squares, deviations) = (sum + off, squares + off * off, deviations + deviation);
            beyond += usize::from(off.abs() > 3.0 * deviation);
        }
        let (bias, spread) = (sum / seeds as f64, (squares / seeds as f64).sqrt());
        let expected = deviations / seeds as f64;
        let what = format!("{dim} dimensions, {bits} bits: {bias} +- {spread}, expected {expected}");
        assert!(bias.abs() < 4.0 * expected / (seeds as f64).sqrt(), "{what}");
        assert!(spread < 1.15 * expected, "{what}");
        assert!(beyond <= 8, "{what}: {beyond} beyond three deviations");
    }
}

/// Pieces for a dimension: of 16 words, and of 256.
fn shape(dim: usize, lookups: bool) -> (usize, usize) {
    let width = dim.div_ceil(64).clamp(2, 5);
    let pieces = dim.div_ceil(width);
    (if lookups { pieces.next_multiple_of(4) } else { pieces }, width)
}

#[test]
fn products() {
    let training = Training { rounds: 4, ..Training::default() };
    for axes in [Axes::Given, Axes::Principal] {
        let pq4 = |rows: Matrix<'_, f32>, seed| {
            let training = Training { seed, ..training };
            Pq4::train(rows, shape(rows.dim(), true), axes, training, Kernels::best())
        };
        check(&format!("pq4 {axes:?}"), 6e-2, pq4);
        let pq8 = |rows: Matrix<'_, f32>, seed| {
            let training = Training { seed, ..training };
            Pq8::train(rows, shape(rows.dim(), false), axes, training, Kernels::best())
        };
        check(&format!("pq8 {axes:?}"), 1e-4, pq8);
    }
}

/// What is learned loses less, and narrow pieces of principal axes less than wide ones of the given.
#[test]
fn products_learn_their_axes() {
    let (dim, count) = (32, 2000);
    // A rotation hides the axes.
    let mut values = rows(count, dim, 1.0, 8);
    let rotation = Rotation::new(dim, 4);
    values.chunks_exact_mut(dim).for_each(|row| rotation.apply(row));
    let values = Matrix::new(&values, dim);
    let lost = |axes, balanced, (pieces, width)| {
        let training = Training { balanced, ..Training::default() };
        let quantizer = Pq4::train(values, (pieces, width), axes, training, Kernels::best());
        let (blocks, _) = encode_all(&quantizer, values);
        let decoded = decode_all(&quantizer, &blocks, count);
        values.iter().zip(&decoded).map(|(row, decoded)| crate::simd::l2_f64(row, decoded)).sum::<f64>()
    };
    let given = lost(Axes::Given, false, (8, 4));
    let (principal, learned) = (lost(Axes::Principal, false, (8, 4)), lost(Axes::Learned, false, (8, 4)));
    let balanced = lost(Axes::Given, true, (8, 4));
    let what = format!("given {given}, principal {principal}, learned {learned}, balanced {balanced}");
    assert!(principal < given && learned < 1.02 * principal, "{what}");
    assert!(balanced < 1.5 * given, "{what}");
    let empty = Pq4::train(values.slice(0..0), (8, 4), Axes::Learned, Training::default(), Kernels::best());
    survives("words of nothing", &empty, 1.0);
    let bad = Matrix::new(&[f32::NAN; 64], dim);
    survives("NaN", &Pq8::train(bad, (8, 4), Axes::Learned, Training::default(), Kernels::best()), 1.0);
}

#[test]
fn stages() {
    let kernels = Kernels::best();
    check("prefix", 1e-4, |rows, _| {
        let first = rows.dim().div_ceil(3);
        Staged::new(Projection::prefix(rows.dim(), first, kernels), Full::<f32>::new(first, kernels))
    });
    check("fourier", 5e-3, |rows, _| {
        let first = rows.dim().div_ceil(2);
        Staged::new(Projection::fourier(rows.dim(), first, kernels), Scalar::by_vector(first, kernels))
    });
    check("principal", 2e-2, |rows, seed| {
        let first = rows.dim().div_ceil(2);
        let codes = Rabitq::new(first, 4, Search::Fast, seed, kernels);
        Staged::new(Projection::principal(rows, first, kernels), codes)
    });
}

/// With all vectors as candidates the funnel is an exact search; with few, its answers are among them.
#[test]
fn a_funnel_ranks_by_its_last_stage() {
    let (dim, count, kernels) = (40, 500, Kernels::best());
    let values = rows(count, dim, 1.0, 12);
    let values = Matrix::new(&values, dim);
    let coarse = Staged::new(Projection::prefix(dim, 8, kernels), Full::<f32>::new(8, kernels));
    let fine = Full::<f32>::new(dim, kernels);
    let (coarse_blocks, coarse_factors) = encode_all(&coarse, values);
    let (fine_blocks, fine_factors) = encode_all(&fine, values);
    let stages = (
        &Stage { quantizer: &coarse, blocks: &coarse_blocks, factors: &coarse_factors },
        &Stage { quantizer: &fine, blocks: &fine_blocks, factors: &fine_factors },
    );
    for query in rows(10, dim, 1.0, 13).chunks(dim) {
        let mut exact: Vec<u32> = (0..count as u32).collect();
        exact.sort_by(|a, b| {
            let distance = |at: &u32| crate::simd::l2_f64(query, values.row(*at as usize));
            distance(a).total_cmp(&distance(b))
        });
        let found = funnel(query, stages, by_distance, (count, 10));
        assert_eq!(found.iter().map(|(row, _)| *row).collect::<Vec<_>>(), exact[..10]);
        let few = funnel(query, stages, by_distance, (50, 10));
        assert!(few.is_sorted_by(|a, b| a.1 >= b.1) && few.len() == 10);
        assert!(few.iter().filter(|(row, _)| exact[..10].contains(row)).count() >= 5);
        assert_eq!(funnel(query, stages, by_product, (3, 10)).len(), 3);
    }
}
