//! Access labels against a model: whoever asks with labels finds the rows that have one of them, at once, and
//! no other, through grants, revokes, upserts, deletes, merges, reopens and segments that are built again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use spandrel::{
    Collection, Database, Fields, Filter, Metric, PayloadKind, Route, Row, Schema, SearchRequest, Settings,
    Short,
};

use crate::rng::Rng;

const DIM: usize = 8;
const TENANTS: [&str; 2] = ["", "acme"];
const LABELS: usize = 12;

/// Vector and labels of each row.
type Model = BTreeMap<(String, String), BTreeSet<String>>;

fn open(path: &Path) -> (Database, Arc<Collection>) {
    let settings = Settings { fresh_rows_max: 96, ..Settings::default() };
    let database = Database::open(path, settings).unwrap();
    let collection = match database.collection("rows") {
        Ok(collection) => collection,
        Err(_) => {
            let schema = Schema::new().dense("v", DIM as u32, Metric::Ip).payload("n", PayloadKind::Integer);
            database.create_collection("rows", schema).unwrap()
        }
    };
    (database, collection)
}

fn names(rng: &mut Rng, most: usize) -> Vec<String> {
    (0..rng.below(most + 1)).map(|_| format!("label {}", rng.below(LABELS))).collect()
}

fn keys_of(model: &Model, tenant: &str, passes: impl Fn(&BTreeSet<String>) -> bool) -> BTreeSet<String> {
    let of = model.iter().filter(|((of, _), labels)| of == tenant && passes(labels));
    of.map(|((_, key), _)| key.clone()).collect()
}

fn check(collection: &Collection, model: &Model, rng: &mut Rng, what: &str) {
    let tenant = *rng.pick(&TENANTS);
    let wanted = names(rng, 3);
    let has = |labels: &BTreeSet<String>| wanted.iter().any(|name| labels.contains(name));
    let expected = keys_of(model, tenant, has);
    let route = Route::dense("v", rng.vector(DIM));
    let request = SearchRequest { labels: Some(wanted.clone()), k: 2_000, ..SearchRequest::new(route) };
    let request = SearchRequest { fields: Fields::None, exact: rng.once_in(2), ..request.tenant(tenant) };
    let answer = collection.search(&request).unwrap();
    let found: BTreeSet<String> = answer.hits.iter().map(|hit| hit.row.key.clone()).collect();
    assert_eq!(found, expected, "{what}: {wanted:?} of '{tenant}'");
    assert_eq!(found.len(), answer.hits.len());
    // As a filter, and as a part of one: no label of these, or an odd number.
    let labels = Filter::Labels(wanted.clone());
    assert_eq!(collection.count(tenant, Some(&labels)).unwrap(), expected.len() as u64, "{what}");
    let odd = Filter::Equals { field: "n".into(), value: 1.into() };
    let either = Filter::Or(vec![Filter::Not(Box::new(labels)), odd.clone()]);
    let all = keys_of(model, tenant, |_| true);
    let is_odd = |key: &String| key[1..].parse::<usize>().unwrap() % 2 == 1;
    let passing: BTreeSet<String> =
        all.iter().filter(|key| !expected.contains(*key) || is_odd(key)).cloned().collect();
    assert_eq!(collection.count(tenant, Some(&either)).unwrap(), passing.len() as u64, "{what}");
    // Labels narrow a filter, and a filter never widens labels.
    let narrowed =
        SearchRequest { filter: Some(Filter::Or(vec![odd, Filter::Labels(names(rng, 3))])), ..request };
    for hit in collection.search(&narrowed).unwrap().hits {
        assert!(expected.contains(&hit.row.key), "{what}: {} is not of {wanted:?}", hit.row.key);
    }
    // And rows say which they have.
    let some: Vec<String> = all.iter().filter(|_| rng.once_in(20)).cloned().collect();
    for (key, row) in some.iter().zip(collection.get(tenant, &some, &Fields::All).unwrap()) {
        assert_eq!(row.unwrap().labels, model[&(tenant.to_owned(), key.clone())], "{what}: {key}");
    }
}

#[test]
fn labels_are_what_was_granted_and_not_revoked() {
    let mut rng = Rng::announced("labels", 20);
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    let (mut database, mut collection) = open(folder.path());
    let key = |rng: &mut Rng| format!("k{}", rng.below(600));
    for step in 0..900 {
        let tenant = (*rng.pick(&TENANTS)).to_owned();
        let some_keys = |rng: &mut Rng| -> Vec<String> { (0..1 + rng.below(30)).map(|_| key(rng)).collect() };
        match rng.below(100) {
            0..35 => {
                let mut rows = BTreeMap::new();
                for key in some_keys(&mut rng) {
                    let number: usize = key[1..].parse().unwrap();
                    let mut row = Row::new(&*key).tenant(&*tenant).dense("v", rng.vector(DIM));
                    row = row.payload("n", (number % 2) as i64);
                    row.labels = names(&mut rng, 4).into_iter().collect();
                    model.insert((tenant.clone(), key.clone()), row.labels.clone());
                    rows.insert(key, row);
                }
                collection.upsert(rows.into_values().collect()).unwrap();
            }
            35..55 => {
                let (keys, labels) = (some_keys(&mut rng), names(&mut rng, 3));
                let written = collection.grant(&tenant, &keys, &labels).unwrap();
                let there: BTreeSet<_> =
                    keys.iter().filter(|key| model.contains_key(&(tenant.clone(), (*key).clone()))).collect();
                assert_eq!(written.rows, there.len() as u64);
                for key in there {
                    model.get_mut(&(tenant.clone(), key.clone())).unwrap().extend(labels.iter().cloned());
                }
            }
            55..75 => {
                let (keys, labels) = (some_keys(&mut rng), names(&mut rng, 3));
                collection.revoke(&tenant, &keys, &labels).unwrap();
                for key in keys {
                    if let Some(has) = model.get_mut(&(tenant.clone(), key)) {
                        labels.iter().for_each(|label| {
                            has.remove(label);
                        });
                    }
                }
            }
            75..83 => {
                let keys = some_keys(&mut rng);
                collection.delete(&tenant, &keys).unwrap();
                keys.into_iter().for_each(|key| {
                    model.remove(&(tenant.clone(), key));
                });
            }
            83..86 => {
                let label = format!("label {}", rng.below(LABELS));
                collection.drop_label(&label).unwrap();
                assert!(!collection.labels().contains(&label));
                model.values_mut().for_each(|has| {
                    has.remove(&label);
                });
            }
            86..87 => {
                collection.drop_tenant(&tenant).unwrap();
                model.retain(|(of, _), _| *of != tenant);
            }
            87..94 => collection.flush().unwrap(),
            94..97 => collection.optimize().unwrap(),
            _ => {
                let ends = rng.below(3);
                if ends > 0 {
                    database.close().unwrap();
                }
                drop((database, collection));
                if ends == 2 {
                    // Segments are derived: all are built again.
                    let segments = std::fs::read_dir(folder.path().join("segments")).unwrap();
                    for collection in segments {
                        for file in std::fs::read_dir(collection.unwrap().path()).unwrap() {
                            let file = file.unwrap().path();
                            if file.extension().is_some_and(|extension| extension == "seg") {
                                std::fs::remove_file(file).unwrap();
                            }
                        }
                    }
                }
                (database, collection) = open(folder.path());
            }
        }
        check(&collection, &model, &mut rng, &format!("step {step}"));
        if step % 100 == 99 {
            collection.verify().unwrap();
        }
    }
    for (tenant, of) in TENANTS.iter().zip([0, 1]) {
        for label in 0..LABELS {
            let label = format!("label {label}");
            let expected = keys_of(&model, tenant, |labels| labels.contains(&label)).len() as u64;
            assert_eq!(
                collection.count(tenant, Some(&Filter::Labels(vec![label]))).unwrap(),
                expected,
                "{of}"
            );
        }
    }
}

/// Who has no label sees nothing, and a name that nobody has used is no error.
#[test]
fn labels_that_nobody_has_find_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (_database, collection) = open(folder.path());
    collection.upsert(vec![Row::new("k1").dense("v", vec![1.0; DIM]).label("staff")]).unwrap();
    let search = |labels: Option<&[&str]>| {
        let labels = labels.map(|labels| labels.iter().map(|label| (*label).to_owned()).collect());
        let request = SearchRequest { labels, ..SearchRequest::new(Route::dense("v", vec![1.0; DIM])) };
        collection.search(&request).map(|answer| (answer.hits.len(), answer.short))
    };
    let few = Some(Short::FewMatches);
    assert_eq!(search(None).unwrap(), (1, few));
    assert_eq!(search(Some(&["staff", "unheard of"])).unwrap(), (1, few));
    assert_eq!(search(Some(&["unheard of"])).unwrap(), (0, few));
    assert_eq!(search(Some(&[])).unwrap(), (0, few));
    let long = "x".repeat(300);
    assert!(collection.grant("", &["k1".into()], std::slice::from_ref(&long)).is_err());
    assert!(collection.grant("", &["k1".into()], &[String::new()]).is_err());
    assert!(collection.upsert(vec![Row::new("k2").label(long)]).is_err());
    assert_eq!(collection.labels(), ["staff"]);
    // Written again without it, a row has no label.
    collection.upsert(vec![Row::new("k1").dense("v", vec![1.0; DIM])]).unwrap();
    assert_eq!(search(Some(&["staff"])).unwrap(), (0, few));
    assert_eq!(search(None).unwrap(), (1, few));
}

/// What is revoked before a search ends is not in its answer, whatever it had seen when it began.
#[test]
fn a_search_that_ends_after_a_revoke_does_not_show_what_was_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let (_database, collection) = open(folder.path());
    let mut rng = Rng::announced("revokes", 3);
    let keys: Vec<String> = (0..400).map(|at| format!("k{at}")).collect();
    let rows = keys.iter().map(|key| Row::new(&**key).dense("v", rng.vector(DIM)).payload("n", 0));
    collection.upsert(rows.collect()).unwrap();
    collection.optimize().unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let searcher = scope.spawn(|| {
            let (mut searches, mut seen) = (0, 0);
            while !ended.load(Ordering::Acquire) || searches < 50 {
                let request = SearchRequest {
                    labels: Some(vec!["one".into(), "other".into()]),
                    fields: Fields::None,
                    k: 400,
                    ..SearchRequest::new(Route::dense("v", vec![1.0; DIM]))
                };
                // At every moment exactly one half of the rows has one of the labels.
                let answer = collection.search(&request).unwrap();
                assert!(answer.hits.len() <= 200 || answer.short == Some(Short::AccessLost));
                let even = answer.hits.iter().filter(|hit| hit.row.key[1..].parse::<u32>().unwrap() % 2 == 0);
                let even = even.count();
                assert!(even == 0 || even == answer.hits.len(), "rows of both halves at once");
                searches += 1;
                seen += answer.hits.len();
            }
            seen
        });
        let half = |odd: usize| keys.iter().skip(odd).step_by(2).cloned().collect::<Vec<_>>();
        for round in 0..60 {
            collection.grant("", &half(round % 2), &["one".into()]).unwrap();
            collection.revoke("", &half(round % 2), &["one".into()]).unwrap();
        }
        ended.store(true, Ordering::Release);
        assert!(searcher.join().unwrap() > 0);
    });
}
