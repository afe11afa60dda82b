//! Settings are data, components are objects: what the engine is told when a database is opened.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use spandrel_index::dense::ssd::Tier;
use spandrel_index::segment::{Merge, Plan};

use crate::error::{Error, Result};
use crate::rag::embed::Embedder;
use crate::rag::kv::KvSettings;
use crate::rag::rerank::{ContextScorer, Reranker};

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// After it is on disk (fsync). Nothing acknowledged is ever lost.
    #[default]
    Sync,
    /// After the operating system has it; a power loss may lose the last moments, a crash of the process does
    /// not.
    Buffered,
}

/// How much of the cells over dense vectors is kept in memory, at most: docs/dense.md has a table of what
/// each costs. The memory budget bounds it in any case: what has no room in it takes the next lesser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Residency {
    /// As much as the memory budget has room for.
    #[default]
    Auto,
    /// Centroids only; codes and vectors are read from disk.
    Lean,
    /// Short codes; vectors are read from disk.
    Default,
    /// Long codes and the vectors; where there is no room for both, the vectors with short codes, or else
    /// long codes: what `Auto` takes first.
    Hot,
}

impl Residency {
    pub(crate) fn tier_max(self) -> Tier {
        match self {
            Self::Auto | Self::Hot => Tier::Hot,
            Self::Default => Tier::Default,
            Self::Lean => Tier::Lean,
        }
    }
}

/// How a database behaves. Every value has a default that suits a laptop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// When a write is acknowledged.
    pub durability: Durability,
    /// Caps the dense vectors of segments, and the cells, graphs or sign codes over them, that are kept in
    /// memory, in bytes; vectors beyond it are read from disk when they are scored. What they leave of it
    /// holds pages that searches read lately. Text, sparse and payload indexes, fresh rows and the caches of
    /// rows and filters come on top.
    pub memory_budget_bytes: u64,
    /// Holds cells to less memory than the budget has room for.
    pub residency: Residency,
    /// Fresh rows a collection holds in memory before they are built into a segment on disk.
    pub fresh_rows_max: usize,
    /// Bytes of fresh rows a collection holds in memory before they are built into a segment on disk.
    pub fresh_bytes_max: u64,
    /// Bytes of fresh rows at which writers wait for the maintainer.
    pub backlog_bytes_max: u64,
    /// Threads that build a segment's index; 0: as many as the machine runs at once.
    pub build_threads: usize,
    /// Memory that the build of a segment's cells may take, in bytes, about: what needs more is built on
    /// disk, which takes longer. At the least, and besides this, 100 bytes a vector.
    pub build_memory_bytes: u64,
    /// Whether a sample of queries is kept in memory to measure segments by, so that the recall asked for is
    /// found for queries of their kind.
    pub learn_from_queries: bool,
    /// Bytes of memory for what filters let through that are asked again and again, all collections together;
    /// 0: every filter is evaluated anew.
    pub filter_cache_bytes: u64,
    /// Bytes of memory for answers of retrievals, given again to the same request while nothing is written;
    /// 0: none are kept.
    pub result_cache_bytes: u64,
    /// Cache of the row store, in bytes.
    pub row_cache_bytes: u64,
    /// Bytes of rows that one answer may hold; a request whose rows have more is refused.
    pub response_bytes_max: u64,
    /// Bounds of the catalogue of chunk caches that LLM servers keep; none: there is no catalogue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_caches: Option<KvSettings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            durability: Durability::Sync,
            memory_budget_bytes: 1 << 30,
            residency: Residency::Auto,
            fresh_rows_max: 16_384,
            fresh_bytes_max: 64 << 20,
            backlog_bytes_max: 512 << 20,
            build_threads: 0,
            build_memory_bytes: 2 << 30,
            learn_from_queries: true,
            filter_cache_bytes: 32 << 20,
            result_cache_bytes: 0,
            row_cache_bytes: 64 << 20,
            response_bytes_max: 256 << 20,
            chunk_caches: None,
        }
    }
}

impl Settings {
    /// Checks that the values can work together.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) naming the setting.
    pub fn check(&self) -> Result<()> {
        if self.fresh_rows_max == 0 || self.fresh_rows_max > FRESH_ROWS_LIMIT {
            return Err(Error::invalid(format!(
                "fresh_rows_max is {}; it must be 1 to {FRESH_ROWS_LIMIT}",
                self.fresh_rows_max
            )));
        }
        if self.fresh_bytes_max == 0 || self.backlog_bytes_max < self.fresh_bytes_max {
            return Err(Error::invalid(format!(
                "backlog_bytes_max ({}) must be at least fresh_bytes_max ({}), which must not be 0",
                self.backlog_bytes_max, self.fresh_bytes_max
            )));
        }
        let chunk_caches = self.chunk_caches.as_ref().map_or(Ok(()), KvSettings::check);
        chunk_caches.map_err(|error| error.context("chunk_caches"))
    }
}

impl Settings {
    /// How a segment is built.
    pub(crate) fn plan<'a>(&self, merge: Option<Merge<'a>>) -> Plan<'a> {
        Plan {
            threads: self.build_threads,
            cells: true,
            merge,
            like: None,
            coded: &[],
            memory_bytes: self.build_memory_bytes,
        }
    }
}

/// Largest [`Settings::fresh_rows_max`].
const FRESH_ROWS_LIMIT: usize = 4_000_000;

/// Objects the caller supplies.
#[derive(Clone, Default)]
pub struct Components {
    /// Turns text into vectors for dense fields; none: vectors come from the caller.
    pub embedder: Option<Arc<dyn Embedder>>,
    /// Judges texts, for the post stages `rerank` and `rerank_pairs`.
    pub reranker: Option<Arc<dyn Reranker>>,
    /// Judges whole contexts, for selections whose sets are worth what it says.
    pub context_scorer: Option<Arc<dyn ContextScorer>>,
}
