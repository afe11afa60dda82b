//! How good the search has to be: evidence in the context by recall of the approximate search.
//!
//! As in "Toward Optimal Search and Retrieval for RAG" (Leto et al., 2024), without a reader: the questions'
//! own documents among many others, dense search only, at the recall that is asked for.

use std::collections::HashSet;

use serde_json::json;
use spandrel::{Fields, Route, SearchRequest};

use super::corpus::{Corpus, VECTOR};
use super::evidence::questions;
use super::questions::Set;
use super::selectors::{Selector, all, baseline};
use crate::Result;
use crate::report::{self, Goal, Row};

/// Recalls asked for; 1 is an exact search.
const ASKED: [f32; 8] = [1.0, 0.95, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1];
const BUDGETS: [usize; 3] = [256, 512, 1_024];
/// The tenant that all are in.
pub const TENANT: &str = "all";

/// The table of some sets, all documents of which are in one tenant.
pub fn table(sets: &[&Set], corpus: &Corpus, k: usize) -> Result<(Vec<Row>, Vec<Goal>)> {
    let questions = questions(sets, corpus, None);
    let chosen: Vec<Selector> = all()
        .into_iter()
        .filter(|selector| [baseline().name, "submodular evidence"].contains(&selector.name))
        .collect();
    let search = |set: &Set, row: usize, recall: f32| SearchRequest {
        tenant: TENANT.to_owned(),
        routes: vec![Route::dense(VECTOR, set.question_vectors.row(row).to_vec())],
        k,
        recall,
        exact: recall >= 1.0,
        fields: Fields::None,
        ..SearchRequest::default()
    };
    let mut truths: Vec<HashSet<String>> = Vec::new();
    for (set, question, _) in &questions {
        let found = corpus.collection.search(&search(set, question.row, 1.0))?;
        truths.push(found.hits.into_iter().map(|hit| hit.row.key).collect());
    }
    let mut rows = Vec::new();
    for asked in ASKED {
        let (mut found, mut wanted) = (0_u32, 0_u32);
        let mut times = Vec::new();
        for ((set, question, _), truth) in questions.iter().zip(&truths) {
            let started = std::time::Instant::now();
            let answer = corpus.collection.search(&search(set, question.row, asked))?;
            times.push(started.elapsed().as_secs_f64() * 1e6);
            wanted += truth.len() as u32;
            found += answer.hits.iter().filter(|hit| truth.contains(&hit.row.key)).count() as u32;
        }
        for selector in &chosen {
            for budget in BUDGETS {
                let mut recall = 0.0;
                for (set, question, evidence) in &questions {
                    let mut request = selector.request(search(set, question.row, asked), budget);
                    request.question = Some(question.text.clone());
                    recall += evidence.judge(&corpus.collection.retrieve(&request)?).recall;
                }
                rows.push(report::row(json!({
                    "recall_asked": asked,
                    "ann_recall": f64::from(found) / f64::from(wanted),
                    "search_p50_us": report::median(&times),
                    "selector": selector.name,
                    "budget": budget,
                    "questions": questions.len(),
                    "recall": recall / questions.len() as f64,
                }))?);
            }
        }
    }
    Ok((rows, Vec::new()))
}
