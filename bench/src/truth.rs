//! Exact neighbours of every query: read from an ibin file, or computed in f64 by streaming the base once.
//!
//! Computing costs `queries * rows * dim` multiplications on all cores and `queries * k` memory beside one
//! chunk of the base.

use std::cmp::Ordering;
use std::path::Path;

use rayon::prelude::*;
use spandrel::Metric;
use spandrel::import::read_ibin;

use crate::Result;
use crate::dataset::{self, Matrix};
use crate::exact::Exact;

/// The rows nearest to each query, best first. Shorter than `k` only where the base is smaller or the file
/// pads.
pub struct Truth {
    /// One list a query.
    pub rows: Vec<Vec<u32>>,
}

impl Truth {
    /// Reads the first `k` columns of an ibin file with at least `queries` rows; -1 pads.
    ///
    /// # Errors
    /// The file cannot be read, is too small, or names a row that is not in `0..base_rows`.
    pub fn read(path: &Path, queries: usize, k: usize, base_rows: usize) -> Result<Self> {
        let (width, neighbours) = read_ibin(path)?;
        let (name, lists) = (path.display(), neighbours.len() / width.max(1));
        if lists < queries || width < k {
            return Err(format!(
                "{name} has {lists} queries x {width} neighbours, but {queries} x {k} are needed; ask for a \
                 smaller --k or use --truth compute"
            )
            .into());
        }
        let mut rows = Vec::with_capacity(queries);
        for line in neighbours.chunks_exact(width.max(1)).take(queries) {
            let list: Vec<u32> = line[..k].iter().filter_map(|&row| u32::try_from(row).ok()).collect();
            if let Some(row) = list.iter().find(|&&row| row as usize >= base_rows) {
                return Err(format!("{name} names row {row}, but the base has {base_rows} rows").into());
            }
            rows.push(list);
        }
        Ok(Self { rows })
    }

    /// Computes the `k` best rows of each query; equal scores in row order.
    ///
    /// # Errors
    /// The base cannot be read or has another dimension than the queries.
    pub fn compute(base: &Path, limit: usize, queries: &Matrix, metric: Metric, k: usize) -> Result<Self> {
        let wide = widen(queries);
        let mut best: Vec<Vec<(f64, u32)>> = vec![Vec::new(); wide.len()];
        dataset::chunks(base, limit, |first, chunk| {
            check_dim(chunk, queries)?;
            let rows = widen(chunk);
            best.par_iter_mut().zip(&wide).for_each(|(best, query)| {
                let scores = rows.iter().enumerate().map(|(at, row)| (query.score(row, metric), first + at));
                let floor = if best.len() == k { best[k - 1].0 } else { f64::NEG_INFINITY };
                best.extend(
                    scores.filter(|(score, _)| *score > floor).map(|(score, row)| (score, row as u32)),
                );
                best.sort_unstable_by(better);
                best.truncate(k);
            });
            Ok(())
        })?;
        let rows = best.into_iter().map(|list| list.into_iter().map(|(_, row)| row).collect()).collect();
        Ok(Self { rows })
    }
}

/// Best first; equal scores in row order.
fn better(a: &(f64, u32), b: &(f64, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Exact scores of the listed rows: `lists[q]` are rows of the base to score for query `q`. Streams the base
/// once.
///
/// # Errors
/// As [`Truth::compute`], and when a row is not in the base.
pub fn scores(
    base: &Path,
    limit: usize,
    queries: &Matrix,
    metric: Metric,
    lists: &[Vec<u32>],
) -> Result<Vec<Vec<f64>>> {
    let wide = widen(queries);
    let mut wanted: Vec<(u32, usize, usize)> = Vec::new();
    for (query, list) in lists.iter().enumerate() {
        wanted.extend(list.iter().enumerate().map(|(at, &row)| (row, query, at)));
    }
    wanted.sort_unstable();
    let mut scores: Vec<Vec<f64>> = lists.iter().map(|list| vec![f64::NAN; list.len()]).collect();
    let mut next = 0;
    dataset::chunks(base, limit, |first, chunk| {
        check_dim(chunk, queries)?;
        while let Some(&(row, query, at)) = wanted.get(next) {
            let Some(vector) = (row as usize).checked_sub(first).filter(|&at| at < chunk.rows()) else {
                break;
            };
            scores[query][at] = wide[query].score(&Exact::new(chunk.row(vector)), metric);
            next += 1;
        }
        Ok(())
    })?;
    match wanted.get(next) {
        Some((row, ..)) => Err(format!("row {row} is not in {}", base.display()).into()),
        None => Ok(scores),
    }
}

fn widen(vectors: &Matrix) -> Vec<Exact> {
    (0..vectors.rows()).into_par_iter().map(|at| Exact::new(vectors.row(at))).collect()
}

fn check_dim(base: &Matrix, queries: &Matrix) -> Result<()> {
    if base.dim == queries.dim {
        return Ok(());
    }
    Err(format!("the base has {} dimensions, the queries have {}", base.dim, queries.dim).into())
}
