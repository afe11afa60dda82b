//! A workload as files, so that a peer is asked the very same questions and judged by the same truth
//! (`bench/peers/tenants.py`).
//!
//! `scope_starts` and `scope_rows` list the rows of each scope, `asks` a query and a scope a line, `truth`
//! the exact scores of the k best, NaN where a scope has fewer. `workload.json` says the rest.

use std::path::Path;

use serde_json::json;
use spandrel::Metric;

use super::npy;
use super::workload::Workload;
use crate::{Error, Result};

const ASKS: &str = "asks.npy";
const TRUTH: &str = "truth.npy";

/// Writes a workload and its truth into a folder of its own in `folder`.
///
/// # Errors
/// The files cannot be written.
pub fn write(folder: &Path, workload: &Workload, truth: &[Vec<f64>], metric: Metric, k: usize) -> Result<()> {
    let folder = folder.join(workload.folder());
    std::fs::create_dir_all(&folder)?;
    let mut starts = vec![0_i64];
    for scope in &workload.scopes {
        starts.push(starts[starts.len() - 1] + i64::try_from(scope.rows.len())?);
    }
    let rows: Vec<u32> = workload.scopes.iter().flat_map(|scope| scope.rows.iter().copied()).collect();
    let score = |scores: &Vec<f64>, at: usize| scores.get(at).copied().unwrap_or(f64::NAN);
    let truth: Vec<f64> = truth.iter().flat_map(|scores| (0..k).map(move |at| score(scores, at))).collect();
    npy::write(&folder.join("scope_starts.npy"), &starts, None)?;
    npy::write(&folder.join("scope_rows.npy"), &rows, None)?;
    npy::write(&folder.join(ASKS), &pairs(workload), Some(2))?;
    npy::write(&folder.join(TRUTH), &truth, Some(k))?;
    let classes: Vec<&str> = workload.scopes.iter().map(|scope| scope.class.as_str()).collect();
    let about = json!({
        "name": workload.name,
        "kind": workload.kind(),
        "classes": classes,
        "k": k,
        "metric": metric,
    });
    std::fs::write(folder.join("workload.json"), about.to_string() + "\n")?;
    println!("wrote {}", folder.display());
    Ok(())
}

/// The truth that [`write`] has written of the same questions.
///
/// # Errors
/// It cannot be read, or is of other questions.
pub fn truth(folder: &Path, workload: &Workload, k: usize) -> Result<Vec<Vec<f64>>> {
    let folder = folder.join(workload.folder());
    let other = || -> Error { format!("{} holds the truth of other questions", folder.display()).into() };
    let asks = npy::integers(&std::fs::read(folder.join(ASKS))?).ok_or_else(other)?;
    let same = asks.iter().copied().eq(pairs(workload).into_iter().map(u64::from));
    let scores = npy::floats(&folder.join(TRUTH))?;
    if !same || scores.len() != workload.asks.len() * k {
        return Err(other());
    }
    let known = |scores: &[f64]| scores.iter().copied().filter(|score| !score.is_nan()).collect();
    Ok(scores.chunks(k).map(known).collect())
}

/// Query and scope of each question, one after the other.
fn pairs(workload: &Workload) -> Vec<u32> {
    workload.asks.iter().flat_map(|(query, scope)| [*query, *scope]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Matrix;

    #[test]
    fn a_truth_is_read_back_for_the_same_questions_alone() {
        let base = Matrix { dim: 2, data: (0..40).map(|at| at as f32).collect() };
        let queries = Matrix { dim: 2, data: vec![1.0, 0.0, 0.5, 1.0] };
        let workload = |asks| Workload::named("uniform:8", &base, &queries, asks, Metric::Ip).unwrap();
        let (mine, folder) = (workload(6), tempfile::tempdir().unwrap());
        let scores = mine.truth(&base, &queries, Metric::Ip, 3);
        assert!(scores.iter().any(|scores| scores.len() < 3), "some scopes have fewer rows than hits");
        write(folder.path(), &mine, &scores, Metric::Ip, 3).unwrap();
        assert_eq!(truth(folder.path(), &mine, 3).unwrap(), scores);
        assert!(truth(folder.path(), &workload(5), 3).is_err());
        assert!(truth(folder.path(), &mine, 2).is_err());
        assert!(folder.path().join("uniform-8/workload.json").is_file());
    }
}
