//! What comes back: plain data.

use serde::Serialize;
use spandrel_storage::Row;

/// One row found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The row with the fields that were asked for.
    pub row: Row,
    /// Final score; larger is better. One route: its own score. Several: the fused score.
    pub score: f32,
    /// What each route, in request order, said of this row; none where the route did not return it.
    pub routes: Vec<Option<RouteScore>>,
}

/// What one route said of a hit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RouteScore {
    /// The route's own score.
    pub score: f32,
    /// Rank in the route, from 1; 0 where fusion asked for the score of a row outside the route's candidates.
    pub rank: u32,
}

/// Why a search returned fewer hits than asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Short {
    /// The tenant has no rows.
    EmptyTenant,
    /// Fewer rows match the filter and the routes.
    FewMatches,
    /// The score threshold left out the rest.
    Threshold,
    /// Rows lost their access labels while the search ran, time and again.
    AccessLost,
}

/// The hits of a search, best first; equal scores in the order their rows were written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SearchResponse {
    /// At most `k` hits after `offset`.
    pub hits: Vec<Hit>,
    /// Set exactly when fewer than `k` hits came back.
    pub short: Option<Short>,
    /// Set when it was asked for.
    pub explain: Option<Explain>,
}

/// Where the time of a search went.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Explain {
    /// Stages in the order they ran.
    pub stages: Vec<Stage>,
    /// Segments searched, in memory and on disk.
    pub segments: u64,
    /// Rows of the tenant that were visible.
    pub tenant_rows: u64,
    /// Whole time in microseconds.
    pub total_us: u64,
}

/// One stage of a search.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stage {
    /// What ran, for example `dense embedding (cells, signs)`: the field, and what its
    /// segments are searched by.
    pub name: String,
    /// Rows that entered.
    pub rows_in: u64,
    /// Rows that left.
    pub rows_out: u64,
    /// Vectors, postings or documents scored.
    pub scored: u64,
    /// Bytes read from disk.
    pub read_bytes: u64,
    /// Time in microseconds.
    pub time_us: u64,
    /// How each segment was searched, by a dense route.
    pub plans: Vec<Planned>,
}

/// How a segment was searched.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Planned {
    /// `exact`: all that may be found are scored; `codes`, `signs`: all are ranked by codes; `cells`,
    /// `graph`: some of them are visited.
    pub plan: String,
    /// Vectors that could be found, as they were counted beforehand.
    pub matches: u64,
    /// The time that was expected, where plans were compared by it.
    pub estimate_us: Option<f32>,
    /// The time that it took.
    pub time_us: f32,
    /// Vectors that got a score or a bound.
    pub scored: u64,
}

/// A page of rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScrollResponse {
    /// Rows in key order.
    pub rows: Vec<Row>,
    /// Pass it as `after` for the next page; none: there is none.
    pub next: Option<String>,
}

/// A row whose text another one had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Its tenant.
    pub tenant: String,
    /// Its key.
    pub key: String,
    /// The key of the row that it is a copy of.
    pub of: String,
    /// Whether both have the same words in the same order; otherwise they are about as similar as the schema
    /// says, or more.
    pub exact: bool,
}

/// Copies that are named in the answer to writes, at most; more are counted.
pub const COPIED_MAX: usize = 16_384;

/// What a write did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Sequence number of the last row written; searches from now on see it.
    pub last_row: u64,
    /// Rows upserted, or rows that were there and are deleted.
    pub rows: u64,
    /// Rows that were copies of others, where the schema has that looked for. Left out, they are not among
    /// `rows`; marked, they are.
    pub copies: u64,
    /// Which, in order: the first [`COPIED_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copied: Vec<Copied>,
}

impl Written {
    /// Takes in what a later write did.
    pub fn add(&mut self, later: Self) {
        self.last_row = later.last_row;
        self.rows += later.rows;
        self.copies += later.copies;
        let room = COPIED_MAX.saturating_sub(self.copied.len());
        self.copied.extend(later.copied.into_iter().take(room));
    }
}

/// Sizes and states of a collection.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CollectionStats {
    /// The collection's name.
    pub name: String,
    /// Live rows.
    pub rows: u64,
    /// Tenants that were ever written to and not dropped.
    pub tenants: u64,
    /// Sequence number of the last write.
    pub last_row: u64,
    /// Segments on disk.
    pub segments: u64,
    /// Rows in segments on disk, the deleted among them included.
    pub segment_rows: u64,
    /// Deleted rows still in segments.
    pub deleted_rows: u64,
    /// Rows searched in memory, not yet in a segment on disk.
    pub memory_rows: u64,
    /// Bytes of segment files.
    pub segment_bytes: u64,
    /// Bytes of memory held by indexes and fresh rows.
    pub memory_bytes: u64,
}

/// Sizes and states of a database.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DatabaseStats {
    /// Collections by name.
    pub collections: Vec<CollectionStats>,
    /// Bytes of the row store on disk.
    pub store_bytes: u64,
    /// How segments are read: `io_uring` or `pread`.
    pub reader: String,
    /// Vector instructions in use: `avx512`, `avx2` or `portable`.
    pub simd: String,
}
