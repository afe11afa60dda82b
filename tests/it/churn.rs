//! Rows are replaced and deleted while segments are flushed, merged and searched: what is found is right in
//! every state, among several segments of signs and cells, before and after a restart.

use std::collections::HashMap;
use std::sync::Arc;

use spandrel::{Collection, Database, Metric, Route, Row, Schema, SearchRequest, Settings};

use crate::rng::Rng;

const DIM: usize = 64;
const ROWS: usize = 20_000;
/// Rows of a flush.
const FLUSH: usize = 6_000;
const QUERIES: usize = 40;
const K: usize = 10;

/// Vectors around some centres.
struct Source {
    rng: Rng,
    centres: Vec<Vec<f32>>,
}

impl Source {
    fn new(mut rng: Rng) -> Self {
        let centres = (0..50).map(|_| (0..DIM).map(|_| rng.unit()).collect()).collect();
        Self { rng, centres }
    }

    fn vector(&mut self) -> Vec<f32> {
        let centre = self.rng.below(self.centres.len());
        (0..DIM).map(|at| self.centres[centre][at] + 0.6 * self.rng.unit()).collect()
    }
}

/// The collection and what it should hold.
struct Model {
    rows: Arc<Collection>,
    truth: HashMap<String, Vec<f32>>,
    source: Source,
}

impl Model {
    fn upsert(&mut self, keys: impl IntoIterator<Item = usize>) {
        let keys: Vec<usize> = keys.into_iter().collect();
        for keys in keys.chunks(512) {
            let mut rows = Vec::new();
            for key in keys {
                let (key, vector) = (format!("k{key}"), self.source.vector());
                rows.push(Row::new(&key).dense("v", vector.clone()));
                self.truth.insert(key, vector);
            }
            self.rows.upsert(rows).unwrap();
        }
    }

    fn delete(&mut self, keys: impl IntoIterator<Item = usize>) {
        let keys: Vec<String> = keys.into_iter().map(|key| format!("k{key}")).collect();
        self.rows.delete("", &keys).unwrap();
        keys.iter().for_each(|key| {
            self.truth.remove(key);
        });
    }

    /// Checks that every hit is a live row with its own score, and returns the recall.
    fn recall(&mut self, recall: f32) -> f64 {
        let mut found = 0;
        for _ in 0..QUERIES {
            let query = self.source.vector();
            let distance = |vector: &[f32]| -> f64 {
                vector.iter().zip(&query).map(|(a, b)| f64::from(a - b).powi(2)).sum()
            };
            let mut nearest: Vec<f64> = self.truth.values().map(|vector| distance(vector)).collect();
            nearest.sort_unstable_by(f64::total_cmp);
            let request =
                SearchRequest { recall, ..SearchRequest::new(Route::dense("v", query.clone())).k(K) };
            let hits = self.rows.search(&request).unwrap().hits;
            assert_eq!(hits.len(), K);
            for hit in &hits {
                let vector = self.truth.get(&hit.row.key).expect("a hit is a live row");
                let (score, exact) = (f64::from(hit.score), -distance(vector));
                assert!((score - exact).abs() < 1e-3 * exact.abs().max(1.0), "{score} is not {exact}");
                found += usize::from(-score <= nearest[K - 1] * 1.000_01);
            }
        }
        found as f64 / (QUERIES * K) as f64
    }

    fn check(&mut self, when: &str) {
        for recall in [0.9, 0.99] {
            let found = self.recall(recall);
            assert!(found >= f64::from(recall) - 0.03, "{when}: {found} was found, {recall} asked for");
        }
        assert_eq!(self.rows.stats().unwrap().rows, self.truth.len() as u64, "{when}");
    }
}

#[test]
fn recall_holds_while_rows_are_replaced_and_segments_merged() {
    let rng = Rng::announced("churn", 11);
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { fresh_rows_max: FLUSH, ..Settings::default() };
    let database = Database::open(folder.path(), settings.clone()).unwrap();
    let schema = Schema::new().dense("v", DIM as u32, Metric::L2);
    let rows = database.create_collection("rows", schema).unwrap();
    let mut model = Model { rows, truth: HashMap::new(), source: Source::new(rng) };
    model.upsert(0..ROWS);
    model.check("loaded");
    model.rows.optimize().unwrap();
    assert_eq!(model.rows.stats().unwrap().segments, 1);
    model.check("optimized");
    for round in 0..3 {
        // A third of the rows, some of them twice, with deletes between.
        model.upsert((0..ROWS).filter(|key| key % 3 == round));
        model.check("replaced");
        model.delete((0..200).map(|at| at * 97 + round));
        model.upsert((0..1_000).map(|at| at * 11 + round));
        model.rows.flush().unwrap();
        model.check("flushed");
    }
    model.rows.settle().unwrap();
    model.check("settled");
    model.rows.verify().unwrap();
    let Model { rows, truth, source } = model;
    database.close().unwrap();
    drop((rows, database));
    let database = Database::open(folder.path(), settings).unwrap();
    let mut model = Model { rows: database.collection("rows").unwrap(), truth, source };
    model.check("opened again");
    model.rows.optimize().unwrap();
    assert_eq!(model.rows.stats().unwrap().segments, 1);
    model.check("optimized again");
    model.rows.verify().unwrap();
}
