//! A process killed at any moment: nothing acknowledged is lost, nothing comes back, a write is whole or
//! absent.
//!
//! A child process writes under load (two writers, each with its own tenants) and says on its standard output
//! what it starts and what was acknowledged. It is killed with SIGKILL at random moments, or dies at a named
//! failpoint. The parent then opens the folder and compares every tenant with the model after the
//! acknowledged operations, or after those and the one that was under way.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use spandrel::{Database, Fields, Filter, Metric, PayloadKind, Route, Row, Schema, SearchRequest, Settings};
use spandrel_storage::failpoint::PLACES;

use crate::rng::Rng;

const DIM: usize = 8;
const LABEL: &str = "mark";
const WRITERS: u64 = 2;
/// Kills at random moments.
const KILLS: u64 = 60;
/// Deaths at each failpoint.
const DEATHS_PER_PLACE: u64 = 5;

fn settings() -> Settings {
    Settings { fresh_rows_max: 64, ..Settings::default() }
}

fn schema() -> Schema {
    Schema::new().text("body").dense("vec", DIM as u32, Metric::Ip).payload("op", PayloadKind::Integer)
}

/// What one operation does to the rows of a writer: a pure function of its number, so that parent and child
/// agree.
struct Operation {
    tenant: String,
    put: Vec<(String, i64)>,
    delete: Vec<String>,
    /// Keys whose rows get the label, or lose it.
    label: Vec<String>,
    granted: bool,
    drop: bool,
    flush: bool,
}

fn operation(seed: u64, writer: u64, number: u64) -> Operation {
    let mut rng = Rng::new(seed ^ (writer << 56) ^ number.wrapping_mul(0x51_7c_c1_b7));
    let tenant = format!("w{writer}t{}", rng.below(2));
    let kind = rng.below(20);
    let mut keys: Vec<String> = (0..1 + rng.below(12)).map(|_| format!("k{}", rng.below(40))).collect();
    keys.sort_unstable();
    keys.dedup();
    let (mut put, mut delete, mut label) = (Vec::new(), Vec::new(), Vec::new());
    match kind {
        0..11 => put = keys.into_iter().map(|key| (key, number as i64)).collect(),
        11..15 => label = keys,
        15..19 => delete = keys,
        _ => {}
    }
    let granted = rng.once_in(2);
    let (drop, flush) = (kind == 19 && rng.once_in(2), kind == 18);
    Operation { tenant, put, delete, label, granted, drop, flush }
}

/// Rows of one tenant: key to the number of the operation that wrote it, and whether it has the label.
type Rows = BTreeMap<String, (i64, bool)>;
/// Rows by tenant.
type State = BTreeMap<String, Rows>;

fn apply(state: &mut State, operation: &Operation) {
    let rows = state.entry(operation.tenant.clone()).or_default();
    for (key, number) in &operation.put {
        rows.insert(key.clone(), (*number, is_written_with_label(*number)));
    }
    for key in &operation.label {
        if let Some((_, has)) = rows.get_mut(key) {
            *has = operation.granted;
        }
    }
    for key in &operation.delete {
        rows.remove(key);
    }
    if operation.drop {
        rows.clear();
    }
}

fn vector(key: &str, number: i64) -> Vec<f32> {
    let mut rng = Rng::new(number as u64 ^ key.bytes().fold(0, |h, b| h * 31 + u64::from(b)));
    rng.vector(DIM)
}

fn is_written_with_label(number: i64) -> bool {
    number % 3 == 0
}

fn row(tenant: &str, key: &str, number: i64) -> Row {
    let row = if is_written_with_label(number) { Row::new(key).label(LABEL) } else { Row::new(key) };
    row.tenant(tenant)
        .text("body", format!("operation {number} wrote {key}"))
        .dense("vec", vector(key, number))
        .payload("op", number)
}

/// The child: writes from operation `start` of each writer on, until it dies.
#[test]
fn child() {
    let Ok(folder) = std::env::var("SPANDREL_CRASH_FOLDER") else { return };
    let seed: u64 = std::env::var("SPANDREL_CRASH_SEED").unwrap().parse().unwrap();
    let starts: Vec<u64> = std::env::var("SPANDREL_CRASH_STARTS")
        .unwrap()
        .split(',')
        .map(|start| start.parse().unwrap())
        .collect();
    let database = Database::open(folder, settings()).unwrap();
    let collection = match database.collection("rows") {
        Ok(collection) => collection,
        Err(_) => database.create_collection("rows", schema()).unwrap(),
    };
    say("ready");
    std::thread::scope(|scope| {
        for (writer, start) in (0..).zip(starts) {
            let collection = &collection;
            scope.spawn(move || {
                for number in start..u64::MAX {
                    let operation = operation(seed, writer, number);
                    say(&format!("start {writer} {number}"));
                    let tenant = &operation.tenant;
                    if !operation.put.is_empty() {
                        let rows =
                            operation.put.iter().map(|(key, number)| row(tenant, key, *number)).collect();
                        collection.upsert(rows).unwrap();
                    }
                    if !operation.delete.is_empty() {
                        collection.delete(tenant, &operation.delete).unwrap();
                    }
                    if !operation.label.is_empty() {
                        let (keys, labels) = (&operation.label, [LABEL.to_owned()]);
                        match operation.granted {
                            true => collection.grant(tenant, keys, &labels).unwrap(),
                            false => collection.revoke(tenant, keys, &labels).unwrap(),
                        };
                    }
                    if operation.drop {
                        collection.drop_tenant(tenant).unwrap();
                    }
                    if operation.flush {
                        collection.flush().unwrap();
                    }
                    say(&format!("ack {writer} {number}"));
                }
            });
        }
    });
}

/// Past the test harness's capture, so that it is out before the process can die.
fn say(line: &str) {
    let mut out = std::io::stderr().lock();
    writeln!(out, "{line}").unwrap();
}

/// How far each writer of a child came: acknowledged up to here, and whether one more was under way.
#[derive(Clone, Copy, Default)]
struct Progress {
    next: u64,
    under_way: bool,
}

/// Runs a child until it dies; says how far it came, and whether a failpoint was what it died of.
fn run_child(
    folder: &Path,
    seed: u64,
    progress: &[Progress],
    crash_at: Option<&str>,
    life: Duration,
) -> (Vec<Progress>, bool) {
    let starts: Vec<String> = progress.iter().map(|progress| progress.next.to_string()).collect();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "crash::child", "--nocapture", "--test-threads=1"]);
    command.env("SPANDREL_CRASH_FOLDER", folder).env("SPANDREL_CRASH_SEED", seed.to_string());
    command.env("SPANDREL_CRASH_STARTS", starts.join(","));
    if let Some(place) = crash_at {
        command.env("SPANDREL_CRASH_AT", place);
    }
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut progress = progress.to_vec();
    let ready = lines.by_ref().map_while(Result::ok).find(|line| line == "ready");
    assert!(ready.is_some() || crash_at.is_some(), "the child did not start");
    let killer = std::thread::spawn(move || {
        std::thread::sleep(life);
        // It may be dead already, by a failpoint.
        let _ = child.kill();
        child.wait().unwrap()
    });
    let mut rest = Vec::new();
    for line in lines.map_while(Result::ok) {
        let mut words = line.split(' ');
        let (what, writer, number) = (words.next(), words.next(), words.next());
        match (what, writer.and_then(|w| w.parse::<usize>().ok()), number.and_then(|n| n.parse::<u64>().ok()))
        {
            (Some("start"), Some(writer), Some(number)) => {
                progress[writer] = Progress { next: number, under_way: true }
            }
            (Some("ack"), Some(writer), Some(number)) => {
                progress[writer] = Progress { next: number + 1, under_way: false };
            }
            _ => rest.push(line),
        }
    }
    let status = killer.join().unwrap();
    assert!(
        !status.success() && status.code().is_none(),
        "the child ended by itself: {status}\n{}",
        rest.join("\n")
    );
    // A failpoint aborts; a kill is SIGKILL.
    let fired = status.signal() == Some(libc::SIGABRT);
    assert!(!fired || crash_at.is_some(), "the child aborted without a failpoint\n{}", rest.join("\n"));
    (progress, fired)
}

/// The rows of a tenant as the database has them, by scroll and by search.
fn stored(database: &Database, tenant: &str) -> Rows {
    let Ok(collection) = database.collection("rows") else { return Rows::new() };
    collection.verify().unwrap();
    let request = spandrel::ScrollRequest {
        tenant: tenant.into(),
        limit: 1_000,
        fields: Fields::All,
        ..Default::default()
    };
    let mut rows = Rows::new();
    for found in collection.scroll(&request).unwrap().rows {
        let number = match &found.fields["op"] {
            spandrel::FieldValue::Payload(spandrel::Value::Integer(number)) => *number,
            other => panic!("{other:?}"),
        };
        let labels = found.labels.clone();
        let has = labels.contains(LABEL);
        assert_eq!(found, Row { labels, ..row(tenant, &found.key, number) }, "a row is whole");
        rows.insert(found.key, (number, has));
    }
    // What the indexes know of labels is what the row store knows.
    let labelled = rows.values().filter(|(_, has)| *has).count() as u64;
    let filter = Filter::Labels(vec![LABEL.to_owned()]);
    assert_eq!(collection.count(tenant, Some(&filter)).unwrap(), labelled, "labels of '{tenant}'");
    assert_eq!(collection.count(tenant, None).unwrap(), rows.len() as u64, "count of '{tenant}'");
    for number in 0..3 {
        let query = vector("query", number);
        let search = SearchRequest::new(Route::dense("vec", query.clone())).tenant(tenant).k(5);
        let hits = collection.search(&search).unwrap().hits;
        let dot = |key: &str, number: i64| -> f32 {
            vector(key, number).iter().zip(&query).map(|(a, b)| a * b).sum()
        };
        let mut scores: Vec<f32> = rows.iter().map(|(key, (number, _))| dot(key, *number)).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(hits.len(), rows.len().min(5), "search of '{tenant}' finds what is stored");
        for (hit, score) in hits.iter().zip(scores) {
            assert!((hit.score - score).abs() < 1e-4, "search of '{tenant}': {} not {score}", hit.score);
        }
    }
    let words = SearchRequest::new(Route::text("body", "wrote")).tenant(tenant).k(1_000);
    assert_eq!(collection.search(&words).unwrap().hits.len(), rows.len(), "text search of '{tenant}'");
    rows
}

/// Compares the folder with the model and returns the operations that turned out to be durable.
fn check(folder: &Path, seed: u64, states: &mut [State], applied: &mut [u64], progress: &[Progress]) {
    let database = Database::open(folder, settings()).unwrap();
    for writer in 0..progress.len() {
        while applied[writer] < progress[writer].next {
            apply(&mut states[writer], &operation(seed, writer as u64, applied[writer]));
            applied[writer] += 1;
        }
        let tenants = [format!("w{writer}t0"), format!("w{writer}t1")];
        let found: State = tenants.iter().map(|tenant| (tenant.clone(), stored(&database, tenant))).collect();
        let normal = |state: &State| -> State {
            tenants
                .iter()
                .map(|tenant| (tenant.clone(), state.get(tenant).cloned().unwrap_or_default()))
                .collect()
        };
        if normal(&states[writer]) == found {
            continue;
        }
        assert!(
            progress[writer].under_way,
            "writer {writer}: acknowledged rows differ\n{found:?}\n{:?}",
            states[writer]
        );
        apply(&mut states[writer], &operation(seed, writer as u64, applied[writer]));
        applied[writer] += 1;
        assert_eq!(
            normal(&states[writer]),
            found,
            "writer {writer}: neither with nor without the write under way"
        );
    }
}

/// Lets children die so; returns the failpoints that really fired.
fn torture(seed: u64, deaths: impl Iterator<Item = (Option<String>, Duration)>) -> BTreeSet<String> {
    println!("crash: seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let mut progress = vec![Progress::default(); WRITERS as usize];
    let mut states = vec![State::new(); WRITERS as usize];
    let mut applied = vec![0; WRITERS as usize];
    let mut places = BTreeSet::new();
    for (place, life) in deaths {
        let fired;
        (progress, fired) = run_child(folder.path(), seed, &progress, place.as_deref(), life);
        if let Some((place, _)) = place.as_deref().and_then(|place| place.split_once(':')).filter(|_| fired) {
            places.insert(place.to_owned());
        }
        check(folder.path(), seed, &mut states, &mut applied, &progress);
        for (progress, applied) in progress.iter_mut().zip(&applied) {
            *progress = Progress { next: *applied, under_way: false };
        }
    }
    println!("crash: {} operations", applied.iter().sum::<u64>());
    assert!(applied.iter().sum::<u64>() > 100, "the children wrote under load");
    places
}

#[test]
fn killed_at_random_moments() {
    let mut rng = Rng::announced("crash", 77);
    let seed = rng.next();
    torture(seed, (0..KILLS).map(|_| (None, Duration::from_millis(5 + rng.below(250) as u64))));
}

#[test]
fn killed_at_every_failpoint() {
    let mut rng = Rng::announced("crash at failpoints", 78);
    let seed = rng.next();
    let deaths = (0..DEATHS_PER_PLACE).flat_map(|_| PLACES);
    let fired = torture(
        seed,
        deaths.map(|place| (Some(format!("{place}:{}", 1 + rng.below(4))), Duration::from_millis(1_500))),
    );
    let silent: Vec<_> = PLACES.into_iter().filter(|place| !fired.contains(*place)).collect();
    assert!(silent.is_empty(), "no child ever died at {silent:?}");
}

/// Every place is reached in the sources, and every place reached there is listed and so tried above.
#[test]
fn every_failpoint_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut reached = BTreeSet::new();
    let mut folders: Vec<_> = ["storage", "index", "query", "server"].map(|part| root.join(part)).into();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let Some(text) = std::fs::read(&path).ok().and_then(|text| String::from_utf8(text).ok()) else {
                continue;
            };
            for part in text.split("failpoint::reach(").skip(1) {
                let place = part.strip_prefix('"').and_then(|part| part.split_once('"'));
                let (place, _) = place.unwrap_or_else(|| panic!("{} reaches no literal", path.display()));
                reached.insert(place.to_owned());
            }
        }
    }
    assert_eq!(reached, PLACES.map(str::to_owned).into());
}
