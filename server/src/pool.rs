//! The hand-off from async handlers to the synchronous engine: how many calls run, how many wait, and which
//! never start.
//!
//! A call waits in a queue of bounded length, then runs on a blocking thread; at most `threads` of a pool run
//! at once. Dropping the future of a waiting call (its client went away) takes it out of the queue without a
//! trace; a call whose deadline passes while it waits is answered and never started. A call that runs is
//! answered at the deadline; its thread is counted until it returns, soon after, since the engine is told to
//! give up. Panics become INTERNAL.
//!
//! Reads, writes, all rows of a tenant at once (bulk), administration, upkeep (flush and backup) and
//! statistics have a pool each, so that writers that wait for a disk or for the maintainer do not hold up
//! searches, and nobody waits behind what takes minutes but the next of its kind. Order is first come, first
//! served. Cost: two semaphores and one thread hand-off, about 10 us.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::status;

/// When an answer is no longer wanted; none: whenever it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Whenever it comes.
    pub const NONE: Self = Self(None);

    /// `timeout` from now; none where that is beyond what a clock can say.
    pub fn after(timeout: Duration) -> Self {
        Self(Instant::now().checked_add(timeout))
    }

    /// The earlier of two.
    pub fn or_sooner(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(one), Some(two)) => Self(Some(one.min(two))),
            (one, two) => Self(one.or(two)),
        }
    }

    /// The moment itself; none where there is no deadline.
    pub fn instant(self) -> Option<Instant> {
        self.0
    }

    /// Time left; none where there is no deadline; zero when it has passed.
    pub fn left(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        self.left() == Some(Duration::ZERO)
    }

    /// Waits for it; for ever where there is none.
    pub async fn passed(self) {
        match self.0 {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }
}

/// A bounded number of engine calls.
#[derive(Clone)]
pub struct Pool {
    name: &'static str,
    threads: usize,
    queue_max: usize,
    running: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    panics: Counter,
}

impl Pool {
    /// A pool that runs `threads` calls at once (at least 1), lets `queue_max` wait, and counts calls that
    /// panic in `panics`.
    pub fn new(name: &'static str, threads: usize, queue_max: usize, panics: Counter) -> Self {
        let threads = threads.clamp(1, Semaphore::MAX_PERMITS);
        let queue_max = queue_max.min(Semaphore::MAX_PERMITS - threads);
        Self {
            name,
            threads,
            queue_max,
            running: Arc::new(Semaphore::new(threads)),
            // Who runs has left the queue, but enters through it: room for both.
            queue: Arc::new(Semaphore::new(queue_max + threads)),
            panics,
        }
    }

    /// Runs `work` on a thread of the pool.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when the queue is full, DEADLINE_EXCEEDED, INTERNAL when `work` panics, or `work`'s
    /// own error.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Deadline,
        work: impl FnOnce() -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let Ok(place) = Arc::clone(&self.queue).try_acquire_owned() else {
            return Err(Status::resource_exhausted(format!(
                "{} calls already run or wait in the {} pool (pool.queue_max is {}); retry later",
                self.queue_max + self.threads,
                self.name,
                self.queue_max
            )));
        };
        self.run_in(place, deadline, work).await
    }

    /// As [`Self::run`], but waits for room in the queue: for streams, which flow control holds back
    /// meanwhile.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED, INTERNAL when `work` panics, or `work`'s own error.
    pub async fn run_patiently<T: Send + 'static>(
        &self,
        deadline: Deadline,
        work: impl FnOnce() -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let place = tokio::select! {
            place = Arc::clone(&self.queue).acquire_owned() => place,
            () = deadline.passed() => return Err(expired("before there was room in the queue")),
        };
        let place = place.map_err(|_| Status::unavailable("the server is shutting down"))?;
        self.run_in(place, deadline, work).await
    }

    async fn run_in<T: Send + 'static>(
        &self,
        place: OwnedSemaphorePermit,
        deadline: Deadline,
        work: impl FnOnce() -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        // Checked first: a permit that is free wins a race against a timer that has already fired.
        if deadline.has_passed() {
            return Err(expired("before the request was started"));
        }
        let running = tokio::select! {
            running = Arc::clone(&self.running).acquire_owned() => running,
            () = deadline.passed() => return Err(expired("while the request waited for a thread")),
        };
        let running = running.map_err(|_| Status::unavailable("the server is shutting down"))?;
        let panics = self.panics.clone();
        let handle = tokio::task::spawn_blocking(move || {
            let _held = (running, place);
            std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
                panics.inc();
                Err(status::panicked(&*panic))
            })
        });
        tokio::select! {
            result = handle => result.unwrap_or_else(|error| Err(status::internal(&error))),
            () = deadline.passed() => Err(expired("while the request ran")),
        }
    }

    /// Calls that run, and calls that wait.
    pub fn load(&self) -> (usize, usize) {
        let running = self.threads.saturating_sub(self.running.available_permits());
        let inside = (self.queue_max + self.threads).saturating_sub(self.queue.available_permits());
        (running, inside.saturating_sub(running))
    }

    /// The pool's name, for metrics.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Waits until no call runs and lets none start any more.
    pub async fn drain(&self) {
        let all = u32::try_from(self.threads).unwrap_or(u32::MAX);
        // The error says that it was drained before.
        let _all = self.running.acquire_many(all).await;
        self.running.close();
        self.queue.close();
    }
}

/// DEADLINE_EXCEEDED.
pub fn expired(when: &str) -> Status {
    Status::deadline_exceeded(format!("the deadline passed {when}"))
}

/// The pools of a server.
#[derive(Clone)]
pub struct Pools {
    /// Searches, fetches, counts, descriptions.
    pub read: Pool,
    /// Upserts and deletes.
    pub write: Pool,
    /// Copies, exports and warming of tenants.
    pub bulk: Pool,
    /// Collections made and dropped, tenants limited.
    pub admin: Pool,
    /// Flush and backup.
    pub upkeep: Pool,
    /// Statistics, for administrators and for scrapes.
    pub stats: Pool,
}

impl Pools {
    /// All of them.
    pub fn all(&self) -> [&Pool; 6] {
        [&self.read, &self.write, &self.bulk, &self.admin, &self.upkeep, &self.stats]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tonic::Code;

    fn pool(name: &'static str, threads: usize, queue_max: usize) -> Pool {
        Pool::new(name, threads, queue_max, Counter::default())
    }

    /// A call that runs until the sender is dropped, and says when it has started.
    async fn occupy(pool: &Pool) -> std::sync::mpsc::Sender<()> {
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let pool = pool.clone();
        tokio::spawn(async move {
            pool.run(Deadline::NONE, move || {
                let _ = started.send(());
                let _ = wait.recv();
                Ok(())
            })
            .await
        });
        has_started.await.unwrap();
        release
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_names_the_setting() {
        let pool = pool("read", 1, 1);
        let release = occupy(&pool).await;
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(Deadline::NONE, || Ok(7)).await }
        });
        while pool.load() != (1, 1) {
            tokio::task::yield_now().await;
        }
        let refused = pool.run(Deadline::NONE, || Ok(8)).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("pool.queue_max is 1"), "{refused}");
        drop(release);
        assert_eq!(waiting.await.unwrap().unwrap(), 7);
        assert_eq!(pool.run(Deadline::NONE, || Ok(9)).await.unwrap(), 9);
    }

    #[tokio::test]
    async fn expired_and_cancelled_calls_never_start() {
        let pool = pool("read", 1, 8);
        let release = occupy(&pool).await;
        let started = Arc::new(AtomicUsize::new(0));
        let count = |started: &Arc<AtomicUsize>| {
            let started = Arc::clone(started);
            move || {
                started.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        };
        let late = pool.run(Deadline::after(Duration::from_millis(5)), count(&started)).await;
        assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
        let cancelled =
            tokio::time::timeout(Duration::from_millis(5), pool.run(Deadline::NONE, count(&started)));
        assert!(cancelled.await.is_err());
        assert_eq!(pool.load(), (1, 0), "both left the queue");
        drop(release);
        pool.run(Deadline::NONE, || Ok(())).await.unwrap();
        let past = pool.run(Deadline::after(Duration::ZERO), count(&started)).await;
        assert_eq!(past.unwrap_err().code(), Code::DeadlineExceeded);
        assert_eq!(started.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_running_call_is_answered_at_the_deadline_and_counted_until_it_ends() {
        let pool = pool("read", 1, 8);
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let slow = pool.run(Deadline::after(Duration::from_millis(5)), move || {
            let _ = wait.recv();
            Ok(())
        });
        assert_eq!(slow.await.unwrap_err().code(), Code::DeadlineExceeded);
        assert_eq!(pool.load().0, 1);
        drop(release);
        pool.drain().await;
        let refused = pool.run(Deadline::NONE, || Ok(())).await;
        assert!(refused.is_err(), "a drained pool starts nothing");
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_and_the_pool_lives() {
        let pool = pool("read", 1, 0);
        let result: Result<(), _> = pool.run(Deadline::NONE, || panic!("row 7 is odd")).await;
        let status = result.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("row 7"), "details stay in the log: {status}");
        assert_eq!(pool.run(Deadline::NONE, || Ok(1)).await.unwrap(), 1);
        assert_eq!(pool.panics.get(), 1);
    }

    #[tokio::test]
    async fn patience_waits_for_room() {
        let pool = pool("write", 1, 0);
        let release = occupy(&pool).await;
        assert!(pool.run(Deadline::NONE, || Ok(())).await.is_err());
        let patient = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run_patiently(Deadline::NONE, || Ok(3)).await }
        });
        tokio::task::yield_now().await;
        drop(release);
        assert_eq!(patient.await.unwrap().unwrap(), 3);
        let release = occupy(&pool).await;
        let late = pool.run_patiently(Deadline::after(Duration::from_millis(5)), || Ok(3)).await;
        assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
        drop(release);
    }

    #[test]
    fn the_earlier_deadline_counts() {
        let soon = Deadline::after(Duration::from_secs(1));
        let late = Deadline::after(Duration::from_secs(9));
        assert_eq!(soon.or_sooner(late), soon);
        assert_eq!(late.or_sooner(soon), soon);
        assert_eq!(Deadline::NONE.or_sooner(soon), soon);
        assert_eq!(soon.or_sooner(Deadline::NONE), soon);
        assert_eq!(Deadline::NONE.left(), None);
        assert!(Deadline::after(Duration::ZERO).has_passed());
        assert_eq!(Deadline::after(Duration::MAX), Deadline::NONE);
    }
}
