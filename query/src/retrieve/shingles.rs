//! Runs of words as numbers, and how much two texts share of them.

use crate::random::mix;

/// The runs of `length` words, in order; a shorter text is one run of all its words, one without words none.
pub fn runs(words: &[u64], length: usize) -> impl Iterator<Item = u64> {
    let run =
        |words: &[u64]| words.iter().fold(words.len() as u64, |hash, word| mix(hash.rotate_left(7) ^ word));
    let length = length.min(words.len()).max(1);
    words.windows(length).map(run)
}

/// The distinct [`runs`], sorted.
pub fn shingles(words: &[u64], length: usize) -> Vec<u64> {
    let mut runs: Vec<u64> = runs(words, length).collect();
    runs.sort_unstable();
    runs.dedup();
    runs
}

/// What two sorted sets have in common by what they have together; 0 for two empty ones.
pub fn jaccard(a: &[u64], b: &[u64]) -> f32 {
    let (mut i, mut j, mut both) = (0, 0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        i += usize::from(x <= y);
        j += usize::from(y <= x);
        both += usize::from(x == y);
    }
    both as f32 / (a.len() + b.len() - both).max(1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shingles_are_sets_of_runs() {
        assert!(shingles(&[], 3).is_empty());
        assert_eq!(shingles(&[1, 2], 3).len(), 1);
        assert_eq!(shingles(&[1, 2, 3, 4], 3).len(), 2);
        assert_eq!(shingles(&[1, 1, 1, 1, 1], 2).len(), 1);
        assert_ne!(shingles(&[1, 2], 3), shingles(&[2, 1], 3));
    }

    #[test]
    fn jaccard_is_shared_by_all() {
        assert_eq!(jaccard(&[], &[]), 0.0);
        assert_eq!(jaccard(&[1, 2, 3], &[1, 2, 3]), 1.0);
        assert_eq!(jaccard(&[1, 2, 3], &[2, 3, 4]), 0.5);
        assert_eq!(jaccard(&[1], &[2]), 0.0);
    }
}
