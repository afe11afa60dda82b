//! Whether a context is ever over its budget: random requests of every kind, counted again.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use serde_json::json;
use spandrel::rag::tokens::Tokenizer;
use spandrel::select::mcts::MctsParams;
use spandrel::select::topk::Overflow;
use spandrel::{Assemble, Method, Order, PostStage, RetrieveRequest, Select};

use super::corpus::{Corpus, search};
use super::questions::Set;
use crate::Result;
use crate::random::{Draw, Random};
use crate::report::{self, Goal, Row};

const SEPARATORS: [&str; 6] = ["\n\n", "", " ", "\n", "\n---\n", " \u{2022} "];
const ORDERS: [Order; 4] = [Order::Score, Order::Document, Order::BestLast, Order::Edges];
const TOKENIZERS: [&str; 2] = ["o200k_base", "cl100k_base"];

/// A request of any kind.
fn request(random: &mut Random, set: &Set) -> RetrieveRequest {
    let question = &set.questions[random.below(set.questions.len())];
    let search = search(set, question, set.name.clone(), 1 + random.below(80));
    let most = [40, 400, 3_000][random.below(3)];
    let method = match random.below(8) {
        0 => Method::TopK { overflow: Overflow::Skip },
        1 => Method::TopK { overflow: Overflow::Stop },
        2 => Method::Mmr { lambda: 0.7 },
        3 => Method::Dpp { quality: 2.0 },
        4 => Method::Adagres { redundancy: None },
        5 => Method::Mcts(MctsParams::default()),
        6 => Method::Exact { nodes_max: 50 },
        _ => Method::Submodular { swaps: random.below(2) == 0 },
    };
    let select = Select {
        method: (random.below(10) > 0).then_some(method),
        auto: random.below(2) == 0,
        reserve_tokens: random.below(30) * random.below(2),
        overhead_tokens: random.below(12) * random.below(2),
        chunks_max: random.below(20) * random.below(2),
        fill: random.below(2) == 0,
        seed: random.next(),
        evaluations_max: 1 + random.below(2_000) as u64,
        ..Select::default()
    };
    let assemble = Assemble {
        order: ORDERS[random.below(ORDERS.len())],
        merge_adjacent: random.below(2) == 0,
        neighbours: random.below(3) * random.below(2),
        ..Assemble::default()
    };
    let near = (random.below(2) == 0).then_some(0.7);
    let dedup = PostStage::Dedup { near, shingle_words: 5 };
    RetrieveRequest {
        separator: SEPARATORS[random.below(SEPARATORS.len())].to_owned(),
        tokenizer: Some(TOKENIZERS[random.below(2)].to_owned()),
        post: if random.below(3) == 0 { vec![dedup] } else { Vec::new() },
        select,
        assemble,
        ..RetrieveRequest::new(search, random.below(most))
    }
}

/// Asks `count` random requests, on all threads.
pub fn table(sets: &[&Set], corpus: &Corpus, count: usize) -> Result<(Vec<Row>, Vec<Goal>)> {
    let (over, wrong, chunks, used) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    (0..count).into_par_iter().try_for_each(|at| -> Result<()> {
        let mut random = Random(7).jump(at);
        let set = sets[random.below(sets.len())];
        let request = request(&mut random, set);
        let response =
            corpus.collection.retrieve(&request).map_err(|error| format!("request {at}: {error}"))?;
        let tokenizer = Tokenizer::named(request.tokenizer.as_deref().unwrap_or(super::corpus::TOKENIZER))?;
        let tokens = tokenizer.count(&response.context);
        let around = request.select.overhead_tokens * response.chunks.len();
        let budget = request.budget_tokens.saturating_sub(request.select.reserve_tokens);
        over.fetch_add(u64::from(tokens + around > budget), Ordering::Relaxed);
        let joined: Vec<&str> =
            response.chunks.iter().map(|chunk| &response.context[chunk.context_span.clone()]).collect();
        let same = joined.join(&request.separator) == response.context && tokens == response.tokens;
        wrong.fetch_add(u64::from(!same), Ordering::Relaxed);
        chunks.fetch_add(response.chunks.len() as u64, Ordering::Relaxed);
        used.fetch_add(tokens as u64, Ordering::Relaxed);
        Ok(())
    })?;
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let row = report::row(json!({
        "requests": count,
        "over_budget": read(&over),
        "not_its_chunks": read(&wrong),
        "chunks_mean": read(&chunks) as f64 / count as f64,
        "tokens": read(&used) as f64 / count as f64,
    }))?;
    let goals = vec![
        Goal::at_most(format!("over budget in {count} requests"), read(&over) as f64, 0.0),
        Goal::at_most("contexts that are not their chunks", read(&wrong) as f64, 0.0),
    ];
    Ok((vec![row], goals))
}
