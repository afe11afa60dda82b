//! Searches and scrolls between wire and engine. Tenants are set by the services, from the caller.

use std::time::Duration;

use spandrel::{Fields, Fusion, Route, RouteQuery, ScrollRequest, SearchRequest};
use spandrel_proto::v1 as pb;

use super::filter::{filter_from_wire, filter_to_wire};
use super::row::{dense_from_wire, dense_to_wire, sparse_from_wire, sparse_to_wire};
use super::{Invalid, Result, count, required, size};

/// RRF's constant where the request does not say.
const RRF_K: f32 = 60.0;

/// Which fields come back.
pub fn fields_from_wire(fields: Option<pb::Fields>) -> Result<Fields> {
    use pb::fields::Mode;
    let Some(fields) = fields else { return Ok(Fields::Default) };
    let mode = Mode::try_from(fields.mode).map_err(|_| {
        Invalid::new("fields.mode", format!("{} is not a mode that this server knows", fields.mode))
    })?;
    match (mode, fields.names.is_empty()) {
        (Mode::Unspecified, true) => Ok(Fields::Default),
        (Mode::Unspecified | Mode::Named, false) => Ok(Fields::Named(fields.names)),
        (Mode::Named, true) => Ok(Fields::Named(Vec::new())),
        (Mode::All, true) => Ok(Fields::All),
        (Mode::None, true) => Ok(Fields::None),
        (Mode::All | Mode::None, false) => Err(Invalid::new("fields.names", "names go with MODE_NAMED only")),
    }
}

/// Which fields come back, for the wire.
pub fn fields_to_wire(fields: Fields) -> Option<pb::Fields> {
    use pb::fields::Mode;
    let (mode, names) = match fields {
        Fields::Default => return None,
        Fields::All => (Mode::All, Vec::new()),
        Fields::None => (Mode::None, Vec::new()),
        Fields::Named(names) => (Mode::Named, names),
    };
    Some(pb::Fields { mode: mode.into(), names })
}

/// A route.
pub(super) fn route_from_wire(route: pb::Route) -> Result<Route> {
    use pb::route::Query;
    let query = match required(route.query, "query")? {
        Query::Dense(vector) => RouteQuery::Dense(dense_from_wire(vector).map_err(|e| e.within("dense"))?),
        Query::Sparse(vector) => {
            RouteQuery::Sparse(sparse_from_wire(vector).map_err(|e| e.within("sparse"))?)
        }
        Query::Text(text) => RouteQuery::Text(text),
    };
    let weight = route.weight.unwrap_or(1.0);
    if !weight.is_finite() || weight < 0.0 {
        return Err(Invalid::new("weight", format!("{weight} is not a finite number of at least 0")));
    }
    Ok(Route { field: route.field, query, candidates: size(route.candidates), weight })
}

/// A route, for the wire.
pub(super) fn route_to_wire(route: Route) -> pb::Route {
    use pb::route::Query;
    let query = match route.query {
        RouteQuery::Dense(vector) => Query::Dense(dense_to_wire(&vector)),
        RouteQuery::Sparse(vector) => Query::Sparse(sparse_to_wire(vector)),
        RouteQuery::Text(text) => Query::Text(text),
    };
    pb::Route {
        field: route.field,
        query: Some(query),
        candidates: count(route.candidates),
        weight: Some(route.weight),
    }
}

fn fusion_from_wire(fusion: Option<pb::Fusion>) -> Result<Fusion> {
    use pb::fusion::Method;
    match fusion.and_then(|fusion| fusion.method) {
        None => Ok(Fusion::default()),
        Some(Method::Rrf(rrf)) => {
            let k = rrf.k.unwrap_or(RRF_K);
            if !k.is_finite() || k < 0.0 {
                return Err(Invalid::new(
                    "fusion.rrf.k",
                    format!("{k} is not a finite number of at least 0"),
                ));
            }
            Ok(Fusion::Rrf { k })
        }
        Some(Method::Weighted(_)) => Ok(Fusion::Weighted),
    }
}

fn fusion_to_wire(fusion: Fusion) -> pb::Fusion {
    use pb::fusion::Method;
    let method = match fusion {
        Fusion::Rrf { k } => Method::Rrf(pb::RrfFusion { k: Some(k) }),
        Fusion::Weighted => Method::Weighted(pb::WeightedFusion {}),
    };
    pb::Fusion { method: Some(method) }
}

/// A search. Its collection is the service's concern; `k` and the other numbers are checked against the
/// limits there.
pub fn search_from_wire(request: pb::SearchRequest) -> Result<SearchRequest> {
    let one = |(at, route)| route_from_wire(route).map_err(|error| error.within(format!("routes[{at}]")));
    let routes = request.routes.into_iter().enumerate().map(one).collect::<Result<Vec<_>>>()?;
    if routes.is_empty() {
        return Err(Invalid::new("routes", "at least one is needed"));
    }
    if let Some(threshold) = request.score_threshold
        && !threshold.is_finite()
    {
        return Err(Invalid::new("score_threshold", format!("{threshold} is not finite")));
    }
    Ok(SearchRequest {
        tenant: request.tenant,
        routes,
        fusion: fusion_from_wire(request.fusion)?,
        filter: request.filter.map(filter_from_wire).transpose().map_err(|error| error.within("filter"))?,
        k: size(request.k),
        offset: size(request.offset),
        score_threshold: request.score_threshold,
        fields: fields_from_wire(request.fields)?,
        explain: request.explain,
        recall: request.recall.unwrap_or(SearchRequest::default().recall),
        exact: request.exact,
        rescore: request.rescore.unwrap_or(SearchRequest::default().rescore),
        labels: request.labels.map(|labels| labels.labels),
        timeout: None::<Duration>,
    })
}

/// A search for the wire. Its timeout travels as `grpc-timeout`.
pub fn search_to_wire(collection: &str, request: SearchRequest) -> pb::SearchRequest {
    pb::SearchRequest {
        collection: collection.to_owned(),
        tenant: request.tenant,
        routes: request.routes.into_iter().map(route_to_wire).collect(),
        fusion: Some(fusion_to_wire(request.fusion)),
        filter: request.filter.map(filter_to_wire),
        k: count(request.k),
        offset: count(request.offset),
        score_threshold: request.score_threshold,
        fields: fields_to_wire(request.fields),
        explain: request.explain,
        recall: Some(request.recall),
        exact: request.exact,
        rescore: Some(request.rescore),
        labels: request.labels.map(|labels| pb::LabelsCondition { labels }),
    }
}

/// A page.
pub fn scroll_from_wire(request: pb::ScrollRequest) -> Result<ScrollRequest> {
    Ok(ScrollRequest {
        tenant: request.tenant,
        after: request.after,
        limit: size(request.limit),
        filter: request.filter.map(filter_from_wire).transpose().map_err(|error| error.within("filter"))?,
        fields: fields_from_wire(request.fields)?,
    })
}

/// A page for the wire.
pub fn scroll_to_wire(collection: &str, request: ScrollRequest) -> pb::ScrollRequest {
    pb::ScrollRequest {
        collection: collection.to_owned(),
        tenant: request.tenant,
        after: request.after,
        limit: count(request.limit),
        filter: request.filter.map(filter_to_wire),
        fields: fields_to_wire(request.fields),
    }
}
