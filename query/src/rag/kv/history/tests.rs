//! Counts: who stays, who fades, what is saved.

use super::*;
use crate::rag::random::Random;

#[test]
fn frequent_hashes_are_counted_and_the_rest_passes() {
    let seed = Random::new_seed();
    let (mut random, mut history) = (Random::new(seed), History::new(1_024));
    let hot: Vec<u64> = (0..100).map(|_| random.next()).collect();
    for _ in 0..50 {
        for hash in &hot {
            history.ask(*hash);
        }
        for _ in 0..100 {
            history.ask(random.next());
        }
    }
    let counts: Vec<u64> = hot.iter().map(|hash| history.ask(*hash)).collect();
    let known = counts.iter().filter(|count| **count > 20).count();
    assert!(known > 80 && counts.iter().all(|count| *count <= 51), "seed {seed}: {counts:?}");
    let (saved, asks) = history.counts();
    let mut again = History::new(1_024);
    again.restore(&saved, asks);
    assert_eq!(again, history);
    again.restore(&[Count { place: 5_000, hash: 1, asks: 1 }], 0);
    // What is not asked for fades.
    for _ in 0..200_000 {
        history.ask(random.next());
    }
    assert!(hot.iter().map(|hash| history.ask(*hash)).all(|count| count < 20), "seed {seed}");
    let mut none = History::new(0);
    assert_eq!((none.ask(1), none.ask(1)), (1, 1));
}
