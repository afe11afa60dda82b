//! What a retrieval would do, without doing it: a dry run.

use spandrel_index::stop::Stop;

use super::check::Task;
use super::response::{Estimate, RetrieveResponse, SelectionReport};
use crate::error::Result;
use crate::filter::{CheckedFilter, KeyLookup};
use crate::select::Method;
use crate::select::pool::POOL_MAX;

/// Times by order of magnitude, in nanoseconds, as measured on a server CPU: a candidate that is found and
/// whose row is read, one that is looked at by a selector, an evaluation of the objective, and a token of the
/// context.
const CANDIDATE_NS: u64 = 6_000;
const POOL_NS: u64 = 5_000;
const EVALUATION_NS: u64 = 100;
const TOKEN_NS: u64 = 500;

/// The answer to a dry run. Texts are not embedded and nothing is searched; a filter is evaluated where it is
/// known by the payload indexes.
///
/// # Errors
/// As a retrieval that is checked.
pub fn estimate(task: &Task<'_>, stop: &Stop) -> Result<RetrieveResponse> {
    let (shared, request) = (task.shared, task.request);
    crate::search::check(shared, &task.search)?;
    let snapshot = shared.snapshot();
    let tenant = shared.tenants.get(&task.search.tenant);
    let (mut tenant_rows, mut matches) = (0, 0);
    if let Some(tenant) = tenant {
        let lookup =
            KeyLookup { store: &snapshot.store, collection: shared.id, tenant, labels: &shared.labels };
        let filter = task.search.filter.as_ref();
        let filter = filter.map(|filter| CheckedFilter::new(&shared.schema, filter, &lookup)).transpose()?;
        // What a filter matches is told only of rows that the caller may see.
        let filter = match &task.search.labels {
            Some(names) => Some(CheckedFilter::labelled(filter, shared.labels.known(names))),
            None => filter,
        };
        for view in &snapshot.views {
            stop.check()?;
            let Some(allow) = view.allow(tenant) else { continue };
            tenant_rows += allow.count();
            matches += match &filter {
                Some(filter) => (filter.docs(view, tenant, &allow.range)? - &*view.deleted).len(),
                None => allow.count(),
            };
        }
    }
    let share = request.as_if.as_ref().map_or(1.0, |as_if| as_if.share);
    let depth = ((request.search.k as f64 / share) as u64)
        .min(request.depth_max.max(request.search.k) as u64)
        .min(matches);
    let candidates = depth.min(POOL_MAX as u64);
    let evaluations = match task.method {
        Method::TopK { .. } => 0,
        // A pass over what is left for each that is chosen.
        Method::Mmr { .. } | Method::Dpp { .. } => candidates * candidates / 2,
        Method::Adagres { .. } | Method::Submodular { swaps: false } => candidates * 4,
        Method::Submodular { swaps: true } | Method::Exact { .. } => candidates * 100,
        Method::Mcts(_) => request.select.evaluations_max,
    };
    let evaluations = evaluations.min(request.select.evaluations_max);
    let looked_at = if task.looks_at_words() { candidates * POOL_NS } else { 0 };
    let budget = task.budget() as u64;
    let time_ns = depth * CANDIDATE_NS + looked_at + evaluations * EVALUATION_NS + budget * TOKEN_NS;
    let mut stages: Vec<String> =
        task.search.routes.iter().map(|route| format!("route {}", route.field)).collect();
    stages.extend(request.funnel.iter().map(|level| format!("funnel {}", level.by.name())));
    stages.extend(request.post.iter().map(|stage| stage.name().to_owned()));
    stages.push(format!("select ({})", task.method.name()));
    stages.push(format!("pack ({} tokens)", request.budget_tokens));
    Ok(RetrieveResponse {
        selection: SelectionReport {
            method: task.method.name().to_owned(),
            order: request.assemble.order,
            seed: request.select.seed,
            unused_tokens: task.budget(),
            ..SelectionReport::default()
        },
        estimate: Some(Estimate {
            tenant_rows,
            matches,
            candidates: depth,
            evaluations_max: evaluations,
            stages,
            time_us: time_ns / 1_000,
        }),
        ..RetrieveResponse::default()
    })
}
