//! What writes cost: rows with labels, grants, revokes, and the drop of a tenant, all of them durable when
//! they are acknowledged.

use std::time::Instant;

use serde_json::json;
use spandrel::{Database, Row, Schema, Settings};
use tempfile::TempDir;

use super::{Args, load};
use crate::dataset::Matrix;
use crate::engine::VECTOR;
use crate::random::Random;
use crate::report::{self, Goal, median};
use crate::{Error, Result};

/// Rows of a call.
const BATCH: usize = 256;
/// Rows that are inserted, granted to and revoked from; and calls with one row.
const ROWS: usize = 20_480;
const SINGLE: usize = 200;
/// Labels that rows are given, three each.
const LABELS: usize = 1_000;
/// Tenants that are dropped, and the rows of each.
const DROPS: usize = 5;
const DROPPED_ROWS: usize = 10_000;
const SEED: u64 = 22;
const WRITE_GOAL_US: f64 = 50.0;
const DROP_GOAL_MS: f64 = 10.0;

/// Measures writes into a collection of the base.
///
/// # Errors
/// The engine fails.
pub fn measure(args: &Args, base: &Matrix) -> Result<(Vec<report::Row>, Vec<Goal>)> {
    let folder = TempDir::new()?;
    let database = Database::open(folder.path(), Settings::default())?;
    let schema = Schema::new().dense(VECTOR, u32::try_from(base.dim)?, args.metric);
    let collection = database.create_collection("bench", schema)?;
    let mut random = Random(SEED);
    let mut row = |at: usize, tenant: String| {
        let mut row =
            Row::new(at.to_string()).tenant(tenant).dense(VECTOR, base.row(at % base.rows()).to_vec());
        row.labels = (0..3).map(|_| format!("label-{}", random.below(LABELS))).collect();
        row
    };
    load(&collection, base.rows(), |at| row(at, format!("t{}", at % 100)))?;
    for drop in 0..DROPS {
        load(&collection, DROPPED_ROWS, |at| row(at, format!("drop-{drop}")))?;
    }
    collection.settle()?;
    let keys = |start: usize, count: usize| -> Vec<String> {
        (start..start + count).map(|at| (base.rows() + at).to_string()).collect()
    };
    let mut points: Vec<(&str, usize, Vec<f64>)> = Vec::new();
    let label = ["label-new".to_owned()];
    for (single, calls, count) in [(false, ROWS / BATCH, BATCH), (true, SINGLE, 1)] {
        let first = if single { ROWS } else { 0 };
        let mut measured = |what: &'static str, run: &mut dyn FnMut(usize) -> Result<()>| -> Result<()> {
            let mut times = Vec::with_capacity(calls);
            for call in 0..calls {
                let begin = Instant::now();
                run(first + call * count)?;
                times.push(begin.elapsed().as_secs_f64() * 1e6);
            }
            points.push((what, count, times));
            Ok(())
        };
        let mut batches: Vec<Vec<Row>> = (0..calls)
            .map(|call| {
                let start = base.rows() + first + call * count;
                (start..start + count).map(|at| row(at, "new".to_owned())).collect()
            })
            .rev()
            .collect();
        measured("insert with labels", &mut |_| {
            collection.upsert(batches.pop().unwrap_or_default())?;
            Ok(())
        })?;
        measured("grant", &mut |at| {
            collection.grant("new", &keys(at, count), &label)?;
            Ok(())
        })?;
        measured("revoke", &mut |at| {
            collection.revoke("new", &keys(at, count), &label)?;
            Ok(())
        })?;
    }
    let mut drops = Vec::new();
    for drop in 0..DROPS {
        let begin = Instant::now();
        let dropped = collection.drop_tenant(&format!("drop-{drop}"))?;
        drops.push(begin.elapsed().as_secs_f64() * 1e6);
        if dropped.rows != DROPPED_ROWS as u64 {
            return Err(Error::from(format!("{} rows were dropped, not {DROPPED_ROWS}", dropped.rows)));
        }
    }
    points.push(("drop of a tenant", DROPPED_ROWS, drops));
    let mut goals = Vec::new();
    for (what, count, times) in &points {
        let (mean, middle) = (times.iter().sum::<f64>() / times.len() as f64, median(times));
        if *count == DROPPED_ROWS {
            let what = format!("drop of a tenant of {count} rows, median ms");
            goals.push(Goal::at_most(what, middle / 1e3, DROP_GOAL_MS));
        } else if *count == BATCH {
            let what = format!("{what}, us a row in calls of {count}");
            goals.push(Goal::at_most(what, mean / *count as f64, WRITE_GOAL_US));
        }
    }
    let rows = points.into_iter().map(|(what, count, times)| {
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        report::row(json!({
            "workload": "writes",
            "class": format!("{what}, {count} rows a call"),
            "asks": times.len(),
            "rows_mean": count,
            "p50_us": median(&times),
            "mean_us": mean,
            "row_us": mean / count as f64,
        }))
    });
    Ok((rows.collect::<Result<_>>()?, goals))
}
