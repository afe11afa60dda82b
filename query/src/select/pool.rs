//! What a selector chooses from: candidates in rank order with what they cost and how they hang together.
//!
//! Costs are tokens. Candidates of one document whose spans overlap share text that is packed once when they
//! are merged: of such a pair the better ranked one is charged whole, the other for what is new in it. That
//! makes the cost, and what a candidate is worth, a function of the set and not of the order in which it was
//! put together, as far as tokens are spread evenly over the bytes of a chunk. The exact count is taken
//! later, on the assembled text; what is here is what selectors compare.
//!
//! Candidates may also repeat what others say, in whatever document. That costs what it costs, but is worth
//! once: again the better ranked one counts whole, the other for the share that no better ranked one has.
//!
//! Memory: similarity and references take `n * n` f32 each where they are asked for, 14 KB for 60 candidates.

use std::ops::Range;

use super::bits::Bits;

/// Most candidates a selector looks at; better ranked ones come first.
pub const POOL_MAX: usize = 512;

/// One candidate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Item {
    /// What it adds to the context: its text, its separator and what stands around it.
    pub tokens: u32,
    /// How relevant it is, 0..=1 within the pool.
    pub relevance: f32,
    /// Which document it is of; each document of the pool has a number.
    pub document: u32,
    /// Its bytes in that document. Empty: not known, and nothing overlaps it.
    pub span: Range<u64>,
}

/// What there is to cover: terms of the query, or needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Aspects {
    /// What covering each of them is worth; they sum up to 1 or there are none.
    pub weights: Vec<f32>,
    /// How far each candidate covers each aspect, 0..=1: `n x aspects`, row-major.
    pub cover: Vec<f32>,
}

/// The candidates of one selection, best first.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    items: Vec<Item>,
    /// Similarity of each pair, 0..=1: `n x n`, or empty.
    similarity: Vec<f32>,
    aspects: Aspects,
    /// For each candidate those that it refers to, and how clearly, 0..=1.
    refers: Vec<Vec<(u16, f32)>>,
    /// For each candidate those that refer to it.
    referred: Vec<Vec<(u16, f32)>>,
    /// For each candidate the others that its span overlaps.
    overlaps: Vec<Vec<u16>>,
    /// For each candidate the better ranked ones that say some of it, and how much, 0..=1.
    repeated: Vec<Vec<(u16, f32)>>,
    /// For each candidate the others that one of these two is about.
    peers: Vec<Vec<u16>>,
}

impl Pool {
    /// A pool of the first [`POOL_MAX`] of `items`, which come best first.
    pub fn new(mut items: Vec<Item>) -> Self {
        items.truncate(POOL_MAX);
        let overlaps = overlaps(&items);
        let repeated = vec![Vec::new(); items.len()];
        Self { items, peers: overlaps.clone(), overlaps, repeated, ..Self::default() }
    }

    /// Gives which candidate says how much of another, worse ranked one: `(better, worse, share)`.
    ///
    /// # Panics
    /// When a position is not one of the pool, or the first is not better ranked.
    pub fn with_repeats(mut self, repeats: &[(u16, u16, f32)]) -> Self {
        for &(better, worse, share) in repeats {
            assert!(better < worse, "better ranked ones come first");
            self.repeated[usize::from(worse)].push((better, clamped(share)));
            for (one, other) in [(better, worse), (worse, better)] {
                let peers = &mut self.peers[usize::from(one)];
                if !peers.contains(&other) {
                    peers.push(other);
                }
            }
        }
        self
    }

    /// Gives the similarity of each pair, `n x n`; negative ones count as 0, so that what is far apart is not
    /// worth more together (and objectives stay submodular).
    ///
    /// # Panics
    /// When `similarity` has another length than `n * n`.
    pub fn with_similarity(mut self, mut similarity: Vec<f32>) -> Self {
        assert_eq!(similarity.len(), self.len() * self.len(), "similarity of each pair");
        similarity.iter_mut().for_each(|value| *value = clamped(*value));
        self.similarity = similarity;
        self
    }

    /// Gives what there is to cover; weights are scaled to a sum of 1.
    ///
    /// # Panics
    /// When `cover` is not `n x aspects`.
    pub fn with_aspects(mut self, mut aspects: Aspects) -> Self {
        assert_eq!(aspects.cover.len(), self.len() * aspects.weights.len(), "cover of each aspect");
        let sum: f32 = aspects.weights.iter().map(|weight| weight.max(0.0)).sum();
        let scale = if sum > 0.0 { 1.0 / sum } else { 0.0 };
        aspects.weights.iter_mut().for_each(|weight| *weight = weight.max(0.0) * scale);
        aspects.cover.iter_mut().for_each(|value| *value = clamped(*value));
        self.aspects = aspects;
        self
    }

    /// Gives which candidate refers to which other: `(from, to, strength)`.
    ///
    /// # Panics
    /// When a position is not one of the pool.
    pub fn with_references(mut self, references: &[(u16, u16, f32)]) -> Self {
        self.refers = vec![Vec::new(); self.len()];
        self.referred = self.refers.clone();
        for &(from, to, strength) in references {
            let strength = clamped(strength);
            if from != to && strength > 0.0 {
                self.refers[usize::from(from)].push((to, strength));
                self.referred[usize::from(to)].push((from, strength));
            }
        }
        self
    }

    /// Candidates.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is nothing to choose from.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The candidates, best first.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// One candidate.
    pub fn item(&self, at: u16) -> &Item {
        &self.items[usize::from(at)]
    }

    /// How similar one is to each other, or none where that is not known.
    pub fn similarity(&self, at: u16) -> Option<&[f32]> {
        let n = self.len();
        self.similarity.chunks_exact(n.max(1)).nth(usize::from(at))
    }

    /// What there is to cover.
    pub fn aspects(&self) -> &Aspects {
        &self.aspects
    }

    /// How far one covers each aspect.
    pub fn cover(&self, at: u16) -> &[f32] {
        let aspects = self.aspects.weights.len();
        &self.aspects.cover[usize::from(at) * aspects..][..aspects]
    }

    /// Those that it refers to.
    pub fn refers(&self, at: u16) -> &[(u16, f32)] {
        self.refers.get(usize::from(at)).map_or(&[], Vec::as_slice)
    }

    /// Those that refer to it.
    pub fn referred(&self, at: u16) -> &[(u16, f32)] {
        self.referred.get(usize::from(at)).map_or(&[], Vec::as_slice)
    }

    /// The others that its span overlaps.
    pub fn overlaps(&self, at: u16) -> &[u16] {
        &self.overlaps[usize::from(at)]
    }

    /// The share of it that is in no better ranked one of `chosen`, 0..=1.
    pub fn share(&self, at: u16, chosen: &Bits) -> f64 {
        let peers = self.overlaps(at);
        if !peers.iter().any(|&peer| peer < at && chosen.has(peer)) {
            return 1.0;
        }
        let span = &self.item(at).span;
        let mut covered: Vec<Range<u64>> = peers
            .iter()
            .filter(|&&peer| peer < at && chosen.has(peer))
            .map(|&peer| intersection(span, &self.item(peer).span))
            .collect();
        covered.sort_by_key(|range| range.start);
        let (mut end, mut bytes) = (span.start, 0);
        for range in covered {
            bytes += range.end.saturating_sub(range.start.max(end));
            end = end.max(range.end);
        }
        1.0 - bytes as f64 / (span.end - span.start) as f64
    }

    /// The others with which it has text in common, or says the same.
    pub fn peers(&self, at: u16) -> &[u16] {
        &self.peers[usize::from(at)]
    }

    /// The share of it that no better ranked one of `chosen` has or says, 0..=1.
    pub fn news(&self, at: u16, chosen: &Bits) -> f64 {
        let said = self.repeated[usize::from(at)].iter().filter(|(better, _)| chosen.has(*better));
        let said = said.map(|(_, share)| *share).fold(0.0, f32::max);
        self.share(at, chosen).min(1.0 - f64::from(said))
    }

    /// Tokens of one within `chosen`: what [`Pool::share`] says is new, rounded up.
    pub fn tokens(&self, at: u16, chosen: &Bits) -> u32 {
        let tokens = self.item(at).tokens;
        if self.overlaps(at).is_empty() {
            return tokens;
        }
        (f64::from(tokens) * self.share(at, chosen)).ceil() as u32
    }

    /// What adding one to `chosen`, which does not have it, changes in tokens; an added one may take text
    /// from worse ranked ones, never so much that this is negative.
    pub fn added_tokens(&self, at: u16, chosen: &Bits) -> u32 {
        if self.overlaps(at).is_empty() {
            return self.item(at).tokens;
        }
        let mut with = *chosen;
        with.add(at);
        let worse = |peer: &&u16| **peer > at && chosen.has(**peer);
        let taken: u32 = self
            .overlaps(at)
            .iter()
            .filter(worse)
            .map(|&peer| self.tokens(peer, chosen) - self.tokens(peer, &with))
            .sum();
        self.tokens(at, &with).saturating_sub(taken)
    }

    /// Tokens of a whole set.
    pub fn set_tokens(&self, chosen: &Bits, items: &[u16]) -> u32 {
        items.iter().map(|&at| self.tokens(at, chosen)).sum()
    }
}

fn clamped(value: f32) -> f32 {
    if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) }
}

fn intersection(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    a.start.max(b.start)..a.end.min(b.end)
}

fn overlaps(items: &[Item]) -> Vec<Vec<u16>> {
    let mut order: Vec<u16> = (0..items.len() as u16).collect();
    let of = |at: u16| &items[usize::from(at)];
    order.sort_by_key(|&at| (of(at).document, of(at).span.start, at));
    let mut overlaps = vec![Vec::new(); items.len()];
    for (place, &at) in order.iter().enumerate() {
        let item = of(at);
        for &other in &order[place + 1..] {
            let next = of(other);
            if next.document != item.document || next.span.start >= item.span.end {
                break;
            }
            if !intersection(&item.span, &next.span).is_empty() {
                overlaps[usize::from(at)].push(other);
                overlaps[usize::from(other)].push(at);
            }
        }
    }
    overlaps
}
