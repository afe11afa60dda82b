//! A search sees its tenant's rows and no other's: no foreign row in a million answers, of hundreds of
//! tenants of all sizes that hold near copies of each other's rows, while rows are written, deleted and
//! labelled, tenants dropped and written again, and segments merged; large tenants get cells of their own and
//! lose them.
//!
//! `SPANDREL_ISOLATION_QUERIES` says how many. What a tenant's answers are does not depend on others at all:
//! `alone.rs`.

mod alone;
mod ask;
mod crowd;
mod readers;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use spandrel::{Collection, Database, Durability, Fields, Route, Row, SearchRequest, Settings};

use self::crowd::{Crowd, Member, schema};
use self::readers::Reader;
use crate::rng::Rng;

const QUERIES: u64 = 1_000_000;
const TENANTS: usize = 320;
const READERS: u64 = 2;
/// Rows of the large tenants. Some grow beyond what gets cells (2,048) and shrink to what loses them.
const SIZES: [u64; 14] = [900, 2_600, 900, 2_200, 2_100, 700, 600, 500, 400, 300, 300, 200, 200, 200];
const GROWN: u64 = 2_600;
const SHRUNK: u64 = 800;
/// Which those are, and where they go first.
const BREATHING: [(usize, u64); 2] = [(0, GROWN), (2, SHRUNK)];

/// What the threads tell each other.
#[derive(Default)]
struct Progress {
    queries: u64,
    asked: AtomicU64,
    optimized: AtomicU64,
    /// Tenants that have grown, or shrunk, and been merged since.
    turns: AtomicU64,
    done: AtomicBool,
}

impl Progress {
    fn done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Whether as many were asked as were to be.
    fn enough(&self) -> bool {
        self.asked.load(Ordering::Acquire) >= self.queries
    }

    /// Whether readers are to end.
    fn over(&self) -> bool {
        self.done() || (self.enough() && self.turned())
    }

    /// Whether each tenant that grows and shrinks went there and back.
    fn turned(&self) -> bool {
        self.turns.load(Ordering::Acquire) >= 2 * BREATHING.len() as u64
    }
}

/// Ends the others when its thread ends, be it by a panic.
struct Ends<'a>(&'a Progress);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Release);
    }
}

/// The thread that writes.
struct Writer<'a> {
    crowd: &'a Crowd,
    collection: &'a Collection,
    progress: &'a Progress,
    rng: Rng,
    /// The tenants that grow and shrink: which, the size each goes to, and merges by when it was there.
    breathing: Vec<(&'a Member, u64, Option<u64>)>,
}

impl Writer<'_> {
    fn write(&mut self) {
        while !self.progress.done() {
            self.breathe();
            if self.progress.enough() {
                // Only what grows and shrinks is waited for: merges step back for everything.
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            let member = self.rng.pick(&self.crowd.members);
            match self.rng.below(13) {
                0..5 => self.churn(),
                5 | 6 => member.replace(self.crowd, self.collection, &mut self.rng),
                7 | 8 => member.grant(self.collection, 1 + self.rng.below(60) as u64),
                9 | 10 => member.revoke(self.collection, 1 + self.rng.below(60) as u64),
                11 => member.meddle(self.collection, self.rng.pick(&self.crowd.members)),
                _ if member.size < 50 => member.drop_all(self.collection),
                _ => {}
            }
            // What follows on every commit is the machine's time, too.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Rows of several tenants in one commit, then a few less of each.
    fn churn(&mut self) {
        let members = &self.crowd.members;
        let first = self.rng.below(members.len());
        let some = (0..4).map(|at| &members[(first + at * 7) % members.len()]);
        let some: Vec<&Member> =
            some.filter(|member| member.size > 0 && !self.is_breathing(member)).collect();
        let mut rows: Vec<Row> = Vec::new();
        for member in &some {
            let lacking = member.size.saturating_sub(member.rows());
            rows.extend(member.next_rows(self.crowd, lacking + self.rng.below(4) as u64));
        }
        self.collection.upsert(rows).unwrap();
        for member in some {
            member.wrote();
            let surplus = member.rows().saturating_sub(member.size);
            member.shrink(self.collection, surplus, self.rng.once_in(2));
        }
    }

    fn is_breathing(&self, member: &Member) -> bool {
        self.breathing.iter().any(|(of, ..)| of.id == member.id)
    }

    /// Takes the tenants that grow and shrink some way to where they go, and turns there after two merges:
    /// the second began when they were there.
    fn breathe(&mut self) {
        let optimized = self.progress.optimized.load(Ordering::Acquire);
        for (member, to, there) in &mut self.breathing {
            let rows = member.rows();
            if rows == *to {
                if optimized >= *there.get_or_insert(optimized) + 2 {
                    // One that has grown has cells of its own, of which a search scores some; in one that has
                    // shrunk again it looks at all codes, and scores the best of that.
                    let scored = scored(self.collection, member, self.crowd.query(&mut self.rng));
                    assert!((scored > 200) == (rows == GROWN), "{scored} of {rows} vectors scored");
                    (*to, *there) = (GROWN + SHRUNK - *to, None);
                    self.progress.turns.fetch_add(1, Ordering::AcqRel);
                }
            } else if rows < *to {
                let more = member.next_rows(self.crowd, (*to - rows).min(200));
                self.collection.upsert(more).unwrap();
                member.wrote();
            } else {
                member.shrink(self.collection, (rows - *to).min(200), self.rng.once_in(4));
            }
        }
    }
}

fn settings() -> Settings {
    Settings { fresh_rows_max: 3_000, durability: Durability::Buffered, ..Settings::default() }
}

fn queries() -> u64 {
    let given = std::env::var("SPANDREL_ISOLATION_QUERIES").ok();
    given.map_or(QUERIES, |given| given.parse().unwrap())
}

#[test]
fn no_foreign_row_in_a_million_answers() {
    let mut rng = Rng::announced("isolation", 31);
    let crowd = Crowd::new(&mut rng, TENANTS, &SIZES);
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(folder.path(), settings()).unwrap();
    let collection = database.create_collection("rows", schema()).unwrap();
    for member in &crowd.members {
        collection.upsert(member.next_rows(&crowd, member.size)).unwrap();
        member.wrote();
    }
    collection.optimize().unwrap();
    let (progress, started) = (Progress { queries: queries(), ..Progress::default() }, Instant::now());
    let large = |at: usize| &crowd.members[TENANTS - 5 - at];
    std::thread::scope(|scope| {
        let (crowd, collection, progress) = (&crowd, &*collection, &progress);
        let breathing = BREATHING.map(|(at, to)| (large(at), to, None)).to_vec();
        let mut writer = Writer { crowd, collection, progress, rng: Rng::new(rng.next()), breathing };
        scope.spawn(move || {
            let _ends = Ends(progress);
            writer.write();
        });
        scope.spawn(move || {
            let _ends = Ends(progress);
            while !progress.done() {
                collection.flush().unwrap();
                collection.optimize().unwrap();
                progress.optimized.fetch_add(1, Ordering::AcqRel);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let readers: Vec<_> = (0..READERS)
            .map(|at| {
                let mut reader =
                    Reader { crowd, collection, rng: Rng::new(rng.next()), name: format!("reader {at}") };
                scope.spawn(move || {
                    while !progress.over() {
                        progress.asked.fetch_add(reader.round(), Ordering::AcqRel);
                        let pause_ms = if progress.enough() { 50 } else { 1 };
                        std::thread::sleep(Duration::from_millis(pause_ms));
                    }
                })
            })
            .collect();
        let failed = readers.into_iter().filter_map(|reader| reader.join().err()).count();
        progress.done.store(true, Ordering::Release);
        assert_eq!(failed, 0, "readers failed");
    });
    let (asked, seconds) = (progress.asked.load(Ordering::Acquire), started.elapsed().as_secs_f64());
    let [turns, merges] = [&progress.turns, &progress.optimized].map(|count| count.load(Ordering::Acquire));
    println!("{asked} queries in {seconds:.1} s, {:.0} a second", asked as f64 / seconds);
    println!("{merges} merges, {turns} times a tenant had grown or shrunk");
    assert!(progress.enough() && progress.turned(), "a thread ended early");
    collection.verify().unwrap();
}

/// How many codes of cells, and vectors, a search of a tenant scores.
fn scored(collection: &Collection, member: &Member, query: Vec<f32>) -> u64 {
    let request = SearchRequest {
        explain: true,
        fields: Fields::None,
        recall: 0.99,
        ..SearchRequest::new(Route::dense("v", query)).tenant(&*member.name)
    };
    let explain = collection.search(&request).unwrap().explain.unwrap();
    let stage = explain.stages.iter().find(|stage| stage.name.starts_with("dense v")).unwrap();
    assert!(stage.name.contains("cells"), "{stage:?}");
    stage.scored
}
