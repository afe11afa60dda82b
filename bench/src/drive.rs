//! Runs a set of queries through an engine on several threads and measures it.
//!
//! Closed loop: each thread has its own share of the calls and its own connection, and starts its next call
//! when the one before has answered. Requests are made before the clock starts; warm-up calls are not
//! counted.

use std::sync::{PoisonError, RwLock, mpsc};
use std::time::Instant;

use crate::dataset::Matrix;
use crate::engine::{Engine, Found, Searcher, Wanted};
use crate::latency::Latency;
use crate::{Error, Result};

/// How a set of queries is sent.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What a query asks for.
    pub wanted: Wanted,
    /// Threads that send calls, at least 1.
    pub threads: usize,
    /// Queries a call, at least 1.
    pub batch: usize,
    /// Queries each thread sends before the clock starts.
    pub warm_up: usize,
}

/// What one pass over the queries gave.
pub struct Pass {
    /// Queries a second of wall time, all threads together.
    pub qps: f64,
    /// Time of each call.
    pub latency: Latency,
    /// Hits of each query, in query order.
    pub found: Vec<Vec<Found>>,
}

/// One thread's share: numbers of its calls, their times and hits.
struct Share {
    latency: Latency,
    found: Vec<(usize, Vec<Vec<Found>>)>,
}

/// Sends every query once.
///
/// # Errors
/// The first failure of a call.
pub fn pass(engine: &dyn Engine, queries: &Matrix, load: Load) -> Result<Pass> {
    let starts: Vec<usize> = (0..queries.rows()).step_by(load.batch).collect();
    let threads = load.threads.min(starts.len());
    let mut searchers = Vec::new();
    for thread in 0..threads {
        let calls: Vec<Vec<&[f32]>> = starts[thread..]
            .iter()
            .step_by(threads)
            .map(|&start| (start..queries.rows().min(start + load.batch)).map(|at| queries.row(at)).collect())
            .collect();
        searchers.push((calls.len(), engine.searcher(&calls, load.wanted)?));
    }
    let gate = RwLock::new(());
    let (shares, wall) = std::thread::scope(|scope| {
        let closed = gate.write().unwrap_or_else(PoisonError::into_inner);
        let (sender, ready) = mpsc::channel();
        let workers: Vec<_> = searchers
            .iter_mut()
            .map(|(calls, searcher)| {
                let (warm, gate) = (Ready(sender.clone()), &gate);
                scope.spawn(move || work(searcher.as_mut(), *calls, load, warm, gate))
            })
            .collect();
        ready.iter().take(threads).for_each(drop);
        drop(closed);
        let begin = Instant::now();
        let shares: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        (shares, begin.elapsed())
    });
    let mut latency = Latency::new()?;
    let mut found = vec![Vec::new(); starts.len()];
    for (thread, share) in shares.into_iter().enumerate() {
        let share = share.map_err(|_| Error::from("a search thread panicked"))??;
        latency.add(&share.latency)?;
        for (call, hits) in share.found {
            found[thread + call * threads] = hits;
        }
    }
    let qps = queries.rows() as f64 / wall.as_secs_f64();
    Ok(Pass { qps, latency, found: found.into_iter().flatten().collect() })
}

/// Says that its thread is warm when it is dropped, by a failure or a panic too: nobody waits for ever.
struct Ready(mpsc::Sender<()>);

impl Drop for Ready {
    fn drop(&mut self) {
        // The receiver is gone only when the pass has ended.
        let _ = self.0.send(());
    }
}

fn work(
    searcher: &mut dyn Searcher,
    calls: usize,
    load: Load,
    warm: Ready,
    gate: &RwLock<()>,
) -> Result<Share> {
    let warm_up = load.warm_up.div_ceil(load.batch).min(calls);
    (0..warm_up).try_for_each(|call| searcher.call(call).map(drop))?;
    drop(warm);
    let _open = gate.read().unwrap_or_else(PoisonError::into_inner);
    let mut share = Share { latency: Latency::new()?, found: Vec::with_capacity(calls) };
    for call in 0..calls {
        let begin = Instant::now();
        let hits = searcher.call(call)?;
        share.latency.record(begin.elapsed());
        share.found.push((call, hits));
    }
    Ok(share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::Echo;

    const ONE: Wanted = Wanted::new(1, None);

    fn queries(rows: usize) -> Matrix {
        Matrix { dim: 2, data: (0..rows).flat_map(|row| [row as f32, 0.0]).collect() }
    }

    #[test]
    fn every_query_is_answered_in_its_place() {
        for (rows, threads, batch) in [(1, 4, 8), (10, 3, 4), (64, 2, 1), (33, 2, 32)] {
            let load = Load { wanted: ONE, threads, batch, warm_up: 5 };
            let pass = pass(&Echo::default(), &queries(rows), load).unwrap();
            let found: Vec<u32> = pass.found.iter().map(|hits| hits[0].row).collect();
            assert_eq!(found, (0..rows as u32).collect::<Vec<_>>());
            assert!(pass.qps > 0.0);
        }
    }

    #[test]
    fn a_failing_thread_ends_the_pass() {
        let load = Load { wanted: ONE, threads: 3, batch: 1, warm_up: 5 };
        let engine = Echo { fails_at: Some(4) };
        assert!(pass(&engine, &queries(9), load).is_err());
    }
}
