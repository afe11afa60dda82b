//! Results with the scores of their codes: close to the exact ones, nearly as many found, and no vector read.

use super::super::cells::Fine;
use super::super::search::{Query, TRIM_ERRORS};
use super::*;
use crate::dense::ssd::search::CellsScratch;

#[test]
fn scores_of_codes_are_close_and_no_vector_is_read() {
    let mut random = Random(31);
    let mixture = Mixture::new(&mut random, 40, 30);
    let vectors: Vec<Vec<f32>> = (0..9_000).map(|_| mixture.vector(&mut random, 0.6)).collect();
    let queries: Vec<Vec<f32>> = (0..60).map(|_| mixture.vector(&mut random, 0.6)).collect();
    for (metric, scale) in [(Metric::L2, 1.0), (Metric::Ip, 300.0), (Metric::Cosine, 1.0), (Metric::L2, 1e-6)]
    {
        let scaled = |vectors: &[Vec<f32>]| -> Vec<Vec<f32>> {
            vectors.iter().map(|vector| vector.iter().map(|value| value * scale).collect()).collect()
        };
        let (vectors, queries) = (scaled(&vectors), scaled(&queries));
        let case = Case::new(metric, Element::F32, &vectors);
        let allow = Allow::all(9_000);
        let params = SearchParams { recall: 0.98, rescore: false, ..SearchParams::default() };
        for (tier, ssd) in case.with_vectors_on_disk(&vectors) {
            let (mut hits, mut worst, mut read) = (0, 0.0_f32, 0);
            let mut tops: Vec<TopK> = queries.iter().map(|_| TopK::new(10)).collect();
            let (mut scratch, mut counters) = (Scratch::new(), Counters::default());
            let ask = Ask { params, ..Ask::new(&case.rows, &allow) };
            let all = queries.concat();
            ssd.search_batch(Matrix::new(&all, 40), &ask, &mut tops, &mut scratch, &mut counters).unwrap();
            read += counters.bytes_read;
            for (query, together) in queries.iter().zip(tops) {
                let exact = SearchParams { exact: true, ..params };
                let truth = case.search(query, &allow, 10, exact).0;
                let (found, counters) = case.search_in(&ssd, query, &allow, 10, params);
                read += counters.bytes_read;
                for found in [found, together.into_sorted()] {
                    assert!(found.len() == 10 && found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
                    let docs: Vec<DocId> = found.iter().map(|hit| (hit.row.0 / 3) as DocId).collect();
                    let mut scores = [0.0; 10];
                    case.ssd
                        .score(query, &docs, &mut scores, &mut scratch, &mut Counters::default())
                        .unwrap();
                    let spread = truth[0].score - truth[9].score;
                    for (hit, score) in found.iter().zip(scores) {
                        worst = worst.max((hit.score - score).abs() / spread);
                        hits += usize::from(truth.iter().any(|truth| truth.row == hit.row));
                    }
                }
            }
            let what = format!("{metric:?} by {scale}, {tier:?}");
            // In units of the distance between the best and the worst of the truth.
            let close = if tier == Tier::Hot { 1e-6..0.15 } else { 0.0..1e-6 };
            assert!(close.contains(&worst), "{what}: a score is off by {worst} of the spread");
            assert!(hits * 100 >= 2 * 10 * queries.len() * 95, "{what}: {hits} found");
            assert!((read == 0) == (tier == Tier::Hot), "{what}: {read} bytes read");
        }
    }
}

/// What a scan finds is what ranking all vectors one by one finds, many at once or few, copies among them: as
/// many as hold the results, and of what follows the last result what codes may be wrong about.
#[test]
fn a_scan_finds_what_ranking_one_by_one_finds() {
    let mut random = Random(37);
    let mixture = Mixture::new(&mut random, 40, 30);
    let mut vectors: Vec<Vec<f32>> = (0..3_000).map(|_| mixture.vector(&mut random, 0.6)).collect();
    // Ties, also at the edges.
    (0..600).for_each(|at| vectors[at * 5] = vectors[at * 5 + 1].clone());
    for metric in [Metric::L2, Metric::Ip] {
        let case = Case::new(metric, Element::F32, &vectors);
        let cells = &case.ssd.cells;
        let (Fine::Bytes(refine), Some(rows)) = (&cells.fine, cells.fine_rows.at_hand()) else {
            panic!("the hot tier ranks by bytes in memory");
        };
        let (mut scratch, mut found, mut counters) =
            (CellsScratch::default(), Vec::new(), Counters::default());
        let (mut left_out, mut kept) = (0, 0);
        for count in [0, 1, 2, 9, 10, 11, 12, 13, 33, 64, 65, 129, 700] {
            let mut ids: Vec<u32> = (0..3_000).collect();
            while ids.len() > count {
                ids.swap_remove(random.below(ids.len()));
            }
            ids.sort_unstable();
            for (wanted, depth, more) in [(10, 12, 32), (10, 12, 0), (1, 3, 32), (100, 108, 32)] {
                let query = &mixture.vector(&mut random, 0.6);
                let (effort, allow, kernels) = (Effort::ALL, None, Kernels::best());
                let asked = Query { query, partition: None, wanted, depth, more, effort, allow };
                let mut rest = ids.iter().copied();
                let next = |to: &mut Vec<u32>, count: usize| to.extend(rest.by_ref().take(count));
                assert!(
                    cells
                        .scan(kernels, asked, (next, None), &mut scratch, &mut found, &mut counters)
                        .unwrap()
                );

                let (_, own_squared) = cells.placed(kernels, query, &mut scratch).unwrap();
                let mut each: Vec<(f32, u32)> = Vec::new();
                for id in &ids {
                    let (mut sums, mut distances) = (Vec::new(), Vec::new());
                    let query = (&scratch.query, own_squared);
                    refine.distances(kernels, query, (rows, &[*id]), &mut sums, &mut distances);
                    each.push((distances[0].max(0.0), *id));
                }
                each.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                each.truncate(depth + more);
                let all = each.len();
                if let Some((last, of)) = each.get(wanted - 1).copied() {
                    let error = |id| refine.error(rows, id, own_squared);
                    let far = |(distance, id): &(f32, u32)| {
                        distance - last > TRIM_ERRORS * (error(of).powi(2) + error(*id).powi(2)).sqrt()
                    };
                    let rest: Vec<_> = each.drain(wanted..).filter(|each| !far(each)).collect();
                    each.extend(rest);
                }
                (left_out, kept) = (left_out + all - each.len(), kept + each.len());
                let distances = |found: &[(f32, u32)]| found.iter().map(|each| each.0).collect::<Vec<_>>();
                let what = format!("{metric:?}, {count} vectors, {wanted} wanted of {depth} and {more}");
                assert_eq!(distances(&found), distances(&each), "{what}");
                // Which of those at one distance is left to chance where not all of them are kept.
                let last = each.last().map_or(0.0, |last| last.0);
                let nearer = |found: &[(f32, u32)]| {
                    let mut ids: Vec<u32> =
                        found.iter().filter(|each| each.0 < last).map(|each| each.1).collect();
                    ids.sort_unstable();
                    ids
                };
                assert_eq!(nearer(&found), nearer(&each), "{what}");
            }
        }
        assert!(left_out > 100 && kept > 500, "{left_out} left out, {kept} kept");
    }
}
