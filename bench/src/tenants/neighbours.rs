//! What a tenant notices of another that asks as fast as it can: alone, beside it without a quota, and beside
//! it with one.
//!
//! The busy tenant has as many callers as there are CPUs, each of which asks again at once, and waits a
//! millisecond where it was refused; the calm one asks a hundred times a second. The three phases take turns.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use spandrel::{Database, ErrorKind, Quota, Row, Schema, SearchRequest, Settings};
use tempfile::TempDir;

use super::{Args, load, search_for};
use crate::Result;
use crate::dataset::Matrix;
use crate::engine::VECTOR;
use crate::latency::Latency;
use crate::report::{self, Goal, median};

/// Rounds of all phases, and how long one lasts.
const ROUNDS: usize = 5;
const PHASE: Duration = Duration::from_secs(4);
/// Pause between two queries of the calm tenant, and of a caller that was refused.
const PAUSE: Duration = Duration::from_micros(500);
const REFUSED_PAUSE: Duration = Duration::from_millis(1);
/// What the busy tenant may ask.
const QUOTA: Quota =
    Quota { queries_per_second: Some(1_000.0), in_flight_max: Some(1), rows_max: None, bytes_max: None };
const P99_GOAL: f64 = 2.0;

/// What the calm tenant saw in a phase, and how many queries the busy one had answered and refused.
struct Phase {
    p50_us: f64,
    p99_us: f64,
    asks: usize,
    busy_per_s: f64,
    refused_per_s: f64,
}

/// Measures two tenants that share the rows of the base.
///
/// # Errors
/// The engine fails.
pub fn measure(args: &Args, base: &Matrix, queries: &Matrix) -> Result<(Vec<report::Row>, Vec<Goal>)> {
    let folder = TempDir::new()?;
    let database =
        Database::open(folder.path(), Settings { learn_from_queries: false, ..Settings::default() })?;
    let schema = Schema::new().dense(VECTOR, u32::try_from(base.dim)?, args.metric);
    let collection = database.create_collection("bench", schema)?;
    load(&collection, base.rows(), |at| {
        let tenant = if at.is_multiple_of(2) { "calm" } else { "busy" };
        Row::new(at.to_string()).tenant(tenant).dense(VECTOR, base.row(at).to_vec())
    })?;
    collection.optimize()?;
    let request = |tenant: &str, at: usize| {
        search_for(queries.row(at % queries.rows()), (args.k, args.recall)).tenant(tenant)
    };
    let of = |tenant: &str| -> Vec<SearchRequest> { (0..1_000).map(|at| request(tenant, at)).collect() };
    let (calm, busy) = (of("calm"), of("busy"));
    let callers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let phase = |callers: usize| -> Result<Phase> {
        let (end, answered, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        let begin = Instant::now();
        let (latency, asks) = std::thread::scope(|scope| -> Result<(Latency, usize)> {
            for caller in 0..callers {
                let (end, answered, refused, busy, collection) =
                    (&end, &answered, &refused, &busy, &collection);
                scope.spawn(move || {
                    for request in busy.iter().cycle().skip(caller * 100) {
                        if end.load(Ordering::Relaxed) {
                            return;
                        }
                        match collection.search(request) {
                            Ok(_) => answered.fetch_add(1, Ordering::Relaxed),
                            Err(error) if error.kind() == ErrorKind::Exhausted => {
                                std::thread::sleep(REFUSED_PAUSE);
                                refused.fetch_add(1, Ordering::Relaxed)
                            }
                            // Seen in that the calm tenant is alone.
                            Err(_) => return,
                        };
                    }
                });
            }
            let (mut latency, mut asks) = (Latency::new()?, 0);
            while begin.elapsed() < PHASE {
                let at = Instant::now();
                let answer = collection.search(&calm[asks % calm.len()]);
                latency.record(at.elapsed());
                if answer.is_err() {
                    end.store(true, Ordering::Relaxed);
                }
                answer?;
                asks += 1;
                std::thread::sleep(PAUSE);
            }
            end.store(true, Ordering::Relaxed);
            Ok((latency, asks))
        })?;
        let seconds = begin.elapsed().as_secs_f64();
        Ok(Phase {
            p50_us: latency.quantile_us(0.5),
            p99_us: latency.quantile_us(0.99),
            asks,
            busy_per_s: answered.into_inner() as f64 / seconds,
            refused_per_s: refused.into_inner() as f64 / seconds,
        })
    };
    let names = ["alone", "beside a busy tenant", "beside one with a quota"];
    let mut phases: [Vec<Phase>; 3] = Default::default();
    for _ in 0..ROUNDS {
        phases[0].push(phase(0)?);
        phases[1].push(phase(callers)?);
        collection.set_quota("busy", Some(QUOTA))?;
        phases[2].push(phase(callers)?);
        collection.set_quota("busy", None)?;
    }
    let ratio = |of: &[Phase]| {
        let ratios: Vec<f64> =
            of.iter().zip(&phases[0]).map(|(of, alone)| of.p99_us / alone.p99_us).collect();
        median(&ratios)
    };
    let what = "p99 beside a busy tenant with a quota, times that alone";
    let goals = vec![Goal::at_most(what, ratio(&phases[2]), P99_GOAL)];
    let rows = names.iter().zip(&phases).map(|(name, of)| {
        let middle = |value: fn(&Phase) -> f64| median(&of.iter().map(value).collect::<Vec<_>>());
        report::row(json!({
            "workload": "neighbours",
            "class": name,
            "asks": of.iter().map(|phase| phase.asks).sum::<usize>(),
            "p50_us": middle(|phase| phase.p50_us),
            "p99_us": middle(|phase| phase.p99_us),
            "p99_by_alone": ratio(of),
            "busy_per_s": middle(|phase| phase.busy_per_s),
            "refused_per_s": middle(|phase| phase.refused_per_s),
        }))
    });
    Ok((rows.collect::<Result<_>>()?, goals))
}
