//! The truth: which texts have an exact Jaccard similarity of the threshold or more with one kept earlier.

use std::collections::HashMap;

/// Words of a shingle.
const WORDS: usize = 5;

/// Numbers of the shingles of texts of words: the same number for the same words, never by accident.
#[derive(Default)]
struct Names<'a> {
    numbers: HashMap<&'a str, u32>,
}

impl<'a> Names<'a> {
    /// The set of a text's shingles; one shorter than a shingle has one, and one without words none.
    fn set(&mut self, text: &'a str) -> Vec<u32> {
        let mut starts: Vec<usize> = vec![0];
        starts.extend(text.match_indices(' ').map(|(at, _)| at + 1));
        let ends: Vec<usize> = starts[1..].iter().map(|start| start - 1).chain([text.len()]).collect();
        let mut set = Vec::with_capacity(starts.len());
        if !text.is_empty() {
            let last = starts.len().saturating_sub(WORDS);
            for at in 0..=last {
                let shingle = &text[starts[at]..ends[(at + WORDS - 1).min(ends.len() - 1)]];
                let next = self.numbers.len() as u32;
                set.push(*self.numbers.entry(shingle).or_insert(next));
            }
        }
        set.sort_unstable();
        set.dedup();
        set
    }
}

/// For each text, whether one kept earlier is so much alike; one that is not is kept.
pub fn decide(words: &[String], threshold: f64) -> Vec<bool> {
    let (mut names, mut lists) = (Names::default(), Vec::<Vec<u32>>::new());
    let (mut sizes, mut shared) = (Vec::<u32>::new(), Vec::<u32>::new());
    let mut decisions = Vec::with_capacity(words.len());
    let mut touched = Vec::new();
    for text in words {
        let set = names.set(text);
        lists.resize(names.numbers.len(), Vec::new());
        for shingle in &set {
            for &doc in &lists[*shingle as usize] {
                let count = &mut shared[doc as usize];
                if *count == 0 {
                    touched.push(doc);
                }
                *count += 1;
            }
        }
        let mut most = 0.0;
        for doc in touched.drain(..) {
            let both = std::mem::take(&mut shared[doc as usize]);
            let all = sizes[doc as usize] + set.len() as u32 - both;
            most = f64::max(most, f64::from(both) / f64::from(all));
        }
        let copy = most >= threshold;
        decisions.push(copy);
        if !copy {
            let doc = sizes.len() as u32;
            sizes.push(set.len() as u32);
            shared.push(0);
            set.iter().for_each(|shingle| lists[*shingle as usize].push(doc));
        }
    }
    decisions
}
