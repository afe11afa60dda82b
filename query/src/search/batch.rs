//! Many searches in one call, on one snapshot.

use std::collections::HashMap;
use std::time::Instant;

use spandrel_index::stop::Stop;

use super::{Search, check, empty};
use crate::error::{Error, Result};
use crate::request::{BATCH_HITS_MAX, BATCH_MAX, SearchRequest};
use crate::response::SearchResponse;
use crate::route::{self, CheckedRoute};
use crate::shared::Shared;

/// Runs many searches on one snapshot; those that can be are scored together.
pub fn search_batch(shared: &Shared, requests: &[SearchRequest], stop: &Stop) -> Result<Vec<SearchResponse>> {
    let started = Instant::now();
    let mut checked = check_batch(shared, requests)?;
    // One call answers for all: the most impatient of them says when.
    let timeout = requests.iter().filter_map(|request| request.timeout).min();
    let stop = &stop.by(timeout.and_then(|timeout| started.checked_add(timeout)));
    route::embed(shared, checked.iter_mut().flatten(), stop)?;
    let snapshot = shared.snapshot();
    let mut answers: Vec<Option<SearchResponse>> = vec![None; requests.len()];
    for group in groups(requests, &checked) {
        let first = &requests[group[0]];
        let Some(tenant) = shared.tenants.get(&first.tenant) else {
            for at in group {
                answers[at] = Some(empty(&requests[at], started));
            }
            continue;
        };
        let explains = group.iter().find(|at| requests[**at].explain);
        let mut search =
            Search::new(shared, explains.map_or(first, |at| &requests[*at]), &snapshot, tenant, stop)?;
        if group.len() == 1 {
            let lists = search.run_routes(&checked[group[0]])?;
            answers[group[0]] = Some(search.finish(&checked[group[0]], lists, started)?);
            continue;
        }
        let routes: Vec<&CheckedRoute> = group.iter().map(|at| &checked[*at][0]).collect();
        let limits: Vec<usize> = group.iter().map(|at| requests[*at].k + requests[*at].offset).collect();
        let name = |search: &Search<'_>| {
            format!("{}, {} queries together", route::name(search, routes[0]), routes.len())
        };
        let lists = search.timed(name, |search| route::run_together(search, &routes, &limits))?;
        for (at, list) in group.into_iter().zip(lists) {
            let mut one = search.with_request(&requests[at]);
            answers[at] = Some(one.finish(&checked[at], vec![list], started)?);
        }
    }
    Ok(answers.into_iter().map(|answer| answer.expect("every request is in one group")).collect())
}

fn check_batch(shared: &Shared, requests: &[SearchRequest]) -> Result<Vec<Vec<CheckedRoute>>> {
    if requests.len() > BATCH_MAX {
        return Err(Error::invalid(format!(
            "a batch has at most {BATCH_MAX} searches, this one has {}",
            requests.len()
        )));
    }
    let checked = requests
        .iter()
        .enumerate()
        .map(|(at, request)| check(shared, request).map_err(|error| error.context(format!("searches[{at}]"))))
        .collect::<Result<Vec<_>>>()?;
    let hits: usize = requests.iter().map(|request| request.k + request.offset).sum();
    if hits > BATCH_HITS_MAX {
        return Err(Error::invalid(format!(
            "the searches of the batch ask for {hits} hits together, at most {BATCH_HITS_MAX}; send fewer or a \
             smaller k"
        )));
    }
    Ok(checked)
}

/// Positions of requests that are scored together, in order of their first.
fn groups(requests: &[SearchRequest], checked: &[Vec<CheckedRoute>]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    // The groups of each tenant: of a batch for many tenants few are compared.
    let mut known: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, request) in requests.iter().enumerate() {
        let joins = |group: &[usize]| {
            let first = &requests[group[0]];
            route::scored_together(&checked[at], &checked[group[0]])
                && first.filter == request.filter
                && first.labels == request.labels
                && (first.recall, first.exact, first.rescore)
                    == (request.recall, request.exact, request.rescore)
        };
        let known = known.entry(&request.tenant).or_default();
        match known.iter().find(|group| joins(&groups[**group])) {
            Some(group) => groups[*group].push(at),
            None => {
                known.push(groups.len());
                groups.push(vec![at]);
            }
        }
    }
    groups
}
