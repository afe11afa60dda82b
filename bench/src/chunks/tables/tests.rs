//! Who computes less, and that a run is the same again.

use super::*;

#[test]
fn chunk_caches_compute_less_than_prefix_caching_and_the_same_again() {
    let assumed = Assumptions { queries: 3_000, chunks: 2_000, ..Assumptions::default() };
    let setup = Setup { assumed, ..Setup::default() };
    let trace = Trace::new(&setup.assumed);
    let (prefix, near) = (setup.prefix_cache(&trace, 0.0), setup.prefix_cache(&trace, 0.05));
    let run = |tolerance| setup.chunk_caches::<Gdsf>(&trace, HISTORY, Store::InContext, tolerance).unwrap();
    let (plain, ordered) = (run(0.0), run(0.05));
    assert_eq!(run(0.05), ordered);
    assert!(plain.computed_tokens < 0.7 * prefix.computed_tokens, "{plain:?} {prefix:?}");
    assert!(ordered.computed_tokens < plain.computed_tokens, "{ordered:?} {plain:?}");
    assert!(near.computed_tokens < prefix.computed_tokens, "{near:?} {prefix:?}");
    assert!(plain.quality > 1.0 - 1e-9 && (0.95..1.0).contains(&ordered.quality), "{ordered:?}");
    let text = sizes(&Setup { assumed: Assumptions { queries: 50, ..setup.assumed.clone() }, ..setup });
    assert_eq!(text.unwrap().lines().filter(|line| line.starts_with("| 0.")).count(), 8);
}
