//! Chunks before and after the chosen ones, in their documents, while budget is left.
//!
//! They are found by key: chunks of an ingested document are called `DOCUMENT#0`, `DOCUMENT#1` and so on.
//! They are rows like all others: not excluded, not ruled out by a stage that looks at one chunk by itself,
//! of the same snapshot, of the tenant, passing the filter, with one of the labels; who may not see a chunk
//! does not get it as a neighbour.

use std::sync::Arc;

use spandrel_storage::{FieldValue, TenantId};

use super::assemble::{Built, Frame};
use super::candidate::{Candidate, Ledger};
use super::check::Task;
use crate::error::Result;
use crate::fetch;
use crate::rag::ingest::row_key;
use crate::random::hashed_unit;
use crate::response::Hit;
use crate::snapshot::Snapshot;

/// Neighbours looked at, at most.
const TRIED_MAX: usize = 128;

/// Adds what fits beside `chosen`, nearest first, of the best first; `built` is what stands without.
pub fn add(
    task: &Task<'_>,
    (snapshot, tenant): (&Arc<Snapshot>, Option<TenantId>),
    frame: &Frame<'_>,
    candidates: &mut Vec<Candidate>,
    mut chosen: Vec<usize>,
    mut built: Built,
) -> Result<Built> {
    let Some(tenant) = tenant else { return Ok(built) };
    let mut wanted = keys(task.request.assemble.neighbours, candidates, &chosen);
    wanted.retain(|key| !task.request.select.exclude.contains(key));
    if wanted.is_empty() {
        return Ok(built);
    }
    let rows = fetch::visible(task.shared, snapshot, tenant, &wanted, &task.search, frame.stop)?;
    let mut found = Vec::new();
    for mut row in rows.into_iter().flatten() {
        let value = match task.fetched_only.contains(&task.text_field) {
            true => row.fields.remove(&task.text_field),
            false => row.fields.get(&task.text_field).cloned(),
        };
        let Some(FieldValue::Text(text)) = value else { continue };
        let hit = Hit { row, score: 0.0, routes: vec![None; task.request.search.routes.len()] };
        found.push(Candidate::new(hit, text, 0));
    }
    let as_if = task.request.as_if.as_ref();
    let sampled = |key: &str| as_if.is_none_or(|as_if| hashed_unit(as_if.seed, key.as_bytes()) < as_if.share);
    found.retain(|one| sampled(one.key()));
    for one in task.stages(found, snapshot, (&mut Ledger::default(), true), frame.stop)? {
        let left = frame.budget_tokens.saturating_sub(built.tokens);
        // Merged text may cost less than by itself, never more than this less what both may share.
        if task.tokens_of(&one) > left + task.tokens_of(&one) / 2 || one.text.is_empty() {
            continue;
        }
        candidates.push(one);
        chosen.push(candidates.len() - 1);
        let mut with = chosen.clone();
        let grown = frame.build(candidates, &mut with)?;
        if with.len() == chosen.len() {
            built = grown;
        } else {
            chosen.pop();
            candidates.pop();
        }
    }
    Ok(built)
}

/// Keys of neighbours that are not chosen, nearest first, of the best first.
fn keys(distance_max: usize, candidates: &[Candidate], chosen: &[usize]) -> Vec<String> {
    let known: Vec<&str> = chosen.iter().map(|&at| candidates[at].key()).collect();
    let mut keys: Vec<String> = Vec::new();
    for distance in 1..=distance_max {
        for &at in chosen {
            let one = &candidates[at];
            let Some(document) = one.document() else { continue };
            let number = one.key().strip_prefix(document).and_then(|rest| rest.strip_prefix('#'));
            let Some(number) = number.and_then(|number| number.parse::<usize>().ok()) else { continue };
            for other in [number.checked_sub(distance), number.checked_add(distance)].into_iter().flatten() {
                let key = row_key(document, other);
                if keys.len() < TRIED_MAX && !known.contains(&&*key) && !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
    }
    keys
}
