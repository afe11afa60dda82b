//! The built-in objectives: a weighted sum of relevance, redundancy, facility location, aspects and
//! references.
//!
//! With `u(x) = (tokens of x / mean tokens of the pool)^length`, relevance `r`, similarity `s`:
//!
//! ```text
//! F(S) = relevance  * sum_x u(x) r(x)^sharpness
//!      - redundancy * sum_{x<y} s(x, y)                      AdaGReS (Peng et al., 2025)
//!      + facility   * sum_j w_j max_{x in S} s(x, j)         w_j = r(j) / sum r, over the whole pool
//!      + aspects    * sum_a w_a max_{x in S} cover(x, a)     terms of the query by rarity, or needs
//!      + references * sum_x u(x) max_{y in S} r(y) ref(y, x)
//! ```
//!
//! The first, third and fourth are monotone and submodular; with redundancy the sum is submodular and not
//! monotone. References are what makes chunks worth more together than alone (CORAG, Wang et al., 2024,
//! counts such pairs): a chunk that another relevant one speaks of is the second hop of a question. They are
//! supermodular, so no greedy guarantee holds, and [`Objective::raised`] says whose gains they raise. Sets,
//! not sequences: a chunk of which a better ranked one of the set has some, or says it, counts for the rest
//! ([`Pool::news`]).
//!
//! A gain costs one pass over the aspects, one over the pool with facility location, and the references of
//! one chunk; adding one costs the same once more.

use serde::{Deserialize, Serialize};

use super::bits::Bits;
use super::objective::{Objective, Raised};
use super::pool::Pool;
use crate::error::Result;

/// The weight of each part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// Of relevance, at least 0.
    pub relevance: f32,
    /// Of similarity between members, at least 0; it is taken off.
    pub redundancy: f32,
    /// Of how well the pool is represented, at least 0.
    pub facility: f32,
    /// Of aspects that are covered, at least 0.
    pub aspects: f32,
    /// Of chunks that other chosen ones refer to, at least 0.
    pub references: f32,
    /// Exponent of a chunk's length: 0 values all chunks alike, 1 by their tokens.
    pub length: f32,
    /// Exponent of relevance: above 1 the best stand out more.
    pub sharpness: f32,
}

impl Weights {
    /// For questions whose evidence is in several chunks: relevance, aspects and references, longer chunks
    /// worth more. Fitted on multi-hop questions, no worse on others: docs/rag.md has the tables.
    pub const EVIDENCE: Self = Self {
        relevance: 1.0,
        redundancy: 0.0,
        facility: 0.0,
        aspects: 2.0,
        references: 0.75,
        length: 0.6,
        sharpness: 2.0,
    };
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            relevance: 1.0,
            redundancy: 0.0,
            facility: 0.0,
            aspects: 0.0,
            references: 0.0,
            length: 0.0,
            sharpness: 1.0,
        }
    }
}

/// The objective over one pool.
#[derive(Clone, Debug)]
pub struct Mix<'a> {
    pool: &'a Pool,
    weights: Weights,
    /// `u(x) r(x)^sharpness`, weighted.
    worth: Vec<f64>,
    /// `u(x)`, weighted for references.
    length: Vec<f64>,
    /// `w_j` of facility location.
    shares: Vec<f32>,
}

/// What is known of a set.
#[derive(Clone, Debug, Default)]
pub struct MixState {
    value: f64,
    items: Vec<u16>,
    has: Bits,
    /// How far each aspect is covered.
    covered: Vec<f32>,
    /// The similarity of each of the pool to its nearest in the set.
    nearest: Vec<f32>,
    /// The sum of similarities of each of the pool to the set.
    repeated: Vec<f32>,
    /// The clearest reference to each of the pool from within the set.
    named: Vec<f32>,
}

impl<'a> Mix<'a> {
    /// The objective with these weights. Parts that the pool has no data for (similarity, aspects,
    /// references) count nothing.
    pub fn new(pool: &'a Pool, weights: Weights) -> Self {
        let n = pool.len();
        let mean = pool.items().iter().map(|item| f64::from(item.tokens)).sum::<f64>() / n.max(1) as f64;
        let u = |tokens: u32| (f64::from(tokens) / mean.max(1.0)).powf(f64::from(weights.length));
        let worth = |at: usize| {
            let item = &pool.items()[at];
            let relevance = f64::from(item.relevance).powf(f64::from(weights.sharpness));
            f64::from(weights.relevance) * u(item.tokens) * relevance
        };
        let sum: f32 = pool.items().iter().map(|item| item.relevance).sum();
        Self {
            pool,
            weights,
            worth: (0..n).map(worth).collect(),
            length: pool.items().iter().map(|item| f64::from(weights.references) * u(item.tokens)).collect(),
            shares: pool.items().iter().map(|item| item.relevance / sum.max(1e-9)).collect(),
        }
    }

    /// The `redundancy` at which, for a set of `size` candidates of this pool, what similarity takes off is
    /// what relevance gives: `2 * mean relevance / ((size - 1) * mean similarity)`, AdaGReS' closed form as
    /// far as it is published. 0 where nothing is similar.
    pub fn balanced_redundancy(pool: &Pool, size: f64) -> f32 {
        let n = pool.len();
        let relevance: f32 = pool.items().iter().map(|item| item.relevance).sum();
        let rows = (0..n).filter_map(|at| Some((at, pool.similarity(at as u16)?)));
        let pairs: f32 = rows.map(|(at, row)| row[at + 1..].iter().sum::<f32>()).sum();
        let pair_count = (n * n.saturating_sub(1) / 2) as f32;
        let (mean, similar) = (relevance / n.max(1) as f32, pairs / pair_count.max(1.0));
        if similar <= 0.0 || size <= 1.0 { 0.0 } else { 2.0 * mean / ((size - 1.0) as f32 * similar) }
    }

    /// The worth of any set.
    pub fn value_of(&self, items: &[u16]) -> f64 {
        let mut state = self.empty();
        for &item in items {
            let gain = self.gain(&state, item);
            self.add(&mut state, item, gain);
        }
        state.value
    }

    fn gain(&self, state: &MixState, at: u16) -> f64 {
        let mut gain = self.own_gain(state, at) + self.shared_gain(state, at);
        if self.weights.references > 0.0 {
            gain += self.length[usize::from(at)] * f64::from(state.named[usize::from(at)]);
            let relevance = self.pool.item(at).relevance;
            for &(to, strength) in self.pool.refers(at) {
                if state.has.has(to) {
                    let more = (relevance * strength - state.named[usize::from(to)]).max(0.0);
                    gain += self.length[usize::from(to)] * f64::from(more);
                }
            }
        }
        gain
    }

    /// What it adds of what members have in common: redundancy, facility location, aspects.
    fn shared_gain(&self, state: &MixState, at: u16) -> f64 {
        let i = usize::from(at);
        let mut gain = 0.0;
        if self.weights.redundancy > 0.0 && !state.repeated.is_empty() {
            gain -= f64::from(self.weights.redundancy * state.repeated[i]);
        }
        if let Some(row) = self.pool.similarity(at).filter(|_| self.weights.facility > 0.0) {
            let more = row.iter().zip(&state.nearest).map(|(similar, nearest)| (similar - nearest).max(0.0));
            let sum: f32 = more.zip(&self.shares).map(|(more, share)| more * share).sum();
            gain += f64::from(self.weights.facility * sum);
        }
        if self.weights.aspects > 0.0 {
            let more =
                self.pool.cover(at).iter().zip(&state.covered).map(|(cover, old)| (cover - old).max(0.0));
            let sum: f32 = more.zip(&self.pool.aspects().weights).map(|(more, weight)| more * weight).sum();
            gain += f64::from(self.weights.aspects * sum);
        }
        gain
    }

    /// Its relevance, as far as its text is new, less what it takes from worse ranked members.
    fn own_gain(&self, state: &MixState, at: u16) -> f64 {
        let worth = self.worth[usize::from(at)];
        if self.pool.peers(at).is_empty() {
            return worth;
        }
        let mut with = state.has;
        with.add(at);
        let mut gain = worth * self.pool.news(at, &with);
        for &peer in self.pool.peers(at) {
            if peer > at && state.has.has(peer) {
                let lost = self.pool.news(peer, &state.has) - self.pool.news(peer, &with);
                gain -= self.worth[usize::from(peer)] * lost;
            }
        }
        gain
    }
}

impl Objective for Mix<'_> {
    type State = MixState;

    fn empty(&self) -> MixState {
        let n = self.pool.len();
        let zeros = |wanted: bool, len: usize| if wanted { vec![0.0; len] } else { Vec::new() };
        let similar = self.pool.similarity(0).is_some();
        MixState {
            covered: zeros(self.weights.aspects > 0.0, self.pool.aspects().weights.len()),
            nearest: zeros(self.weights.facility > 0.0 && similar, n),
            repeated: zeros(self.weights.redundancy > 0.0 && similar, n),
            named: zeros(self.weights.references > 0.0, n),
            ..MixState::default()
        }
    }

    fn value(&self, state: &MixState) -> f64 {
        state.value
    }

    fn gains(&self, state: &MixState, items: &[u16], gains: &mut Vec<f64>) -> Result<()> {
        gains.extend(items.iter().map(|&item| self.gain(state, item)));
        Ok(())
    }

    fn add(&self, state: &mut MixState, item: u16, gain: f64) {
        state.value += gain;
        state.items.push(item);
        state.has.add(item);
        if let Some(row) = self.pool.similarity(item) {
            state.nearest.iter_mut().zip(row).for_each(|(nearest, similar)| *nearest = nearest.max(*similar));
            state.repeated.iter_mut().zip(row).for_each(|(sum, similar)| *sum += similar);
        }
        state.covered.iter_mut().zip(self.pool.cover(item)).for_each(|(old, cover)| *old = old.max(*cover));
        if !state.named.is_empty() {
            let relevance = self.pool.item(item).relevance;
            for &(to, strength) in self.pool.refers(item) {
                let named = &mut state.named[usize::from(to)];
                *named = named.max(relevance * strength);
            }
        }
    }

    fn raised(&self, item: u16) -> Raised<'_> {
        if !self.pool.peers(item).is_empty() {
            // It takes text from a worse ranked one, of which a third then has less to take.
            return Raised::All;
        }
        if self.weights.references > 0.0 {
            Raised::These(self.pool.refers(item), self.pool.referred(item))
        } else {
            Raised::These(&[], &[])
        }
    }

    fn ceilings(&self, state: &MixState, open: &[u16], ceilings: &mut Vec<f64>) -> Option<f64> {
        let mut still = Bits::default();
        open.iter().for_each(|&at| still.add(at));
        // The clearest that one can still be named, worth what it is beyond what it is by now.
        let named = |at: u16| {
            let clear = |&(from, strength): &(u16, f32)| self.pool.item(from).relevance * strength;
            let most = self.pool.referred(at).iter().filter(|(from, _)| still.has(*from)).map(clear);
            most.fold(state.named[usize::from(at)], f32::max)
        };
        let references = self.weights.references > 0.0;
        let ceiling = |&at: &u16| {
            let mut with = state.has;
            with.add(at);
            // What it takes from worse ranked members may be taken by others first: it does not count here.
            let own = self.worth[usize::from(at)] * self.pool.news(at, &with);
            let named = if references { self.length[usize::from(at)] * f64::from(named(at)) } else { 0.0 };
            (own + self.shared_gain(state, at) + named).max(0.0)
        };
        ceilings.extend(open.iter().map(ceiling));
        let more = |&at: &u16| {
            let i = usize::from(at);
            self.length[i] * f64::from(named(at) - state.named[i])
        };
        Some(if references { state.items.iter().map(more).sum() } else { 0.0 })
    }
}
