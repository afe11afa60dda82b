//! Narrows candidates level by level, coarse to fine, before anything reads their texts closely.
//!
//! FunnelRAG (Zhao et al., NAACL Findings 2025) retrieves clusters, then documents, then passages, with fewer
//! and dearer looks at each level. Here the levels are groups of the candidates that one cheap search has
//! found, many and roughly: by a payload field such as a cluster, by document, by chunk. A group's score
//! comes from its members'; what is not in a kept group costs nothing any more, neither the stages nor the
//! selection.

use std::collections::HashMap;

use super::candidate::{Candidate, Ledger, Reason};
use super::request::{Aggregate, FunnelLevel, Parent};

/// As in reciprocal rank fusion.
const RANK_SUM_K: f32 = 60.0;

/// Keeps the candidates of the best groups, in their order.
pub fn narrow(
    level: &FunnelLevel,
    candidates: Vec<Candidate>,
    fields: &[String],
    ledger: &mut Ledger,
) -> Vec<Candidate> {
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut of = Vec::with_capacity(candidates.len());
    for (at, one) in candidates.iter().enumerate() {
        let group = *numbers.entry(parent(level, one, fields)).or_insert(groups.len());
        if group == groups.len() {
            groups.push(Vec::new());
        }
        groups[group].push(at);
        of.push(group);
    }
    let worst = candidates.iter().map(|one| one.score).fold(f32::INFINITY, f32::min);
    let score = |members: &Vec<usize>| aggregate(level.aggregate, members, &candidates, worst);
    let mut order: Vec<(usize, f32)> = groups.iter().map(score).enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut kept = vec![false; groups.len()];
    let mut tokens = 0;
    for &(group, _) in order.iter().take(level.keep) {
        let size =
            |&at: &usize| candidates[at].hit.row.chunk.as_ref().map_or(0, |chunk| chunk.tokens as usize);
        tokens += groups[group].iter().map(size).sum::<usize>();
        if level.tokens_max > 0 && tokens > level.tokens_max && kept.iter().any(|kept| *kept) {
            break;
        }
        kept[group] = true;
    }
    let mut at = 0;
    ledger.retain(&format!("funnel {}", level.by.name()), candidates, |_| {
        at += 1;
        (!kept[of[at - 1]]).then_some(Reason::Funnel)
    })
}

impl Parent {
    /// Its name in reports.
    pub fn name(&self) -> &str {
        match self {
            Self::Document => "document",
            Self::Field(name) => name,
            Self::Chunk => "chunk",
        }
    }
}

fn parent(level: &FunnelLevel, one: &Candidate, fields: &[String]) -> String {
    let own = || format!("\0{}", one.key());
    match &level.by {
        Parent::Chunk => own(),
        Parent::Document => one.document().map_or_else(own, str::to_owned),
        Parent::Field(name) => {
            let at = fields.iter().position(|field| field == name);
            at.and_then(|at| one.values.get(at).cloned().flatten()).unwrap_or_else(own)
        }
    }
}

fn aggregate(how: Aggregate, members: &[usize], candidates: &[Candidate], worst: f32) -> f32 {
    let scores = || members.iter().map(|&at| candidates[at].score);
    match how {
        Aggregate::Max => scores().fold(f32::NEG_INFINITY, f32::max),
        Aggregate::TopMean(count) => {
            let mut best: Vec<f32> = scores().collect();
            best.sort_by(|a, b| b.total_cmp(a));
            let count = count.max(1);
            best.truncate(count);
            // Not filled up with the worst: a request may say any count.
            let missing = (count - best.len()) as f32;
            (best.iter().sum::<f32>() + missing * worst) / count as f32
        }
        Aggregate::RankSum => members.iter().map(|&at| 1.0 / (RANK_SUM_K + at as f32 + 1.0)).sum(),
    }
}
