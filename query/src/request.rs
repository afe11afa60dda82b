//! What is asked of a collection: plain data, checked by the engine when it runs.
//!
//! Every type reads and writes the JSON that the command line and the docs use.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use spandrel_index::dense::SearchParams;
use spandrel_storage::{SparseVector, Value};

use crate::rag::chunk::ChunkOptions;

/// Most hits (`offset + k`) a search returns.
pub const K_MAX: usize = 10_000;
/// Most routes of one search.
pub const ROUTES_MAX: usize = 16;
/// Most requests of one batch.
pub const BATCH_MAX: usize = 4_096;
/// Most hits (`offset + k`) that the requests of one batch ask for together.
pub const BATCH_HITS_MAX: usize = 262_144;
/// Deepest nesting of a filter.
pub const FILTER_DEPTH_MAX: usize = 32;
/// Most conditions, values and keys in a filter taken together.
pub const FILTER_TERMS_MAX: usize = 65_536;
/// Most rows in one upsert.
pub const ROWS_MAX: usize = 65_536;

/// A condition on the rows of a tenant. A condition on a list field passes when any element passes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Filter {
    /// All pass. Empty: every row passes.
    And(Vec<Filter>),
    /// At least one passes. Empty: no row passes.
    Or(Vec<Filter>),
    /// The inner condition does not pass.
    Not(Box<Filter>),
    /// The field holds this value.
    Equals {
        /// A payload field.
        field: String,
        /// A value of the field's kind.
        value: Value,
    },
    /// The field holds one of these values.
    In {
        /// A payload field.
        field: String,
        /// Values of the field's kind.
        values: Vec<Value>,
    },
    /// The field holds a value within the bounds given.
    Range {
        /// An integer, float, datetime or keyword field.
        field: String,
        /// Greater than.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gt: Option<Value>,
        /// Greater than or equal to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gte: Option<Value>,
        /// Less than.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lt: Option<Value>,
        /// Less than or equal to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lte: Option<Value>,
    },
    /// The row has a value in this payload field.
    Exists {
        /// A payload field.
        field: String,
    },
    /// The keyword starts with this prefix.
    Prefix {
        /// A keyword field.
        field: String,
        /// Compared by bytes; empty: any value.
        prefix: String,
    },
    /// Every word of the text occurs in the field.
    Match {
        /// A payload text field.
        field: String,
        /// Words, analysed as the field's values were.
        text: String,
    },
    /// The row's key is one of these.
    Keys(Vec<String>),
    /// The row has one of these access labels.
    Labels(Vec<String>),
}

/// What one route looks for. The field's kind says how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteQuery {
    /// The vectors nearest to this one, in a dense field.
    Dense(Vec<f32>),
    /// The largest inner products with this one, in a sparse field.
    Sparse(SparseVector),
    /// In a text field: BM25 of any of these words. In a dense field: the vectors nearest to the text's
    /// embedding, where the database has an embedder.
    Text(String),
}

/// One way of finding candidates; a search runs one or several and fuses them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The field to search.
    pub field: String,
    /// What to look for.
    pub query: RouteQuery,
    /// Candidates this route contributes; 0: the engine's choice, at least `offset + k`.
    #[serde(default)]
    pub candidates: usize,
    /// Its share in fusion, at least 0.
    #[serde(default = "one")]
    pub weight: f32,
}

fn one() -> f32 {
    1.0
}

impl Route {
    /// A dense route of weight 1.
    pub fn dense(field: impl Into<String>, query: Vec<f32>) -> Self {
        Self { field: field.into(), query: RouteQuery::Dense(query), candidates: 0, weight: 1.0 }
    }

    /// A sparse route of weight 1.
    pub fn sparse(field: impl Into<String>, query: SparseVector) -> Self {
        Self { field: field.into(), query: RouteQuery::Sparse(query), candidates: 0, weight: 1.0 }
    }

    /// A text route of weight 1.
    pub fn text(field: impl Into<String>, query: impl Into<String>) -> Self {
        Self { field: field.into(), query: RouteQuery::Text(query.into()), candidates: 0, weight: 1.0 }
    }

    /// Sets the share in fusion.
    pub fn weight(mut self, weight: f32) -> Self {
        self.weight = weight;
        self
    }
}

/// How the candidates of several routes become one ranking. With one route its own score stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fusion {
    /// Reciprocal rank fusion (Cormack, Clarke, Büttcher, 2009): sum of `weight / (k + rank)`, rank from 1.
    Rrf {
        /// Usually 60; larger flattens the ranks. At least 0.
        k: f32,
    },
    /// Convex combination of normalised scores (Bruch, Gai, Ingber, 2023): each route's scores are scaled to
    /// 0..=1 and summed by weight. A candidate that a route did not return is scored by it exactly.
    Weighted,
}

impl Default for Fusion {
    fn default() -> Self {
        Self::Rrf { k: 60.0 }
    }
}

/// Which fields come back with a row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fields {
    /// Text and payload, no vectors.
    #[default]
    Default,
    /// Everything.
    All,
    /// Only key, tenant and chunk.
    None,
    /// These; an unknown name is an error.
    Named(Vec<String>),
}

/// A search over the rows of one tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SearchRequest {
    /// The tenant; empty is the default tenant.
    pub tenant: String,
    /// One or several routes.
    pub routes: Vec<Route>,
    /// How several routes become one ranking.
    pub fusion: Fusion,
    /// Which rows may be found.
    pub filter: Option<Filter>,
    /// On whose behalf: only rows with one of these access labels may be found, whatever the filter says.
    /// Access that is lost while the search runs counts. None: all rows; empty: none.
    pub labels: Option<Vec<String>>,
    /// Hits wanted: 1 to [`K_MAX`] together with `offset`.
    pub k: usize,
    /// Best hits to skip.
    pub offset: usize,
    /// Hits below this final score are left out.
    pub score_threshold: Option<f32>,
    /// Which fields come back.
    pub fields: Fields,
    /// Whether to report counts and times of every stage.
    pub explain: bool,
    /// Share of the true nearest that dense routes are to find, on average: above 0, at most 1. Segments of
    /// few vectors are searched exactly whatever this says.
    pub recall: f32,
    /// Whether dense routes score every vector that the search may see, instead.
    pub exact: bool,
    /// Whether hits of dense routes get exact scores. Without, what was ranked by codes of a byte a dimension
    /// keeps the scores of those, off by a few thousandths, and no vector is read for it: worth it where the
    /// memory budget holds such codes and not the vectors too. Up to half a point less is found. Nothing
    /// changes where there are no such codes.
    pub rescore: bool,
    /// Time allowed, from the call; past it the search fails with
    /// [`ErrorKind::Deadline`](crate::ErrorKind::Deadline).
    pub timeout: Option<Duration>,
}

impl Default for SearchRequest {
    fn default() -> Self {
        Self {
            tenant: String::new(),
            routes: Vec::new(),
            fusion: Fusion::default(),
            filter: None,
            labels: None,
            k: 10,
            offset: 0,
            score_threshold: None,
            fields: Fields::default(),
            explain: false,
            recall: SearchParams::default().recall,
            exact: false,
            rescore: true,
            timeout: None,
        }
    }
}

impl SearchRequest {
    /// The ten best of one route, in the default tenant.
    pub fn new(route: Route) -> Self {
        Self { routes: vec![route], ..Self::default() }
    }

    /// Adds a route.
    pub fn route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// Sets the tenant.
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = tenant.into();
        self
    }

    /// Sets how many hits are wanted.
    pub fn k(mut self, k: usize) -> Self {
        self.k = k;
        self
    }

    /// Sets the filter.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Sets which fields come back.
    pub fn fields(mut self, fields: Fields) -> Self {
        self.fields = fields;
        self
    }
}

/// A page of a tenant's rows, in key order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScrollRequest {
    /// The tenant.
    pub tenant: String,
    /// Only keys after this one: [`ScrollResponse::next`](crate::ScrollResponse::next) of the page before.
    pub after: Option<String>,
    /// Rows a page: 1 to [`K_MAX`].
    pub limit: usize,
    /// Which rows to list.
    pub filter: Option<Filter>,
    /// Which fields come back.
    pub fields: Fields,
}

/// How a document is split and embedded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestOptions {
    /// How the text is split.
    pub chunk: ChunkOptions,
    /// The text field that holds the chunks; none: the schema's first text field.
    pub text_field: Option<String>,
    /// The dense field that the database's embedder fills; none: no vectors.
    pub vector_field: Option<String>,
}
