//! One route of a search: a field, a query that fits it, and the candidates it finds in every segment.

use std::time::Instant;

use spandrel_index::stop::Stop;
use spandrel_index::text::{Bm25, TextQuery, TextStats};
use spandrel_index::topk::{Scored, TopK};
use spandrel_index::{Counters, Matrix, VectorIndex};
use spandrel_storage::{DenseSpec, DocId, FieldId, FieldKind, RowId, SparseVector, TenantId};

use crate::check::{check_query, check_sparse, unknown_field};
use crate::error::{Error, Result};
use crate::rag::embed::EmbedPurpose;
use crate::rag::ingest::{EMBED_BATCH_MAX, check_vectors};
use crate::request::{Route, RouteQuery};
use crate::response::Planned;
use crate::scratch::with_scratch;
use crate::search::{Search, field_name};
use crate::shared::Shared;

/// A text query, and what its terms weigh.
pub(crate) type Weighed = (TextQuery, Bm25);

/// A route whose field exists and whose query fits it.
pub(crate) enum CheckedRoute {
    Dense {
        field: FieldId,
        query: Vec<f32>,
    },
    Sparse {
        field: FieldId,
        query: SparseVector,
    },
    Text {
        field: FieldId,
        text: String,
    },
    /// A dense field is asked by text: [`embed`] makes a dense route of it.
    Embed {
        field: FieldId,
        text: String,
    },
}

impl CheckedRoute {
    /// Checks a route against the schema.
    pub fn new(shared: &Shared, route: &Route) -> Result<Self> {
        let Some((field, found)) = shared.schema.find(&route.field) else {
            return Err(unknown_field(&shared.schema, &route.field));
        };
        let context = |error: Error| error.context(format!("route on '{}'", route.field));
        if !(route.weight.is_finite() && route.weight >= 0.0) {
            return Err(context(Error::invalid(format!(
                "weight {} is not a number of at least 0",
                route.weight
            ))));
        }
        match (&found.kind, &route.query) {
            (FieldKind::Dense(spec), RouteQuery::Dense(query)) => {
                Self::dense(field, spec, query.clone()).map_err(context)
            }
            (FieldKind::Dense(_), RouteQuery::Text(_)) if shared.components.embedder.is_none() => {
                Err(context(Error::invalid(
                    "a dense field is searched by a vector; to search it by text, open the database with an \
                     embedder",
                )))
            }
            (FieldKind::Dense(_), RouteQuery::Text(text)) => Ok(Self::Embed { field, text: text.clone() }),
            (FieldKind::Sparse, RouteQuery::Sparse(query)) => {
                Ok(Self::Sparse { field, query: check_sparse(query.clone()).map_err(context)? })
            }
            (FieldKind::Text(_), RouteQuery::Text(text)) => {
                // Whether it has too many terms does not depend on the tenant.
                shared.indexer.text_query(field, TenantId(0), text).map_err(|error| context(error.into()))?;
                Ok(Self::Text { field, text: text.clone() })
            }
            (kind, query) => {
                let asked = match query {
                    RouteQuery::Dense(_) => "a dense vector",
                    RouteQuery::Sparse(_) => "a sparse vector",
                    RouteQuery::Text(_) => "text",
                };
                Err(context(Error::invalid(format!("a {} field cannot be searched by {asked}", kind.name()))))
            }
        }
    }

    fn dense(field: FieldId, spec: &DenseSpec, query: Vec<f32>) -> Result<Self> {
        check_query(spec, &query)?;
        Ok(Self::Dense { field, query })
    }
}

/// Embeds the texts of all routes that ask a dense field by text, in as few calls as they fit in.
pub(crate) fn embed<'a>(
    shared: &Shared,
    routes: impl Iterator<Item = &'a mut CheckedRoute>,
    stop: &Stop,
) -> Result<()> {
    let mut wanted: Vec<&mut CheckedRoute> =
        routes.filter(|route| matches!(route, CheckedRoute::Embed { .. })).collect();
    let Some(embedder) = shared.components.embedder.as_ref().filter(|_| !wanted.is_empty()) else {
        return Ok(());
    };
    let mut dim = embedder.dim();
    for routes in wanted.chunks_mut(EMBED_BATCH_MAX) {
        stop.check()?;
        let text = |route: &&mut CheckedRoute| match &**route {
            CheckedRoute::Embed { text, .. } => text.clone(),
            _ => String::new(),
        };
        let texts: Vec<String> = routes.iter().map(text).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let vectors = embedder.embed(&texts, EmbedPurpose::Query, stop.deadline())?;
        check_vectors(&vectors, texts.len(), &mut dim, embedder.name())?;
        for (route, vector) in routes.iter_mut().zip(vectors) {
            if let CheckedRoute::Embed { field, .. } = **route
                && let FieldKind::Dense(spec) = &shared.schema.get(field).kind
            {
                let made = CheckedRoute::dense(field, spec, vector);
                **route = made.map_err(|error| error.context(format!("embedder '{}'", embedder.name())))?;
            }
        }
    }
    Ok(())
}

/// What the route does, for explain.
pub(crate) fn name(search: &Search<'_>, route: &CheckedRoute) -> String {
    let shared = search.shared;
    match route {
        CheckedRoute::Dense { field, .. } | CheckedRoute::Embed { field, .. } => {
            let indexes = search.scopes.iter().filter_map(|scope| scope.view.segment.dense(*field));
            let mut kinds: Vec<&str> = indexes.map(VectorIndex::kind).collect();
            kinds.sort_unstable();
            kinds.dedup();
            format!("dense {} ({})", field_name(shared, *field), kinds.join(", "))
        }
        CheckedRoute::Sparse { field, .. } => format!("sparse {} (flat)", field_name(shared, *field)),
        CheckedRoute::Text { field, .. } => format!("text {} (bm25)", field_name(shared, *field)),
    }
}

/// Whether two requests, of the same tenant and filter, can be scored together.
pub(crate) fn scored_together(a: &[CheckedRoute], b: &[CheckedRoute]) -> bool {
    match (a, b) {
        ([CheckedRoute::Dense { field: a, .. }], [CheckedRoute::Dense { field: b, .. }]) => a == b,
        _ => false,
    }
}

/// The best `limit` rows of one route.
pub(crate) fn run(search: &mut Search<'_>, route: &CheckedRoute, limit: usize) -> Result<Vec<Scored>> {
    let mut top = TopK::new(limit);
    let mut counters = Counters::default();
    let mut plans = Vec::new();
    let text = weigh_text(search, route)?;
    note_query(search, route);
    for scope in &search.scopes {
        search.stop.check()?;
        let segment = &scope.view.segment;
        let allow = scope.allow();
        match route {
            CheckedRoute::Dense { field, query } => {
                if let Some(index) = segment.dense(*field) {
                    let ask = scope.ask((search.shared, search.request), (*field, limit), &allow);
                    let planned = search.request.explain.then(|| (index.choice(&ask, limit), Instant::now()));
                    let before = counters.scored;
                    with_scratch(|scratch| index.search(query, &ask, &mut top, scratch, &mut counters))?;
                    plans.extend(planned.map(|(choice, started)| Planned {
                        plan: choice.plan.to_owned(),
                        matches: choice.matches,
                        estimate_us: choice.estimate_us,
                        time_us: started.elapsed().as_secs_f32() * 1e6,
                        scored: counters.scored - before,
                    }));
                }
            }
            CheckedRoute::Sparse { field, query } => {
                if let Some(index) = segment.sparse(*field) {
                    with_scratch(|scratch| {
                        index.search(query, segment.rows(), &allow, &mut top, scratch, &mut counters)
                    })?;
                }
            }
            CheckedRoute::Embed { .. } => return Err(not_embedded()),
            CheckedRoute::Text { .. } => {
                if let (Some(index), Some((query, bm25))) = (segment.text(), &text) {
                    index.search(query, bm25, segment.rows(), &allow, &mut top, &mut counters)?;
                }
            }
        }
    }
    let hits = top.into_sorted();
    search.weighed.push(text);
    note(search, &counters, hits.len());
    if let Some(stage) = search.stage() {
        stage.plans = plans;
    }
    Ok(hits)
}

/// The best `limits[i]` rows of each of several dense routes on one field.
pub(crate) fn run_together(
    search: &mut Search<'_>,
    routes: &[&CheckedRoute],
    limits: &[usize],
) -> Result<Vec<Vec<Scored>>> {
    let mut tops: Vec<TopK> = limits.iter().map(|limit| TopK::new(*limit)).collect();
    let mut counters = Counters::default();
    let mut queries = Vec::new();
    let mut on = None;
    for route in routes {
        note_query(search, route);
        let CheckedRoute::Dense { field, query } = route else {
            return Err(Error::new(crate::ErrorKind::Internal, "only dense routes are scored together"));
        };
        on = Some((*field, query.len()));
        queries.extend_from_slice(query);
    }
    let Some((field, dim)) = on else { return Ok(Vec::new()) };
    let (queries, most) = (Matrix::new(&queries, dim), limits.iter().copied().max().unwrap_or(0));
    for scope in &search.scopes {
        search.stop.check()?;
        let segment = &scope.view.segment;
        if let Some(index) = segment.dense(field) {
            let allow = scope.allow();
            with_scratch(|scratch| {
                index.search_batch(
                    queries,
                    &scope.ask((search.shared, search.request), (field, most), &allow),
                    &mut tops,
                    scratch,
                    &mut counters,
                )
            })?;
        }
    }
    let lists: Vec<Vec<Scored>> = tops.into_iter().map(TopK::into_sorted).collect();
    note(search, &counters, lists.iter().map(Vec::len).sum());
    Ok(lists)
}

/// What is asked of an approximate index teaches what others will ask.
fn note_query(search: &Search<'_>, route: &CheckedRoute) {
    if let CheckedRoute::Dense { field, query } = route
        && !search.request.exact
    {
        search.shared.asked.note(*field, query);
    }
}

fn not_embedded() -> Error {
    Error::new(crate::ErrorKind::Internal, "a route by text reached a dense index without being embedded")
}

fn note(search: &mut Search<'_>, counters: &Counters, rows_out: usize) {
    let rows_in = match search.request.explain {
        true => search.scopes.iter().map(|scope| scope.allow().count()).sum(),
        false => 0,
    };
    if let Some(stage) = search.stage() {
        stage.rows_in = rows_in;
        stage.rows_out = rows_out as u64;
        stage.scored = counters.scored;
        stage.read_bytes = counters.bytes_read;
    }
}

/// A text query with the weights of its terms: statistics of the tenant over every segment, so that scores
/// compare across segments.
fn weigh_text(search: &Search<'_>, route: &CheckedRoute) -> Result<Option<Weighed>> {
    let CheckedRoute::Text { field, text } = route else { return Ok(None) };
    let query = search.shared.indexer.text_query(*field, search.tenant, text)?;
    let mut stats = TextStats::new(&query);
    for view in &search.snapshot.views {
        let docs = view.segment.tenant_range(search.tenant);
        if let Some(index) = view.segment.text().filter(|_| !docs.is_empty()) {
            index.stats(&query, docs, &mut stats)?;
        }
    }
    let bm25 = Bm25::new(&query, &stats);
    Ok(Some((query, bm25)))
}

/// Exact scores, by each route, of the rows that only other routes found.
pub(crate) fn cross_fill(
    search: &Search<'_>,
    routes: &[CheckedRoute],
    ranked: &[Vec<(RowId, f32)>],
) -> Result<Vec<Vec<(RowId, f32)>>> {
    let mut union: Vec<RowId> = ranked.iter().flatten().map(|(row, _)| *row).collect();
    union.sort_unstable();
    union.dedup();
    let mut filled = Vec::with_capacity(routes.len());
    for (at, (route, list)) in routes.iter().zip(ranked).enumerate() {
        search.stop.check()?;
        let mut known: Vec<RowId> = list.iter().map(|(row, _)| *row).collect();
        known.sort_unstable();
        let missing: Vec<RowId> =
            union.iter().copied().filter(|row| known.binary_search(row).is_err()).collect();
        let text = search.weighed.get(at).and_then(Option::as_ref);
        filled.push(exact_scores(search, (route, text), &missing)?);
    }
    Ok(filled)
}

/// Scores of given rows. Rows without a value in the route's field, and rows that share nothing with the
/// query (every index gives NaN for them), are left out: the worst match still ranks above them.
fn exact_scores(
    search: &Search<'_>,
    (route, text): (&CheckedRoute, Option<&Weighed>),
    rows: &[RowId],
) -> Result<Vec<(RowId, f32)>> {
    let mut scores = Vec::with_capacity(rows.len());
    let mut at = 0;
    let mut counters = Counters::default();
    // Rows and segments are both in row order.
    for view in &search.snapshot.views {
        let segment = &view.segment;
        let run = rows[at..].partition_point(|row| *row <= segment.last());
        let run = &rows[at..at + run];
        at += run.len();
        let mut located: Vec<(RowId, DocId)> =
            run.iter().filter_map(|row| Some((*row, segment.doc(search.tenant, *row)?))).collect();
        // Docs may lie in another order than rows, and text is scored in that of docs.
        located.sort_unstable_by_key(|(_, doc)| *doc);
        if located.is_empty() {
            continue;
        }
        let docs: Vec<DocId> = located.iter().map(|(_, doc)| *doc).collect();
        let mut out = vec![f32::NAN; docs.len()];
        match route {
            CheckedRoute::Dense { field, query } => {
                if let Some(index) = segment.dense(*field) {
                    with_scratch(|scratch| index.score(query, &docs, &mut out, scratch, &mut counters))?;
                }
            }
            CheckedRoute::Sparse { field, query } => {
                if let Some(index) = segment.sparse(*field) {
                    with_scratch(|scratch| index.score(query, &docs, &mut out, scratch))?;
                }
            }
            CheckedRoute::Embed { .. } => return Err(not_embedded()),
            CheckedRoute::Text { .. } => {
                if let (Some(index), Some((query, bm25))) = (segment.text(), text) {
                    index.score(query, bm25, &docs, &mut out)?;
                }
            }
        }
        let pairs = located.into_iter().zip(out).filter(|(_, score)| !score.is_nan());
        scores.extend(pairs.map(|((row, _), score)| (row, score)));
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use spandrel_storage::{Metric, Row, Schema};

    use super::*;
    use crate::request::{Fusion, SearchRequest};
    use crate::{Database, Settings};

    #[test]
    fn rows_that_share_nothing_rank_below_matches_of_negative_score() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path().join("data"), Settings::default()).unwrap();
        let schema = Schema::new().dense("vec", 2, Metric::Ip).sparse("terms").text("body");
        let rows = database.create_collection("rows", schema).unwrap();
        let sparse = |dim: u32, weight: f32| SparseVector { dims: vec![dim], weights: vec![weight] };
        let row = |key: &str, dim, weight, body: &str| {
            let row = Row::new(key).dense("vec", vec![1.0, 0.0]).sparse("terms", sparse(dim, weight));
            row.text("body", body)
        };
        let written = vec![row("none", 9, 1.0, "y"), row("low", 1, -3.0, "x x"), row("high", 1, -1.0, "x")];
        rows.upsert(written).unwrap();
        for on_disk in [false, true] {
            if on_disk {
                rows.flush().unwrap();
            }
            for second in [Route::sparse("terms", sparse(1, 1.0)), Route::text("body", "x")] {
                let mut request = SearchRequest::new(Route::dense("vec", vec![1.0, 0.0])).route(second).k(3);
                request.fusion = Fusion::Weighted;
                let hits = rows.search(&request).unwrap().hits;
                let none = hits.iter().find(|hit| hit.row.key == "none").unwrap();
                assert!(none.routes[1].is_none(), "{:?}", none.routes);
                assert!(hits[0].row.key != "none" && hits[0].score > none.score, "{hits:?}");
            }
        }
    }
}
