//! How fast background work goes beside searches: as fast as their p99 allows.
//!
//! Work that nobody waits for runs in periods of which it leaves a part idle, on all of its threads at once.
//! Searches that ran beside it are compared with those that ran in its pauses: the same data, the same
//! moment, so that the difference is what the work costs them and nothing else. (The p99 over time would
//! blame work for the segments that pile up while it does not run.) When their p99 is more than
//! [`SLOWED_MAX`] times that of the others the share of time at work shrinks, else it grows; without searches
//! there are no pauses.
//!
//! Costs a search two loads where there is no work, and two more and a count in a histogram where there is.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What work and pause take together.
const PERIOD: Duration = Duration::from_millis(50);
/// Share of a period at work, in thousandths: the least, and the most while there are searches.
const SHARE_MIN: u32 = 400;
const SHARE_MAX: u32 = 900;
const SHARE_ALL: u32 = 1000;
/// How the share grows and shrinks, in thousandths of one and of itself.
const GROW: u32 = 50;
const SHRINK: u32 = 700;
/// Times the p99 of searches in pauses that the p99 of others may be.
const SLOWED_MAX: f64 = 1.5;
/// Searches of each kind that a judgement needs; and how long it is waited for, before there are taken to be
/// none.
const SEARCHES_MIN: u32 = 200;
const PATIENCE: Duration = Duration::from_secs(5);
/// Steps of a histogram, four to an octave of nanoseconds.
const STEPS: usize = 160;

/// The pace of the background work of a database.
#[derive(Debug)]
pub struct Pace {
    begin: Instant,
    /// Jobs under way, and threads of theirs that are not in a pause.
    jobs: AtomicU32,
    at_work: AtomicU32,
    /// Thousandths of a period.
    share: AtomicU32,
    /// When it was last judged, in milliseconds from the beginning.
    judged_ms: AtomicU64,
    /// Times of searches in pauses, and beside work.
    times: [Histogram; 2],
}

/// A search that is to be timed.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    begin: Instant,
    beside_work: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            jobs: AtomicU32::new(0),
            at_work: AtomicU32::new(0),
            share: AtomicU32::new(SHARE_MAX),
            judged_ms: AtomicU64::new(0),
            times: Default::default(),
        }
    }
}

impl Pace {
    /// A search begins; none where there is no work beside it.
    #[inline]
    pub fn watch(&self, begin: Instant) -> Option<Watch> {
        let any = self.jobs.load(Ordering::Relaxed) > 0;
        any.then(|| Watch { begin, beside_work: self.is_at_work() })
    }

    /// It has ended. One that work began or paused in the middle of tells nothing.
    #[inline]
    pub fn note(&self, watch: Option<Watch>) {
        if let Some(watch) = watch.filter(|watch| watch.beside_work == self.is_at_work()) {
            self.times[usize::from(watch.beside_work)].add(watch.begin.elapsed());
        }
    }

    fn is_at_work(&self) -> bool {
        self.at_work.load(Ordering::Relaxed) > 0
    }

    /// Waits for the rest of a period that belongs to searches, unless that is no time to wait.
    fn breathe(&self, hurried: &AtomicBool) {
        let now = self.begin.elapsed();
        self.judge(now);
        let share = self.share.load(Ordering::Relaxed);
        let at = Duration::from_nanos((now.as_nanos() % PERIOD.as_nanos()) as u64);
        if at > PERIOD * share / SHARE_ALL && !hurried.load(Ordering::Relaxed) {
            let _away = Away::new(self);
            std::thread::sleep(PERIOD - at);
        }
    }

    /// Sets the share by the searches since the last time, when there were enough of them.
    fn judge(&self, now: Duration) {
        let judged_ms = self.judged_ms.load(Ordering::Relaxed);
        let since = now.saturating_sub(Duration::from_millis(judged_ms));
        if since < PERIOD {
            return;
        }
        let counts = [self.times[0].count(), self.times[1].count()];
        let impatient = since > PATIENCE;
        if !impatient && counts.iter().any(|count| *count < SEARCHES_MIN) {
            return;
        }
        let now_ms = now.as_millis() as u64;
        let won = self.judged_ms.compare_exchange(judged_ms, now_ms, Ordering::AcqRel, Ordering::Relaxed);
        if won.is_err() {
            return;
        }
        let [paused, beside] = [self.times[0].take_p99(), self.times[1].take_p99()];
        let share = self.share.load(Ordering::Relaxed);
        self.share.store(next_share(share, counts, (paused, beside)), Ordering::Relaxed);
    }
}

/// The share after searches in pauses and beside work took so long, nanoseconds of their p99.
fn next_share(share: u32, counts: [u32; 2], (paused, beside): (f64, f64)) -> u32 {
    if counts[0] + counts[1] < SEARCHES_MIN / 4 {
        return SHARE_ALL;
    }
    let enough = counts.iter().all(|count| *count >= SEARCHES_MIN / 4);
    if enough && beside > SLOWED_MAX * paused {
        return (share * SHRINK / SHARE_ALL).max(SHARE_MIN);
    }
    (share + GROW).min(SHARE_MAX)
}

/// Counts of times, in steps that grow with them.
#[derive(Debug)]
struct Histogram {
    counts: [AtomicU32; STEPS],
    total: AtomicU32,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [const { AtomicU32::new(0) }; STEPS], total: AtomicU32::new(0) }
    }
}

impl Histogram {
    fn add(&self, time: Duration) {
        let ns = (time.as_nanos() as u64).max(4);
        let octave = ns.ilog2();
        let step = (octave as usize * 4 + (ns >> (octave - 2)) as usize % 4).min(STEPS - 1);
        self.counts[step].fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u32 {
        self.total.load(Ordering::Relaxed)
    }

    /// Empties it; the time that 99 of 100 were below, between the ends of its step by their number.
    fn take_p99(&self) -> f64 {
        self.total.store(0, Ordering::Relaxed);
        let counts = self.counts.each_ref().map(|count| count.swap(0, Ordering::Relaxed));
        let all: u32 = counts.iter().sum();
        let (wanted, mut before) = (f64::from(all) * 0.99, 0.0);
        for (step, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let after = before + f64::from(count);
            if after >= wanted {
                let end = |step: usize| (step / 4) as f64 + (1.0 + (step % 4) as f64 / 4.0).log2();
                let (low, high) = (end(step), end(step + 1));
                return (low + (high - low) * (wanted - before) / f64::from(count)).exp2();
            }
            before = after;
        }
        0.0
    }
}

/// What work keeps pace with, and whether it is not to.
#[derive(Clone)]
pub(crate) struct Kept {
    pace: Arc<Pace>,
    hurried: Arc<AtomicBool>,
}

thread_local! {
    static CURRENT: RefCell<Option<Kept>> = const { RefCell::new(None) };
}

/// Work of this thread, as long as it lives: counted, and given back when it ends or panics.
struct AtWork<'a>(&'a Pace);

impl<'a> AtWork<'a> {
    fn new(pace: &'a Pace) -> Self {
        pace.at_work.fetch_add(1, Ordering::Relaxed);
        Self(pace)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The opposite: a thread that is at work is not for as long as this lives.
struct Away<'a>(&'a Pace);

impl<'a> Away<'a> {
    fn new(pace: &'a Pace) -> Self {
        pace.at_work.fetch_sub(1, Ordering::Relaxed);
        Self(pace)
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.0.at_work.fetch_add(1, Ordering::Relaxed);
    }
}

/// Forgets, at the end, what the thread keeps pace with.
struct Job<'a>(&'a Pace);

impl Drop for Job<'_> {
    fn drop(&mut self) {
        CURRENT.set(None);
        self.0.jobs.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Does a job of the background at a pace that suits searches: [`breathe`] pauses in it, but not while it is
/// `hurried`, which may change as it runs.
pub fn keeping<T>(pace: &Arc<Pace>, hurried: &Arc<AtomicBool>, job: impl FnOnce() -> T) -> T {
    pace.jobs.fetch_add(1, Ordering::Relaxed);
    CURRENT.set(Some(Kept { pace: Arc::clone(pace), hurried: Arc::clone(hurried) }));
    let _job = Job(pace);
    let _at_work = AtWork::new(pace);
    job()
}

/// Pauses for searches, where this thread does background work and it is time; to be called every few
/// milliseconds of work.
pub fn breathe() {
    if let Some(kept) = current() {
        kept.pace.breathe(&kept.hurried);
    }
}

/// What this thread keeps pace with.
fn current() -> Option<Kept> {
    CURRENT.with_borrow(Clone::clone)
}

/// Waits for helpers, which count as at work in place of this thread: each calls `helping` with what is given
/// to it.
pub(crate) fn waiting<T>(wait: impl FnOnce(Option<&Kept>) -> T) -> T {
    let Some(kept) = current() else { return wait(None) };
    let _away = Away::new(&kept.pace);
    wait(Some(&kept))
}

/// Works through parts at that pace.
pub(crate) fn helping(kept: Option<&Kept>, mut part: impl FnMut() -> bool) {
    let _at_work = kept.map(|kept| AtWork::new(&kept.pace));
    while part() {
        if let Some(kept) = kept {
            kept.pace.breathe(&kept.hurried);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use super::*;

    #[test]
    fn the_p99_is_within_a_step() {
        for scale in [1_u64, 37, 1000, 1_000_000] {
            let histogram = Histogram::default();
            (1..=1000).for_each(|at| histogram.add(Duration::from_nanos(at * scale * 100)));
            assert_eq!(histogram.count(), 1000);
            let (p99, exact) = (histogram.take_p99(), 99_000.0 * scale as f64);
            assert!((p99 / exact - 1.0).abs() < 0.25, "{p99} is not {exact}");
            assert_eq!((histogram.count(), histogram.take_p99()), (0, 0.0));
        }
        let histogram = Histogram::default();
        [0, 1, u64::MAX].into_iter().for_each(|ns| histogram.add(Duration::from_nanos(ns)));
        assert!(histogram.take_p99() > 0.0);
    }

    #[test]
    fn the_share_follows_what_searches_lose_and_stays_within_bounds() {
        let enough = [SEARCHES_MIN; 2];
        let mut share = SHARE_MAX;
        for _ in 0..20 {
            let next = next_share(share, enough, (100.0, 200.0));
            assert!(next < share || next == SHARE_MIN);
            share = next;
        }
        assert_eq!(share, SHARE_MIN);
        for _ in 0..40 {
            share = next_share(share, enough, (100.0, 110.0));
        }
        assert_eq!(share, SHARE_MAX);
        // Nobody searches; then somebody does, too rarely to be compared.
        assert_eq!(next_share(share, [3, 1], (1.0, 9.0)), SHARE_ALL);
        assert_eq!(next_share(SHARE_ALL, [3, 190], (1.0, 9.0)), SHARE_MAX);
    }

    #[test]
    fn work_pauses_while_it_slows_searches_and_only_then() {
        let pace = Arc::new(Pace::default());
        assert!(pace.watch(Instant::now()).is_none(), "nothing is under way");
        // What searches take is given: three times as long beside work, and then the same.
        let run = |slowed: u64, rounds: usize| {
            keeping(&pace, &Arc::default(), || {
                for _ in 0..rounds {
                    for (at, ns) in [(0, 1000), (1, 1000 * slowed)] {
                        let add = |_| pace.times[at].add(Duration::from_nanos(ns));
                        (0..SEARCHES_MIN).for_each(add);
                    }
                    pace.judge(Duration::from_millis(pace.judged_ms.load(Ordering::Relaxed)) + 2 * PERIOD);
                }
            });
            pace.share.load(Ordering::Relaxed)
        };
        assert_eq!(run(3, 20), SHARE_MIN);
        assert_eq!(run(1, 40), SHARE_MAX);
        assert_eq!((pace.jobs.load(Ordering::Relaxed), pace.at_work.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn helpers_are_at_work_and_searches_know_it() {
        let pace = Arc::new(Pace::default());
        pace.share.store(SHARE_MIN, Ordering::Relaxed);
        keeping(&pace, &Arc::default(), || {
            assert!(pace.watch(Instant::now()).is_some_and(|watch| watch.beside_work));
            let (mut beside, mut paused) = (0, 0);
            waiting(|kept| {
                let kept = kept.expect("the job keeps pace");
                let pace = &kept.pace;
                assert!(!pace.is_at_work(), "who waits is not at work");
                let done = std::sync::atomic::AtomicBool::new(false);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        let mut left = 40;
                        helping(Some(kept), || {
                            std::thread::sleep(Duration::from_millis(3));
                            left -= 1;
                            left > 0
                        });
                        done.store(true, Ordering::Relaxed);
                    });
                    while !done.load(Ordering::Relaxed) {
                        match pace.is_at_work() {
                            true => beside += 1,
                            false => paused += 1,
                        }
                        std::thread::sleep(Duration::from_micros(200));
                    }
                });
            });
            assert!(beside > 0 && paused > 0, "{beside} looks beside work, {paused} in pauses");
            assert!(pace.is_at_work());
        });
        assert!(!pace.is_at_work());
        // Nor does it pause while it is hurried.
        keeping(&pace, &Arc::new(AtomicBool::new(true)), || {
            let begin = Instant::now();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while begin.elapsed() < 3 * PERIOD {
                        assert!(pace.is_at_work());
                    }
                });
                while begin.elapsed() < 4 * PERIOD {
                    breathe();
                }
            });
        });
        // A panic leaves nothing behind, nor does one while helpers are waited for.
        for helped in [false, true] {
            let job = || match helped {
                true => waiting(|_| panic!("as it happens")),
                false => panic!("as it happens"),
            };
            let job = AssertUnwindSafe(|| keeping(&pace, &Arc::default(), job));
            let panicked = std::panic::catch_unwind(job);
            assert!(panicked.is_err() && current().is_none());
            assert_eq!((pace.jobs.load(Ordering::Relaxed), pace.at_work.load(Ordering::Relaxed)), (0, 0));
        }
    }
}
