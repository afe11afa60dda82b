//! The optimum, by branch and bound over sets, or how far the answer may be from it.
//!
//! Depth first: each candidate is in or out. A branch is cut where what it has plus a bound on what it may
//! still get does not beat the best so far. The bound is the fractional knapsack over
//! [`Objective::ceilings`], each at the least it can cost, which holds for every objective that has ceilings;
//! candidates are looked at by ceiling a token. It starts from greedy and swaps, so that it mostly proves.
//! Exponential in the worst case: with more than `nodes_max` branches, or over the meter, the answer is the
//! best so far and `bound` says what may be missed. Not for objectives where the order counts.

use super::bits::Bits;
use super::greedy::greedy;
use super::meter::{Meter, StoppedBy};
use super::objective::{Objective, Set};
use super::problem::{Chosen, EPSILON, Problem};
use super::swaps::swaps;
use crate::error::{Error, Result};

/// An answer with a bound on the best there is.
#[derive(Clone, Debug, PartialEq)]
pub struct Exact {
    /// The best found.
    pub chosen: Chosen,
    /// No set is worth more than this; its worth where it is the optimum.
    pub bound: f64,
    /// Why it ended: [`StoppedBy::Converged`] for the optimum.
    pub stopped_by: StoppedBy,
    /// Branches looked at.
    pub nodes: u64,
}

/// The best set, or the best found in `nodes_max` branches.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) for an objective that depends on the order or has
/// no bound; those of a caller's reward, and of the request's end.
pub fn exact<O: Objective>(problem: &Problem<'_, O>, nodes_max: u64, meter: &mut Meter<'_>) -> Result<Exact> {
    if problem.objective.ordered() {
        return Err(Error::invalid(
            "the exact selector compares sets; this reward depends on the order of chunks: use mcts",
        ));
    }
    let (incumbent, _) = greedy(problem, meter)?;
    let (incumbent, _) = swaps(problem, incumbent, meter)?;
    let start = problem.start(meter)?;
    let least = |item: u16| least_tokens(problem, item);
    let mut search = Search {
        problem,
        nodes_left: nodes_max,
        best: incumbent,
        missed: f64::NEG_INFINITY,
        least: problem.open.iter().map(|&item| least(item)).collect(),
        gains: Vec::new(),
    };
    let open = problem.open.clone();
    search.branch(&start, &open, meter)?;
    let over = meter.over().or((search.nodes_left == 0).then_some(StoppedBy::Evaluations));
    Ok(Exact {
        bound: search.best.value.max(search.missed),
        nodes: nodes_max - search.nodes_left,
        stopped_by: over.unwrap_or(StoppedBy::Converged),
        chosen: search.best,
    })
}

/// The least that one can add to any set: its tokens where all that overlaps it is chosen.
fn least_tokens<O>(problem: &Problem<'_, O>, item: u16) -> u32 {
    let pool = problem.pool;
    if pool.overlaps(item).is_empty() {
        return pool.item(item).tokens;
    }
    // Worse ranked peers that it takes text from make it cheaper still: nothing is certain then.
    if pool.overlaps(item).iter().any(|&peer| peer > item) {
        return 0;
    }
    let mut peers = Bits::default();
    pool.overlaps(item).iter().for_each(|&peer| peers.add(peer));
    pool.tokens(item, &peers)
}

struct Search<'p, 'a, O> {
    problem: &'p Problem<'a, O>,
    nodes_left: u64,
    best: Chosen,
    /// The largest bound of what was not looked at.
    missed: f64,
    /// The least tokens of each open candidate, by its place in `problem.open`.
    least: Vec<u32>,
    gains: Vec<f64>,
}

/// An open candidate in a branch.
#[derive(Clone, Copy)]
struct Candidate {
    item: u16,
    ceiling: f64,
    least: u32,
}

impl<O: Objective> Search<'_, '_, O> {
    fn branch(&mut self, set: &Set<O::State>, open: &[u16], meter: &mut Meter<'_>) -> Result<()> {
        let value = self.problem.objective.value(&set.state);
        if value > self.best.value + EPSILON {
            self.best = self.problem.chosen(set);
        }
        let mut open: Vec<u16> = open.iter().copied().filter(|&item| self.problem.fits(set, item)).collect();
        loop {
            if open.is_empty() {
                return Ok(());
            }
            let Some((bound, options)) = self.bound(set, &open) else {
                return Err(Error::invalid("the exact selector needs an objective with a bound: use mcts"));
            };
            if bound <= self.best.value + EPSILON {
                return Ok(());
            }
            if self.nodes_left == 0 || !meter.take(open.len())? {
                self.missed = self.missed.max(bound);
                return Ok(());
            }
            self.nodes_left -= 1;
            // With it first: what is worth most a token is likely in the best set.
            let item = options[0].item;
            open.retain(|&other| other != item);
            self.gains.clear();
            let mut gains = std::mem::take(&mut self.gains);
            self.problem.objective.gains(&set.state, &[item], &mut gains)?;
            let mut with = set.clone();
            self.problem.add(&mut with, item, gains[0]);
            self.gains = gains;
            self.branch(&with, &open, meter)?;
        }
    }

    /// What no set of these beside `set` is worth more than, and the candidates by ceiling a token.
    fn bound(&self, set: &Set<O::State>, open: &[u16]) -> Option<(f64, Vec<Candidate>)> {
        let problem = self.problem;
        let mut ceilings = Vec::with_capacity(open.len());
        let slack = problem.objective.ceilings(&set.state, open, &mut ceilings)?;
        let option = |(&item, ceiling): (&u16, f64)| {
            let at = problem.open.binary_search(&item).unwrap_or(0);
            Candidate { item, ceiling, least: self.least[at] }
        };
        let mut options: Vec<Candidate> = open.iter().zip(ceilings).map(option).collect();
        let density = |option: &Candidate| option.ceiling / f64::from(option.least.max(1));
        options.sort_by(|a, b| density(b).total_cmp(&density(a)).then(a.item.cmp(&b.item)));
        let mut room = f64::from(problem.budget_tokens - set.tokens);
        let places = problem.chunks_max - set.items.len();
        let mut bound = problem.objective.value(&set.state) + slack;
        // With a cap on chunks, as many of the largest ceilings: both bounds hold, the smaller counts.
        let mut largest: Vec<f64> = options.iter().map(|option| option.ceiling).collect();
        largest.sort_by(|a, b| b.total_cmp(a));
        let by_count = bound + largest.iter().take(places).sum::<f64>();
        for option in &options {
            if room <= 0.0 {
                break;
            }
            let least = f64::from(option.least);
            bound += option.ceiling * if least <= room { 1.0 } else { room / least };
            room -= least;
        }
        Some((bound.min(by_count), options))
    }
}
