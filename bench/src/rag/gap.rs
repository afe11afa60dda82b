//! How far from the optimum each search ends, on pools small enough to prove it; and what a choice costs.

use std::time::Instant;

use serde_json::json;
use spandrel::select::mcts::MctsParams;
use spandrel::{Method, RetrieveRequest, Select, Weights};

use super::corpus::{Corpus, search};
use super::questions::{Question, Set};
use crate::Result;
use crate::report::{self, Goal, Row};

/// Pools of so many candidates, and budgets.
const POOLS: [usize; 3] = [14, 18, 22];
const BUDGETS: [usize; 3] = [256, 512, 1_024];

fn select(method: Method, evaluations_max: u64, seed: u64) -> Select {
    Select {
        method: Some(method),
        weights: Some(Weights::EVIDENCE),
        evaluations_max,
        seed,
        ..Select::default()
    }
}

/// What searches came to on all problems.
#[derive(Default)]
struct Tally {
    gap: f64,
    worst: f64,
    optimal: usize,
    evaluations: u64,
    below_greedy: usize,
}

/// Gap to the exact optimum, at equal evaluations: what greedy with swaps takes, MCTS gets.
pub fn gaps(sets: &[&Set], corpus: &Corpus) -> Result<(Vec<Row>, Vec<Goal>)> {
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    for pool in POOLS {
        let names =
            ["greedy", "submodular with swaps", "mcts, equal evaluations", "mcts, 10,000 evaluations"];
        let mut tallies: Vec<Tally> = names.iter().map(|_| Tally::default()).collect();
        let (mut problems, mut unproven, mut better, mut worse) = (0, 0, 0, 0);
        for (set, question) in every(sets) {
            for budget in BUDGETS {
                let ask = |select: Select| -> Result<_> {
                    let search = search(set, question, set.name.clone(), pool);
                    let request = RetrieveRequest { select, ..RetrieveRequest::new(search, budget) };
                    Ok(corpus.collection.retrieve(&request)?.selection)
                };
                let exact = ask(select(Method::Exact { nodes_max: 1_000_000 }, 10_000_000, 0))?;
                if exact.bound.is_none_or(|bound| bound > exact.value + 1e-6) || exact.value <= 0.0 {
                    unproven += 1;
                    continue;
                }
                problems += 1;
                let swaps = ask(select(Method::Submodular { swaps: true }, 10_000, 0))?;
                let equal = swaps.evaluations.max(1);
                let mcts = |evaluations, seed| select(Method::Mcts(MctsParams::default()), evaluations, seed);
                let found = [
                    ask(select(Method::Submodular { swaps: false }, 10_000, 0))?,
                    swaps,
                    ask(mcts(equal, 1))?,
                    ask(mcts(10_000, 1))?,
                ];
                better += usize::from(found[2].value > found[1].value + 1e-9);
                worse += usize::from(found[2].value < found[1].value - 1e-9);
                for (tally, found) in tallies.iter_mut().zip(found) {
                    let gap = 1.0 - found.value / exact.value;
                    tally.gap += gap;
                    tally.worst = tally.worst.max(gap);
                    tally.optimal += usize::from(gap < 1e-6);
                    tally.evaluations += found.evaluations;
                    let below = found.greedy_value.is_some_and(|greedy| found.value < greedy - 1e-6);
                    tally.below_greedy += usize::from(below);
                }
            }
        }
        let of = |value: f64| value / f64::from(problems.max(1));
        for (name, tally) in names.iter().zip(&tallies) {
            rows.push(report::row(json!({
                "pool": pool,
                "selector": name,
                "problems": problems,
                "unproven": unproven,
                "gap_percent": 100.0 * of(tally.gap),
                "worst_percent": 100.0 * tally.worst,
                "optimal": of(tally.optimal as f64),
                "evaluations": of(tally.evaluations as f64),
                "below_greedy": tally.below_greedy,
            }))?);
        }
        goals.push(Goal::at_most(format!("pools of {pool}: swaps' gap, %"), 100.0 * of(tallies[1].gap), 3.0));
        goals.push(Goal::at_most(format!("pools of {pool}: mcts' gap, %"), 100.0 * of(tallies[2].gap), 1.0));
        goals.push(Goal::at_most(
            format!("pools of {pool}: mcts below greedy"),
            tallies[2].below_greedy as f64,
            0.0,
        ));
        println!(
            "pools of {pool}: mcts better than swaps at equal evaluations in {better}, worse in {worse} of {problems}"
        );
    }
    Ok((rows, goals))
}

/// Every third question of the sets.
fn every<'a>(sets: &[&'a Set]) -> impl Iterator<Item = (&'a Set, &'a Question)> {
    let sets: Vec<&'a Set> = sets.to_vec();
    sets.into_iter().flat_map(|set| set.questions.iter().step_by(3).map(move |question| (set, question)))
}

/// Time of a choice from 60 candidates within 2,048 tokens, and of a dry run.
pub fn costs(sets: &[&Set], corpus: &Corpus) -> Result<(Vec<Row>, Vec<Goal>)> {
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    for selector in super::selectors::all() {
        let (mut selection, mut whole, mut dry) = (Vec::new(), Vec::new(), Vec::new());
        for (set, question) in every(sets) {
            let mut request = selector.request(search(set, question, set.name.clone(), 60), 2_048);
            request.search.explain = true;
            let response = corpus.collection.retrieve(&request)?;
            let stages = response.explain.map(|explain| explain.stages).unwrap_or_default();
            let chosen =
                stages.iter().filter(|stage| stage.name == "pool" || stage.name.starts_with("select"));
            selection.push(chosen.map(|stage| stage.time_us as f64).sum());
            request.search.explain = false;
            let started = Instant::now();
            corpus.collection.retrieve(&request)?;
            whole.push(started.elapsed().as_secs_f64() * 1e6);
            request.dry_run = true;
            let started = Instant::now();
            corpus.collection.retrieve(&request)?;
            dry.push(started.elapsed().as_secs_f64() * 1e6);
        }
        rows.push(report::row(json!({
            "selector": selector.name,
            "selection_p50_us": report::median(&selection),
            "p50_us": report::median(&whole),
            "dry_run_p50_us": report::median(&dry),
        }))?);
        goals.push(Goal::at_most(
            format!("{}: selection p50, us", selector.name),
            report::median(&selection),
            2_000.0,
        ));
        goals.push(Goal::at_most(
            format!("{}: dry run p50, us", selector.name),
            report::median(&dry),
            1_000.0,
        ));
    }
    Ok((rows, goals))
}
