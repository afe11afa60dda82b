//! The read path on one page: check, filter, routes, fuse, fetch. Nothing here calls upward; no stage knows
//! its neighbour. Everything runs on the caller's thread over one snapshot, without a lock.

use std::time::Instant;

use spandrel_index::segment::Segment;
use spandrel_index::stop::Stop;
use spandrel_index::topk::Scored;
use spandrel_storage::{DocId, FieldId, LabelId, Row, RowId, TenantId};

use crate::check::check_tenant;
use crate::error::{Error, Result};
use crate::fetch;
use crate::filter::{CheckedFilter, KeyLookup};
use crate::fuse::{RouteList, fuse_top};
use crate::labels::check_count;
use crate::request::{Fields, Filter, Fusion, K_MAX, ROUTES_MAX, SearchRequest};
use crate::response::{Explain, Hit, RouteScore, SearchResponse, Short, Stage};
use crate::route::{self, CheckedRoute, Weighed};
use crate::scope::Scope;
use crate::shared::Shared;
use crate::snapshot::Snapshot;

mod batch;

pub use batch::search_batch;

/// Candidates a route contributes to a fusion at least, so that rows ranked lower by each route can still win
/// together.
const FUSED_CANDIDATES_MIN: usize = 100;

/// A search is begun anew so often when rows that it found lose their labels while it runs.
const ACCESS_TRIES: usize = 3;

/// One request, checked, over one snapshot.
pub(crate) struct Search<'a> {
    pub shared: &'a Shared,
    pub request: &'a SearchRequest,
    pub snapshot: &'a Snapshot,
    pub tenant: TenantId,
    /// Rows have to have one of these labels.
    pub labels: Option<Vec<LabelId>>,
    pub scopes: Vec<Scope<'a>>,
    pub stop: &'a Stop,
    pub stages: Vec<Stage>,
    /// Of each route that has run alone, its terms and what they weigh, where it is by text.
    pub weighed: Vec<Option<Weighed>>,
}

/// Finds the best rows.
pub fn search(shared: &Shared, request: &SearchRequest, stop: &Stop) -> Result<SearchResponse> {
    let started = Instant::now();
    let watch = shared.pace.watch(started);
    let stop = &stop.by(request.timeout.and_then(|timeout| started.checked_add(timeout)));
    let mut routes = check(shared, request)?;
    route::embed(shared, routes.iter_mut(), stop)?;
    let Some(tenant) = shared.tenants.get(&request.tenant) else {
        return Ok(empty(request, started));
    };
    let once = || search_once(shared, (request, &routes), (&shared.snapshot(), tenant), (started, stop));
    for _ in 0..ACCESS_TRIES {
        let answer = once()?;
        if answer.short != Some(Short::AccessLost) {
            shared.pace.note(watch);
            return Ok(answer);
        }
    }
    once()
}

/// A search that is made several times on one snapshot, for more hits each time; what is the same in all of
/// them is done once.
pub(crate) struct Prepared<'a> {
    shared: &'a Shared,
    routes: Vec<CheckedRoute>,
    tenant: Option<TenantId>,
}

impl<'a> Prepared<'a> {
    /// Checks the request and embeds its texts.
    ///
    /// # Errors
    /// As [`search`].
    pub fn new(shared: &'a Shared, request: &SearchRequest, stop: &Stop) -> Result<Self> {
        let mut routes = check(shared, request)?;
        route::embed(shared, routes.iter_mut(), stop)?;
        Ok(Self { shared, routes, tenant: shared.tenants.get(&request.tenant) })
    }

    /// The tenant, where it is known.
    pub fn tenant(&self) -> Option<TenantId> {
        self.tenant
    }

    /// The search, with `request` the one it was prepared for but for how many hits and which fields are
    /// wanted.
    ///
    /// # Errors
    /// As [`search`].
    pub fn search(
        &self,
        request: &SearchRequest,
        snapshot: &Snapshot,
        stop: &Stop,
    ) -> Result<SearchResponse> {
        let started = Instant::now();
        let watch = self.shared.pace.watch(started);
        let Some(tenant) = self.tenant else { return Ok(empty(request, started)) };
        let answer = search_once(self.shared, (request, &self.routes), (snapshot, tenant), (started, stop))?;
        self.shared.pace.note(watch);
        Ok(answer)
    }
}

fn search_once(
    shared: &Shared,
    (request, routes): (&SearchRequest, &[CheckedRoute]),
    (snapshot, tenant): (&Snapshot, TenantId),
    (started, stop): (Instant, &Stop),
) -> Result<SearchResponse> {
    let mut search = Search::new(shared, request, snapshot, tenant, stop)?;
    let lists = search.run_routes(routes)?;
    search.finish(routes, lists, started)
}

/// How many rows of a tenant pass a filter.
pub fn count(shared: &Shared, tenant: &str, filter: Option<&Filter>, stop: &Stop) -> Result<u64> {
    let snapshot = shared.snapshot();
    let id = shared.tenants.get(tenant);
    let lookup = KeyLookup {
        store: &snapshot.store,
        collection: shared.id,
        tenant: id.unwrap_or_default(),
        labels: &shared.labels,
    };
    let filter = filter.map(|filter| CheckedFilter::new(&shared.schema, filter, &lookup)).transpose()?;
    let Some(id) = id else { return Ok(0) };
    let mut rows = 0;
    for view in &snapshot.views {
        let Some(allow) = view.allow(id) else { continue };
        stop.check()?;
        rows += match &filter {
            Some(filter) => (filter.docs(view, id, &allow.range)? - &*view.deleted).len(),
            None => allow.count(),
        };
    }
    Ok(rows)
}

/// Checks a request against the schema and the limits.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) with what to change.
pub(crate) fn check(shared: &Shared, request: &SearchRequest) -> Result<Vec<CheckedRoute>> {
    check_tenant(&request.tenant)?;
    if request.k == 0 {
        return Err(Error::invalid("k is 0; ask for at least one hit"));
    }
    if request.k.saturating_add(request.offset) > K_MAX {
        return Err(Error::invalid(format!(
            "offset + k is {}, at most {K_MAX} are returned; page with a filter or scroll instead",
            request.k.saturating_add(request.offset)
        )));
    }
    if request.routes.is_empty() || request.routes.len() > ROUTES_MAX {
        return Err(Error::invalid(format!(
            "a search has 1 to {ROUTES_MAX} routes, this one has {}",
            request.routes.len()
        )));
    }
    if let Fusion::Rrf { k } = request.fusion
        && !(k.is_finite() && k >= 0.0)
    {
        return Err(Error::invalid(format!("the k of rrf is {k}; it is a number of at least 0, usually 60")));
    }
    if request.score_threshold.is_some_and(f32::is_nan) {
        return Err(Error::invalid("score_threshold is not a number"));
    }
    if !(request.recall > 0.0 && request.recall <= 1.0) {
        return Err(Error::invalid(format!(
            "recall is {}; it is above 0 and at most 1, usually 0.9 to 0.99",
            request.recall
        )));
    }
    // The filter and the names of the fields are checked even when the tenant turns out to be empty.
    fetch::field_set(&shared.schema, &request.fields)?;
    if let Some(filter) = &request.filter {
        CheckedFilter::check(&shared.schema, filter)?;
    }
    check_count(request.labels.as_ref().map_or(0, Vec::len))?;
    request.routes.iter().map(|route| CheckedRoute::new(shared, route)).collect()
}

fn empty(request: &SearchRequest, started: Instant) -> SearchResponse {
    let explain = request
        .explain
        .then(|| Explain { total_us: started.elapsed().as_micros() as u64, ..Explain::default() });
    SearchResponse { hits: Vec::new(), short: Some(Short::EmptyTenant), explain }
}

impl<'a> Search<'a> {
    fn new(
        shared: &'a Shared,
        request: &'a SearchRequest,
        snapshot: &'a Snapshot,
        tenant: TenantId,
        stop: &'a Stop,
    ) -> Result<Self> {
        let started = request.explain.then(Instant::now);
        let lookup =
            KeyLookup { store: &snapshot.store, collection: shared.id, tenant, labels: &shared.labels };
        let filter = request
            .filter
            .as_ref()
            .map(|filter| CheckedFilter::new(&shared.schema, filter, &lookup))
            .transpose()?;
        let labels = request.labels.as_ref().map(|names| shared.labels.known(names));
        let filter = match &labels {
            Some(labels) => Some(CheckedFilter::labelled(filter, labels.clone())),
            None => filter,
        };
        let mut scopes = Vec::with_capacity(snapshot.views.len());
        let (mut rows_in, mut rows_out) = (0, 0);
        for view in &snapshot.views {
            stop.check()?;
            let asked = (tenant, filter.as_ref());
            let Some(scope) = Scope::new(shared, view, asked, stop)? else { continue };
            if request.explain {
                rows_in += scope.base.count();
                rows_out += scope.allow().count();
            }
            if !scope.is_empty() {
                scopes.push(scope);
            }
        }
        // The largest first: what is found there rules out most of the others.
        scopes.sort_by_key(|scope| std::cmp::Reverse(scope.base.range.len()));
        let (stages, weighed) = (Vec::new(), Vec::new());
        let mut search = Self { shared, request, snapshot, tenant, labels, scopes, stop, stages, weighed };
        if let Some(started) = started {
            let time_us = started.elapsed().as_micros() as u64;
            let name = if filter.is_some() { "filter" } else { "tenant" };
            search.stages.push(Stage { name: name.into(), rows_in, rows_out, time_us, ..Stage::default() });
        }
        Ok(search)
    }

    /// The same snapshot, tenant and filter for another request of a batch.
    fn with_request(&self, request: &'a SearchRequest) -> Self {
        Self {
            shared: self.shared,
            request,
            snapshot: self.snapshot,
            tenant: self.tenant,
            labels: self.labels.clone(),
            scopes: Vec::new(),
            stop: self.stop,
            stages: self.stages.clone(),
            weighed: Vec::new(),
        }
    }

    /// Runs a stage and, when asked to explain, notes what it did.
    pub fn timed<T>(
        &mut self,
        name: impl FnOnce(&Self) -> String,
        run: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        if !self.request.explain {
            return run(self);
        }
        let started = Instant::now();
        let at = self.stages.len();
        self.stages.push(Stage { name: name(self), ..Stage::default() });
        let result = run(self)?;
        self.stages[at].time_us = started.elapsed().as_micros() as u64;
        Ok(result)
    }

    /// The stage that is running, when stages are noted.
    pub fn stage(&mut self) -> Option<&mut Stage> {
        self.stages.last_mut().filter(|_| self.request.explain)
    }

    fn run_routes(&mut self, routes: &[CheckedRoute]) -> Result<Vec<Vec<Scored>>> {
        let wanted = self.request.k + self.request.offset;
        routes
            .iter()
            .zip(&self.request.routes)
            .map(|(route, asked)| {
                let engine = if routes.len() > 1 { wanted.max(FUSED_CANDIDATES_MIN) } else { wanted };
                let limit = if asked.candidates == 0 { engine } else { asked.candidates.max(wanted) };
                let name = |search: &Self| route::name(search, route);
                self.timed(name, |search| route::run(search, route, limit.min(K_MAX)))
            })
            .collect()
    }

    /// Fuses what the routes found, cuts, and fetches rows.
    fn finish(
        &mut self,
        routes: &[CheckedRoute],
        lists: Vec<Vec<Scored>>,
        started: Instant,
    ) -> Result<SearchResponse> {
        self.stop.check()?;
        let request = self.request;
        let mut ranked = match lists.len() {
            1 => lists[0].iter().enumerate().map(|(at, hit)| Ranked::single(at, hit)).collect(),
            _ => self.timed(|_| "fuse".into(), |search| search.fuse(routes, &lists))?,
        };
        let found = ranked.len();
        if let Some(threshold) = request.score_threshold {
            ranked.retain(|hit| hit.score >= threshold);
        }
        let passed = ranked.len();
        let lost = self.drop_lost(&mut ranked);
        ranked.drain(..request.offset.min(ranked.len()));
        ranked.truncate(request.k);
        let hits = self.timed(|_| "fetch".into(), |search| search.fetch(ranked))?;
        let short = (hits.len() < request.k).then(|| match self.snapshot.tenant_rows(self.tenant) {
            0 => Short::EmptyTenant,
            _ if lost => Short::AccessLost,
            _ if passed < found => Short::Threshold,
            _ => Short::FewMatches,
        });
        let explain = request.explain.then(|| Explain {
            stages: std::mem::take(&mut self.stages),
            segments: self.snapshot.views.len() as u64,
            tenant_rows: self.snapshot.tenant_rows(self.tenant),
            total_us: started.elapsed().as_micros() as u64,
        });
        Ok(SearchResponse { hits, short, explain })
    }

    /// Leaves out rows that do not have the labels any more, by now; says whether there were some.
    fn drop_lost(&self, ranked: &mut Vec<Ranked>) -> bool {
        let Some(labels) = &self.labels else { return false };
        let newest = self.shared.snapshot();
        if newest.label_changes == self.snapshot.label_changes {
            return false;
        }
        let before = ranked.len();
        let there = known_labels(self.shared, labels);
        ranked.retain(|hit| has_label(&newest, &there, (self.tenant, hit.row)));
        ranked.len() < before
    }

    fn fuse(&mut self, routes: &[CheckedRoute], lists: &[Vec<Scored>]) -> Result<Vec<Ranked>> {
        let pairs = |list: &Vec<Scored>| list.iter().map(|hit| (hit.row, hit.score)).collect::<Vec<_>>();
        let ranked: Vec<Vec<(RowId, f32)>> = lists.iter().map(pairs).collect();
        let filled = match self.request.fusion {
            Fusion::Weighted => route::cross_fill(self, routes, &ranked)?,
            Fusion::Rrf { .. } => vec![Vec::new(); ranked.len()],
        };
        let lists: Vec<RouteList<'_>> =
            ranked.iter().zip(&filled).map(|(ranked, filled)| RouteList { ranked, filled }).collect();
        let weights: Vec<f32> = self.request.routes.iter().map(|route| route.weight).collect();
        let limit = if self.request.score_threshold.is_some() {
            usize::MAX
        } else {
            self.request.k + self.request.offset
        };
        let rows_in = ranked.iter().map(|list| list.len() as u64).sum();
        let fused = fuse_top(&lists, &self.request.fusion, &weights, limit);
        if let Some(stage) = self.stage() {
            stage.rows_in = rows_in;
            stage.rows_out = fused.len() as u64;
        }
        Ok(fused
            .into_iter()
            .map(|hit| Ranked { row: hit.row, doc: None, score: hit.score, routes: hit.routes })
            .collect())
    }

    fn fetch(&mut self, ranked: Vec<Ranked>) -> Result<Vec<Hit>> {
        if let Some(keys) = self.keys(&ranked) {
            let hits = ranked.into_iter().zip(keys).map(|(hit, key)| {
                let row = Row::new(key).tenant(&self.request.tenant);
                Hit { row, score: hit.score, routes: hit.routes }
            });
            return Ok(hits.collect());
        }
        let rows: Vec<RowId> = ranked.iter().map(|hit| hit.row).collect();
        let wanted = fetch::field_set(&self.shared.schema, &self.request.fields)?;
        let stored = fetch::stored(self.shared, &self.snapshot.store, &rows, &wanted, self.stop)?;
        if let Some(stage) = self.stage() {
            stage.rows_in = rows.len() as u64;
            stage.rows_out = rows.len() as u64;
        }
        ranked
            .into_iter()
            .zip(stored)
            .map(|(hit, stored)| {
                let stored = stored.ok_or_else(|| fetch::missing(self.shared, hit.row))?;
                let asked = (&*self.request.tenant, &self.request.fields);
                let row = fetch::whole_row(self.shared, &self.snapshot.store, asked, hit.row, stored)?;
                Ok(Hit { row, score: hit.score, routes: hit.routes })
            })
            .collect()
    }

    /// The keys of the hits, where they are at hand and all that is asked for.
    fn keys(&self, ranked: &[Ranked]) -> Option<Vec<&str>> {
        if self.request.fields != Fields::None {
            return None;
        }
        // Step by step for all of them: what each step waits for in memory, it waits for together.
        let mut last = (usize::MAX, 0..0);
        let locate = |hit: &Ranked| {
            let Some(doc) = hit.doc else { return self.snapshot.locate(self.tenant, hit.row) };
            let view = self.snapshot.view_of(hit.row)?;
            if last.0 != view {
                last = (view, self.snapshot.views[view].segment.tenant_range(self.tenant));
            }
            // Whatever an index says, of this tenant.
            last.1.contains(&doc).then_some((view, doc))
        };
        let places: Vec<(usize, DocId)> = ranked.iter().map(locate).collect::<Option<_>>()?;
        let segment = |view: usize| &self.snapshot.views[view].segment;
        for ask_for in [Segment::ask_for_key_place, Segment::ask_for_key] {
            places.iter().for_each(|(view, doc)| ask_for(segment(*view), *doc));
        }
        let key = |(view, doc): &(usize, DocId)| segment(*view).key(*doc);
        let keys: Vec<&str> = places.iter().map(key).collect::<Option<_>>()?;
        let bytes = keys.iter().map(|key| key.len() as u64).sum::<u64>();
        (bytes <= self.shared.settings.response_bytes_max).then_some(keys)
    }
}

/// Those of these labels that have not been dropped.
pub(crate) fn known_labels(shared: &Shared, labels: &[LabelId]) -> Vec<LabelId> {
    labels.iter().copied().filter(|label| shared.labels.contains(*label)).collect()
}

/// Whether a row has one of these labels in a snapshot. One that was replaced since has not, whatever labels
/// the new one has.
pub(crate) fn has_label(snapshot: &Snapshot, labels: &[LabelId], (tenant, row): (TenantId, RowId)) -> bool {
    let place = snapshot.locate(tenant, row);
    place.is_some_and(|(at, doc)| !snapshot.views[at].labelled(labels, &(doc..doc + 1)).is_empty())
}

/// A row on its way out.
struct Ranked {
    row: RowId,
    /// Its doc, where one route alone has found it.
    doc: Option<DocId>,
    score: f32,
    routes: Vec<Option<RouteScore>>,
}

impl Ranked {
    fn single(at: usize, hit: &Scored) -> Self {
        let score = RouteScore { score: hit.score, rank: at as u32 + 1 };
        Self { row: hit.row, doc: Some(hit.doc), score: hit.score, routes: vec![Some(score)] }
    }
}

/// Fields of a schema by id; used by routes.
pub(crate) fn field_name(shared: &Shared, id: FieldId) -> &str {
    &shared.schema.get(id).name
}
