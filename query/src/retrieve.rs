//! `retrieve`: search, then pack the texts of the best chunks, whole and in rank order, into a token budget.

use std::time::Instant;

use spandrel_index::stop::Stop;
use spandrel_storage::{FieldId, FieldKind, FieldValue, Schema};

use crate::error::{Error, Result};
use crate::rag::context::{Candidate, assemble};
use crate::rag::tokens::Tokenizer;
use crate::request::{Fields, RetrieveRequest, SearchRequest};
use crate::response::{RetrieveResponse, Stage};
use crate::search;
use crate::shared::Shared;

/// Largest token budget.
pub const BUDGET_TOKENS_MAX: usize = 1 << 20;
/// Longest separator in bytes.
pub const SEPARATOR_BYTES_MAX: usize = 1_024;

/// Searches and packs.
pub fn retrieve(shared: &Shared, request: &RetrieveRequest, stop: &Stop) -> Result<RetrieveResponse> {
    if request.budget_tokens > BUDGET_TOKENS_MAX {
        return Err(Error::invalid(format!(
            "budget_tokens is {}, at most {BUDGET_TOKENS_MAX} are packed",
            request.budget_tokens
        )));
    }
    if request.separator.len() > SEPARATOR_BYTES_MAX {
        return Err(Error::invalid(format!("a separator has at most {SEPARATOR_BYTES_MAX} bytes")));
    }
    let name = text_field_name(&shared.schema, request.text_field.as_deref())?;
    let (fields, asked) = with_field(&shared.schema, &request.search.fields, &name);
    let request_with_text = SearchRequest { fields, ..request.search.clone() };
    let called = Instant::now();
    let stop = &stop.by(request.search.timeout.and_then(|timeout| called.checked_add(timeout)));
    let found = search::search(shared, &request_with_text, stop)?;
    let started = Instant::now();
    let candidates: Vec<Candidate> = found
        .hits
        .into_iter()
        .map(|mut hit| {
            let value = if asked { hit.row.fields.get(&name).cloned() } else { hit.row.fields.remove(&name) };
            let text = match value {
                Some(FieldValue::Text(text)) => text,
                _ => String::new(),
            };
            Candidate { hit, text }
        })
        .collect();
    let rows_in = candidates.len() as u64;
    let tokenizer = Tokenizer::named(&shared.schema.tokenizer)?;
    let mut response = assemble(candidates, &request.separator, request.budget_tokens, tokenizer, stop)?;
    response.short = found.short;
    response.explain = found.explain.map(|mut explain| {
        let time_us = started.elapsed().as_micros() as u64;
        explain.total_us += time_us;
        explain.stages.push(Stage {
            name: format!("pack ({} tokens)", request.budget_tokens),
            rows_in,
            rows_out: response.chunks.len() as u64,
            time_us,
            ..Stage::default()
        });
        explain
    });
    Ok(response)
}

fn text_field(schema: &Schema, name: Option<&str>) -> Result<FieldId> {
    let is_text = |id: FieldId| matches!(schema.get(id).kind, FieldKind::Text(_));
    match name {
        Some(name) => match schema.find(name) {
            Some((id, _)) if is_text(id) => Ok(id),
            Some((_, field)) => Err(Error::invalid(format!(
                "text_field '{name}' is a {} field, not a text field",
                field.kind.name()
            ))),
            None => Err(crate::check::unknown_field(schema, name)),
        },
        None => (0..schema.fields.len())
            .map(|at| FieldId(at as u16))
            .find(|id| is_text(*id))
            .ok_or_else(|| Error::invalid("retrieve packs text, and the schema has no text field")),
    }
}

/// The name of the text field asked for, or of the schema's first.
pub fn text_field_name(schema: &Schema, name: Option<&str>) -> Result<String> {
    Ok(schema.get(text_field(schema, name)?).name.clone())
}

/// The fields to fetch so that the text is among them, and whether the caller asked for it too.
fn with_field(schema: &Schema, fields: &Fields, name: &str) -> (Fields, bool) {
    match fields {
        Fields::All | Fields::Default => (fields.clone(), true),
        Fields::None => (Fields::Named(vec![name.to_owned()]), false),
        Fields::Named(names) => {
            let asked = names.iter().any(|asked| asked == name);
            let mut names = names.clone();
            if !asked {
                debug_assert!(schema.find(name).is_some());
                names.push(name.to_owned());
            }
            (Fields::Named(names), asked)
        }
    }
}
