//! An order of chunks that reuses more of their caches, at hardly any loss of the best-first order.
//!
//! Given is what each chunk can reuse behind any others. Chosen is the order of most reused tokens; of those
//! the one whose longest prefix needs no computing at all, then the one nearest to best first. An order is
//! allowed whose scores, each divided by `log2(place + 1)` as in DCG (Jarvelin and Kekalainen, 2002), add up
//! to at least `1 - tolerance` of what they do best first. That is what Cache-Craft (Agarwal et al., 2025)
//! leaves open: it takes the order as given. Departure from "longest prefix, then overlap": both count only
//! as far as they save tokens.
//!
//! Cost: for up to [`EXACT_CHUNKS_MAX`] chunks all allowed orders, cut short where they can no longer win;
//! above that two greedy starts and moves of one chunk, at most [`ORDERS_MAX`] orders of `n` lookups. Not a
//! measurement of answers: how much a model minds the order is for its user to find out.

/// Most chunks for which the best order is found.
pub const EXACT_CHUNKS_MAX: usize = 8;
/// Most orders that are weighed above that.
pub const ORDERS_MAX: usize = 4_000;
/// Slack for rounding of sums.
const SLACK: f64 = 1e-12;

/// What a chunk reuses behind others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reused {
    /// Tokens that need not be computed, 0 or more.
    pub tokens: f64,
    /// Whether that is all of them, behind exactly these.
    pub exact: bool,
}

/// An order, and what it is worth.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ordered {
    /// Positions in the given list.
    pub order: Vec<usize>,
    /// Tokens reused.
    pub reused_tokens: f64,
    /// Of them those of the longest prefix of chunks that are reused exactly.
    pub exact_tokens: f64,
    /// Discounted scores, by those best first: 1 - tolerance to 1.
    pub quality: f64,
}

/// A chunk to be ordered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Its score, larger is better.
    pub score: f64,
    /// Its tokens: no reuse is more.
    pub tokens: u32,
}

/// Chooses an order of chunks, where the `i`th behind others reuses `reuse(i, others)`. The tolerance is 0 to
/// 1; at 0, or where a score is not finite, the order is best first, ties by position. Where there are
/// negative scores, all count from the least.
pub fn order<F: FnMut(usize, &[usize]) -> Reused>(chunks: &[Ranked], tolerance: f64, reuse: F) -> Ordered {
    let mut best_first: Vec<usize> = (0..chunks.len()).collect();
    best_first.sort_by(|a, b| chunks[*b].score.total_cmp(&chunks[*a].score).then(a.cmp(b)));
    let is_finite = chunks.iter().all(|chunk| chunk.score.is_finite());
    let low = chunks.iter().map(|chunk| chunk.score).fold(0.0, f64::min);
    let weights = chunks.iter().map(|chunk| if is_finite { chunk.score - low } else { 0.0 }).collect();
    let tokens = chunks.iter().map(|chunk| f64::from(chunk.tokens)).collect();
    let (floor, ideal, best) = (0.0, 0.0, Ordered::default());
    let mut search = Search { weights, tokens, best_first, floor, ideal, reuse, best };
    search.ideal = search.discounted(&search.best_first);
    search.floor = (1.0 - tolerance.clamp(0.0, 1.0)) * search.ideal - SLACK * search.ideal;
    search.best = search.weigh(search.best_first.clone());
    // NaN is no tolerance.
    if is_finite && tolerance > 0.0 {
        if chunks.len() <= EXACT_CHUNKS_MAX {
            let mut begun = Vec::with_capacity(chunks.len());
            search.exact(&mut begun, &Ordered::default(), true);
        } else {
            search.approximate();
        }
    }
    search.best
}

/// What a place in the order is worth.
fn discount(place: usize) -> f64 {
    1.0 / (place as f64 + 2.0).log2()
}

struct Search<F> {
    weights: Vec<f64>,
    tokens: Vec<f64>,
    best_first: Vec<usize>,
    /// Least discounted sum that is allowed.
    floor: f64,
    ideal: f64,
    reuse: F,
    best: Ordered,
}

impl<F: FnMut(usize, &[usize]) -> Reused> Search<F> {
    fn discounted(&self, order: &[usize]) -> f64 {
        order.iter().enumerate().map(|(place, chunk)| self.weights[*chunk] * discount(place)).sum()
    }

    /// The most that an order beginning so can come to: the rest best first.
    fn quality_bound(&self, begun: &[usize]) -> f64 {
        let rest = self.best_first.iter().filter(|chunk| !begun.contains(chunk));
        let places = begun.iter().chain(rest).enumerate();
        places.map(|(place, chunk)| self.weights[*chunk] * discount(place)).sum()
    }

    fn share(&self, discounted: f64) -> f64 {
        if self.ideal > 0.0 { (discounted / self.ideal).min(1.0) } else { 1.0 }
    }

    fn weigh(&mut self, order: Vec<usize>) -> Ordered {
        let mut weighed = Ordered { quality: self.share(self.discounted(&order)), ..Ordered::default() };
        let mut is_exact = true;
        for (place, chunk) in order.iter().enumerate() {
            let reused = (self.reuse)(*chunk, &order[..place]);
            is_exact &= reused.exact;
            weighed.reused_tokens += reused.tokens;
            weighed.exact_tokens += if is_exact { reused.tokens } else { 0.0 };
        }
        Ordered { order, ..weighed }
    }

    /// Takes an order that is better than the best so far.
    fn offer(&mut self, order: &Ordered) -> bool {
        let (new, old) = (order, &self.best);
        let by = new.reused_tokens.total_cmp(&old.reused_tokens);
        let by = by.then(new.exact_tokens.total_cmp(&old.exact_tokens));
        let by = by.then(new.quality.total_cmp(&old.quality)).then(old.order.cmp(&new.order));
        if by.is_gt() {
            self.best = order.clone();
        }
        by.is_gt()
    }

    /// Tries the allowed orders that begin with `begun`, which come to `so_far`, all of it reused exactly if
    /// `is_exact`.
    fn exact(&mut self, begun: &mut Vec<usize>, so_far: &Ordered, is_exact: bool) {
        let count = self.weights.len();
        if begun.len() == count {
            let quality = self.share(self.discounted(begun));
            self.offer(&Ordered { order: begun.clone(), quality, ..so_far.clone() });
            return;
        }
        let rest = self.best_first.iter().filter(|chunk| !begun.contains(chunk));
        let most = so_far.reused_tokens + rest.map(|chunk| self.tokens[*chunk]).sum::<f64>();
        if most < self.best.reused_tokens * (1.0 - SLACK) {
            return;
        }
        for at in 0..count {
            let chunk = self.best_first[at];
            if begun.contains(&chunk) {
                continue;
            }
            begun.push(chunk);
            if self.quality_bound(begun) >= self.floor {
                let reused = (self.reuse)(chunk, &begun[..begun.len() - 1]);
                let is_exact = is_exact && reused.exact;
                let mut next = so_far.clone();
                next.reused_tokens += reused.tokens;
                next.exact_tokens += if is_exact { reused.tokens } else { 0.0 };
                self.exact(begun, &next, is_exact);
            }
            begun.pop();
        }
    }

    /// Follows what is reused most, from two starts, then moves chunks one at a time.
    fn approximate(&mut self) {
        let greedy = self.greedy();
        let greedy = self.weigh(greedy);
        self.offer(&greedy);
        let (mut left, count) = (ORDERS_MAX, self.weights.len());
        let mut is_better = true;
        while is_better && left > 0 {
            is_better = false;
            let start = self.best.order.clone();
            for (from, to) in (0..count).flat_map(|from| (0..count).map(move |to| (from, to))) {
                let mut moved = start.clone();
                let chunk = moved.remove(from);
                moved.insert(to, chunk);
                if from == to || self.discounted(&moved) < self.floor {
                    continue;
                }
                left = left.saturating_sub(1);
                if left == 0 {
                    break;
                }
                let moved = self.weigh(moved);
                is_better |= self.offer(&moved);
            }
        }
    }

    /// At each place the chunk that reuses its tokens exactly, else most, of those that keep the order
    /// allowed; best first where they are equal.
    fn greedy(&mut self) -> Vec<usize> {
        let (mut order, count) = (Vec::new(), self.weights.len());
        while order.len() < count {
            let mut best: Option<(Reused, usize)> = None;
            for at in 0..count {
                let chunk = self.best_first[at];
                if order.contains(&chunk) {
                    continue;
                }
                order.push(chunk);
                let is_allowed = self.quality_bound(&order) >= self.floor;
                order.pop();
                if !is_allowed {
                    continue;
                }
                let reused = (self.reuse)(chunk, &order);
                let is_more = |(other, _): &(Reused, usize)| {
                    (reused.exact, reused.tokens) > (other.exact, other.tokens)
                };
                if best.as_ref().is_none_or(is_more) {
                    best = Some((reused, chunk));
                }
            }
            // The best of the rest is always allowed, but for rounding.
            let rest = self.best_first.iter().find(|chunk| !order.contains(chunk)).copied();
            let Some(chunk) = best.map(|(_, chunk)| chunk).or(rest) else { break };
            order.push(chunk);
        }
        order
    }
}

#[cfg(test)]
mod tests;
