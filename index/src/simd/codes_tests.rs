//! Kernels over codes, every level against the scalar one bit for bit, at every number of lookups and every
//! length, on slices that end where their allocation ends.

use half::f16;

use super::bytes::{HALF_GROUP, put_half, query_max};
use super::nibble::{
    self, BLOCK_ROWS, Bounds, Candidates, Factors, GROUP, LOOKUPS_MAX, block_bytes, code_bytes,
};
use super::nibble_rows::{self, put_row, put_unknown, row_bytes};
use super::tests::{Random, exact_size, levels};
use super::{Kernels, scalar};

/// A posting of random codes and factors, some of them padding, without spare capacity.
fn posting(random: &mut Random, lookups: usize, blocks: usize) -> Box<[u8]> {
    let mut posting = vec![0; blocks * block_bytes(lookups)];
    for (at, block) in posting.chunks_exact_mut(block_bytes(lookups)).enumerate() {
        for row in 0..BLOCK_ROWS {
            let code: Vec<u8> = (0..lookups).map(|_| random.next() as u8 & 15).collect();
            nibble::put_code(block, row, &code);
            let factors = Factors {
                add: 300.0 * random.float(),
                scale: f16::from_f32(random.float()),
                error: f16::from_f32(random.float().abs()),
                id: random.next() as u32,
            };
            nibble::put_factors(block, lookups, row, factors);
            let mut read = vec![0; lookups];
            nibble::code(block, row, &mut read);
            assert_eq!((read, nibble::factors(block, lookups, row)), (code, factors));
        }
        if at + 1 == blocks {
            nibble::pad(block, lookups, random.next() as usize % BLOCK_ROWS);
        }
    }
    exact_size(&posting, 0, posting.len())
}

#[test]
fn nibble_kernels_agree_with_the_oracle_bit_for_bit() {
    let mut random = Random(7);
    for lookups in (GROUP..=LOOKUPS_MAX).step_by(GROUP) {
        let blocks = 1 + lookups / GROUP % 3;
        // All entries at their most is where sums are largest.
        let most = lookups % 5 == 0;
        let table: Vec<u8> =
            (0..lookups * 16).map(|_| if most { 255 } else { random.next() as u8 }).collect();
        let table = exact_size(&table, 0, table.len());
        let posting = posting(&mut random, lookups, blocks);
        let codes: Vec<u8> = posting
            .chunks(block_bytes(lookups))
            .flat_map(|block| &block[..code_bytes(lookups)])
            .copied()
            .collect();
        let codes = exact_size(&codes, 0, codes.len());
        let bounds = Bounds { base: 17.5, step: 0.013, bias: -3.25, slack: 1.7, threshold: 30.0 };
        let everything = Bounds { threshold: f32::INFINITY, ..bounds };
        let run = |kernels: &Kernels| {
            let mut sums = vec![0; blocks * BLOCK_ROWS];
            kernels.nibble_sums(&table, &codes, &mut sums);
            let mut some = Candidates { ids: vec![9], bounds: vec![0.5] };
            kernels.nibble_scan(&table, &posting, &bounds, &mut some);
            let mut all = Candidates::default();
            kernels.nibble_scan(&table, &posting, &everything, &mut all);
            let bits = |found: &Candidates| found.bounds.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            (sums, (bits(&some), some.ids), (bits(&all), all.ids))
        };
        let expected = run(&scalar::KERNELS);
        let pads = posting.chunks(block_bytes(lookups)).flat_map(|block| {
            (0..BLOCK_ROWS).map(move |row| nibble::factors(block, lookups, row).add.is_infinite())
        });
        let there = pads.filter(|pad| !pad).count();
        assert_eq!(expected.2.1.len(), there, "padding is never found, everything else is");
        for kernels in levels() {
            assert!(run(kernels) == expected, "{} at {lookups} lookups", kernels.level());
        }
    }
}

#[test]
fn bounds_one_by_one_are_those_of_postings() {
    let mut random = Random(17);
    for lookups in (GROUP..=LOOKUPS_MAX).step_by(GROUP) {
        let most = lookups % 5 == 0;
        let table: Vec<u8> =
            (0..lookups * 16).map(|_| if most { 255 } else { random.next() as u8 }).collect();
        let table = exact_size(&table, 0, table.len());
        let (blocks, stride) = (2, row_bytes(lookups));
        let posting = posting(&mut random, lookups, blocks);
        let distances: Vec<f32> = (0..5).map(|_| 40.0 * random.float().abs()).collect();
        let count = blocks * BLOCK_ROWS;
        let mut rows = vec![0xff; (count + 1) * stride];
        for (row, bytes) in rows.chunks_exact_mut(stride).enumerate() {
            // What a row is relative to may be beyond the last.
            match posting.chunks(block_bytes(lookups)).nth(row / BLOCK_ROWS) {
                Some(block) => put_row(bytes, block, lookups, row % BLOCK_ROWS, row as u32 % 7),
                None => put_unknown(bytes, lookups, 2),
            }
        }
        let rows = exact_size(&rows, 0, rows.len());
        let (step, bias, slack) = (0.013, -3.25, 1.7);
        // The bound of a row alone, by the scan of its block.
        let bound = |row: usize| -> f32 {
            let distance = distances[(row % 7).min(distances.len() - 1)];
            let slack = slack * distance.sqrt();
            let bounds = Bounds { base: distance, step, bias, slack, threshold: f32::INFINITY };
            let mut found = Candidates::default();
            let block = &posting[row / BLOCK_ROWS * block_bytes(lookups)..][..block_bytes(lookups)];
            scalar::KERNELS.nibble_scan(&table, block, &bounds, &mut found);
            let before =
                (0..row % BLOCK_ROWS).filter(|row| nibble::factors(block, lookups, *row).add.is_finite());
            let is_there = nibble::factors(block, lookups, row % BLOCK_ROWS).add.is_finite();
            if is_there { found.bounds[before.count()] } else { f32::INFINITY }
        };
        let picks: Vec<u32> =
            (0..1 + lookups % 45).map(|_| random.next() as u32 % (count as u32 + 1)).collect();
        let expected: Vec<u32> = picks
            .iter()
            .map(|row| {
                if *row as usize == count { f32::NEG_INFINITY } else { bound(*row as usize) }.to_bits()
            })
            .collect();
        let bounds = nibble_rows::Bounds { distances: &distances, step, bias, slack };
        for kernels in levels() {
            let mut found = vec![0.0; picks.len()];
            kernels.nibble_bounds_picked(&table, &rows, &picks, &bounds, &mut found);
            let found: Vec<u32> = found.iter().map(|bound| bound.to_bits()).collect();
            assert_eq!(found, expected, "{} at {lookups} lookups", kernels.level());
        }
    }
}

#[test]
fn wanted_bounds_are_picked_in_order_at_every_length() {
    let mut random = Random(19);
    let edges = [f32::NEG_INFINITY, -1.0, 0.0, 2.5, f32::INFINITY, f32::NAN];
    for count in 0..70 {
        let bounds: Vec<f32> = (0..count)
            .map(|_| match random.next() % 3 {
                0 => edges[random.next() as usize % edges.len()],
                _ => 4.0 * random.float(),
            })
            .collect();
        let ids: Vec<u32> = (0..count as u32).map(|at| at * 7).collect();
        let (ids, bounds) = (exact_size(&ids, 0, count), exact_size(&bounds, 0, count));
        for (from, below) in [(0, 4), (1, 3), (2, 2), (3, 4), (0, 0), (4, 4)] {
            for unknown in [false, true] {
                let (from, below) = (edges[from], edges[below]);
                let wanted = nibble_rows::Wanted { from, below, unknown };
                let is_wanted = |bound: f32| (from <= bound && bound < below) || (unknown && bound.is_nan());
                let each = ids.iter().zip(&bounds).filter(|(_, bound)| is_wanted(**bound));
                let expected: Vec<u32> = each.map(|(id, _)| *id).collect();
                for kernels in levels() {
                    let mut found = vec![9; 3];
                    kernels.pick_wanted(&ids, &bounds, wanted, &mut found);
                    assert_eq!(found, expected, "{}, {wanted:?} of {bounds:?}", kernels.level());
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "a bound for each")]
fn ids_without_bounds_panic() {
    let wanted = nibble_rows::Wanted { from: 0.0, below: 1.0, unknown: false };
    Kernels::best().pick_wanted(&[1, 2], &[0.5], wanted, &mut Vec::new());
}

#[test]
#[should_panic(expected = "bytes of rows in")]
fn a_picked_code_that_is_not_there_panics() {
    let bounds = nibble_rows::Bounds { distances: &[1.0], step: 1.0, bias: 0.0, slack: 1.0 };
    let rows = vec![0; 2 * row_bytes(GROUP)];
    Kernels::best().nibble_bounds_picked(&[0; GROUP * 16], &rows, &[2], &bounds, &mut [0.0]);
}

#[test]
fn the_bound_is_what_the_head_says() {
    let lookups = 4;
    let mut block = vec![0; block_bytes(lookups)];
    nibble::put_code(&mut block, 20, &[1, 2, 3, 4]);
    let factors = Factors { add: 2.0, scale: f16::from_f32(-0.5), error: f16::from_f32(0.25), id: 1020 };
    nibble::put_factors(&mut block, lookups, 20, factors);
    nibble::pad(&mut block, lookups, 21);
    let table: Vec<u8> = (0..64).collect();
    // The sum is 1 + 18 + 35 + 52, and 0 + 16 + 32 + 48 for rows of zeros.
    let bounds = Bounds { base: 100.0, step: 2.0, bias: -12.0, slack: 4.0, threshold: 10.0 };
    let mut found = Candidates::default();
    Kernels::best().nibble_scan(&table, &block, &bounds, &mut found);
    assert_eq!((found.ids, found.bounds), (vec![1020], vec![100.0 + 2.0 - 0.5 * (106.0 * 2.0 - 12.0) - 1.0]));
}

#[test]
fn byte_kernels_agree_with_the_oracle() {
    let mut random = Random(11);
    for dim in (1..=300).chain([383, 384, 768, 1000, 4096]) {
        let (rows, stride) = (1 + dim % 11, dim + dim % 5);
        let max = i64::from(query_max(dim));
        let extreme = dim % 7 == 0;
        let mut value = || if extreme { max } else { (random.next() % (2 * max as u64 + 1)) as i64 - max };
        let query: Vec<i16> = (0..dim).map(|_| value() as i16).collect();
        let query = exact_size(&query, 0, dim);
        let bytes = (rows - 1) * stride + dim;
        let values: Vec<u8> = (0..bytes).map(|_| if extreme { 255 } else { random.next() as u8 }).collect();
        let values = exact_size(&values, 0, bytes);
        let picks: Vec<u32> = (0..9).map(|_| random.next() as u32 % rows as u32).collect();
        let run = |kernels: &Kernels| {
            let (mut all, mut some) = (vec![0; rows], vec![0; picks.len()]);
            kernels.byte_dots(&query, &values, stride, &mut all);
            kernels.byte_dots_picked(&query, &values, stride, &picks, &mut some);
            (all, some)
        };
        let exact = |row: usize| -> i64 {
            let row = &values[row * stride..];
            query.iter().zip(row).map(|(a, b)| i64::from(*a) * i64::from(*b)).sum()
        };
        for kernels in levels() {
            let (all, some) = run(kernels);
            let level = kernels.level();
            assert!(all.iter().enumerate().all(|(row, v)| i64::from(*v) == exact(row)), "{level} at {dim}");
            assert!(
                picks.iter().zip(&some).all(|(row, v)| i64::from(*v) == exact(*row as usize)),
                "{level} at {dim}"
            );
        }
    }
}

#[test]
fn half_byte_kernels_agree_with_the_oracle() {
    let mut random = Random(13);
    for dim in (1..=12).map(|groups| groups * HALF_GROUP) {
        for extreme in [false, true] {
            let (rows, stride) = (1 + dim % 7, dim / 2 + dim / 64 % 13);
            let query: Vec<i8> = (0..dim).map(|_| if extreme { -128 } else { random.next() as i8 }).collect();
            let query = exact_size(&query, 0, dim);
            let (bytes, mut expected) = ((rows - 1) * stride + dim / 2, vec![0; rows]);
            let mut values = vec![0; bytes];
            for (row, sum) in expected.iter_mut().enumerate() {
                for (at, value) in query.iter().enumerate() {
                    let code = if extreme { 15 } else { random.next() as u8 & 15 };
                    put_half(&mut values[row * stride..], at, code);
                    *sum += i32::from(*value) * i32::from(code);
                }
            }
            let values = exact_size(&values, 0, bytes);
            let picks: Vec<u32> = (0..9).map(|_| random.next() as u32 % rows as u32).collect();
            let expected: Vec<i32> = picks.iter().map(|row| expected[*row as usize]).collect();
            for kernels in levels() {
                let mut found = vec![0; picks.len()];
                kernels.half_dots_picked(&query, &values, stride, &picks, &mut found);
                assert_eq!(found, expected, "{} at {dim}", kernels.level());
            }
        }
    }
}

#[test]
#[should_panic(expected = "row Some(2) of 32 bytes")]
fn a_picked_row_of_half_bytes_that_is_not_there_panics() {
    Kernels::best().half_dots_picked(&[1; 64], &[0; 95], 32, &[2], &mut [0]);
}

#[test]
#[should_panic(expected = "3 rows of 8 bytes")]
fn a_picked_row_that_is_not_there_panics() {
    Kernels::best().byte_dots_picked(&[1; 8], &[0; 16], 8, &[2], &mut [0]);
}
