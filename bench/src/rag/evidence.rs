//! How much evidence each way of choosing puts into a budget: the table that the selectors are chosen by.

use std::time::Instant;

use serde_json::json;

use super::bootstrap::{difference, relative};
use super::corpus::{Corpus, search};
use super::judge::{Evidence, Judged};
use super::questions::{Question, Set};
use super::selectors::{Selector, all, baseline};
use crate::Result;
use crate::report::{self, Goal, Row};

/// What one way of choosing came to at one budget, question by question.
pub struct Answers {
    pub judged: Vec<Judged>,
    tokens: f64,
    time_us: Vec<f64>,
}

/// Asks all questions.
pub fn ask(
    corpus: &Corpus,
    questions: &[(&Set, &Question, Evidence)],
    selector: &Selector,
    (k, budget_tokens): (usize, usize),
) -> Result<Answers> {
    let mut answers = Answers { judged: Vec::new(), tokens: 0.0, time_us: Vec::new() };
    for (set, question, evidence) in questions {
        let request = selector.request(search(set, question, set.name.clone(), k), budget_tokens);
        let started = Instant::now();
        let response = corpus.collection.retrieve(&request)?;
        answers.time_us.push(started.elapsed().as_secs_f64() * 1e6);
        if corpus.tokenizer.count(&response.context) > budget_tokens {
            return Err(format!("{}: over the budget of {budget_tokens}", selector.name).into());
        }
        answers.tokens += response.tokens as f64 / questions.len() as f64;
        answers.judged.push(evidence.judge(&response));
    }
    Ok(answers)
}

/// Questions of sets with their evidence; `half` 0 or 1 for every other one, none for all.
pub fn questions<'a>(
    sets: &[&'a Set],
    corpus: &Corpus,
    half: Option<usize>,
) -> Vec<(&'a Set, &'a Question, Evidence)> {
    let mut questions = Vec::new();
    for set in sets {
        for (at, question) in set.questions.iter().enumerate() {
            if half.is_none_or(|half| at % 2 == half) {
                questions.push((*set, question, Evidence::new(set, question, corpus.tokenizer)));
            }
        }
    }
    questions
}

/// The most that can be had of the candidates, question by question.
fn ceilings(
    corpus: &Corpus,
    questions: &[(&Set, &Question, Evidence)],
    (k, budgets): (usize, &[usize]),
) -> Result<Vec<Vec<f64>>> {
    let mut ceilings = vec![Vec::new(); budgets.len()];
    let separator = corpus.tokenizer.count("\n\n");
    for (set, question, evidence) in questions {
        let request = baseline().request(search(set, question, set.name.clone(), k), 1_000_000);
        let pool = corpus.collection.retrieve(&request)?;
        for (ceilings, budget) in ceilings.iter_mut().zip(budgets) {
            ceilings.push(evidence.ceiling(&pool.chunks, *budget, separator));
        }
    }
    Ok(ceilings)
}

fn mean(values: impl Iterator<Item = f64>, count: usize) -> f64 {
    values.sum::<f64>() / count.max(1) as f64
}

/// The table of some sets together.
pub fn table(
    name: &str,
    sets: &[&Set],
    corpus: &Corpus,
    (k, budgets, half): (usize, &[usize], Option<usize>),
) -> Result<(Vec<Row>, Vec<Goal>)> {
    let questions = questions(sets, corpus, half);
    let count = questions.len();
    let ceilings = ceilings(corpus, &questions, (k, budgets))?;
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    for (budget, ceilings) in budgets.iter().zip(&ceilings) {
        let ceiling = mean(ceilings.iter().copied(), count);
        let base = ask(corpus, &questions, &baseline(), (k, *budget))?;
        let recalls = |answers: &Answers| answers.judged.iter().map(|one| one.recall).collect::<Vec<f64>>();
        let base_recalls = recalls(&base);
        let mut best: Option<(f64, f64)> = None;
        for selector in all() {
            let answers = ask(corpus, &questions, &selector, (k, *budget))?;
            let recalls = recalls(&answers);
            let recall = mean(recalls.iter().copied(), count);
            let more = difference(&recalls, &base_recalls);
            let by = relative(&recalls, &base_recalls);
            if best.is_none_or(|(gain, _)| by.mean > gain) {
                best = Some((by.mean, by.low));
            }
            rows.push(report::row(json!({
                "set": name,
                "budget": budget,
                "selector": selector.name,
                "questions": count,
                "recall": recall,
                "more": more.mean,
                "low": more.low,
                "high": more.high,
                "relative_percent": 100.0 * by.mean,
                "relative_low_percent": 100.0 * by.low,
                "of_ceiling": recall / ceiling,
                "precision": mean(answers.judged.iter().map(|one| one.precision), count),
                "full": mean(answers.judged.iter().map(|one| f64::from(u8::from(one.full))), count),
                "answer": mean(answers.judged.iter().map(|one| f64::from(u8::from(one.answer))), count),
                "tokens": answers.tokens,
                "p50_us": report::median(&answers.time_us),
            }))?);
            if selector.name == "auto" {
                goals.push(Goal::at_least(
                    format!(
                        "{name}, {budget} tokens: {} over top_k, upper end of the interval",
                        selector.name
                    ),
                    more.high,
                    0.0,
                ));
            }
        }
        // Single-hop questions are the control: what counts is that nothing is lost.
        if let Some((gain, _)) = best.filter(|_| sets.iter().any(|set| set.is_multi_hop)) {
            let what = format!("{name}, {budget} tokens: best over top_k, %");
            goals.push(Goal::at_least(what, 100.0 * gain, 10.0));
        }
    }
    Ok((rows, goals))
}
