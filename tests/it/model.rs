//! The engine against a model: thousands of random operations, each answer compared with a `BTreeMap` and
//! exact search.
//!
//! Upserts, overwrites, deletes by key and by filter, dropped tenants, searches with filters, counts,
//! scrolls, flushes, merges (small bounds make many) and reopens. Scores are compared to 1e-4; the order of
//! rows exactly, by score.

use std::collections::{BTreeMap, BTreeSet};

use spandrel::{
    Chunk, Collection, Database, FieldValue, Fields, Filter, Fusion, Metric, PayloadKind, Route, Row, Schema,
    ScrollRequest, SearchRequest, Settings, SparseVector, Value,
};

use crate::rng::Rng;

const DIM: usize = 12;
const TENANTS: [&str; 4] = ["", "acme", "globex", "initech"];
const WORDS: [&str; 12] = [
    "alpha", "beta", "gamma", "delta", "river", "stone", "cloud", "ember", "frost", "grove", "haven", "iron",
];

fn schema() -> Schema {
    Schema::new()
        .text("body")
        .dense("vec", DIM as u32, Metric::L2)
        .sparse("terms")
        .payload("tag", PayloadKind::Keyword)
        .payload("year", PayloadKind::Integer)
}

/// Small bounds, so that segments are built and merged all the time.
fn settings() -> Settings {
    Settings { fresh_rows_max: 96, ..Settings::default() }
}

#[derive(Clone)]
struct ModelRow {
    row: Row,
    vector: Option<Vec<f32>>,
    sparse: Option<SparseVector>,
    tags: Vec<String>,
    year: Option<i64>,
    words: BTreeSet<String>,
}

type Model = BTreeMap<(String, String), ModelRow>;

fn random_row(rng: &mut Rng, tenant: &str, key: &str) -> ModelRow {
    let mut row = Row::new(key).tenant(tenant);
    if rng.once_in(50) {
        row.chunk = Some(Chunk { document: format!("d{key}"), span: 0..4, tokens: 1 });
    }
    let mut words = BTreeSet::new();
    if !rng.once_in(8) {
        let text: Vec<&str> = (0..1 + rng.below(6)).map(|_| *rng.pick(&WORDS)).collect();
        words.extend(text.iter().map(|word| word.to_string()));
        row = row.text("body", text.join(" "));
    }
    let vector = (!rng.once_in(10)).then(|| rng.vector(DIM));
    if let Some(vector) = &vector {
        row = row.dense("vec", vector.clone());
    }
    let sparse = (!rng.once_in(3)).then(|| random_sparse(rng));
    if let Some(sparse) = &sparse {
        row = row.sparse("terms", sparse.clone());
    }
    let tags: Vec<String> = (0..rng.below(3)).map(|_| format!("t{}", rng.below(5))).collect();
    if !tags.is_empty() {
        row = row.payload("tag", tags.clone());
    }
    let year = (!rng.once_in(5)).then(|| 1990 + rng.below(30) as i64);
    if let Some(year) = year {
        row = row.payload("year", year);
    }
    ModelRow { row, vector, sparse, tags, year, words }
}

fn random_sparse(rng: &mut Rng) -> SparseVector {
    let dims: BTreeSet<u32> = (0..1 + rng.below(5)).map(|_| rng.below(20) as u32).collect();
    let weights = dims.iter().map(|_| 0.25 + rng.unit().abs()).collect();
    SparseVector { dims: dims.into_iter().collect(), weights }
}

fn random_filter(rng: &mut Rng, depth: usize) -> Filter {
    match rng.below(if depth == 0 { 5 } else { 8 }) {
        0 => Filter::Equals { field: "tag".into(), value: Value::from(format!("t{}", rng.below(5))) },
        1 => Filter::In {
            field: "year".into(),
            values: (0..3).map(|_| Value::Integer(1990 + rng.below(30) as i64)).collect(),
        },
        2 => {
            let low = 1990 + rng.below(30) as i64;
            let high = low + rng.below(10) as i64;
            Filter::Range {
                field: "year".into(),
                gt: None,
                gte: Some(low.into()),
                lt: Some(high.into()),
                lte: None,
            }
        }
        3 => Filter::Exists { field: "tag".into() },
        4 => Filter::Keys((0..4).map(|_| format!("k{}", rng.below(60))).collect()),
        5 => Filter::Not(Box::new(random_filter(rng, depth - 1))),
        6 => Filter::And((0..2).map(|_| random_filter(rng, depth - 1)).collect()),
        _ => Filter::Or((0..2).map(|_| random_filter(rng, depth - 1)).collect()),
    }
}

fn passes(filter: &Filter, row: &ModelRow) -> bool {
    match filter {
        Filter::And(filters) => filters.iter().all(|filter| passes(filter, row)),
        Filter::Or(filters) => filters.iter().any(|filter| passes(filter, row)),
        Filter::Not(filter) => !passes(filter, row),
        Filter::Equals { value, .. } => row.tags.iter().any(|tag| Value::from(tag.as_str()) == *value),
        Filter::In { values, .. } => row.year.is_some_and(|year| values.contains(&Value::Integer(year))),
        Filter::Range { gte: Some(Value::Integer(low)), lt: Some(Value::Integer(high)), .. } => {
            row.year.is_some_and(|year| (*low..*high).contains(&year))
        }
        Filter::Exists { .. } => !row.tags.is_empty(),
        Filter::Keys(keys) => keys.contains(&row.row.key),
        other => panic!("the model does not draw {other:?}"),
    }
}

fn matching<'a>(
    model: &'a Model,
    tenant: &'a str,
    filter: Option<&'a Filter>,
) -> impl Iterator<Item = &'a ModelRow> {
    model
        .iter()
        .filter(move |((of, _), row)| of == tenant && filter.is_none_or(|filter| passes(filter, row)))
        .map(|(_, row)| row)
}

/// Checks that hits are the best of `expected` (key, score), and are what the model holds.
fn check_hits(what: &str, collection: &Collection, request: &SearchRequest, expected: Vec<(&ModelRow, f32)>) {
    let response = collection.search(request).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut expected: Vec<(&str, f32, &ModelRow)> =
        expected.into_iter().map(|(row, score)| (row.row.key.as_str(), score, row)).collect();
    expected.sort_by(|a, b| b.1.total_cmp(&a.1));
    let want = expected.len().min(request.k);
    assert_eq!(response.hits.len(), want, "{what}: {} rows match", expected.len());
    assert_eq!(response.short.is_some(), want < request.k, "{what}: short");
    for (at, hit) in response.hits.iter().enumerate() {
        let found = expected.iter().find(|(key, ..)| *key == hit.row.key);
        let (_, score, row) = found.unwrap_or_else(|| panic!("{what}: '{}' does not match", hit.row.key));
        assert!(
            (hit.score - score).abs() < 1e-4,
            "{what}: '{}' scores {} not {score}",
            hit.row.key,
            hit.score
        );
        assert!(
            hit.score > expected[at].1 - 1e-4,
            "{what}: rank {at} has {} not {}",
            hit.score,
            expected[at].1
        );
        assert_eq!(hit.row, row.row, "{what}: row");
    }
    let keys: BTreeSet<&str> = response.hits.iter().map(|hit| hit.row.key.as_str()).collect();
    assert_eq!(keys.len(), response.hits.len(), "{what}: a row came twice");
    let bare = collection.search(&SearchRequest { fields: Fields::None, ..request.clone() }).unwrap();
    let without_fields = response.hits.iter().map(|hit| {
        let row = Row { fields: Default::default(), ..hit.row.clone() };
        (row, hit.score)
    });
    let bare: Vec<(Row, f32)> = bare.hits.into_iter().map(|hit| (hit.row, hit.score)).collect();
    assert_eq!(bare, without_fields.collect::<Vec<_>>(), "{what}: without fields");
}

fn search(rng: &mut Rng, collection: &Collection, model: &Model) {
    let tenant = *rng.pick(&TENANTS);
    let filter = rng.once_in(2).then(|| random_filter(rng, 2));
    let mut request = SearchRequest { fields: Fields::All, ..SearchRequest::default() }.tenant(tenant);
    request.k = 1 + rng.below(20);
    request.filter = filter.clone();
    let rows = || matching(model, tenant, filter.as_ref());
    if rng.once_in(3) {
        let query = random_sparse(rng);
        let dot = |sparse: &SparseVector| -> Option<f32> {
            let shared = query.dims.iter().zip(&query.weights).filter_map(|(dim, weight)| {
                let at = sparse.dims.binary_search(dim).ok()?;
                Some(weight * sparse.weights[at])
            });
            let products: Vec<f32> = shared.collect();
            (!products.is_empty()).then(|| products.iter().sum())
        };
        let expected = rows().filter_map(|row| Some((row, dot(row.sparse.as_ref()?)?))).collect();
        request.routes = vec![Route::sparse("terms", query.clone())];
        check_hits("sparse", collection, &request, expected);
    } else {
        let query = rng.vector(DIM);
        let score =
            |vector: &Vec<f32>| -query.iter().zip(vector).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let expected = rows().filter_map(|row| Some((row, score(row.vector.as_ref()?)))).collect();
        request.routes = vec![Route::dense("vec", query.clone())];
        check_hits("dense", collection, &request, expected);
        let batch = collection.search_batch(&[request.clone(), request.clone()]).unwrap();
        let single = collection.search(&request).unwrap();
        assert_eq!(batch, vec![single.clone(), single], "a batch answers as single searches do");
    }
}

/// BM25 statistics count deleted rows until a merge, so scores are not modelled: which rows match is.
fn search_text(rng: &mut Rng, collection: &Collection, model: &Model) {
    let tenant = *rng.pick(&TENANTS);
    let words = [*rng.pick(&WORDS), *rng.pick(&WORDS)];
    let request = SearchRequest::new(Route::text("body", words.join(" "))).tenant(tenant).k(10_000);
    let response = collection.search(&request).unwrap();
    let expected: BTreeSet<&str> = matching(model, tenant, None)
        .filter(|row| words.iter().any(|word| row.words.contains(*word)))
        .map(|row| row.row.key.as_str())
        .collect();
    let found: BTreeSet<&str> = response.hits.iter().map(|hit| hit.row.key.as_str()).collect();
    assert_eq!(found, expected, "text {words:?} in '{tenant}'");
    assert!(response.hits.is_sorted_by(|a, b| a.score >= b.score), "text hits are ranked");
    let hybrid = SearchRequest { k: 5, fusion: Fusion::Weighted, ..request.clone() }
        .route(Route::dense("vec", rng.vector(DIM)));
    let response = collection.search(&hybrid).unwrap();
    assert!(response.hits.is_sorted_by(|a, b| a.score >= b.score), "hybrid hits are ranked");
    assert!(response.hits.iter().all(|hit| model.contains_key(&(tenant.to_owned(), hit.row.key.clone()))));
}

fn check_everything(collection: &Collection, model: &Model) {
    collection.verify().unwrap();
    for tenant in TENANTS {
        let expected: Vec<&ModelRow> = matching(model, tenant, None).collect();
        assert_eq!(collection.count(tenant, None).unwrap(), expected.len() as u64, "rows of '{tenant}'");
        let mut after = None;
        let mut rows = Vec::new();
        loop {
            let page =
                ScrollRequest { tenant: tenant.into(), after, limit: 17, filter: None, fields: Fields::All };
            let page = collection.scroll(&page).unwrap();
            rows.extend(page.rows);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(
            rows,
            expected.iter().map(|row| row.row.clone()).collect::<Vec<_>>(),
            "scroll of '{tenant}'"
        );
        let keys: Vec<String> = (0..60).map(|at| format!("k{at}")).collect();
        let got = collection.get(tenant, &keys, &Fields::All).unwrap();
        for (key, row) in keys.iter().zip(got) {
            let expected = model.get(&(tenant.to_owned(), key.clone())).map(|row| row.row.clone());
            assert_eq!(row, expected, "row '{key}' of '{tenant}'");
        }
    }
}

fn step(rng: &mut Rng, collection: &Collection, model: &mut Model) {
    match rng.below(20) {
        0..7 => {
            let mut keys = BTreeSet::new();
            for _ in 0..1 + rng.below(12) {
                keys.insert((rng.pick(&TENANTS).to_string(), format!("k{}", rng.below(60))));
            }
            let rows: Vec<ModelRow> = keys.iter().map(|(tenant, key)| random_row(rng, tenant, key)).collect();
            let written = collection.upsert(rows.iter().map(|row| row.row.clone()).collect()).unwrap();
            assert_eq!(written.rows, rows.len() as u64);
            for (at, row) in keys.into_iter().zip(rows) {
                model.insert(at, row);
            }
        }
        7..9 => {
            let tenant = rng.pick(&TENANTS).to_string();
            let keys: BTreeSet<String> =
                (0..1 + rng.below(6)).map(|_| format!("k{}", rng.below(60))).collect();
            let keys: Vec<String> = keys.into_iter().collect();
            let written = collection.delete(&tenant, &keys).unwrap();
            let gone =
                keys.into_iter().filter(|key| model.remove(&(tenant.clone(), key.clone())).is_some()).count();
            assert_eq!(written.rows, gone as u64, "deleted rows");
        }
        9 if rng.once_in(3) => {
            let (tenant, filter) = (rng.pick(&TENANTS).to_string(), random_filter(rng, 1));
            let written = collection.delete_by_filter(&tenant, &filter).unwrap();
            let before = model.len();
            model.retain(|(of, _), row| *of != tenant || !passes(&filter, row));
            assert_eq!(written.rows, (before - model.len()) as u64, "rows deleted by filter");
        }
        10 if rng.once_in(12) => {
            let tenant = rng.pick(&TENANTS).to_string();
            let written = collection.drop_tenant(&tenant).unwrap();
            let before = model.len();
            model.retain(|(of, _), _| *of != tenant);
            assert_eq!(written.rows, (before - model.len()) as u64, "rows of the dropped tenant");
        }
        11 if rng.once_in(6) => collection.flush().unwrap(),
        12 => {
            let (tenant, filter) = (*rng.pick(&TENANTS), random_filter(rng, 2));
            let expected = matching(model, tenant, Some(&filter)).count() as u64;
            assert_eq!(collection.count(tenant, Some(&filter)).unwrap(), expected, "count {filter:?}");
        }
        13 => search_text(rng, collection, model),
        _ => search(rng, collection, model),
    }
}

fn run(seed: u64, steps: usize) {
    let mut rng = Rng::announced("model", seed);
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    let mut database = Database::open(folder.path(), settings()).unwrap();
    database.create_collection("rows", schema()).unwrap();
    for at in 0..steps {
        let collection = database.collection("rows").unwrap();
        step(&mut rng, &collection, &mut model);
        if rng.once_in(150) {
            check_everything(&collection, &model);
        }
        if rng.once_in(120) {
            drop(collection);
            if rng.once_in(2) {
                database.close().unwrap();
            }
            drop(database);
            database = Database::open(folder.path(), settings())
                .unwrap_or_else(|error| panic!("step {at}: {error}"));
            check_everything(&database.collection("rows").unwrap(), &model);
        }
    }
    let collection = database.collection("rows").unwrap();
    check_everything(&collection, &model);
    collection.flush().unwrap();
    check_everything(&collection, &model);
}

#[test]
fn random_operations_answer_as_the_model_does() {
    run(1, 1_500);
}

#[test]
fn random_operations_answer_as_the_model_does_again() {
    run(2, 1_500);
}

#[test]
fn a_row_comes_back_as_it_was_sent() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(folder.path(), Settings::default()).unwrap();
    let collection = database.create_collection("rows", schema()).unwrap();
    let row = Row::new("a").text("body", "river stone").payload("tag", vec!["x", "y"]).payload("year", 2001);
    collection.upsert(vec![row.clone()]).unwrap();
    let response = collection.search(&SearchRequest::new(Route::text("body", "STONE"))).unwrap();
    assert_eq!(response.hits.len(), 1);
    assert_eq!(response.hits[0].row, row);
    assert!(matches!(response.hits[0].row.fields["body"], FieldValue::Text(_)));
}
