//! Chooses the set of candidates that is worth most within a token budget.
//!
//! One selector a file, all over one [`Pool`], one counter of evaluations ([`Meter`]) and, where they look
//! for the best of an objective, one seam for it ([`Objective`]):
//!
//! | method | chooses by | cost |
//! |---|---|---|
//! | `top_k` | rank, what does not fit left out or the end of it | none |
//! | `mmr`, `dpp` | rank against similarity | a pass over the pool a chunk |
//! | `adagres` | relevance less redundancy, weighed by the pool; may leave budget | lazy greedy |
//! | `submodular` | an objective, greedily, then by swaps | lazy greedy, `chosen * pool` a round of swaps |
//! | `mcts` | an objective or caller's reward, by tree search from greedy's answer | what the meter allows |
//! | `exact` | an objective, proven | exponential at worst, some hundred evaluations usually |
//!
//! Nothing here reads text, vectors or storage: who fills the pool is `retrieve/pool.rs`, what becomes of the
//! chosen ones `retrieve/assemble.rs`.

pub mod bits;
pub mod dpp;
pub mod exact;
pub mod greedy;
pub mod mcts;
pub mod meter;
pub mod mix;
pub mod mmr;
pub mod objective;
pub mod pool;
pub mod problem;
pub mod reward;
pub mod swaps;
#[cfg(test)]
mod tests;
pub mod topk;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use bits::Bits;
use mcts::MctsParams;
use meter::{Meter, StoppedBy};
use mix::{Mix, Weights};
use objective::Objective;
use pool::Pool;
use problem::{Chosen, EPSILON, Problem};
use reward::{Reward, Rewarded};
use topk::Overflow;

/// Branches the exact selector looks at unless it is told otherwise.
pub const NODES_DEFAULT: u64 = 100_000;
/// Share of the evaluations of `mcts` that is kept for swaps of what it has found.
const POLISH_SHARE: u64 = 4;

/// How chunks are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Method {
    /// In rank order while they fit.
    TopK {
        /// What happens at one that does not fit.
        #[serde(default)]
        overflow: Overflow,
    },
    /// Maximal marginal relevance; needs similarities.
    Mmr {
        /// What relevance counts against similarity, 0..=1.
        lambda: f32,
    },
    /// The most probable set of a determinantal point process; needs similarities.
    Dpp {
        /// What relevance counts against similarity, at least 0.
        quality: f32,
    },
    /// Relevance less redundancy (AdaGReS); needs similarities.
    Adagres {
        /// What similarity takes off; none: what balances the two in this pool.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        redundancy: Option<f32>,
    },
    /// Greedy by gain a token and by gain, the better of them, improved by swaps.
    Submodular {
        /// Whether it is improved.
        #[serde(default = "yes")]
        swaps: bool,
    },
    /// Monte-Carlo tree search from greedy's answer.
    Mcts(MctsParams),
    /// Branch and bound, with a bound on what is missed.
    Exact {
        /// Most branches looked at.
        #[serde(default = "nodes")]
        nodes_max: u64,
    },
}

fn yes() -> bool {
    true
}

fn nodes() -> u64 {
    NODES_DEFAULT
}

impl Default for Method {
    fn default() -> Self {
        Self::TopK { overflow: Overflow::Skip }
    }
}

impl Method {
    /// Its name in requests and reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TopK { .. } => "top_k",
            Self::Mmr { .. } => "mmr",
            Self::Dpp { .. } => "dpp",
            Self::Adagres { .. } => "adagres",
            Self::Submodular { .. } => "submodular",
            Self::Mcts(_) => "mcts",
            Self::Exact { .. } => "exact",
        }
    }

    /// Whether it looks at the similarity of candidates.
    pub fn needs_similarity(&self) -> bool {
        matches!(self, Self::Mmr { .. } | Self::Dpp { .. } | Self::Adagres { .. })
    }

    /// Checks the ranges of its parameters.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) naming the parameter.
    pub fn check(&self) -> Result<()> {
        let at_least_0 = |name: &str, value: f32| {
            if value >= 0.0 && value.is_finite() {
                Ok(())
            } else {
                Err(out_of_range(name, value, "at least 0"))
            }
        };
        match *self {
            Self::TopK { .. } | Self::Submodular { .. } | Self::Exact { .. } => Ok(()),
            Self::Mmr { lambda } if (0.0..=1.0).contains(&lambda) => Ok(()),
            Self::Mmr { lambda } => Err(out_of_range("mmr.lambda", lambda, "0 to 1")),
            Self::Dpp { quality } => at_least_0("dpp.quality", quality),
            Self::Adagres { redundancy } => at_least_0("adagres.redundancy", redundancy.unwrap_or(0.0)),
            Self::Mcts(params) => {
                at_least_0("mcts.exploration", params.exploration)?;
                at_least_0("mcts.budget_weight", params.budget_weight)?;
                match params.batch {
                    1..=1024 => Ok(()),
                    batch => Err(out_of_range("mcts.batch", batch as f32, "1 to 1024")),
                }
            }
        }
    }
}

fn out_of_range(name: &str, value: f32, range: &str) -> Error {
    Error::invalid(format!("{name} is {value}; it is {range}"))
}

/// What one selection is asked.
#[derive(Clone, Debug)]
pub struct Ask {
    /// How.
    pub method: Method,
    /// What sets are worth.
    pub weights: Weights,
    /// Most tokens, separators and overheads included.
    pub budget_tokens: u32,
    /// Most chunks.
    pub chunks_max: usize,
    /// Candidates that are chosen whatever they are worth.
    pub must: Vec<u16>,
    /// Candidates that are not.
    pub exclude: Vec<u16>,
    /// Whether budget may be left over where nothing is gained.
    pub may_leave: bool,
    /// Of what is drawn by chance.
    pub seed: u64,
}

/// What was chosen, and how good it is known to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Positions in the pool in the order in which they were chosen.
    pub items: Vec<u16>,
    /// Its worth by the objective of the request, whatever the method looked at.
    pub value: f64,
    /// What greedy's answer is worth, where the method starts from it.
    pub greedy_value: Option<f64>,
    /// No set is worth more, where that is known.
    pub bound: Option<f64>,
    /// Evaluations of the objective.
    pub evaluations: u64,
    /// What ended it.
    pub stopped_by: StoppedBy,
}

/// Chooses from `pool` by the ask, with the caller's `reward` in place of the built-in objective where there
/// is one.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when what must be chosen does not fit, or the method
/// cannot work with the reward; those of the reward; the end of the request.
pub fn choose(
    pool: &Pool,
    ask: &Ask,
    reward: Option<&dyn Reward>,
    meter: &mut Meter<'_>,
) -> Result<Selection> {
    let mut weights = ask.weights;
    if let Method::Adagres { redundancy } = ask.method {
        let tokens: f64 = pool.items().iter().map(|item| f64::from(item.tokens)).sum();
        let size = f64::from(ask.budget_tokens) * pool.len() as f64 / tokens.max(1.0);
        let balanced = || Mix::balanced_redundancy(pool, size.min(pool.len() as f64));
        weights = Weights { redundancy: redundancy.unwrap_or_else(balanced), ..Weights::default() };
    }
    let mix = Mix::new(pool, weights);
    match reward {
        Some(reward) => search(pool, ask, &Rewarded(reward), &mix, meter),
        None => search(pool, ask, &mix, &mix, meter),
    }
}

fn search<O: Objective>(
    pool: &Pool,
    ask: &Ask,
    objective: &O,
    mix: &Mix<'_>,
    meter: &mut Meter<'_>,
) -> Result<Selection> {
    let mut has = Bits::default();
    ask.must.iter().for_each(|&at| has.add(at));
    let must_tokens = pool.set_tokens(&has, &ask.must);
    if must_tokens > ask.budget_tokens || ask.must.len() > ask.chunks_max {
        return Err(Error::invalid(format!(
            "what must be included has {must_tokens} tokens in {} chunks; the budget is {} tokens in {} chunks",
            ask.must.len(),
            ask.budget_tokens,
            ask.chunks_max
        )));
    }
    let mut open: Vec<u16> =
        (0..pool.len() as u16).filter(|at| !has.has(*at) && !ask.exclude.contains(at)).collect();
    let caps = (ask.budget_tokens, ask.chunks_max);
    let plain = |(items, stopped_by): (Vec<u16>, StoppedBy), meter: &Meter<'_>| Selection {
        value: mix.value_of(&items),
        items,
        greedy_value: None,
        bound: None,
        evaluations: meter.evaluations(),
        stopped_by,
    };
    if let Method::TopK { overflow } = ask.method {
        return Ok(plain(topk::top_k(pool, (&ask.must, &open), caps, overflow), meter));
    }
    // What cannot fit at all need not be looked at again.
    open.retain(|&at| least(pool, at) <= ask.budget_tokens);
    let sides = (&*ask.must, &*open);
    match ask.method {
        Method::Mmr { lambda } => return Ok(plain(mmr::mmr(pool, sides, caps, lambda, meter)?, meter)),
        Method::Dpp { quality } => return Ok(plain(dpp::dpp(pool, sides, caps, quality, meter)?, meter)),
        _ => {}
    }
    let problem = Problem {
        pool,
        objective,
        budget_tokens: ask.budget_tokens,
        chunks_max: ask.chunks_max,
        must: ask.must.clone(),
        open,
        may_leave: ask.may_leave,
    };
    let (greedy, why) = greedy::greedy(&problem, meter)?;
    let greedy_value = greedy.value;
    let (chosen, stopped_by, bound) = improve(&problem, (greedy, why), ask, meter)?;
    Ok(Selection {
        items: chosen.items,
        value: chosen.value,
        greedy_value: Some(greedy_value),
        bound,
        evaluations: meter.evaluations(),
        stopped_by,
    })
}

/// What the method makes of greedy's answer, with a bound where it has one.
fn improve<O: Objective>(
    problem: &Problem<'_, O>,
    (greedy, why): (Chosen, StoppedBy),
    ask: &Ask,
    meter: &mut Meter<'_>,
) -> Result<(Chosen, StoppedBy, Option<f64>)> {
    let greedy_value = greedy.value;
    let (chosen, searched, bound) = match ask.method {
        Method::Submodular { swaps: true } => {
            let (chosen, over) = swaps::swaps(problem, greedy, meter)?;
            (chosen, over, None)
        }
        Method::Mcts(params) => {
            let left = meter.left() - meter.left() / POLISH_SHARE;
            let run = |meter: &mut Meter<'_>| mcts::mcts(problem, greedy, (params, ask.seed), meter);
            let (chosen, over) = meter.capped(left, run)?;
            // A reward that is dear or depends on the order has better use for its evaluations.
            if params.batch > 1 || problem.objective.ordered() {
                (chosen, over, None)
            } else {
                let (chosen, over) = swaps::swaps(problem, chosen, meter)?;
                (chosen, over, None)
            }
        }
        Method::Exact { nodes_max } => {
            let found = exact::exact(problem, nodes_max, meter)?;
            (found.chosen, found.stopped_by, Some(found.bound))
        }
        _ => (greedy, why, None),
    };
    // Why there is no more in it says more than that the search has ended, as long as it is greedy's own.
    let unchanged = chosen.value <= greedy_value + EPSILON;
    let stopped_by = if searched == StoppedBy::Converged && unchanged { why } else { searched };
    Ok((chosen, stopped_by, bound))
}

/// The least that one can add to a set.
fn least(pool: &Pool, at: u16) -> u32 {
    if pool.overlaps(at).is_empty() { pool.item(at).tokens } else { 0 }
}
