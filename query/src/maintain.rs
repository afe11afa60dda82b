//! The background maintainers: segments are built and merged, and the log is trimmed, without holding up
//! reads.
//!
//! Two threads a database serve all collections in turn, one job of a collection at a time, so that neither a
//! busy collection nor a long merge holds up anyone's writers: the *fresh* lane merges what is in memory and
//! flushes it to disk, the *disk* lane merges segments on disk, trims the log and gives space back. A job
//! reads a snapshot, works without any lock, and is published by [`publish`](crate::publish). A job that
//! fails or panics is noted, logged and tried again after a pause.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use spandrel_index::labels::Overlay;
use spandrel_index::pace;
use spandrel_index::parallel::{Priority, step_back, threads};
use spandrel_index::segment::policy::{Bounds, Job, Size, disk_job, fresh_job, merge_all_job};
use spandrel_index::segment::{IndexDoc, Merge, Plan, Segment};
use spandrel_index::stop::Stop;
use spandrel_storage::RowId;
use spandrel_storage::record::FieldSet;

use crate::error::{Error, ErrorKind, Result};
use crate::learn;
use crate::live::{keyed_docs, live_docs, live_rows, most_live, stored_docs};
use crate::publish::{self, to_disk};
use crate::shared::Shared;
use crate::snapshot::{Snapshot, View};

/// Longest time [`flush`] waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(600);
/// Pause after a failed job, so that a full disk is not hammered.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Flushes of so many rows get signs, because they are merged soon. When none came for a while, segments that
/// were not merged get the cells that they lack.
const FLUSH_PLAIN_MAX: usize = 65_536;
const QUIET: Duration = Duration::from_secs(5);
/// With more segments than this, merges have fallen behind.
const SEGMENTS_BEHIND: usize = 32;
/// With more segments than this, a search is slowed by each.
const SEGMENTS_SOME: usize = 3;
/// Longest time a maintainer sleeps; it is woken when there is something to do.
const IDLE: Duration = Duration::from_secs(2);

/// Which jobs a maintainer thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Merges in memory and flushes to disk: writers may wait for these.
    Fresh,
    /// Merges on disk, trims and compactions.
    Disk,
}

/// What wakes and stops the maintainer threads.
#[derive(Default)]
pub struct Wake {
    fresh: Bell,
    disk: Bell,
    stop: AtomicBool,
}

#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Wake {
    /// There may be something to do in a lane.
    pub fn wake(&self, lane: Lane) {
        let bell = self.bell(lane);
        *bell.rung.lock() = true;
        bell.changed.notify_all();
    }

    /// Ends the maintainers' loops; jobs under way give up where they can.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake(Lane::Fresh);
        self.wake(Lane::Disk);
    }

    /// Whether [`Wake::stop`] was called.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Waits until the lane is woken or `timeout` passes; false when stopped.
    fn wait(&self, lane: Lane, timeout: Duration) -> bool {
        let bell = self.bell(lane);
        let mut rung = bell.rung.lock();
        if !*rung && !self.stopped() {
            bell.changed.wait_for(&mut rung, timeout);
        }
        *rung = false;
        !self.stopped()
    }

    fn bell(&self, lane: Lane) -> &Bell {
        match lane {
            Lane::Fresh => &self.fresh,
            Lane::Disk => &self.disk,
        }
    }
}

/// What a collection's maintenance remembers between jobs.
pub struct Maintenance {
    /// Fresh rows up to this one are to be on disk, whatever the policy says.
    flush_to: AtomicU64,
    /// Segments up to this row are to be merged as far as they may be, whatever the policy says.
    merge_to: AtomicU64,
    /// When rows last became a segment on disk; at first, when the collection was opened.
    flushed: Mutex<Instant>,
    /// The last failure of each lane since it last succeeded.
    failures: [Mutex<Option<(Instant, Error)>>; 2],
    /// Whether so many rows have not been merged that merges do not pause for searches.
    hurried: Arc<AtomicBool>,
    /// Read-held while a job works on the collection's files; a drop takes it whole.
    pub busy: RwLock<()>,
}

impl Default for Maintenance {
    fn default() -> Self {
        Self {
            flush_to: AtomicU64::new(0),
            merge_to: AtomicU64::new(0),
            flushed: Mutex::new(Instant::now()),
            failures: Default::default(),
            hurried: Arc::default(),
            busy: RwLock::default(),
        }
    }
}

impl Maintenance {
    fn merge_to(&self) -> RowId {
        RowId(self.merge_to.load(Ordering::Acquire))
    }

    fn failure(&self, lane: Lane) -> &Mutex<Option<(Instant, Error)>> {
        &self.failures[lane as usize]
    }

    /// Why fresh rows do not get to disk, when they do not.
    pub fn fresh_failure(&self) -> Option<String> {
        self.failure(Lane::Fresh).lock().as_ref().map(|(_, error)| error.to_string())
    }

    fn paused(&self, lane: Lane) -> bool {
        self.failure(lane).lock().as_ref().is_some_and(|(at, _)| at.elapsed() < RETRY_PAUSE)
    }
}

/// Builds every row written so far into segments on disk and waits for it, at most as long as `stop` allows.
pub fn flush(shared: &Shared, stop: &Stop) -> Result<()> {
    shared.writable()?;
    let target = shared.snapshot().last_row;
    let started = Instant::now();
    shared.maintenance.flush_to.fetch_max(target.0, Ordering::AcqRel);
    shared.wake.wake(Lane::Fresh);
    let limit = started + FLUSH_TIMEOUT;
    let deadline = stop.deadline().map_or(limit, |deadline| deadline.min(limit));
    loop {
        stop.check()?;
        let slice = (Instant::now() + Duration::from_millis(200)).min(deadline);
        let done = |snapshot: &Snapshot| fresh_up_to(&snapshot.views, target) == 0;
        if shared.wait_until(slice, done)? {
            return Ok(());
        }
        if let Some((at, failure)) = &*shared.maintenance.failure(Lane::Fresh).lock()
            && *at > started
        {
            return Err(Error::new(failure.kind(), format!("building segments failed: {failure}")));
        }
        if Instant::now() >= deadline {
            return Err(Error::new(
                ErrorKind::Deadline,
                "the flush did not finish in time; it goes on in the background",
            ));
        }
    }
}

/// Builds every row written so far into as few segments on disk as they fit in, and waits for it as
/// [`settle`] does.
pub fn optimize(shared: &Shared, stop: &Stop) -> Result<()> {
    let target = shared.snapshot().last_row;
    flush(shared, stop)?;
    shared.maintenance.merge_to.fetch_max(target.0, Ordering::AcqRel);
    shared.wake.wake(Lane::Disk);
    settle(shared, stop)
}

/// Waits until the maintainers have nothing left to do for the collection: what it costs to search it is then
/// what it will cost. Nothing else needs this; benchmarks do.
pub fn settle(shared: &Shared, stop: &Stop) -> Result<()> {
    flush(shared, stop)?;
    loop {
        shared.writable()?;
        // Whoever works on the collection's files holds the lock.
        let idle = shared.maintenance.busy.try_write().is_some();
        if idle && choose(shared, &shared.snapshot(), Lane::Disk).is_none() && !learn::is_due(shared) {
            return Ok(());
        }
        stop.check()?;
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn fresh_up_to(views: &[View], row: RowId) -> usize {
    views.iter().filter(|view| !view.segment.on_disk() && view.segment.first() <= row).count()
}

/// The collections that the maintainers serve, by name.
pub type Served = Arc<RwLock<HashMap<String, Arc<Shared>>>>;

/// Serves one lane of all collections until stopped: a job of each in turn, for as long as any has one; and
/// runs `between` before that.
pub fn run(served: &Served, wake: &Wake, lane: Lane, between: impl Fn()) {
    while wake.wait(lane, IDLE) {
        between();
        let mut more = true;
        while more {
            more = false;
            let all: Vec<Arc<Shared>> = served.read().values().cloned().collect();
            for shared in all {
                if wake.stopped() {
                    return;
                }
                more |= match lane {
                    Lane::Fresh => step(&shared, lane),
                    Lane::Disk => step_behind(&shared),
                };
            }
        }
    }
}

/// Runs at most one job of the disk lane on a thread that steps back: nobody waits for what is merged, as
/// long as merges keep up. A thread cannot step forward again, so each job has its own.
fn step_behind(shared: &Shared) -> bool {
    let priority = if is_behind(&shared.snapshot()) { Priority::Low } else { Priority::Lowest };
    std::thread::scope(|scope| {
        let job = scope.spawn(|| {
            step_back(priority);
            step(shared, Lane::Disk)
        });
        job.join().unwrap_or(false)
    })
}

/// Whether merges have fallen behind.
fn is_behind(snapshot: &Snapshot) -> bool {
    snapshot.views.len() > SEGMENTS_BEHIND
}

/// Sets whether merges are hurried: when what is not merged costs searches more than a merge beside them.
fn hurry(shared: &Shared, snapshot: &Snapshot) {
    let scanned = |view: &&View| !view.segment.on_disk() || view.segment.is_plain();
    let rows: usize = snapshot.views.iter().filter(scanned).map(|view| view.segment.docs() as usize).sum();
    let segments = snapshot.views.iter().filter(|view| view.segment.on_disk()).count();
    let hurried = rows > shared.settings.fresh_rows_max || segments > SEGMENTS_SOME;
    shared.maintenance.hurried.store(hurried, Ordering::Relaxed);
}

/// Runs at most one job of a collection; returns whether there may be another.
fn step(shared: &Shared, lane: Lane) -> bool {
    if shared.writable().is_err() || shared.maintenance.paused(lane) {
        return false;
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| run_next(shared, lane)));
    let outcome = outcome
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "a maintenance job panicked; see the log")));
    match outcome {
        Ok(more) => {
            *shared.maintenance.failure(lane).lock() = None;
            more
        }
        // Closing or dropping makes a job give up.
        Err(_) if shared.writable().is_err() || shared.wake.stopped() => false,
        // What a failed sync left on the disk is not known, and trying again would not tell.
        Err(error) if error.kind() == ErrorKind::Poisoned => {
            shared.store.poison(error.message());
            shared.poison(error.message());
            false
        }
        Err(error) => {
            tracing::error!(collection = %shared.name, %error, "maintenance failed; it is tried again");
            *shared.maintenance.failure(lane).lock() = Some((Instant::now(), error));
            false
        }
    }
}

/// Runs the next job of a lane; returns whether there was one.
pub fn run_next(shared: &Shared, lane: Lane) -> Result<bool> {
    let _busy = shared.maintenance.busy.read();
    // Before each merge: under a steady load there is always another one.
    let trimmed = lane == Lane::Disk && publish::trim(shared)?;
    let snapshot = shared.snapshot();
    let Some(job) = choose(shared, &snapshot, lane) else {
        return match lane {
            Lane::Fresh => Ok(false),
            Lane::Disk => {
                Ok(trimmed | publish::cover(shared)? | publish::compact(shared)? | learn_more(shared)?)
            }
        };
    };
    match job {
        Job::MergeFresh(range) => {
            let inputs = &snapshot.views[range];
            let docs = live_docs(inputs);
            let rows = inputs[0].segment.first()..=inputs[inputs.len() - 1].segment.last();
            let output = match docs.is_empty() {
                true => None,
                false => {
                    Some(Arc::new(Segment::from_docs(&shared.indexer, docs, rows, &snapshot.segments())?))
                }
            };
            publish::fresh(shared, inputs, output);
        }
        Job::Flush(range) => {
            let inputs = &snapshot.views[range];
            let docs = live_docs(inputs);
            let cells = docs.len() > FLUSH_PLAIN_MAX;
            let plan = Plan { cells, coded: &snapshot.segments(), ..shared.settings.plan(None) };
            let ids: Vec<_> = docs.iter().map(|doc| (doc.tenant, doc.row)).collect();
            to_disk(shared, inputs, plan, &ids, &mut |_, order, each| {
                order.iter().try_for_each(|at| each(Arc::clone(&docs[*at as usize])))
            })?;
            hurry(shared, &shared.snapshot());
            *shared.maintenance.flushed.lock() = Instant::now();
            shared.wake.wake(Lane::Disk);
        }
        Job::MergeDisk(range) => {
            // Who waits for it gets all of the machine, searches go before the others.
            let merge_to = shared.maintenance.merge_to();
            let asked = snapshot.views[range.clone()].iter().all(|view| view.segment.last() <= merge_to);
            let wanted = shared.settings.build_threads;
            hurry(shared, &snapshot);
            match asked || is_behind(&snapshot) {
                true => merge_disk(shared, &snapshot, range, wanted)?,
                false => pace::keeping(&shared.pace, &shared.maintenance.hurried, || {
                    merge_disk(shared, &snapshot, range, threads(wanted).div_ceil(2))
                })?,
            }
        }
    }
    Ok(true)
}

/// Measures segments by queries that came lately, when there is nothing else to do.
fn learn_more(shared: &Shared) -> Result<bool> {
    let hurried = Arc::default();
    pace::keeping(&shared.pace, &hurried, || {
        learn::learn(shared, threads(shared.settings.build_threads).div_ceil(2))
    })
}

/// Merges segments on disk: vectors come from them, everything else from the row store.
fn merge_disk(
    shared: &Shared,
    snapshot: &Snapshot,
    range: std::ops::Range<usize>,
    threads: usize,
) -> Result<()> {
    let inputs = &snapshot.views[range];
    let live = live_rows(inputs);
    let (ids, places) = (&live.ids, &live.places);
    let segments: Vec<&Segment> = inputs.iter().map(|view| &*view.segment).collect();
    let overlays: Vec<&Overlay> = inputs.iter().map(|view| &*view.labels).collect();
    let has_label = |label| shared.labels.contains(label);
    let merge = Merge { inputs: &segments, places, overlays: &overlays, has_label: &has_label };
    let plan = Plan { threads, like: most_live(inputs.iter()), ..shared.settings.plan(Some(merge)) };
    let mut source =
        |wanted: &FieldSet,
         order: &[u32],
         each: &mut dyn FnMut(Arc<IndexDoc>) -> spandrel_index::Result<()>| {
            match wanted.is_empty() && keyed_docs(&segments, (&live, order), each)? {
                true => Ok(()),
                false => stored_docs(shared, snapshot, (ids, order), wanted, each),
            }
        };
    let merged = to_disk(shared, inputs, plan, ids, &mut source);
    let Err(error) = &merged else { return merged };
    if error.kind() != ErrorKind::Corrupt {
        return merged;
    }
    // What is in segments can be had from the rows.
    tracing::warn!(collection = %shared.name, %error, "a segment is damaged; its vectors are read from the rows");
    let plan = Plan { merge: None, like: None, ..plan };
    to_disk(shared, inputs, plan, ids, &mut |wanted, order, each| {
        stored_docs(shared, snapshot, (ids, order), wanted, each)
    })
}

fn choose(shared: &Shared, snapshot: &Snapshot, lane: Lane) -> Option<Job> {
    let merge_to = shared.maintenance.merge_to();
    let quiet = shared.maintenance.flushed.lock().elapsed() >= QUIET;
    let sizes: Vec<Size> = snapshot
        .views
        .iter()
        .map(|view| Size {
            docs: u64::from(view.segment.docs()),
            deleted: view.deleted.len(),
            bytes: view.segment.memory_bytes(),
            on_disk: view.segment.on_disk(),
            plain: view.segment.is_plain() && (quiet || view.segment.last() <= merge_to),
        })
        .collect();
    if lane == Lane::Disk {
        let asked = |view: &View| view.segment.on_disk() && view.segment.last() <= merge_to;
        let count = snapshot.views.iter().take_while(|view| asked(view)).count();
        return merge_all_job(&sizes, count).or_else(|| disk_job(&sizes));
    }
    let fresh = sizes.partition_point(|size| size.on_disk);
    let flush_to = RowId(shared.maintenance.flush_to.load(Ordering::Acquire));
    let asked = fresh_up_to(&snapshot.views, flush_to) > 0;
    // Records that wait for a manifest to cover them are bounded like the rows themselves.
    let log_is_long =
        fresh < sizes.len() && shared.writer.lock().trim.len() >= shared.settings.fresh_rows_max;
    if asked || log_is_long {
        return Some(Job::Flush(fresh..sizes.len()));
    }
    let bounds = Bounds {
        fresh_docs_max: shared.settings.fresh_rows_max as u64,
        fresh_bytes_max: shared.settings.fresh_bytes_max,
    };
    fresh_job(&sizes, bounds)
}
