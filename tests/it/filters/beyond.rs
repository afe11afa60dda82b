//! What is nearest once the very nearest are ruled out is found as well as was asked for: who has seen the
//! first pages asks for the rest.

use std::ops::Range;

use spandrel::{Database, Durability, Fields, Filter, Metric, Route, Row, Schema, SearchRequest, Settings};

use super::check;
use super::model::{ModelRow, Rows, ranked};
use crate::rng::Rng;

const DIM: usize = 16;
const ROWS: usize = 12_000;
const CLUSTERS: usize = 40;
const QUERIES: usize = 40;

fn around(rng: &mut Rng, center: &[f32], spread: f32) -> Vec<f32> {
    center.iter().map(|element| (element + spread * rng.unit()).round()).collect()
}

#[test]
fn what_lies_beyond_the_nearest_is_found_as_well() {
    let mut rng = Rng::announced("beyond", 44);
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { durability: Durability::Buffered, ..Settings::default() };
    let database = Database::open(folder.path(), settings).unwrap();
    let schema = Schema::new().dense("v", DIM as u32, Metric::L2);
    let collection = database.create_collection("rows", schema).unwrap();
    let centers: Vec<Vec<f32>> = (0..CLUSTERS).map(|_| around(&mut rng, &[0.0; DIM], 60.0)).collect();
    let mut rows = Rows::new();
    for order in 0..ROWS as u64 {
        let center = rng.pick(&centers);
        let (vector, values, labels) = (Some(around(&mut rng, center, 25.0)), Vec::new(), Default::default());
        rows.insert(format!("k{order}"), ModelRow { order, vector, values, labels });
    }
    let written =
        rows.iter().map(|(key, row)| (row.order, Row::new(&**key).dense("v", row.vector.clone().unwrap())));
    let mut written: Vec<(u64, Row)> = written.collect();
    written.sort_by_key(|(order, _)| *order);
    collection.upsert(written.into_iter().map(|(_, row)| row).collect()).unwrap();
    collection.optimize().unwrap();
    let mut poor = Vec::new();
    for (k, without) in [1, 10, 100].into_iter().flat_map(|k| [0, 20, 100, 1_000, 5_000].map(|at| (k, at))) {
        let recall = (0..QUERIES).map(|_| {
            let center = rng.pick(&centers);
            let query = around(&mut rng, center, 25.0);
            let best = ranked(&rows, Metric::L2, &query, |_, _| true);
            let keys = |of: Range<usize>| Filter::Keys(best[of].iter().map(|row| row.key.clone()).collect());
            let filter = Filter::Not(Box::new(keys(0..without)));
            let request =
                SearchRequest { fields: Fields::None, k, ..SearchRequest::new(Route::dense("v", query)) };
            let request = request.filter(filter);
            let answer = collection.search(&request).unwrap();
            check(&format!("without {without}"), &rows, &request, &answer, &best[without..])
        });
        let recall = recall.sum::<f64>() / QUERIES as f64;
        println!("the {k} nearest without the first {without}: recall {recall:.3}");
        if recall < 0.9 {
            poor.push((k, without, recall));
        }
    }
    assert!(poor.is_empty(), "of a recall of .95 (k, without, recall): {poor:?}");
}
