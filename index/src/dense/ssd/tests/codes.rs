//! Results with the scores of their codes: close to the exact ones, nearly as many found, and no vector read.

use super::*;

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
