//! Fits which way of choosing suits a query, and says what that gains on questions it was not fitted on.
//!
//! For every question and budget the recall of each way of choosing is known; ridge regression learns from
//! the features of the query and its candidates what each gains over rank order. Folds of whole questions:
//! what is reported was never fitted on.

use spandrel::retrieve::candidate::Candidate;
use spandrel::retrieve::configure::{Choice, FEATURES, Model, features};
use spandrel::retrieve::pool::{Parts, pool};
use spandrel::select::meter::Meter;
use spandrel::select::pool::Pool;
use spandrel::select::{Ask, choose};
use spandrel::{Hit, Method, Stop, Weights};

use super::bootstrap::difference;
use super::corpus::{Corpus, search};
use super::judge::Evidence;
use super::questions::{Question, Set};
use super::selectors::baseline;
use crate::Result;
use crate::report::{self, Goal, Row};
use serde_json::json;

const FOLDS: usize = 5;
/// How strongly coefficients are drawn to 0, in questions.
const RIDGE: f64 = 30.0;

/// A way of choosing that may be chosen.
struct Way {
    name: String,
    method: Method,
    weights: Weights,
}

/// What a question came to at a budget.
struct Point {
    /// Which question, for folds.
    question: usize,
    is_multi_hop: bool,
    features: [f64; FEATURES.len()],
    /// Recall of rank order, then of each way.
    recalls: Vec<f64>,
}

fn ways() -> Vec<Way> {
    let mut ways = Vec::new();
    for aspects in [0.5, 1.0, 2.0] {
        for references in [0.0, 0.25, 0.5, 0.75] {
            for (length, sharpness) in [(0.3, 2.0), (0.6, 2.0), (1.0, 2.0), (0.6, 3.0)] {
                let weights = Weights { aspects, references, length, sharpness, ..Weights::default() };
                let name = format!(
                    "aspects {aspects} references {references} length {length} sharpness {sharpness}"
                );
                ways.push(Way { name, method: Method::Submodular { swaps: true }, weights });
            }
        }
    }
    ways
}

/// The pool of a question as the engine makes it, and where its candidates are from.
fn pooled(corpus: &Corpus, set: &Set, question: &Question, k: usize) -> Result<(Pool, Vec<Hit>, Vec<u32>)> {
    let mut request = baseline().request(search(set, question, set.name.clone(), k), 1_000_000);
    request.question = Some(question.text.clone());
    let response = corpus.collection.retrieve(&request)?;
    let separator = corpus.tokenizer.count("\n\n") as u32;
    let mut candidates = Vec::new();
    for (at, chunk) in response.chunks.into_iter().enumerate() {
        let text = response.context[chunk.context_span.clone()].to_owned();
        candidates.push(Candidate::new(chunk.hit, text, at + 1));
    }
    let tokens: Vec<u32> = candidates
        .iter()
        .map(|one| one.hit.row.chunk.as_ref().map_or(0, |chunk| chunk.tokens) + separator)
        .collect();
    let parts = Parts {
        tokens: &tokens,
        question: Some(&question.text),
        needs: (2, &[]),
        words: true,
        similarity: false,
    };
    let made = pool(&candidates, &parts);
    Ok((made, candidates.into_iter().map(|one| one.hit).collect(), tokens))
}

/// Recall of a choice.
fn recall(
    pool: &Pool,
    hits: &[Hit],
    evidence: &Evidence,
    (method, weights, budget): (Method, Weights, u32),
) -> Result<f64> {
    let ask = Ask {
        method,
        weights,
        budget_tokens: budget,
        chunks_max: 512,
        must: Vec::new(),
        exclude: Vec::new(),
        may_leave: true,
        seed: 0,
    };
    let stop = Stop::default();
    let chosen = choose(pool, &ask, None, &mut Meter::new(5_000, None, &stop))?;
    Ok(evidence.recall_of(chosen.items.iter().filter_map(|at| hits[usize::from(*at)].row.chunk.as_ref())))
}

fn points(
    sets: &[&Set],
    corpus: &Corpus,
    (k, budgets): (usize, &[usize]),
    ways: &[Way],
) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    let mut number = 0;
    for set in sets {
        for question in &set.questions {
            let evidence = Evidence::new(set, question, corpus.tokenizer);
            let (pool, hits, _) = pooled(corpus, set, question, k)?;
            for &budget in budgets {
                let room = budget as u32 + corpus.tokenizer.count("\n\n") as u32;
                let mut recalls =
                    vec![recall(&pool, &hits, &evidence, (Method::default(), Weights::EVIDENCE, room))?];
                for way in ways {
                    recalls.push(recall(&pool, &hits, &evidence, (way.method, way.weights, room))?);
                }
                let features = features(&pool, room);
                points.push(Point { question: number, is_multi_hop: set.is_multi_hop, features, recalls });
            }
            number += 1;
        }
    }
    Ok(points)
}

/// What counts: multi-hop questions' recall and single-hop questions', alike, whatever their number.
fn worth(points: &[&Point], of: impl Fn(&Point) -> f64) -> f64 {
    let mean = |multi: bool| {
        let values: Vec<f64> =
            points.iter().filter(|one| one.is_multi_hop == multi).map(|one| of(one)).collect();
        values.iter().sum::<f64>() / values.len().max(1) as f64
    };
    (mean(true) + mean(false)) / 2.0
}

/// The way that is best for all, by its place in `recalls`, among those from `from` on.
fn best_fixed(points: &[&Point], count: usize) -> usize {
    let worth = |at: usize| worth(points, |one| one.recalls[at]);
    (0..count).map(|at| (at, worth(at))).reduce(|a, b| if b.1 > a.1 { b } else { a }).map_or(0, |(at, _)| at)
}

/// A model of these ways, fitted on some points.
fn fit(points: &[&Point], ways: &[&Way], places: &[usize]) -> Model {
    let n = points.len() as f64;
    let width = FEATURES.len();
    let mean = |of: &dyn Fn(&Point) -> f64| points.iter().map(|one| of(one)).sum::<f64>() / n;
    let means: Vec<f64> = (0..width).map(|at| mean(&|one| one.features[at])).collect();
    let deviations: Vec<f64> =
        (0..width).map(|at| mean(&|one| (one.features[at] - means[at]).powi(2)).sqrt().max(1e-9)).collect();
    let scaled = |one: &Point, at: usize| ((one.features[at] - means[at]) / deviations[at]).clamp(-3.0, 3.0);
    let mut gram = vec![vec![0.0; width]; width];
    for one in points {
        let parts: Vec<f64> = (0..width).map(|at| scaled(one, at)).collect();
        for (row, a) in gram.iter_mut().zip(&parts) {
            row.iter_mut().zip(&parts).for_each(|(cell, b)| *cell += a * b);
        }
    }
    (0..width).for_each(|at| gram[at][at] += RIDGE);
    let choices = ways
        .iter()
        .zip(places)
        .map(|(way, &place)| {
            let gain = |one: &Point| one.recalls[place] - one.recalls[0];
            let intercept = mean(&gain);
            let right: Vec<f64> = (0..width)
                .map(|at| points.iter().map(|one| scaled(one, at) * (gain(one) - intercept)).sum())
                .collect();
            Choice {
                name: way.name.clone(),
                method: way.method,
                weights: way.weights,
                intercept,
                coefficients: solved(gram.clone(), right),
            }
        })
        .collect();
    Model { means, deviations, margin: 0.0, choices }
}

/// Solves a small system of equations by elimination.
fn solved(mut left: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let n = right.len();
    for pivot in 0..n {
        let largest = (pivot..n).max_by(|a, b| left[*a][pivot].abs().total_cmp(&left[*b][pivot].abs()));
        let largest = largest.unwrap_or(pivot);
        left.swap(pivot, largest);
        right.swap(pivot, largest);
        for row in pivot + 1..n {
            let factor = left[row][pivot] / left[pivot][pivot];
            let (above, below) = left.split_at_mut(row);
            let cells = below[0].iter_mut().zip(&above[pivot]).skip(pivot);
            cells.for_each(|(cell, above)| *cell -= factor * above);
            right[row] -= factor * right[pivot];
        }
    }
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|column| left[row][column] * right[column]).sum();
        right[row] = (right[row] - known) / left[row][row];
    }
    right
}

/// The recall of what a model chooses.
fn chosen(model: &Model, one: &Point, places: &[usize]) -> f64 {
    match model.choose(&one.features) {
        None => one.recalls[0],
        Some(choice) => {
            let at = model.choices.iter().position(|other| other == choice).unwrap_or(0);
            one.recalls[places[at]]
        }
    }
}

/// Few ways that are good for different questions: greedily those that, with the best of them for each
/// question, gain most.
fn portfolio(points: &[&Point], count: usize, size: usize) -> Vec<usize> {
    let mut picked: Vec<usize> = vec![best_fixed(points, count)];
    picked.retain(|at| *at > 0);
    while picked.len() < size {
        let with = |at: usize| {
            worth(points, |one| {
                picked.iter().chain([&at]).map(|place| one.recalls[*place]).fold(one.recalls[0], f64::max)
            })
        };
        let next = (1..count).filter(|at| !picked.contains(at)).map(|at| (at, with(at)));
        let Some((next, _)) = next.reduce(|a, b| if b.1 > a.1 { b } else { a }) else { break };
        picked.push(next);
    }
    picked
}

/// Fits and judges by folds; writes the model of all questions to `model` where there is a path.
///
/// # Errors
/// The engine's, or the file cannot be written.
pub fn run(
    sets: &[&Set],
    corpus: &Corpus,
    (k, budgets): (usize, &[usize]),
    model: Option<&std::path::Path>,
) -> Result<(Vec<Row>, Vec<Goal>)> {
    let ways = ways();
    let count = ways.len() + 1;
    let points = points(sets, corpus, (k, budgets), &ways)?;
    let fitted = |points: &[&Point]| {
        let places = portfolio(points, count, 4);
        let picked: Vec<&Way> = places.iter().map(|place| &ways[place - 1]).collect();
        (fit(points, &picked, &places), places)
    };
    let (mut rank, mut fixed, mut agent, mut multi) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for fold in 0..FOLDS {
        let (held, seen): (Vec<&Point>, Vec<&Point>) =
            points.iter().partition(|one| one.question % FOLDS == fold);
        let best = best_fixed(&seen, count);
        let (model, places) = fitted(&seen);
        for one in held {
            rank.push(one.recalls[0]);
            fixed.push(one.recalls[best]);
            agent.push(chosen(&model, one, &places));
            multi.push(one.is_multi_hop);
        }
    }
    let mut rows = Vec::new();
    let mut goals = Vec::new();
    for (name, wanted) in [("multi-hop", true), ("single-hop", false)] {
        let of = |values: &[f64]| -> Vec<f64> {
            values
                .iter()
                .zip(&multi)
                .filter(|(_, multi)| **multi == wanted)
                .map(|(value, _)| *value)
                .collect()
        };
        let (rank, fixed, agent) = (of(&rank), of(&fixed), of(&agent));
        for (selector, values) in
            [("top_k", &rank), ("best fixed, unseen", &fixed), ("by query, unseen", &agent)]
        {
            let more = difference(values, &rank);
            rows.push(report::row(json!({
                "set": name,
                "selector": selector,
                "questions": values.len() / budgets.len(),
                "recall": values.iter().sum::<f64>() / values.len() as f64,
                "more": more.mean,
                "low": more.low,
                "high": more.high,
            }))?);
        }
        let gain = difference(&agent, &fixed);
        println!(
            "{name}: by query over best fixed {:+.4} ({:+.4} to {:+.4})",
            gain.mean, gain.low, gain.high
        );
        goals.push(Goal::at_least(
            format!("{name}: by query over top_k, upper end"),
            difference(&agent, &rank).high,
            0.0,
        ));
    }
    let all: Vec<&Point> = points.iter().collect();
    let best = best_fixed(&all, count);
    println!("best fixed of all: {}", if best == 0 { "top_k" } else { &ways[best - 1].name });
    let (fitted, _) = fitted(&all);
    for choice in &fitted.choices {
        println!("in the model: {} (mean gain {:+.3})", choice.name, choice.intercept);
    }
    if let Some(path) = model {
        std::fs::write(path, serde_json::to_string_pretty(&fitted)? + "\n")?;
        println!("wrote {}", path.display());
    }
    Ok((rows, goals))
}
