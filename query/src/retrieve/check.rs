//! A retrieval, checked: what has to be fetched for it, and what it is made with.

use spandrel_index::stop::Stop;
use spandrel_storage::{FieldId, FieldKind, Schema};

use super::assemble::{Frame, source_of};
use super::candidate::Candidate;
use super::configure;
use super::request::{Parent, PostStage, RetrieveRequest};
use super::{BUDGET_TOKENS_MAX, SEPARATOR_BYTES_MAX, looks_at_words};
use crate::error::{Error, Result};
use crate::rag::tokens::Tokenizer;
use crate::request::{Fields, Filter, K_MAX, ROUTES_MAX, RouteQuery, SearchRequest};
use crate::select::mix::Weights;
use crate::select::pool::{POOL_MAX, Pool};
use crate::select::{Ask, Method};
use crate::shared::Shared;

/// Most funnel levels, and most post stages.
pub const STAGES_MAX: usize = 16;
/// Most evaluations a selection may ask for.
pub const EVALUATIONS_MAX: u64 = 10_000_000;
/// Most neighbours before and after a chunk.
pub const NEIGHBOURS_MAX: usize = 16;

/// A request that fits the schema and the limits.
pub struct Task<'a> {
    /// The collection.
    pub shared: &'a Shared,
    /// As it was asked.
    pub request: &'a RetrieveRequest,
    /// The search with needs as routes, the filter of `as_if`, and all fields that are looked at.
    pub search: SearchRequest,
    /// The field whose text is packed.
    pub text_field: String,
    /// Payload fields whose values stages look at.
    pub values: Vec<String>,
    /// The dense field by which candidates are compared, where they are.
    pub vector_field: Option<String>,
    /// Fields that are fetched and were not asked for.
    pub fetched_only: Vec<String>,
    /// Counts.
    pub tokenizer: &'static Tokenizer,
    /// Tokens of the separator.
    pub separator_tokens: usize,
    /// The question in words.
    pub question: Option<&'a str>,
    /// How chunks are chosen, unless it is by the query and its candidates.
    pub method: Method,
}

impl<'a> Task<'a> {
    /// Checks a request.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) with what to change.
    pub fn new(shared: &'a Shared, request: &'a RetrieveRequest) -> Result<Self> {
        check_ranges(request)?;
        super::kv::check(shared, &request.assemble)?;
        let schema = &shared.schema;
        let text_field = text_field_name(schema, request.text_field.as_deref())?;
        let method = request.select.method.unwrap_or_default();
        method.check()?;
        check_weights(request.select.weights)?;
        let values = value_fields(request);
        if let Some(name) = values.iter().find(|name| schema.find(name).is_none()) {
            return Err(crate::check::unknown_field(schema, name));
        }
        let facility = request.select.weights.is_some_and(|w| w.facility > 0.0 || w.redundancy > 0.0);
        let vector_field = if method.needs_similarity() || facility || request.select.vector_field.is_some() {
            Some(vector_field(schema, request)?)
        } else {
            None
        };
        let question = request.question.as_deref().or_else(|| {
            request.search.routes.iter().find_map(|route| match &route.query {
                RouteQuery::Text(text) => Some(text.as_str()),
                _ => None,
            })
        });
        let components = &shared.components;
        if request.select.context_scorer && components.context_scorer.is_none() {
            return Err(Error::invalid(
                "select.context_scorer is set, and this database has no context scorer",
            ));
        }
        let looked_at = [Some(&text_field), vector_field.as_ref()].into_iter().flatten().chain(&values);
        let (fields, fetched_only) = with_fields(schema, &request.search.fields, looked_at);
        let tokenizer = Tokenizer::named(request.tokenizer.as_deref().unwrap_or(&schema.tokenizer))?;
        let mut search = SearchRequest { fields, ..request.search.clone() };
        search.routes.extend(request.needs.iter().cloned());
        if let Some(filter) = request.as_if.as_ref().and_then(|as_if| as_if.filter.clone()) {
            search.filter = Some(match search.filter.take() {
                Some(own) => Filter::And(vec![own, filter]),
                None => filter,
            });
        }
        Ok(Self {
            shared,
            request,
            search,
            text_field,
            values,
            vector_field,
            fetched_only,
            tokenizer,
            separator_tokens: tokenizer.count(&request.separator),
            question,
            method,
        })
    }

    /// Tokens that context, and what is put around chunks, may have.
    pub fn budget(&self) -> usize {
        self.request.budget_tokens.saturating_sub(self.request.select.reserve_tokens)
    }

    /// Whether the method is chosen by the query and its candidates.
    fn chooses_by_query(&self) -> bool {
        self.request.select.auto && self.request.select.method.is_none()
    }

    /// Whether the pool needs to know what candidates say.
    pub fn looks_at_words(&self) -> bool {
        looks_at_words(&self.method) || self.chooses_by_query()
    }

    /// Tokens of a candidate's text: as counted when it was stored, where that is the same text and
    /// tokenizer.
    pub fn tokens_of(&self, one: &Candidate) -> usize {
        let same = self.tokenizer.name() == self.shared.schema.tokenizer && source_of(one).is_some();
        match one.hit.row.chunk.as_ref().filter(|chunk| same && chunk.tokens > 0) {
            Some(chunk) => chunk.tokens as usize,
            None => self.tokenizer.count_up_to(&one.text, self.budget()),
        }
    }

    /// How the context is put together.
    pub fn frame<'b>(&'b self, stop: &'b Stop) -> Frame<'b> {
        Frame {
            separator: &self.request.separator,
            order: self.request.assemble.order,
            merge: self.request.assemble.merge_adjacent,
            budget_tokens: self.budget(),
            overhead_tokens: self.request.select.overhead_tokens,
            tokenizer: self.tokenizer,
            stop,
        }
    }

    /// What the selector is asked.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) where a key that must be included is no candidate.
    pub fn ask(&self, pool: &Pool, candidates: &[Candidate]) -> Result<Ask> {
        let select = &self.request.select;
        let place = |key: &String| candidates.iter().take(pool.len()).position(|one| one.key() == key);
        let must = |key: &String| {
            place(key).map(|at| at as u16).ok_or_else(|| {
                Error::invalid(format!(
                    "select.must_include: '{key}' is not among the {} candidates; raise search.k or leave it out",
                    pool.len()
                ))
            })
        };
        // Between so many chunks there is a separator less; each is charged for one.
        let budget = (self.budget() + self.separator_tokens).min(u32::MAX as usize) as u32;
        let (mut method, mut weights) = (self.method, Weights::EVIDENCE);
        if self.chooses_by_query() {
            let features = configure::features(pool, budget);
            if let Some(choice) = configure::Model::fitted().choose(&features) {
                (method, weights) = (choice.method, choice.weights);
            }
        }
        Ok(Ask {
            method,
            weights: select.weights.unwrap_or(weights),
            budget_tokens: budget,
            chunks_max: if select.chunks_max == 0 { POOL_MAX } else { select.chunks_max },
            must: select.must_include.iter().map(must).collect::<Result<_>>()?,
            exclude: select.exclude.iter().filter_map(place).map(|at| at as u16).collect(),
            may_leave: !select.fill,
            seed: select.seed,
        })
    }
}

fn check_ranges(request: &RetrieveRequest) -> Result<()> {
    let wrong = |what: String| Err(Error::invalid(what));
    if request.budget_tokens > BUDGET_TOKENS_MAX {
        return wrong(format!(
            "budget_tokens is {}, at most {BUDGET_TOKENS_MAX} are packed",
            request.budget_tokens
        ));
    }
    if request.separator.len() > SEPARATOR_BYTES_MAX {
        return wrong(format!("a separator has at most {SEPARATOR_BYTES_MAX} bytes"));
    }
    let routes = request.search.routes.len() + request.needs.len();
    if routes > ROUTES_MAX {
        return wrong(format!("routes and needs are {routes} together, at most {ROUTES_MAX} are searched"));
    }
    if request.funnel.len() > STAGES_MAX || request.post.len() > STAGES_MAX {
        return wrong(format!("a retrieval has at most {STAGES_MAX} funnel levels and as many post stages"));
    }
    if request.funnel.iter().any(|level| level.keep == 0) {
        return wrong("a funnel level keeps at least 1 group".into());
    }
    request.post.iter().try_for_each(PostStage::check)?;
    if !(1..=K_MAX).contains(&request.depth_max) {
        return wrong(format!("depth_max is {}; it is 1 to {K_MAX}", request.depth_max));
    }
    let as_if = request.as_if.as_ref().map_or(1.0, |as_if| as_if.share);
    if !(as_if > 0.0 && as_if <= 1.0) {
        return wrong(format!("as_if.share is {as_if}; it is above 0 and at most 1"));
    }
    let select = &request.select;
    if select.evaluations_max == 0 || select.evaluations_max > EVALUATIONS_MAX {
        return wrong(format!(
            "select.evaluations_max is {}; it is 1 to {EVALUATIONS_MAX}",
            select.evaluations_max
        ));
    }
    if select.overhead_tokens > BUDGET_TOKENS_MAX {
        return wrong(format!(
            "select.overhead_tokens is {}; it is at most {BUDGET_TOKENS_MAX}",
            select.overhead_tokens
        ));
    }
    if select.must_include.len() > POOL_MAX || select.exclude.len() > POOL_MAX {
        return wrong(format!("at most {POOL_MAX} keys are included or excluded"));
    }
    if request.assemble.neighbours > NEIGHBOURS_MAX {
        return wrong(format!(
            "assemble.neighbours is {}; at most {NEIGHBOURS_MAX} before and after a chunk",
            request.assemble.neighbours
        ));
    }
    Ok(())
}

fn check_weights(weights: Option<Weights>) -> Result<()> {
    let Some(w) = weights else { return Ok(()) };
    let parts = [
        ("relevance", w.relevance),
        ("redundancy", w.redundancy),
        ("facility", w.facility),
        ("aspects", w.aspects),
        ("references", w.references),
        ("length", w.length),
        ("sharpness", w.sharpness),
    ];
    match parts.iter().find(|(_, value)| !(0.0..=1e6).contains(value)) {
        Some((name, value)) => {
            Err(Error::invalid(format!("select.weights.{name} is {value}; it is 0 to 1,000,000")))
        }
        None => Ok(()),
    }
}

/// Payload fields that funnel levels and post stages group by.
fn value_fields(request: &RetrieveRequest) -> Vec<String> {
    let levels = request.funnel.iter().filter_map(|level| match &level.by {
        Parent::Field(name) => Some(name),
        _ => None,
    });
    let stages = request.post.iter().filter_map(|stage| match stage {
        PostStage::PerValue { field, .. } => Some(field),
        _ => None,
    });
    let mut names: Vec<String> = levels.chain(stages).cloned().collect();
    names.sort();
    names.dedup();
    names
}

/// The dense field by which candidates are compared.
fn vector_field(schema: &Schema, request: &RetrieveRequest) -> Result<String> {
    let dense =
        |name: &str| schema.find(name).is_some_and(|(_, field)| matches!(field.kind, FieldKind::Dense(_)));
    if let Some(name) = &request.select.vector_field {
        if schema.find(name).is_none() {
            return Err(crate::check::unknown_field(schema, name));
        }
        return match dense(name) {
            true => Ok(name.clone()),
            false => Err(Error::invalid(format!("select.vector_field '{name}' is no dense field"))),
        };
    }
    let routed = request.search.routes.iter().map(|route| route.field.as_str()).find(|name| dense(name));
    let first = || schema.fields.iter().map(|field| field.name.as_str()).find(|name| dense(name));
    routed.or_else(first).map(str::to_owned).ok_or_else(|| {
        Error::invalid(
            "this way of choosing compares vectors, and the schema has no dense field: use submodular",
        )
    })
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

/// The fields to fetch so that these are among them, and which of them the caller has not asked for.
fn with_fields<'n>(
    schema: &Schema,
    fields: &Fields,
    names: impl Iterator<Item = &'n String>,
) -> (Fields, Vec<String>) {
    let by_default = |name: &str| {
        let kind = schema.find(name).map(|(_, field)| &field.kind);
        matches!(kind, Some(FieldKind::Text(_) | FieldKind::Payload { .. }))
    };
    let asked = |name: &str| match fields {
        Fields::All => true,
        Fields::Default => by_default(name),
        Fields::None => false,
        Fields::Named(names) => names.iter().any(|asked| asked == name),
    };
    let more: Vec<String> = names.filter(|name| !asked(name)).cloned().collect();
    if more.is_empty() {
        return (fields.clone(), more);
    }
    let mut all = match fields {
        Fields::Named(names) => names.clone(),
        Fields::All | Fields::Default => {
            schema.fields.iter().map(|field| field.name.clone()).filter(|name| asked(name)).collect()
        }
        Fields::None => Vec::new(),
    };
    all.extend(more.iter().cloned());
    (Fields::Named(all), more)
}
