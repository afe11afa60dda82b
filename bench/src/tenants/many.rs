//! Very many tenants: how long the collection takes to open, what an idle tenant costs, and how long the
//! first query of a cold one takes.
//!
//! What a tenant costs is the difference between this many tenants and half as many with the same rows, over
//! the difference in tenants: what the rows take is in both. A cold tenant is one of which nothing is in
//! memory: the collection was opened anew, its files dropped from the page cache, with room for no codes.

use std::path::Path;
use std::time::Instant;

use serde_json::json;
use spandrel::{Database, Metric, Residency, Row, Schema, Settings};
use tempfile::TempDir;

use super::{Args, load, search_for};
use crate::ann::place::forget_pages;
use crate::dataset::Matrix;
use crate::engine::{Process, VECTOR};
use crate::latency::Latency;
use crate::random::Random;
use crate::report::{self, Goal, median};
use crate::{Result, machine};

/// Times the collection is opened.
const OPENS: usize = 5;
/// Cold tenants that are asked, once each.
const COLD: usize = 2_000;
const SEED: u64 = 21;
const OPEN_GOAL_S: f64 = 1.0;
const IDLE_GOAL_BYTES: f64 = 64.0;
const COLD_GOAL_US: f64 = 1_000.0;

/// What a collection of so many tenants costs.
struct Opened {
    open_s: f64,
    memory_bytes: f64,
    grown_bytes: f64,
}

/// Measures `tenants` tenants that have `rows` rows together: the vectors of the base, time and again.
///
/// # Errors
/// The engine fails.
pub fn measure(
    args: &Args,
    (tenants, rows): (usize, usize),
    base: &Matrix,
    queries: &Matrix,
) -> Result<(Vec<report::Row>, Vec<Goal>)> {
    let rows = rows.max(tenants);
    let half = TempDir::new()?;
    build(args.metric, half.path(), (tenants / 2, rows), base)?;
    let fewer = open(half.path())?;
    drop(half);
    let folder = TempDir::new()?;
    let build_s = build(args.metric, folder.path(), (tenants, rows), base)?;
    let opened = open(folder.path())?;
    let more = (tenants - tenants / 2) as f64;
    let idle_bytes = (opened.memory_bytes - fewer.memory_bytes) / more;
    let cold = cold(args, folder.path(), (tenants, rows), queries)?;
    let name = format!("many:{tenants}:{rows}");
    let row = report::row(json!({
        "workload": name,
        "class": "cold",
        "tenants": tenants,
        "asks": COLD.min(tenants),
        "rows_mean": rows as f64 / tenants as f64,
        "p50_us": cold.quantile_us(0.5),
        "p99_us": cold.quantile_us(0.99),
        "memory_mb": opened.memory_bytes / f64::from(1 << 20),
        "memory_grown_mb": opened.grown_bytes / f64::from(1 << 20),
        "idle_bytes": idle_bytes,
        "build_s": build_s,
        "open_s": opened.open_s,
    }))?;
    let at_most = |what: &str, value: f64, goal: f64| Goal::at_most(format!("{name}: {what}"), value, goal);
    let goals = vec![
        at_most("time to open, s", opened.open_s, OPEN_GOAL_S),
        at_most("bytes an idle tenant", idle_bytes, IDLE_GOAL_BYTES),
        at_most("p50 of a cold tenant's first query, us", cold.quantile_us(0.5), COLD_GOAL_US),
    ];
    Ok((vec![row], goals))
}

fn settings() -> Settings {
    Settings { learn_from_queries: false, residency: Residency::Lean, ..Settings::default() }
}

fn name(tenant: usize) -> String {
    format!("tenant-{tenant:06}")
}

fn build(metric: Metric, folder: &Path, (tenants, rows): (usize, usize), base: &Matrix) -> Result<f64> {
    let begin = Instant::now();
    let database = Database::open(folder, settings())?;
    let schema = Schema::new().dense(VECTOR, u32::try_from(base.dim)?, metric);
    let collection = database.create_collection("bench", schema)?;
    load(&collection, rows, |at| {
        let vector = base.row(at % base.rows()).to_vec();
        Row::new(at.to_string()).tenant(name(at % tenants)).dense(VECTOR, vector)
    })?;
    collection.optimize()?;
    database.close()?;
    Ok(begin.elapsed().as_secs_f64())
}

fn open(folder: &Path) -> Result<Opened> {
    let (mut times, mut memory_bytes) = (Vec::new(), 0.0);
    let rss = || machine::memory(Process::This).map_or(f64::NAN, |memory| memory.rss_mb * f64::from(1 << 20));
    let (before, mut grown_bytes) = (rss(), 0.0);
    for _ in 0..OPENS {
        let begin = Instant::now();
        let database = Database::open(folder, settings())?;
        times.push(begin.elapsed().as_secs_f64());
        memory_bytes = database.collection("bench")?.stats()?.memory_bytes as f64;
        grown_bytes = rss() - before;
    }
    Ok(Opened { open_s: median(&times), memory_bytes, grown_bytes })
}

/// Times of the first queries of tenants.
fn cold(args: &Args, folder: &Path, (tenants, rows): (usize, usize), queries: &Matrix) -> Result<Latency> {
    forget_pages(folder)?;
    let database = Database::open(folder, settings())?;
    let collection = database.collection("bench")?;
    let (mut random, mut latency) = (Random(SEED), Latency::new()?);
    let each = rows / tenants;
    for at in 0..COLD.min(tenants) {
        let step = tenants / COLD.min(tenants);
        let tenant = at * step + random.below(step);
        let query = queries.row(at % queries.rows());
        let request = search_for(query, (args.k, args.recall)).tenant(name(tenant));
        let begin = Instant::now();
        let answer = collection.search(&request)?;
        latency.record(begin.elapsed());
        if answer.hits.len() < each.min(args.k) {
            return Err(format!("tenant {tenant} has {each} rows, {} were found", answer.hits.len()).into());
        }
    }
    Ok(latency)
}
