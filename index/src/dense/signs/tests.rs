//! Scans of signs against the exact index over the same vectors: recall at what was asked for, whatever the
//! metric, element, filter and place of the vectors; damage. Every set is made from a seed that is printed
//! with what fails.

use roaring::RoaringBitmap;
use spandrel_storage::{Element, Metric, RowId};

use super::*;
use crate::allow::Allow;
use crate::dense::SearchParams;
use crate::dense::vectors::Residency;
use crate::fuzz::Bytes;
use crate::matrix::Matrix;
use crate::random::Random;
use crate::topk::Scored;

fn float(random: &mut Random) -> f32 {
    (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn vectors(seed: u64, count: usize, dim: usize, scale: f32) -> Vec<Vec<f32>> {
    let mut random = Random(seed);
    let centres: Vec<Vec<f32>> = (0..20).map(|_| (0..dim).map(|_| float(&mut random)).collect()).collect();
    let vector = |random: &mut Random| {
        let centre = &centres[random.below(centres.len())];
        // Not centred, and of uneven variance.
        let value =
            |(at, c): (usize, &f32)| (0.4 + c + 1.5 * float(random) / (1.0 + 0.02 * at as f32)) * scale;
        centre.iter().enumerate().map(value).collect()
    };
    (0..count).map(|_| vector(&mut random)).collect()
}

struct Case {
    spec: DenseSpec,
    signs: Signs,
    /// The same with the vectors on disk.
    on_disk: Signs,
    section: Vec<u8>,
    rows: Vec<RowId>,
}

impl Case {
    fn new(metric: Metric, element: Element, vectors: &[Vec<f32>]) -> Self {
        let dim = vectors[0].len() as u32;
        let spec = DenseSpec { dim, metric, element, index: IndexKind::Auto };
        let mut builder = FlatBuilder::new(&spec).unwrap();
        // Every fifth doc has none.
        for (at, vector) in vectors.iter().enumerate() {
            builder.push(Some(vector)).unwrap();
            if at % 4 == 3 {
                builder.push(None).unwrap();
            }
        }
        let rows = (0..u64::from(builder.docs())).map(|row| RowId(row * 3 + 1)).collect();
        let mut flat = Vec::new();
        builder.write(&mut flat).unwrap();
        let give = |at: usize, out: &mut [f32]| builder.rows(at, out);
        let codes = Codes::encode(&spec, &give, builder.vectors(), Before::default());
        let mut section = Vec::new();
        codes.write(&mut section).unwrap();
        assert_eq!(section.len() as u64, Codes::section_bytes(&spec, builder.vectors()));
        let signs = Signs::new(builder.finish(), codes);
        let flat = Flat::open("flat", &spec, Arc::new(Bytes(flat)), Residency::Disk).unwrap();
        let source: Arc<dyn ChunkSource> = Arc::new(Bytes(section.clone()));
        let on_disk = Signs::open("signs", &spec, flat, &source).unwrap();
        Self { spec, signs, on_disk, section, rows }
    }

    fn search(&self, signs: &Signs, query: &[f32], allow: &Allow<'_>, k: usize, recall: f32) -> Vec<Scored> {
        let (mut top, mut counters, mut scratch) = (TopK::new(k), Counters::default(), Scratch::new());
        let params = SearchParams { recall, exact: recall == 1.0, rescore: true };
        let ask = Ask { params, ..Ask::new(&self.rows, allow) };
        signs.search(query, &ask, &mut top, &mut scratch, &mut counters).unwrap();
        top.into_sorted()
    }

    /// Mean share of the true `k` nearest that is found. Scores and numbers of results are checked.
    fn recall(&self, signs: &Signs, queries: &[Vec<f32>], allow: &Allow<'_>, k: usize, recall: f32) -> f64 {
        let (mut hits, mut wanted) = (0, 0);
        for query in queries {
            let truth = self.search(&self.signs, query, allow, k, 1.0);
            let found = self.search(signs, query, allow, k, recall);
            assert_eq!(found.len(), truth.len(), "as many as there are");
            assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "order, or a row twice");
            let worst = truth.last().map_or(0.0, |last| last.score);
            hits += found.iter().filter(|hit| hit.score >= worst).count();
            wanted += truth.len();
            for hit in found.iter().filter(|hit| hit.score >= worst) {
                let score = truth.iter().find(|other| other.row == hit.row).map_or(hit.score, |t| t.score);
                assert_eq!(hit.score, score, "scores are exact");
            }
        }
        hits as f64 / f64::from(wanted.max(1) as u32)
    }
}

#[test]
fn what_was_asked_for_is_found() {
    let mut seed = 1;
    for (metric, element, dim, scale) in [
        (Metric::L2, Element::F32, 96, 1.0),
        (Metric::Ip, Element::F32, 100, 1e-9),
        (Metric::Cosine, Element::F16, 64, 30.0),
        (Metric::L2, Element::I8, 128, 40.0),
        (Metric::Ip, Element::F16, 384, 1.0),
        (Metric::L2, Element::F32, 1100, 1e12),
    ] {
        seed += 1;
        let mut set = vectors(seed, 2_500, dim, scale);
        if element == Element::I8 {
            let whole = |value: &mut f32| *value = value.round().clamp(-127.0, 127.0);
            set.iter_mut().flatten().for_each(whole);
        }
        let queries = set.split_off(2_450);
        let case = Case::new(metric, element, &set);
        let docs = case.rows.len() as u32;
        let deleted: RoaringBitmap = (0..docs).filter(|doc| doc % 3 == 0).collect();
        let filter: RoaringBitmap = (500..1_500).collect();
        let allows = [
            Allow::all(docs),
            Allow { range: 700..1_900, deleted: Some(&deleted), ..Allow::all(docs) },
            Allow { filter: Some(&filter), ..Allow::all(docs) },
        ];
        for allow in &allows {
            for (k, recall) in [(1, 0.95), (10, 0.90), (10, 0.99), (100, 0.95), (5_000, 0.9)] {
                for signs in [&case.signs, &case.on_disk] {
                    let found = case.recall(signs, &queries, allow, k, recall);
                    let what = format!("seed {seed}, {metric:?} {element:?} {dim}, k {k}: {found}");
                    assert!(found >= f64::from(recall) - 0.01, "{what}, asked {recall}");
                }
            }
        }
    }
}

#[test]
fn levels_agree_and_a_batch_is_its_searches() {
    let set = vectors(40, 1_200, 72, 1.0);
    let case = Case::new(Metric::Cosine, Element::F32, &set);
    let allow = Allow::all(case.rows.len() as u32);
    let queries: Vec<f32> = set[..40].concat();
    let queries = Matrix::new(&queries, 72);
    let params = SearchParams { recall: 0.9, exact: false, rescore: true };
    let ask = Ask { params, ..Ask::new(&case.rows, &allow) };
    let mut expected: Option<Vec<Vec<Scored>>> = None;
    for kernels in Kernels::available() {
        let Case { signs, .. } = Case::new(Metric::Cosine, Element::F32, &set);
        let signs = signs.with_kernels(kernels);
        let (mut scratch, mut counters) = (Scratch::new(), Counters::default());
        let mut tops = vec![TopK::new(7); 40];
        signs.search_batch(queries, &ask, &mut tops, &mut scratch, &mut counters).unwrap();
        let tops: Vec<_> = tops.into_iter().map(TopK::into_sorted).collect();
        for (query, top) in queries.iter().zip(&tops) {
            assert_eq!(&case.search(&signs, query, &allow, 7, 0.9), top, "{kernels:?}");
        }
        assert_eq!(expected.get_or_insert_with(|| tops.clone()), &tops, "{kernels:?}");
    }
}

/// What other segments found rules out candidates and nothing that belongs among the best.
#[test]
fn the_best_of_other_segments_count() {
    let set = vectors(50, 3_000, 96, 1.0);
    let (near, far) = (Case::new(Metric::L2, Element::F32, &set), vectors(51, 20, 96, 1.0));
    let allow = Allow::all(near.rows.len() as u32);
    let (mut scratch, mut alone, mut after) = (Scratch::new(), Counters::default(), Counters::default());
    for query in &far {
        let ask = Ask::new(&near.rows, &allow);
        let mut top = TopK::new(10);
        near.signs.search(query, &ask, &mut top, &mut scratch, &mut alone).unwrap();
        let mut again = TopK::new(10);
        // The same scores under other rows, which win ties.
        top.clone().into_sorted().iter().for_each(|hit| {
            again.push(hit.score, (RowId(hit.row.0 - 1), hit.doc));
        });
        near.signs.search(query, &ask, &mut again, &mut scratch, &mut after).unwrap();
        let rows = |top: TopK| top.into_sorted().iter().map(|hit| hit.row.0 / 3).collect::<Vec<_>>();
        let (mut twice, once) = (rows(again), rows(top));
        twice.dedup();
        assert_eq!(twice, once[..twice.len()]);
    }
    assert!(after.scored < alone.scored, "{} and {}", after.scored, alone.scored);
}

#[test]
fn vectors_without_extent_outliers_and_far_queries_are_no_trouble() {
    // Under inner product far larger norms leave nothing to tell the others apart by.
    for (metric, outlier) in [(Metric::L2, 1e18), (Metric::Ip, 30.0)] {
        let mut set = vec![vec![0.25; 64]; 400];
        let case = Case::new(metric, Element::F32, &set);
        let allow = Allow::all(case.rows.len() as u32);
        assert_eq!(case.search(&case.signs, &set[0], &allow, 9, 0.9).len(), 9);
        set.extend(vectors(60, 600, 64, 1.0));
        set.extend(vectors(61, 5, 64, outlier));
        let case = Case::new(metric, Element::F32, &set);
        let allow = Allow::all(case.rows.len() as u32);
        for scale in [0.0, 1.0, 1e9, 1e18] {
            let queries = vectors(62, 20, 64, scale);
            let found = case.recall(&case.signs, &queries, &allow, 10, 0.95);
            assert!(found >= 0.94, "seed 62, {metric:?}, queries times {scale}: {found}");
        }
    }
}

#[test]
fn damaged_bytes_are_told() {
    let case = Case::new(Metric::Ip, Element::F32, &vectors(70, 300, 64, 1.0));
    let decode = |bytes: &[u8]| Codes::decode("signs/0", &case.spec, 300, bytes).err();
    assert!(decode(&case.section).is_none());
    for len in [0, 1, 63, 64, 200, case.section.len() - 1] {
        assert!(decode(&case.section[..len]).is_some(), "{len} bytes");
    }
    let mut random = Random(71);
    for _ in 0..2_000 {
        let mut bytes = case.section.clone();
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
        // Where nothing contradicts it, it is other codes: a search ends and finds what is there.
        let Ok(codes) = Codes::decode("signs/0", &case.spec, 300, &bytes) else { continue };
        let mut builder = FlatBuilder::new(&case.spec).unwrap();
        vectors(70, 300, 64, 1.0).iter().for_each(|vector| builder.push(Some(vector)).unwrap());
        let signs = Signs::new(builder.finish(), codes);
        let (mut top, mut counters, mut scratch) = (TopK::new(5), Counters::default(), Scratch::new());
        let (query, allow) = (&vectors(72, 1, 64, 1.0)[0], Allow::all(300));
        let ask = Ask::new(&case.rows, &allow);
        let _ = signs.search(query, &ask, &mut top, &mut scratch, &mut counters);
        assert!(top.into_sorted().iter().all(|hit| hit.score.is_finite()), "byte {at}");
    }
    for at in [0, 8, 10, 12, 16] {
        let mut bytes = case.section.clone();
        bytes[at + 1] ^= 0x80;
        bytes[at] ^= 0x55;
        assert!(decode(&bytes).is_some(), "byte {at}");
    }
}

#[test]
fn deviations_are_those_of_a_normal_value() {
    for (share, expected) in [(0.5, 0.0), (0.841_345, 1.0), (0.95, 1.645), (0.977_25, 2.0), (0.999, 3.09)] {
        let found = slack_of(&[0.0], 1.0 - share);
        assert!((found - expected).abs() < 2e-3, "{share}: {found}");
    }
    assert!(slack_of(&[0.0], 2.0) < 2e-3 && slack_of(&[0.0], 0.0) == DEVIATIONS_MAX);
}

/// A row's code goes with it from segment to segment.
#[test]
fn codes_made_before_are_copied_where_their_space_suits() {
    for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
        let spec = DenseSpec { dim: 72, metric, element: Element::F32, index: IndexKind::Auto };
        let encode = |set: &[Vec<f32>], made: &[&Codes], known: &[Option<(u32, u32)>]| {
            let rows = |first: usize, out: &mut [f32]| {
                out.chunks_exact_mut(72).zip(&set[first..]).for_each(|(out, row)| out.copy_from_slice(row));
            };
            Codes::encode(&spec, &rows, set.len() as u32, Before { made, known })
        };
        let bytes = |codes: &Codes| {
            let mut bytes = Vec::new();
            codes.write(&mut bytes).unwrap();
            bytes
        };
        let mut set = vectors(80, 900, 72, 1.0);
        // Under inner product a space has room for norms up to the largest of its own.
        let norm = |at: &usize| crate::simd::norm_squared(&set[*at]);
        let longest = (0..900).max_by(|a, b| norm(a).total_cmp(&norm(b))).unwrap();
        set.swap(0, longest);
        let (first, second, third) = (&set[..400], &set[400..700], &set[700..]);
        let large = encode(first, &[], &[]);
        let small = encode(second, &[&large], &[]);
        assert!(small.space == large.space, "{metric:?}: a space of its own for the same kind of vectors");
        // Every third one is gone; some are new.
        let kept = |of: u32, count: u32| (0..count).filter(|at| at % 3 != 0).map(move |at| (of, at));
        let known: Vec<(u32, u32)> = kept(0, 400).chain(kept(1, 300)).collect();
        let of = |(of, at): &(u32, u32)| [first, second][*of as usize][*at as usize].clone();
        let merged: Vec<Vec<f32>> = known.iter().map(of).chain(third.iter().cloned()).collect();
        let known: Vec<_> = known.into_iter().map(Some).chain(third.iter().map(|_| None)).collect();
        let made = [&large, &small];
        assert!(bytes(&encode(&merged, &made, &known)) == bytes(&encode(&merged, &made, &[])), "{metric:?}");
        // Vectors from elsewhere, and longer ones under inner product, are not put into that space.
        let mut elsewhere: Vec<Vec<f32>> = vectors(81, 400, 72, 1.0);
        elsewhere.iter_mut().flatten().for_each(|value| *value += 5.0);
        let other = encode(&elsewhere, &[&large], &[]);
        assert!(other.space != large.space, "{metric:?}");
    }
}

/// The deviation that is told is that of the estimates of the nearest, whom it decides about.
#[test]
fn estimates_deviate_as_told() {
    for (seed, metric, dim) in [(90, Metric::L2, 96), (91, Metric::Ip, 200), (92, Metric::Cosine, 384)] {
        let set = vectors(seed, 2_000, dim, 1.0);
        let case = Case::new(metric, Element::F32, &set);
        let (signs, allow) = (&case.signs, Allow::all(case.rows.len() as u32));
        let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
        for query in &vectors(seed + 100, 60, dim, 1.0) {
            let (mut ready, mut all) = (SignQuery::default(), Candidates::default());
            assert!(signs.codes.prepare(signs.kernels, query, &mut ready));
            let blocks = 0..2_000_u32.div_ceil(BLOCK_ROWS as u32);
            signs.codes.scan(signs.kernels, &ready, blocks, (f32::INFINITY, 0.0), &mut all);
            let distance_of = signs.codes.space.distance_of(ready.norm);
            for hit in case.search(signs, query, &allow, 50, 1.0) {
                let distance = distance_of.score(hit.score);
                let of = |id: &u32| case.rows[signs.flat.doc(*id) as usize] == hit.row;
                let at = all.ids.iter().position(of).unwrap();
                let off = f64::from((all.bounds[at] - distance) / signs.codes.deviation(&ready, distance));
                sum += off;
                squares += off * off;
                count += 1.0;
            }
        }
        let (mean, deviation) = (sum / count, f64::sqrt(squares / count));
        let what = format!("seed {seed}, {metric:?}: off by {mean}, deviation {deviation}");
        assert!(mean.abs() < 0.15 && (0.85..1.15).contains(&deviation), "{what}");
    }
}

#[test]
fn the_slack_loses_what_may_be_lost() {
    for lost in [0.1, 0.05, 0.01] {
        for inside in [&[0.0][..], &[0.0, 0.5, 1.0, 3.0], &[2.0, 0.1]] {
            let of = |slack: f32| inside.iter().map(|x| tail(slack + x)).sum::<f32>() / inside.len() as f32;
            let slack = slack_of(inside, lost);
            assert!(of(slack) <= lost && (slack < 0.1 || of(slack - 0.1) > lost), "{inside:?}: {slack}");
        }
    }
    assert!((tail(0.0) - 0.5).abs() < 1e-6 && (tail(1.0) - 0.158_655).abs() < 1e-5);
}
