//! The scan against a sorted merge of each pair of vectors; round trips; damaged bytes.

use roaring::RoaringBitmap;

use super::*;
use crate::topk::Scored;

/// A small seeded generator (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn vector(&mut self, set: usize, dims: usize) -> SparseVector {
        let mut of: Vec<u32> = (0..set).map(|_| self.below(dims) as u32).collect();
        // Some at the far end of the range.
        if self.below(4) == 0 {
            of.extend([u32::MAX, u32::MAX - 7]);
        }
        of.sort_unstable();
        of.dedup();
        // Few values, so that ties and cancellations happen.
        let weights = of.iter().map(|_| [0.5, 1.0, 1.5, -1.0, 0.1][self.below(5)]).collect();
        SparseVector { dims: of, weights }
    }
}

/// The definition: shared dimensions in ascending order, or none when nothing is shared.
fn dot(a: &SparseVector, b: &SparseVector) -> Option<f32> {
    let mut sum = None;
    for (dim, weight) in a.dims.iter().zip(&a.weights) {
        if let Ok(at) = b.dims.binary_search(dim) {
            sum = Some(sum.unwrap_or(0.0) + weight * b.weights[at]);
        }
    }
    sum
}

fn build(vectors: &[Option<SparseVector>]) -> SparseFlat {
    let mut builder = SparseFlat::builder();
    for vector in vectors {
        builder.push(vector.as_ref()).unwrap();
    }
    builder.finish()
}

#[test]
fn the_scan_agrees_with_a_merge_of_every_pair() {
    // One for all, as a searching thread has: nothing of a query may be left for the next one.
    let mut scratch = Scratch::new();
    for seed in 0..60 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let (dims, count) = ([5, 60, 1000, 1 << 31][random.below(4)], [0, 1, 40, 500][random.below(4)]);
        let vectors: Vec<Option<SparseVector>> = (0..count)
            .map(|_| {
                let set = random.below(20);
                (random.below(6) > 0).then(|| random.vector(set, dims))
            })
            .collect();
        let built = build(&vectors);
        let bytes = built.encode();
        let flat = SparseFlat::read(&bytes).unwrap();
        assert_eq!(flat, built);
        let rows: Vec<RowId> = (0..count as u64).map(|row| RowId(row * 3 + 1)).collect();
        let deleted: RoaringBitmap = (0..count as u32).filter(|_| random.below(7) == 0).collect();
        let filter: RoaringBitmap = (0..count as u32 + 20).filter(|_| random.below(3) == 0).collect();
        for k in [1, 3, 10, 1000] {
            let (set, from) = (random.below(12), random.below(count + 1) as u32);
            let query = random.vector(set, dims);
            let allow = Allow {
                range: from..from + random.below(count + 5) as u32,
                deleted: (k != 3).then_some(&deleted),
                filter: (k % 2 == 0).then_some(&filter),
                stop: None,
            };
            let (mut expected, mut found) = (TopK::new(k), TopK::new(k));
            for (doc, vector) in vectors.iter().enumerate() {
                let score = vector.as_ref().and_then(|vector| dot(vector, &query));
                if let Some(score) = score.filter(|_| allow.contains(doc as u32)) {
                    expected.push(score, (rows[doc], doc as u32));
                }
            }
            let mut counters = Counters::default();
            flat.search(&query, &rows, &allow, &mut found, &mut scratch, &mut counters).unwrap();
            let bits = |hits: Vec<Scored>| {
                hits.iter().map(|hit| (hit.row, (hit.score + 0.0).to_bits())).collect::<Vec<_>>()
            };
            assert_eq!(bits(found.into_sorted()), bits(expected.into_sorted()), "k {k}");
            let docs: Vec<DocId> = (0..count as u32).rev().collect();
            let mut scores = vec![9.0; count];
            flat.score(&query, &docs, &mut scores, &mut scratch).unwrap();
            for (doc, score) in docs.iter().zip(scores) {
                let expected = vectors[*doc as usize].as_ref().and_then(|vector| dot(vector, &query));
                assert_eq!((!score.is_nan()).then_some(score), expected);
            }
        }
    }
}

fn vector(pairs: &[(u32, f32)]) -> SparseVector {
    let (dims, weights) = pairs.iter().copied().unzip();
    SparseVector { dims, weights }
}

fn hits(flat: &SparseFlat, query: &SparseVector) -> Vec<(u64, f32)> {
    let rows: Vec<RowId> = (0..u64::from(flat.doc_count())).map(RowId).collect();
    let allow = Allow { range: 0..u32::MAX, deleted: None, filter: None, stop: None };
    let mut top = TopK::new(10);
    flat.search(query, &rows, &allow, &mut top, &mut Scratch::new(), &mut Counters::default()).unwrap();
    top.into_sorted().iter().map(|hit| (hit.row.0, hit.score)).collect()
}

#[test]
fn only_documents_that_share_a_dimension_match() {
    let flat = build(&[
        Some(vector(&[(1, 1.0), (2, -1.0)])),
        None,
        Some(vector(&[(7, 5.0)])),
        Some(vector(&[(2, -3.0)])),
        Some(vector(&[])),
    ]);
    assert_eq!(hits(&flat, &vector(&[(1, 2.0), (2, 2.0)])), [(0, 0.0), (3, -6.0)]);
    assert!(hits(&flat, &vector(&[(3, 1.0)])).is_empty());
    assert!(hits(&flat, &vector(&[])).is_empty());
}

#[test]
fn sums_beyond_f32_are_cut_to_its_range() {
    let big = f32::MAX;
    let flat = build(&[
        Some(vector(&[(1, big), (2, big)])),
        Some(vector(&[(1, big), (2, -big), (3, 4.0)])),
        Some(vector(&[(1, -big)])),
    ]);
    let found = hits(&flat, &vector(&[(1, big), (2, big), (3, 0.5)]));
    assert_eq!(found, [(0, f32::MAX), (1, 2.0), (2, f32::MIN)]);
}

#[test]
fn wrong_vectors_and_calls_are_refused() {
    let wrong = [
        SparseVector { dims: vec![1], weights: vec![] },
        vector(&[(2, 1.0), (1, 1.0)]),
        vector(&[(2, 1.0), (2, 1.0)]),
        vector(&[(2, 0.0)]),
        vector(&[(2, f32::NAN)]),
        vector(&[(2, f32::INFINITY)]),
    ];
    let flat = build(&[Some(vector(&[(1, 1.0)]))]);
    let allow = Allow { range: 0..1, deleted: None, filter: None, stop: None };
    let search = |query: &SparseVector, rows: &[RowId]| {
        let (mut scratch, mut counters) = (Scratch::new(), Counters::default());
        flat.search(query, rows, &allow, &mut TopK::new(1), &mut scratch, &mut counters)
    };
    for vector in &wrong {
        assert!(SparseFlat::builder().push(Some(vector)).is_err());
        assert!(search(vector, &[RowId(1)]).is_err());
        assert!(flat.score(vector, &[0], &mut [0.0], &mut Scratch::new()).is_err());
    }
    let good = vector(&[(1, 1.0)]);
    assert!(search(&good, &[]).is_err());
    assert!(flat.score(&good, &[0], &mut [], &mut Scratch::new()).is_err());
    assert!(flat.score(&good, &[1], &mut [0.0], &mut Scratch::new()).is_err());
}

#[test]
fn damaged_bytes_are_an_error_or_an_index_but_never_a_panic() {
    let mut random = Random(2);
    let vectors: Vec<Option<SparseVector>> = (0..60).map(|_| Some(random.vector(9, 50))).collect();
    let bytes = build(&vectors).encode();
    for end in 0..bytes.len() {
        assert!(SparseFlat::read(&bytes[..end]).is_err());
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << random.below(8);
        if let Ok(flat) = SparseFlat::read(&damaged) {
            hits(&flat, &random.vector(9, 50));
        }
    }
}
