//! Monte-Carlo tree search over sets of chunks, as in CORAG (Wang et al., 2024), made to fit an engine.
//!
//! A node is a set (a sequence, where the order counts); a move adds one candidate or stops. Descent is by
//! what was found below, an exploration term `C sqrt(ln N(parent) / N)`, and less for the share of the budget
//! that is spent: the budget is in the policy, as in the paper.
//!
//! Where we depart from it and its published code:
//! - what does not fit is no move, so that no answer is ever over budget;
//! - stopping is a move of its own, so that leaving budget unused is decided and not an accident;
//! - `Q` is half the mean and half the best of what was found below, in shares of twice greedy's worth, which
//!   makes the exploration constant mean the same for every query;
//! - a node is widened as it is visited, `2 sqrt(N)` children, the most promising first, instead of all at
//!   once: one evaluation a child instead of one for each candidate that is left;
//! - where the order does not count, a set that is reached by several orders is one node;
//! - below a new node the set is completed greedily, with some chance left, and that is what the node is
//!   worth: its own worth says little of a set that is to grow;
//! - the answer is the best set ever seen, greedy's own among them, so that it is never worse than greedy.
//!
//! Evaluations are capped by the meter. With a reward that is dear and taken in batches (`batch` above 1),
//! several children are evaluated in one call and nothing is completed: a node is worth what its own set is.

use std::collections::HashMap;

use crate::random::Random;
use serde::{Deserialize, Serialize};

use super::bits::Bits;
use super::greedy::first_gains;
use super::meter::{Meter, StoppedBy};
use super::objective::{Objective, Raised, Set};
use super::problem::{Chosen, EPSILON, Problem};
use crate::error::Result;

/// How the tree is searched.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MctsParams {
    /// Exploration, at least 0: 0.2 to 2.4.
    pub exploration: f32,
    /// What the whole budget costs in the policy, in units of twice greedy's worth; at least 0.
    pub budget_weight: f32,
    /// Children evaluated at once; above 1 for rewards that are asked of a model.
    pub batch: usize,
}

impl Default for MctsParams {
    fn default() -> Self {
        Self { exploration: 0.2, budget_weight: 0.0, batch: 1 }
    }
}

/// Share of completions that pass over the most promising candidate of a step.
const PASS_OVER: f64 = 0.15;

/// Searches for a set that is worth more than `incumbent`, which is greedy's. Says why it ended.
///
/// # Errors
/// Those of a caller's reward, and of the request's end.
pub fn mcts<O: Objective>(
    problem: &Problem<'_, O>,
    incumbent: Chosen,
    (params, seed): (MctsParams, u64),
    meter: &mut Meter<'_>,
) -> Result<(Chosen, StoppedBy)> {
    let start = problem.start(meter)?;
    let Some(first) = first_gains(problem, &start, meter)? else {
        return Ok((incumbent, meter.over().unwrap_or(StoppedBy::Evaluations)));
    };
    let scale = 2.0 * incumbent.value.max(EPSILON);
    let mut tree = Tree {
        problem,
        params,
        scale,
        best: incumbent,
        random: Random(seed),
        nodes: Vec::new(),
        known: HashMap::new(),
    };
    let root = tree.node(&start, by_promise(problem, &start, first));
    while !tree.nodes[root].closed && meter.over().is_none() {
        tree.visit(root, start.clone(), meter)?;
    }
    Ok((tree.best, meter.over().unwrap_or(StoppedBy::Converged)))
}

/// Candidates with what they were last seen to add, the most a token first.
fn by_promise<O: Objective>(
    problem: &Problem<'_, O>,
    set: &Set<O::State>,
    mut gains: Vec<(u16, f64)>,
) -> Vec<(u16, f64)> {
    let density =
        |&(item, gain): &(u16, f64)| gain / f64::from(problem.pool.added_tokens(item, &set.has).max(1));
    gains.sort_by(|a, b| density(b).total_cmp(&density(a)).then(a.0.cmp(&b.0)));
    gains
}

struct Node {
    visits: u32,
    sum: f64,
    most: f64,
    tokens: u32,
    /// What the set itself is worth, and whether stopping there was tried.
    own: f64,
    stopped: bool,
    /// Candidates that have no child yet, the most promising last.
    untried: Vec<(u16, f64)>,
    children: Vec<Edge>,
    /// Nothing below it is left to try.
    closed: bool,
}

#[derive(Clone, Copy)]
struct Edge {
    item: u16,
    gain: f64,
    node: usize,
    visits: u32,
}

struct Tree<'p, 'a, O> {
    problem: &'p Problem<'a, O>,
    params: MctsParams,
    /// Worth is looked at in shares of this.
    scale: f64,
    best: Chosen,
    random: Random,
    nodes: Vec<Node>,
    /// Nodes by set, where the order does not count.
    known: HashMap<Bits, usize>,
}

impl<O: Objective> Tree<'_, '_, O> {
    /// A new node for a set; `gains` has the candidates, the most promising first.
    fn node(&mut self, set: &Set<O::State>, mut gains: Vec<(u16, f64)>) -> usize {
        gains.retain(|&(item, _)| self.problem.fits(set, item));
        gains.reverse();
        let own = self.problem.objective.value(&set.state);
        let closed = gains.is_empty();
        self.nodes.push(Node {
            visits: 0,
            sum: 0.0,
            most: 0.0,
            tokens: set.tokens,
            own,
            stopped: false,
            untried: gains,
            children: Vec::new(),
            closed,
        });
        if !self.problem.objective.ordered() {
            self.known.insert(set.has, self.nodes.len() - 1);
        }
        self.nodes.len() - 1
    }

    fn offer(&mut self, set: &Set<O::State>) -> f64 {
        let value = self.problem.objective.value(&set.state);
        if value > self.best.value + EPSILON {
            self.best = self.problem.chosen(set);
        }
        value
    }

    /// One descent: to a node that can be widened, one child more, completed, and what came of it noted on
    /// the way.
    fn visit(&mut self, root: usize, mut set: Set<O::State>, meter: &mut Meter<'_>) -> Result<()> {
        let mut path = vec![(root, None)];
        let mut at = root;
        let reward = loop {
            let node = &self.nodes[at];
            let wide = 2.0 * f64::from(node.visits + 1).sqrt();
            if !node.untried.is_empty() && (node.children.len() as f64) < wide {
                break self.widen(at, &mut set, &mut path, meter)?;
            }
            if self.problem.may_leave && !node.stopped {
                self.nodes[at].stopped = true;
                break self.offer(&set);
            }
            let Some(edge) = self.descend(at) else {
                self.nodes[at].closed = self.nodes[at].untried.is_empty();
                break self.offer(&set);
            };
            let Edge { item, gain, node, .. } = self.nodes[at].children[edge];
            self.problem.add(&mut set, item, gain);
            path.push((node, Some(edge)));
            at = node;
        };
        self.note(&path, reward / self.scale);
        Ok(())
    }

    /// The child to go on with; none when all are closed.
    fn descend(&self, at: usize) -> Option<usize> {
        let node = &self.nodes[at];
        let budget = f64::from(self.problem.budget_tokens.max(1));
        let visits = f64::from(node.visits.max(1)).ln();
        let upper = |edge: &Edge| {
            let child = &self.nodes[edge.node];
            let found = f64::from(child.visits.max(1));
            let q = 0.5 * (child.sum / found) + 0.5 * child.most;
            let explored = f64::from(edge.visits.max(1));
            q + f64::from(self.params.exploration) * (visits / explored).sqrt()
                - f64::from(self.params.budget_weight) * f64::from(child.tokens) / budget
        };
        let open = node.children.iter().enumerate().filter(|(_, edge)| !self.nodes[edge.node].closed);
        open.map(|(place, edge)| (place, upper(edge)))
            .reduce(|best, next| if next.1 > best.1 { next } else { best })
            .map(|(place, _)| place)
    }

    /// Adds children to a node, completes the best of them, and returns what that is worth.
    fn widen(
        &mut self,
        at: usize,
        set: &mut Set<O::State>,
        path: &mut Vec<(usize, Option<usize>)>,
        meter: &mut Meter<'_>,
    ) -> Result<f64> {
        let count = self.params.batch.clamp(1, self.nodes[at].untried.len());
        let from = self.nodes[at].untried.len() - count;
        let tried: Vec<u16> = self.nodes[at].untried.drain(from..).rev().map(|(item, _)| item).collect();
        let mut gains = Vec::with_capacity(count);
        if !self.problem.gains(&set.state, &tried, &mut gains, meter)? {
            return Ok(self.nodes[at].own);
        }
        let mut found: Option<(f64, usize, Set<O::State>)> = None;
        for (item, gain) in tried.into_iter().zip(gains) {
            let mut child = set.clone();
            self.problem.add(&mut child, item, gain);
            let known = self.known.get(&child.has).copied();
            let node = match known {
                Some(node) => node,
                None => {
                    let more = self.promises(at, &child, item, meter)?;
                    self.node(&child, more)
                }
            };
            let value = self.offer(&child);
            self.nodes[at].children.push(Edge { item, gain, node, visits: 0 });
            if found.as_ref().is_none_or(|(best, ..)| value > *best) {
                found = Some((value, self.nodes[at].children.len() - 1, child));
            }
        }
        let Some((mut reward, edge, child)) = found else { return Ok(self.nodes[at].own) };
        let node = self.nodes[at].children[edge].node;
        path.push((node, Some(edge)));
        if self.params.batch == 1 {
            let whole = self.complete(node, child, meter)?;
            reward = self.offer(&whole);
        }
        Ok(reward)
    }

    /// What is known of the candidates after `item` was added at a node: gains as they were, but for those
    /// that it can have raised.
    fn promises(
        &mut self,
        at: usize,
        set: &Set<O::State>,
        item: u16,
        meter: &mut Meter<'_>,
    ) -> Result<Vec<(u16, f64)>> {
        let node = &self.nodes[at];
        let tried = node.children.iter().map(|edge| (edge.item, edge.gain));
        let mut known: Vec<(u16, f64)> = node.untried.iter().copied().chain(tried).collect();
        known.retain(|&(other, _)| other != item && self.problem.fits(set, other));
        let raised: Vec<u16> = match self.problem.objective.raised(item) {
            // All would have to be asked for again, which is what a dear reward cannot do.
            Raised::All => Vec::new(),
            Raised::These(a, b) => a.iter().chain(b).map(|(item, _)| *item).collect(),
        };
        let again: Vec<usize> = (0..known.len()).filter(|&at| raised.contains(&known[at].0)).collect();
        let items: Vec<u16> = again.iter().map(|&at| known[at].0).collect();
        let mut gains = Vec::with_capacity(items.len());
        if !items.is_empty() && self.problem.gains(&set.state, &items, &mut gains, meter)? {
            again.iter().zip(gains).for_each(|(&at, gain)| known[at].1 = gain);
        }
        Ok(by_promise(self.problem, set, known))
    }

    /// Completes a set greedily, by gain or by gain a token, and now and then by the second best.
    fn complete(&mut self, node: usize, set: Set<O::State>, meter: &mut Meter<'_>) -> Result<Set<O::State>> {
        let mut set = set;
        let ratio = self.random.unit() < 0.5;
        let mut known: Vec<(u16, f64, usize)> =
            self.nodes[node].untried.iter().map(|&(item, gain)| (item, gain, usize::MAX)).collect();
        let children = self.nodes[node].children.iter();
        known.extend(children.map(|edge| (edge.item, edge.gain, usize::MAX)));
        let mut gains = Vec::with_capacity(1);
        loop {
            known.retain(|&(item, ..)| self.problem.fits(&set, item));
            let key = |&(item, gain, _): &(u16, f64, usize)| {
                let tokens = if ratio { self.problem.pool.added_tokens(item, &set.has).max(1) } else { 1 };
                gain / f64::from(tokens)
            };
            let pass = known.len() > 1 && self.random.unit() < PASS_OVER;
            let top = |known: &[(u16, f64, usize)]| {
                let best = known.iter().enumerate().map(|(at, entry)| (at, key(entry), entry.0));
                best.reduce(|a, b| if b.1 > a.1 || (b.1 == a.1 && b.2 < a.2) { b } else { a })
                    .map(|(at, ..)| at)
            };
            // Lazily: the first that is up to date and still the best.
            let mut next = None;
            while let Some(at) = top(&known) {
                if known[at].2 == set.items.len() {
                    next = Some(at);
                    break;
                }
                if !self.problem.gains(&set.state, &[known[at].0], &mut gains, meter)? {
                    return Ok(set);
                }
                (known[at].1, known[at].2) = (gains[0], set.items.len());
            }
            let Some(at) = next else { return Ok(set) };
            let (item, gain, _) = known.swap_remove(at);
            if gain <= EPSILON && self.problem.may_leave {
                return Ok(set);
            }
            if pass {
                continue;
            }
            self.problem.add(&mut set, item, gain);
            if let Raised::These(a, b) = self.problem.objective.raised(item) {
                for &(other, _) in a.iter().chain(b) {
                    if let Some(entry) = known.iter_mut().find(|entry| entry.0 == other) {
                        if !self.problem.gains(&set.state, &[other], &mut gains, meter)? {
                            return Ok(set);
                        }
                        (entry.1, entry.2) = (gains[0], set.items.len());
                    }
                }
            }
        }
    }

    /// Notes a reward along a path, from its end.
    fn note(&mut self, path: &[(usize, Option<usize>)], reward: f64) {
        for at in (0..path.len()).rev() {
            let (node, edge) = path[at];
            let below = &mut self.nodes[node];
            below.visits += 1;
            below.sum += reward;
            below.most = below.most.max(reward);
            let below = &self.nodes[node];
            let open = !below.untried.is_empty() || (self.problem.may_leave && !below.stopped);
            let closed = !open && below.children.iter().all(|edge| self.nodes[edge.node].closed);
            self.nodes[node].closed |= closed;
            if let (Some(edge), Some(&(parent, _))) = (edge, at.checked_sub(1).and_then(|up| path.get(up))) {
                self.nodes[parent].children[edge].visits += 1;
            }
        }
    }
}
