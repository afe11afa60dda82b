//! The vectors, queries and true neighbours that a command measures: its flags, and whether they fit
//! together.

use std::path::{Path, PathBuf};

use serde::Serialize;
use spandrel::Metric;

use crate::Result;
use crate::ann::{named, positive};
use crate::dataset::{self, Matrix};
use crate::engine::Found;
use crate::recall::{self, Quality};
use crate::truth::Truth;

/// What stands for the path of the true neighbours that are to be computed.
const COMPUTE: &str = "compute";

/// A vector set, by path.
#[derive(clap::Args, Serialize)]
pub struct VectorSet {
    /// Base vectors: fvecs, bvecs, fbin, u8bin or npy (f16, f32), each also as .zst
    #[arg(long)]
    pub base: PathBuf,
    /// Query vectors, in any of these formats
    #[arg(long)]
    queries: PathBuf,
    /// True neighbours: an ibin file, or `compute` for exact ones in f64
    #[arg(long)]
    truth: String,
    /// How vectors are compared: l2, ip or cosine
    #[arg(long, value_parser = named::<Metric>)]
    pub metric: Metric,
    /// Hits a query
    #[arg(long, default_value_t = 10)]
    pub k: usize,
    /// Only the first so many queries
    #[arg(long, value_parser = positive)]
    query_limit: Option<usize>,
    /// Only the first so many base vectors; needs `--truth compute`
    #[arg(long, value_parser = positive)]
    base_limit: Option<usize>,
}

impl VectorSet {
    /// The queries to use.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn queries(&self) -> Result<Matrix> {
        let mut queries = dataset::read(&self.queries)?;
        queries.truncate(self.query_limit.unwrap_or(usize::MAX).min(queries.rows()));
        Ok(queries)
    }

    /// Number of base rows to use, once everything that can be known before a build has been checked.
    ///
    /// # Errors
    /// Files cannot be read or do not fit each other.
    pub fn check(&self, queries: &Matrix) -> Result<usize> {
        let (rows, dim) = dataset::shape(&self.base)?;
        if dim != queries.dim {
            return Err(format!("the base has {dim} dimensions, the queries have {}", queries.dim).into());
        }
        if self.base_limit.is_some() && self.truth != COMPUTE {
            return Err("--base-limit changes the true neighbours: it needs --truth compute".into());
        }
        let rows = rows.min(self.limit());
        if self.truth != COMPUTE {
            self.truth(queries, rows)?;
        }
        Ok(rows)
    }

    /// The true neighbours among the first `rows` of the base.
    ///
    /// # Errors
    /// They cannot be read, or the base cannot.
    pub fn truth(&self, queries: &Matrix, rows: usize) -> Result<Truth> {
        match self.truth.as_str() {
            COMPUTE => Truth::compute(&self.base, self.limit(), queries, self.metric, self.k),
            file => Truth::read(Path::new(file), queries.rows(), self.k, rows),
        }
    }

    /// How good the answers to all queries are.
    ///
    /// # Errors
    /// As [`recall::judge`].
    pub fn judge(&self, queries: &Matrix, truth: &Truth, found: &[Vec<Found>]) -> Result<Quality> {
        recall::judge(&self.base, self.limit(), queries, self.metric, truth, found)
    }

    fn limit(&self) -> usize {
        self.base_limit.unwrap_or(usize::MAX)
    }
}
