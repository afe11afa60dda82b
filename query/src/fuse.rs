//! Makes one ranking of the candidates of several routes, keeping what each route said of each row.
//!
//! Reciprocal rank fusion (Cormack, Clarke, Büttcher, SIGIR 2009) sums `weight / (k + rank)` and looks at
//! ranks only. Weighted fusion (Bruch, Gai, Ingber, TOIS 2023) scales every route's scores to 0..=1 and takes
//! their convex combination; it is best with the scores of all routes for all candidates, so a list can carry
//! scores of rows outside its own ranking. We depart from that paper in scaling by the candidates' smallest
//! score, not by the route's theoretical one.
//!
//! Not for finding candidates or cutting lists. Cost: a sort of all entries, `O(n log n)`; memory a few words
//! an entry.

use spandrel_storage::RowId;

use crate::request::Fusion;
use crate::response::RouteScore;

/// The candidates of one route. Scores are larger for better rows; a score that is not a number is the worst.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteList<'a> {
    /// What the route returned, best first; the first has rank 1.
    pub ranked: &'a [(RowId, f32)],
    /// This route's scores of rows that only other routes returned, in any order; they have no rank. Only
    /// weighted fusion looks at them.
    pub filled: &'a [(RowId, f32)],
}

/// A row of the fused ranking.
#[derive(Clone, Debug, PartialEq)]
pub struct Fused {
    /// The row.
    pub row: RowId,
    /// Fused score; larger is better. With one route its own score.
    pub score: f32,
    /// What each route, in the order of the lists, said of the row; none where it said nothing.
    pub routes: Vec<Option<RouteScore>>,
}

/// All rows of `lists`, best first, equal scores by row. `weights` has one share a list, at least 0; a
/// missing one is 1. Weighted fusion divides them by their sum, so its scores are in 0..=1.
///
/// In weighted fusion a row of which a route says nothing counts as the route's worst. Where all scores of a
/// route are equal they count as 1. A row that a list names twice counts where it is named first.
pub fn fuse(lists: &[RouteList<'_>], fusion: &Fusion, weights: &[f32]) -> Vec<Fused> {
    fuse_top(lists, fusion, weights, usize::MAX)
}

/// The best `limit` rows of [`fuse`], without the cost of listing the rest.
pub fn fuse_top(lists: &[RouteList<'_>], fusion: &Fusion, weights: &[f32], limit: usize) -> Vec<Fused> {
    let entries = gather(lists, fusion);
    let groups = || entries.chunk_by(|a, b| a.row == b.row);
    let score = scorer(lists, fusion, weights, &entries);
    let mut order: Vec<(f32, &[Entry])> = groups().map(|group| (score(group), group)).collect();
    // Groups are in row order, and a row occurs once: the order is total.
    let best =
        |a: &(f32, &[Entry]), b: &(f32, &[Entry])| b.0.total_cmp(&a.0).then(a.1[0].row.cmp(&b.1[0].row));
    if limit < order.len() {
        order.select_nth_unstable_by(limit, best);
        order.truncate(limit);
    }
    order.sort_unstable_by(best);
    let fused = |(score, group): (f32, &[Entry])| {
        let mut routes = vec![None; lists.len()];
        for entry in group {
            routes[entry.route].get_or_insert(RouteScore { score: entry.score, rank: entry.rank });
        }
        Fused { row: group[0].row, score, routes }
    };
    order.into_iter().map(fused).collect()
}

/// What one route says of one row.
#[derive(Clone, Copy)]
struct Entry {
    row: RowId,
    route: usize,
    /// From 1; 0 for a filled score.
    rank: u32,
    score: f32,
}

/// All entries by row, then route, the first naming of a row in a route only.
fn gather(lists: &[RouteList<'_>], fusion: &Fusion) -> Vec<Entry> {
    let filled =
        |list: &RouteList<'_>| if matches!(fusion, Fusion::Weighted) { list.filled.len() } else { 0 };
    let len = lists.iter().map(|list| list.ranked.len() + filled(list)).sum();
    let mut entries = Vec::with_capacity(len);
    for (route, list) in lists.iter().enumerate() {
        let ranked = list.ranked.iter().zip(1..);
        entries.extend(ranked.map(|(&(row, score), rank)| Entry { row, route, rank, score }));
        let filled = &list.filled[..filled(list)];
        entries.extend(filled.iter().map(|&(row, score)| Entry { row, route, rank: 0, score }));
    }
    // A rank of 0 sorts last: a ranked entry stands against a filled one.
    entries.sort_unstable_by_key(|entry| (entry.row, entry.route, entry.rank.wrapping_sub(1)));
    entries.dedup_by_key(|entry| (entry.row, entry.route));
    entries
}

/// The fused score of the entries of one row.
fn scorer(
    lists: &[RouteList<'_>],
    fusion: &Fusion,
    weights: &[f32],
    entries: &[Entry],
) -> Box<dyn Fn(&[Entry]) -> f32> {
    if lists.len() == 1 {
        return Box::new(|group| if group[0].score.is_nan() { f32::NEG_INFINITY } else { group[0].score });
    }
    let weight =
        |route| weights.get(route).map_or(1.0, |&weight| if weight > 0.0 { f64::from(weight) } else { 0.0 });
    let mut weights: Vec<f64> = (0..lists.len()).map(weight).collect();
    match *fusion {
        Fusion::Rrf { k } => {
            let k = f64::from(k).max(0.0);
            let share = move |entry: &Entry| weights[entry.route] / (k + f64::from(entry.rank));
            Box::new(move |group| group.iter().map(&share).sum::<f64>() as f32)
        }
        Fusion::Weighted => {
            let sum: f64 = weights.iter().sum();
            if sum > 0.0 {
                weights.iter_mut().for_each(|weight| *weight /= sum);
            }
            let mut ranges = vec![(f64::INFINITY, f64::NEG_INFINITY); lists.len()];
            for entry in entries {
                let (low, high) = &mut ranges[entry.route];
                let score = finite(entry.score);
                (*low, *high) = (low.min(score), high.max(score));
            }
            let share = move |entry: &Entry| {
                let (low, high) = ranges[entry.route];
                let scaled = if high > low { (finite(entry.score) - low) / (high - low) } else { 1.0 };
                weights[entry.route] * scaled
            };
            Box::new(move |group| group.iter().map(&share).sum::<f64>() as f32)
        }
    }
}

/// The score with infinities drawn in to the largest finite magnitude and NaN as the worst.
fn finite(score: f32) -> f64 {
    if score.is_nan() { f64::from(f32::MIN) } else { f64::from(score.clamp(f32::MIN, f32::MAX)) }
}

#[cfg(test)]
mod tests;
