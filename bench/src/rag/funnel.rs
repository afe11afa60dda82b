//! What a funnel saves: many candidates, narrowed by document before their texts are looked at.
//!
//! FunnelRAG (Zhao et al., 2025) reports nearly 40 % less time at the same answers. Both sides search for the
//! same candidates, remove near duplicates and choose by the same objective; the one looks at all candidates,
//! the other at those of the best documents.

use std::time::Instant;

use serde_json::json;
use spandrel::{Aggregate, FunnelLevel, Parent, PostStage};

use super::bootstrap::difference;
use super::corpus::{Corpus, search};
use super::evidence::questions;
use super::questions::Set;
use super::selectors::all;
use crate::Result;
use crate::report::{self, Goal, Row};

/// Candidates of both.
const CANDIDATES: usize = 400;
/// Documents that the funnel keeps.
const KEPT: [usize; 3] = [20, 40, 80];
const BUDGETS: [usize; 2] = [512, 1_024];

/// The table of some sets.
pub fn table(sets: &[&Set], corpus: &Corpus) -> Result<(Vec<Row>, Vec<Goal>)> {
    let questions = questions(sets, corpus, None);
    let selector =
        all().into_iter().find(|one| one.name == "submodular evidence").ok_or("no such selector")?;
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    for budget in BUDGETS {
        let mut recalls: Vec<Vec<f64>> = vec![Vec::new(); KEPT.len() + 1];
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); KEPT.len() + 1];
        for (set, question, evidence) in &questions {
            // Side by side, question by question.
            for (at, keep) in std::iter::once(0).chain(KEPT).enumerate() {
                let mut request =
                    selector.request(search(set, question, set.name.clone(), CANDIDATES), budget);
                request.post.push(PostStage::Dedup { near: Some(0.8), shingle_words: 5 });
                if keep > 0 {
                    let by = Parent::Document;
                    request.funnel.push(FunnelLevel { by, keep, tokens_max: 0, aggregate: Aggregate::Max });
                }
                let started = Instant::now();
                let response = corpus.collection.retrieve(&request)?;
                times[at].push(started.elapsed().as_secs_f64() * 1e6);
                recalls[at].push(evidence.judge(&response).recall);
            }
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        for (at, keep) in std::iter::once(0).chain(KEPT).enumerate() {
            let more = difference(&recalls[at], &recalls[0]);
            let share = mean(&times[at]) / mean(&times[0]);
            let name = if keep == 0 { "flat".to_owned() } else { format!("{keep} documents") };
            rows.push(report::row(json!({
                "budget": budget,
                "selector": name,
                "questions": questions.len(),
                "recall": mean(&recalls[at]),
                "more": more.mean,
                "low": more.low,
                "high": more.high,
                "p50_us": report::median(&times[at]),
                "time_share": share,
            }))?);
            if keep == KEPT[1] {
                goals.push(Goal::at_most(
                    format!("{budget} tokens: time of {keep} documents by flat"),
                    share,
                    0.6,
                ));
                goals.push(Goal::at_least(
                    format!("{budget} tokens: recall less flat's, upper end"),
                    more.high,
                    0.0,
                ));
            }
        }
    }
    Ok((rows, goals))
}
