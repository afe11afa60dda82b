//! Traces are as assumed.

use super::*;

#[test]
fn traces_are_the_same_again_and_as_assumed() {
    let assumed = Assumptions { queries: 2_000, ..Assumptions::default() };
    let trace = Trace::new(&assumed);
    assert_eq!(trace.queries, Trace::new(&assumed).queries);
    assert_ne!(trace.queries, Trace::new(&Assumptions { seed: 2, ..assumed.clone() }).queries);
    let count = trace.chunks.len() as f64;
    let tokens = trace.chunks.iter().map(|chunk| f64::from(chunk.tokens)).sum::<f64>() / count;
    assert!((tokens - 264.0).abs() < 8.0, "rounded up to blocks: {tokens}");
    let cci = trace.chunks.iter().map(|chunk| chunk.cci).sum::<f64>() / count;
    assert!((cci - 0.3).abs() < 0.01, "{cci}");
    assert!(trace.chunks.iter().all(|chunk| chunk.tokens.is_multiple_of(16)));
    for hits in &trace.queries {
        assert!(hits.len() == 6 && hits.is_sorted_by(|a, b| a.score >= b.score));
        let distinct: std::collections::BTreeSet<_> = hits.iter().map(|hit| hit.chunk).collect();
        assert_eq!(distinct.len(), 6);
    }
}
