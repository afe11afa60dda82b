//! Budgeted greedy: by gain a token, by gain, and the best single one; the best of the three.
//!
//! For a monotone submodular objective that is at least `(1 - 1/sqrt(e))` = 0.393 of the optimum (Lin and
//! Bilmes, ACL 2010, with Khuller, Moss and Naor, 1999); in practice a few percent are missing. Gains are
//! looked at lazily (Minoux, 1978): one that was known before is an upper bound of what it is now, unless
//! what was added since can have raised it ([`Objective::raised`]), so that most steps evaluate a few
//! candidates only. Evaluations: about `n` and a few a step, at most `n` a step.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::meter::{Meter, StoppedBy};
use super::objective::{Objective, Raised, Set};
use super::problem::{Chosen, EPSILON, Problem, better};
use crate::error::Result;

/// By what the next one is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Gain a token.
    Ratio,
    /// Gain.
    Plain,
}

/// A candidate with the best that it can be.
struct Entry {
    key: f64,
    item: u16,
    gain: f64,
    /// Members of the set when the gain was evaluated.
    at: usize,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.total_cmp(&other.key).then(other.item.cmp(&self.item))
    }
}

/// The best of the three greedy answers and why the best one ended. The answer is at least what must be
/// chosen.
///
/// # Errors
/// Those of a caller's reward, and of the request's end.
pub fn greedy<O: Objective>(problem: &Problem<'_, O>, meter: &mut Meter<'_>) -> Result<(Chosen, StoppedBy)> {
    let start = problem.start(meter)?;
    let mut best = (problem.chosen(&start), problem.why_full(&start));
    let Some(first) = first_gains(problem, &start, meter)? else {
        return Ok((best.0, meter.over().unwrap_or(best.1)));
    };
    if let Some(single) = best_single(problem, &start, &first) {
        best = (better(best.0, single), StoppedBy::NoGain);
    }
    for rule in [Rule::Plain, Rule::Ratio] {
        let (set, why) = grow(problem, start.clone(), (rule, &first), meter)?;
        let found = problem.chosen(&set);
        if found.value > best.0.value + EPSILON || found.items == best.0.items {
            best = (found, why);
        }
    }
    Ok(best)
}

/// Gains of all open candidates that fit the set alone.
///
/// # Errors
/// As [`greedy`].
pub fn first_gains<O: Objective>(
    problem: &Problem<'_, O>,
    set: &Set<O::State>,
    meter: &mut Meter<'_>,
) -> Result<Option<Vec<(u16, f64)>>> {
    let items: Vec<u16> = problem.open.iter().copied().filter(|&item| problem.fits(set, item)).collect();
    let mut gains = Vec::with_capacity(items.len());
    if !problem.gains(&set.state, &items, &mut gains, meter)? {
        return Ok(None);
    }
    Ok(Some(items.into_iter().zip(gains).collect()))
}

fn best_single<O: Objective>(
    problem: &Problem<'_, O>,
    start: &Set<O::State>,
    first: &[(u16, f64)],
) -> Option<Chosen> {
    let best = first.iter().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))?;
    let mut items = start.items.clone();
    items.push(best.0);
    Some(Chosen { items, value: problem.objective.value(&start.state) + best.1 })
}

/// Adds to `set` by the rule while something fits that is worth it. `first` has the gains of all that fit.
///
/// # Errors
/// As [`greedy`].
pub fn grow<O: Objective>(
    problem: &Problem<'_, O>,
    mut set: Set<O::State>,
    (rule, first): (Rule, &[(u16, f64)]),
    meter: &mut Meter<'_>,
) -> Result<(Set<O::State>, StoppedBy)> {
    let key = |set: &Set<O::State>, item: u16, gain: f64| match rule {
        Rule::Plain => gain,
        Rule::Ratio => gain / f64::from(problem.pool.added_tokens(item, &set.has).max(1)),
    };
    let began = set.items.len();
    let entry = |&(item, gain): &(u16, f64)| Entry { key: key(&set, item, gain), item, gain, at: began };
    let mut heap: BinaryHeap<Entry> = first.iter().map(entry).collect();
    let mut gains = Vec::new();
    while let Some(top) = heap.pop() {
        if !problem.fits(&set, top.item) {
            // It may be cheaper later, merged with what it overlaps; then it is among the raised.
            continue;
        }
        if top.at < set.items.len() {
            if !problem.gains(&set.state, &[top.item], &mut gains, meter)? {
                break;
            }
            let gain = gains[0];
            heap.push(Entry { key: key(&set, top.item, gain), item: top.item, gain, at: set.items.len() });
            continue;
        }
        if top.gain <= EPSILON && problem.may_leave {
            break;
        }
        problem.add(&mut set, top.item, top.gain);
        if !refresh(problem, &set, top.item, &mut heap, &key, meter)? {
            break;
        }
    }
    let why = meter.over().unwrap_or_else(|| problem.why_full(&set));
    Ok((set, why))
}

/// Evaluates again what adding `added` can have raised; false when the meter is over.
fn refresh<O: Objective>(
    problem: &Problem<'_, O>,
    set: &Set<O::State>,
    added: u16,
    heap: &mut BinaryHeap<Entry>,
    key: &impl Fn(&Set<O::State>, u16, f64) -> f64,
    meter: &mut Meter<'_>,
) -> Result<bool> {
    let mut raised: Vec<u16> = match problem.objective.raised(added) {
        Raised::All => problem.open.clone(),
        Raised::These(a, b) => a.iter().chain(b).map(|(item, _)| *item).collect(),
    };
    raised.retain(|&item| problem.fits(set, item) && problem.open.binary_search(&item).is_ok());
    raised.sort_unstable();
    raised.dedup();
    if raised.is_empty() {
        return Ok(true);
    }
    let mut gains = Vec::with_capacity(raised.len());
    if !problem.gains(&set.state, &raised, &mut gains, meter)? {
        return Ok(false);
    }
    heap.retain(|entry| raised.binary_search(&entry.item).is_err());
    heap.extend(raised.iter().zip(gains).map(|(&item, gain)| Entry {
        key: key(set, item, gain),
        item,
        gain,
        at: set.items.len(),
    }));
    Ok(true)
}
