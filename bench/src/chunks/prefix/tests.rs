//! Whole blocks, and the limit.

use super::*;

fn hits(chunks: &[u32]) -> Vec<Hit> {
    chunks.iter().map(|chunk| Hit { chunk: *chunk, score: 1.0 }).collect()
}

#[test]
fn whole_blocks_of_the_longest_prefix_are_reused() {
    let assumed = Assumptions { queries: 0, ..Assumptions::default() };
    let mut trace = Trace::new(&assumed);
    [24, 40, 32].iter().zip(&mut trace.chunks).for_each(|(tokens, chunk)| chunk.tokens = *tokens);
    let mut cache = PrefixCache::new(&assumed, &trace, 1 << 40);
    let mut serve = |chunks: &[u32]| cache.serve(&hits(chunks)).computed_tokens;
    assert_eq!(serve(&[0, 1, 2]), 96.0);
    assert_eq!(serve(&[0, 1, 2]), 0.0);
    // Of 24 tokens one block of 16 is whole; the next has tokens of the chunk behind it.
    assert_eq!(serve(&[0, 2]), 40.0);
    assert_eq!(serve(&[0, 1]), 0.0);
    assert_eq!(serve(&[1, 0]), 64.0);
    assert_eq!(cache.blocks, 6 + 2 + 4);
}

#[test]
fn the_limit_holds_and_the_longest_unused_end_goes() {
    let assumed = Assumptions { chunks: 60, topic_chunks: 20, queries: 3_000, ..Assumptions::default() };
    let trace = Trace::new(&assumed);
    for share in [0.0, 0.02, 0.3, 2.0] {
        let limit = (trace.working_bytes() as f64 * share) as u64;
        let mut cache = PrefixCache::new(&assumed, &trace, limit);
        for hits in &trace.queries {
            cache.serve(hits);
            assert!(cache.bytes() <= limit);
        }
        let kept: u64 = cache.children.values().map(|node| cache.nodes[*node].blocks).sum();
        assert_eq!(kept, cache.blocks);
        let leaves = cache.children.values().filter(|node| cache.nodes[**node].children == 0).count();
        assert_eq!(leaves, cache.leaves.len());
    }
}
