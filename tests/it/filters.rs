//! Filters against a model, at the size where dense vectors have cells: random trees of conditions over
//! random payload fields, tested row by row on a plain map. Counts, pages, deletions and exact searches are
//! what the model says; approximate ones find only rows that pass, nearly all of the nearest, and never fewer
//! than there are.

mod beyond;
mod draw;
mod few;
mod model;

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::sync::Arc;

use spandrel::{
    Collection, Database, Durability, Fields, Filter, Route, ScrollRequest, SearchRequest, SearchResponse,
    Settings,
};

use self::draw::World;
use self::model::{Ranked, Rows, passes, ranked, to_row};
use crate::rng::Rng;

/// Tenants with their numbers of rows: the first three have cells of their own.
const TENANTS: [(&str, usize); 4] = [("", 5_200), ("acme", 3_200), ("globex", 2_600), ("initech", 400)];

/// Queries between changes.
const ASKS: usize = 250;

/// A collection, and what it holds.
struct Held {
    world: World,
    tenants: Vec<Rows>,
    collection: Arc<Collection>,
    written: u64,
    what: String,
    seen: Seen,
    /// Filters that were asked, and of which tenant.
    asked: Vec<(usize, Filter)>,
    _database: Database,
    _folder: tempfile::TempDir,
}

/// What was asked.
#[derive(Default)]
struct Seen {
    /// Queries by the share of rows that passed: none, below 1, 10, 50, 90 and 100 %, all.
    shares: [usize; 7],
    /// Of queries with at least `k` rows that pass: how many, and their recall.
    recalls: (usize, f64),
    deleted: u64,
    /// Queries with many rows that pass, of which few were scored.
    walked: usize,
}

impl Held {
    fn new(rng: &mut Rng) -> Self {
        let world = World::new(rng);
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { durability: Durability::Buffered, ..Settings::default() };
        let database = Database::open(folder.path(), settings).unwrap();
        let collection = database.create_collection("rows", world.schema()).unwrap();
        let what = world.say();
        println!("{what}");
        let tenants = TENANTS.iter().map(|_| Rows::new()).collect();
        let (written, seen, asked) = (0, Seen::default(), Vec::new());
        let (_database, _folder) = (database, folder);
        let mut held = Self { world, tenants, collection, written, what, seen, asked, _database, _folder };
        for (tenant, (_, count)) in TENANTS.iter().enumerate() {
            held.upsert(rng, tenant, (0..*count).map(|at| format!("k{at}")).collect());
        }
        held
    }

    fn upsert(&mut self, rng: &mut Rng, tenant: usize, keys: BTreeSet<String>) {
        let mut rows = Vec::new();
        for key in keys {
            self.written += 1;
            let row = self.world.row(rng, self.written);
            rows.push(to_row(&self.world.columns, TENANTS[tenant].0, &key, &row));
            self.tenants[tenant].insert(key, row);
        }
        self.collection.upsert(rows).unwrap();
    }

    /// Fresh rows, replaced ones, deletions and changes of labels on top of what is there.
    fn change(&mut self, rng: &mut Rng) {
        for (tenant, (name, count)) in TENANTS.iter().enumerate() {
            for _ in 0..3 {
                // New ones and old ones.
                let keys = (0..60).map(|_| format!("k{}", rng.below(count * 11 / 10))).collect();
                self.upsert(rng, tenant, keys);
                let some = |rng: &mut Rng| -> Vec<String> {
                    (0..50).map(|_| format!("k{}", rng.below(*count))).collect()
                };
                let keys = some(rng);
                self.collection.delete(name, &keys).unwrap();
                keys.iter().for_each(|key| drop(self.tenants[tenant].remove(key)));
                for granted in [true, false] {
                    let (keys, labels) = (some(rng), draw::labels(rng, 2));
                    let names: Vec<String> = labels.iter().cloned().collect();
                    match granted {
                        true => self.collection.grant(name, &keys, &names).unwrap(),
                        false => self.collection.revoke(name, &keys, &names).unwrap(),
                    };
                    for key in keys {
                        let Some(row) = self.tenants[tenant].get_mut(&key) else { continue };
                        match granted {
                            true => row.labels.extend(labels.iter().cloned()),
                            false => row.labels.retain(|label| !labels.contains(label)),
                        }
                    }
                }
            }
            self.delete_by_filter(rng, tenant);
        }
    }

    /// Deletes what passes a filter that few rows pass.
    fn delete_by_filter(&mut self, rng: &mut Rng, tenant: usize) {
        let (columns, rows) = (&self.world.columns, &mut self.tenants[tenant]);
        loop {
            let filter = self.world.filter(rng, 3, TENANTS[tenant].1);
            let before = rows.len();
            let of = rows.iter().filter(|(key, row)| passes(columns, &filter, key, row));
            let gone: BTreeSet<String> = of.map(|(key, _)| key.clone()).collect();
            if gone.is_empty() || gone.len() * 20 > before {
                continue;
            }
            rows.retain(|key, _| !gone.contains(key));
            let written = self.collection.delete_by_filter(TENANTS[tenant].0, &filter).unwrap();
            assert_eq!(written.rows, gone.len() as u64, "{}: deleted by {filter:?}", self.what);
            self.seen.deleted += written.rows;
            break;
        }
        // No other is gone.
        let keys: Vec<String> = rows.keys().cloned().collect();
        assert_eq!(self.scroll(rng, tenant, None), keys, "{}", self.what);
    }

    /// The keys of all pages.
    fn scroll(&self, rng: &mut Rng, tenant: usize, filter: Option<&Filter>) -> Vec<String> {
        let (mut keys, mut after) = (Vec::new(), None);
        let limit = *rng.pick(&[1_000, 3_000, 10_000]);
        loop {
            let page = ScrollRequest {
                tenant: TENANTS[tenant].0.to_owned(),
                after,
                limit,
                filter: filter.cloned(),
                fields: Fields::None,
            };
            let page = self.collection.scroll(&page).unwrap();
            assert!(page.rows.len() == limit || page.next.is_none(), "{}: a short page", self.what);
            keys.extend(page.rows.into_iter().map(|row| row.key));
            after = page.next;
            if after.is_none() {
                return keys;
            }
        }
    }

    /// Asks with a random filter, in every way.
    fn ask(&mut self, rng: &mut Rng) {
        // What is asked again may have been kept, whatever has changed since.
        if self.asked.is_empty() || !rng.once_in(3) {
            let tenant = [0, 0, 0, 1, 1, 2, 2, 3][rng.below(8)];
            let depth = rng.below(5);
            self.asked.push((tenant, self.world.filter(rng, depth, TENANTS[tenant].1)));
        }
        let newest = self.asked.len() - 1;
        let at = if rng.once_in(2) { newest } else { rng.below(newest + 1) };
        let (tenant, filter) = self.asked[at].clone();
        let rows = &self.tenants[tenant];
        let columns = &self.world.columns;
        let what = format!("{}: tenant '{}', {filter:?}", self.what, TENANTS[tenant].0);
        let pass = rows.iter().filter(|(key, row)| passes(columns, &filter, key, row));
        let pass: BTreeSet<&str> = pass.map(|(key, _)| &**key).collect();
        let counted = self.collection.count(TENANTS[tenant].0, Some(&filter)).unwrap();
        assert_eq!(counted, pass.len() as u64, "{what}: count");
        if rng.once_in(10) {
            let keys: Vec<&str> = pass.iter().copied().collect();
            assert_eq!(self.scroll(rng, tenant, Some(&filter)), keys, "{what}: scroll");
        }
        let query = self.world.query(rng);
        let best = ranked(rows, self.world.metric, &query, |key, _| pass.contains(key));
        let share = pass.len() * 100 / rows.len();
        let class = [pass.is_empty(), share < 1, share < 10, share < 50, share < 90, pass.len() < rows.len()];
        self.seen.shares[class.iter().position(|is| *is).unwrap_or(6)] += 1;
        let mut request = SearchRequest {
            tenant: TENANTS[tenant].0.to_owned(),
            fields: Fields::None,
            k: *rng.pick(&[1, 5, 10, 10, 30, 100]),
            offset: if rng.once_in(10) { rng.below(50) } else { 0 },
            exact: true,
            ..SearchRequest::new(Route::dense("v", query)).filter(filter)
        };
        let exact = self.collection.search(&request).unwrap();
        let wanted: Vec<Ranked> = best.iter().skip(request.offset).take(request.k).cloned().collect();
        assert_eq!(found(rows, &exact), wanted, "{what}: exact, {request:?}");
        assert_eq!(exact.short.is_some(), exact.hits.len() < request.k, "{what}: short");
        (request.exact, request.offset, request.explain) = (false, 0, true);
        let approximate = self.collection.search(&request).unwrap();
        let stages = &approximate.explain.as_ref().unwrap().stages;
        let scored = stages.iter().map(|stage| stage.scored).max().unwrap_or_default();
        if best.len() > 2_048 && scored < best.len() as u64 {
            self.seen.walked += 1;
        }
        request.explain = false;
        let recall = check(&what, rows, &request, &approximate, &best);
        if best.len() >= request.k {
            self.seen.recalls.0 += 1;
            self.seen.recalls.1 += recall;
        }
        if rng.once_in(4) {
            // Those of a batch are answered together.
            let mut batch = vec![request.clone(), request];
            batch[1].k = 1 + rng.below(20);
            for (request, answer) in batch.iter().zip(self.collection.search_batch(&batch).unwrap()) {
                check(&what, rows, request, &answer, &best);
            }
        }
    }
}

/// The hits as the model ranks rows.
fn found(rows: &Rows, answer: &SearchResponse) -> Vec<Ranked> {
    let ranked = answer.hits.iter().map(|hit| {
        let order = rows.get(&hit.row.key).unwrap_or_else(|| panic!("'{}' is not there", hit.row.key)).order;
        Ranked { score: hit.score, order, key: hit.row.key.clone() }
    });
    ranked.collect()
}

/// Checks an approximate answer against all rows that pass, best first, and returns its recall: the share of
/// hits that are as near as the `k` nearest are.
fn check(
    what: &str,
    rows: &Rows,
    request: &SearchRequest,
    answer: &SearchResponse,
    best: &[impl Borrow<Ranked>],
) -> f64 {
    let what = || format!("{what}: k {}, recall {}, {:?}", request.k, request.recall, request.routes);
    let hits = found(rows, answer);
    let least = request.k.min(best.len());
    assert_eq!(hits.len(), least, "{}: {} rows pass", what(), best.len());
    assert_eq!(answer.short.is_some(), hits.len() < request.k, "{}: short", what());
    let older = |a: &Ranked, b: &Ranked| a.score > b.score || (a.score == b.score && a.order < b.order);
    assert!(hits.is_sorted_by(older), "{}: {hits:?}", what());
    // `best` is sorted: hits, which are as well, lie in it in that order, or do not pass.
    let mut rest = best.iter().map(Borrow::borrow);
    for hit in &hits {
        assert!(rest.any(|row| row == hit), "{}: {hit:?} does not pass, or scores otherwise", what());
    }
    let Some(last) = least.checked_sub(1).map(|last| best[last].borrow()) else { return 1.0 };
    hits.iter().filter(|hit| hit.score >= last.score).count() as f64 / least as f64
}

fn run(seed: u64) {
    let mut rng = Rng::announced("filters", seed);
    let mut held = Held::new(&mut rng);
    let world = held.what.clone();
    for round in 0..3 {
        held.what = format!("{world}, round {round}");
        held.collection.optimize().unwrap();
        (0..ASKS).for_each(|_| held.ask(&mut rng));
        held.what += " with changes";
        held.change(&mut rng);
        (0..ASKS).for_each(|_| held.ask(&mut rng));
    }
    held.collection.verify().unwrap();
    let Seen { shares, recalls: (queries, recall), deleted, walked } = held.seen;
    let recall = recall / queries as f64;
    println!("passing none, below 1, 10, 50, 90, 100 %, all: {shares:?}; {deleted} deleted by filters");
    println!("recall {recall:.4} of {queries} queries with k rows or more that pass; {walked} by walks");
    assert!(shares.iter().all(|count| *count > 0), "shares of rows that pass: {shares:?}");
    assert!(recall >= 0.9, "recall {recall} of {queries} queries");
    assert!(walked > 0 && deleted > 0, "{walked} walks, {deleted} deletes by filters");
}

#[test]
fn rows_found_are_those_that_pass() {
    run(41);
}

#[test]
fn rows_found_are_those_that_pass_again() {
    run(53);
}

#[test]
fn rows_found_are_those_that_pass_once_more() {
    run(56);
}
