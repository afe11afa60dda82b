//! De-duplication at ingest against a model: what is a copy of what, under all policies, through overwrites,
//! deletes, labels, merges, reopens, segments that are built again, concurrent writers, documents, quotas and
//! copies of tenants.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use spandrel::rag::chunk::ChunkOptions;
use spandrel::rag::ingest::Document;
use spandrel::{
    Collection, Copied, Database, DedupPolicy, DedupSpec, ErrorKind, FieldValue, Fields, Filter,
    IngestOptions, PayloadKind, Quota, Row, Schema, Settings, Value,
};
use spandrel_index::dedup::compare::Comparer;

use crate::rng::Rng;

const TENANTS: [&str; 3] = ["", "acme", "globex"];
const LABELS: usize = 3;

fn schema(policy: DedupPolicy, threshold: f64) -> Schema {
    let schema = Schema::new().text("title").text("body").payload("n", PayloadKind::Integer);
    let schema = schema.payload("copy", PayloadKind::Bool).payload("of", PayloadKind::Keyword);
    schema.dedup(match policy {
        DedupPolicy::Skip => DedupSpec::skip("body").threshold(threshold),
        DedupPolicy::Flag => DedupSpec::flag("body", "copy").threshold(threshold),
        DedupPolicy::Link => DedupSpec::link("body", "of").threshold(threshold),
    })
}

fn open(path: &Path, schema: &Schema) -> (Database, Arc<Collection>) {
    let settings = Settings { fresh_rows_max: 96, ..Settings::default() };
    let database = Database::open(path, settings).unwrap();
    let collection = match database.collection("rows") {
        Ok(collection) => collection,
        Err(_) => database.create_collection("rows", schema.clone()).unwrap(),
    };
    (database, collection)
}

/// A row as the model has it.
#[derive(Clone, Debug)]
struct Held {
    /// When it was written, among all.
    number: u64,
    keys: Vec<u64>,
    labels: BTreeSet<String>,
    /// The key of the row that it is a copy of, where it is marked.
    of: Option<String>,
    text: String,
}

struct Model {
    rows: BTreeMap<(String, String), Held>,
    comparer: Comparer,
    policy: DedupPolicy,
    next: u64,
}

impl Model {
    fn original(
        &self,
        tenant: &str,
        row: &Row,
        leaving: &BTreeSet<(String, String)>,
    ) -> Option<(String, bool)> {
        let keys = keys_of(&self.comparer, row);
        let content = keys.last()?;
        let mut best: Option<(bool, u64, &String)> = None;
        for ((of, key), held) in &self.rows {
            let shares = held.keys.iter().any(|key| keys.contains(key));
            if of != tenant || held.of.is_some() || !shares || !row.labels.is_subset(&held.labels) {
                continue;
            }
            // What the batch has written has numbers of its own.
            if leaving.contains(&(of.clone(), key.clone())) && held.number < self.next {
                continue;
            }
            let found = (held.keys.last() != Some(content), held.number, key);
            if best.is_none_or(|best| found < best) {
                best = Some(found);
            }
        }
        best.map(|(near, _, key)| (key.clone(), !near))
    }

    /// Writes a batch; what was found.
    fn upsert(&mut self, rows: &[Row]) -> Vec<Copied> {
        let leaving: BTreeSet<(String, String)> =
            rows.iter().map(|row| (row.tenant.clone(), row.key.clone())).collect();
        let (mut copied, mut number) = (Vec::new(), self.next);
        // Rows that leave are no originals, written or not yet.
        let before = self.rows.clone();
        for row in rows {
            let id = (row.tenant.clone(), row.key.clone());
            let there = before.contains_key(&id);
            let exempt = there && self.policy == DedupPolicy::Skip;
            let found = if exempt { None } else { self.original(&row.tenant, row, &leaving) };
            if let Some((of, exact)) = &found {
                let (tenant, key) = id.clone();
                copied.push(Copied { tenant, key, of: of.clone(), exact: *exact });
                if self.policy == DedupPolicy::Skip {
                    continue;
                }
            }
            let of = found.map(|(of, _)| of);
            let text = text_of(row).to_owned();
            let keys = keys_of(&self.comparer, row);
            self.rows.insert(id, Held { number, keys, labels: row.labels.clone(), of, text });
            number += 1;
        }
        self.next = number;
        copied
    }
}

fn text_of(row: &Row) -> &str {
    match row.fields.get("body") {
        Some(FieldValue::Text(text)) => text,
        _ => "",
    }
}

fn keys_of(comparer: &Comparer, row: &Row) -> Vec<u64> {
    comparer.keys(text_of(row)).to_vec()
}

/// A text like one of a few, with some words changed.
fn text(rng: &mut Rng) -> String {
    let base = rng.below(30);
    let mut words: Vec<String> = (0..40).map(|word| format!("w{base}x{word}")).collect();
    for _ in 0..[0, 0, 1, 1, 2, 4][rng.below(6)] {
        let at = rng.below(words.len());
        words[at] = format!("v{}", rng.below(50));
    }
    if rng.once_in(4) { words.join(", ").to_uppercase() } else { words.join(" ") }
}

fn random_row(rng: &mut Rng) -> Row {
    let row = Row::new(format!("k{}", rng.below(150))).tenant(*rng.pick(&TENANTS));
    let row = row.payload("n", rng.below(9) as i64).text("title", "the same title of all");
    // What the engine says of copies is its own.
    let row = if rng.once_in(3) { row.payload("copy", true).payload("of", "nothing") } else { row };
    let row = if rng.once_in(20) { row } else { row.text("body", text(rng)) };
    (0..rng.below(LABELS)).fold(row, |row, _| row.label(format!("l{}", rng.below(LABELS))))
}

fn batch(rng: &mut Rng, most: usize) -> Vec<Row> {
    let mut seen = BTreeSet::new();
    let rows = (0..1 + rng.below(most)).map(|_| random_row(rng)).collect::<Vec<_>>();
    rows.into_iter().filter(|row| seen.insert((row.tenant.clone(), row.key.clone()))).collect()
}

fn check(collection: &Collection, model: &Model, what: &str) {
    for tenant in TENANTS {
        let of = model.rows.iter().filter(|((of, _), _)| of == tenant);
        let keys: Vec<String> = of.clone().map(|((_, key), _)| key.clone()).collect();
        assert_eq!(collection.count(tenant, None).unwrap(), keys.len() as u64, "{what}: '{tenant}'");
        let found = collection.get(tenant, &keys, &Fields::All).unwrap();
        for ((_, held), row) in of.clone().zip(found) {
            let row = row.unwrap();
            assert_eq!(text_of(&row), held.text, "{what}: {}", row.key);
            let (flag, link) = (row.fields.get("copy"), row.fields.get("of"));
            let value = |value: Value| Some(FieldValue::Payload(value));
            match model.policy {
                DedupPolicy::Skip => {}
                DedupPolicy::Flag => {
                    assert_eq!(
                        flag.cloned(),
                        value(Value::Bool(true)).filter(|_| held.of.is_some()),
                        "{what}"
                    );
                }
                DedupPolicy::Link => {
                    assert_eq!(link.cloned(), held.of.clone().and_then(|of| value(of.into())), "{what}");
                }
            }
        }
        let marked = of.filter(|(_, held)| held.of.is_some()).count() as u64;
        let filter = match model.policy {
            DedupPolicy::Skip => continue,
            DedupPolicy::Flag => Filter::Equals { field: "copy".into(), value: true.into() },
            DedupPolicy::Link => Filter::Exists { field: "of".into() },
        };
        assert_eq!(collection.count(tenant, Some(&filter)).unwrap(), marked, "{what}: '{tenant}'");
    }
}

fn run(policy: DedupPolicy, threshold: f64, steps: usize) {
    let mut rng = Rng::announced(&format!("dedup {} {threshold}", policy.name()), 0xded0 + policy as u64);
    let folder = tempfile::tempdir().unwrap();
    let schema = schema(policy, threshold);
    let comparer = Comparer::of(&schema).unwrap().unwrap();
    let mut model = Model { rows: BTreeMap::new(), comparer, policy, next: 1 };
    let (mut database, mut collection) = open(folder.path(), &schema);
    let mut copies = 0;
    for step in 0..steps {
        let what = format!("step {step}");
        match rng.below(20) {
            0..10 => {
                let rows = batch(&mut rng, 12);
                let expected = model.upsert(&rows);
                let sent = rows.len() as u64;
                let written = collection.upsert(rows).unwrap();
                assert_eq!(written.copied, expected, "{what}");
                let left_out = if policy == DedupPolicy::Skip { written.copies } else { 0 };
                assert_eq!(
                    (written.copies, written.rows),
                    (expected.len() as u64, sent - left_out),
                    "{what}"
                );
                copies += written.copies;
            }
            10..13 => {
                let tenant = *rng.pick(&TENANTS);
                let keys: Vec<String> = (0..8).map(|_| format!("k{}", rng.below(150))).collect();
                collection.delete(tenant, &keys).unwrap();
                keys.into_iter().for_each(|key| drop(model.rows.remove(&(tenant.to_owned(), key))));
            }
            13..16 => {
                let tenant = *rng.pick(&TENANTS);
                let keys: Vec<String> = (0..8).map(|_| format!("k{}", rng.below(150))).collect();
                let label = [format!("l{}", rng.below(LABELS))];
                let granted = rng.once_in(2);
                match granted {
                    true => collection.grant(tenant, &keys, &label).unwrap(),
                    false => collection.revoke(tenant, &keys, &label).unwrap(),
                };
                for key in keys {
                    if let Some(held) = model.rows.get_mut(&(tenant.to_owned(), key)) {
                        match granted {
                            true => held.labels.insert(label[0].clone()),
                            false => held.labels.remove(&label[0]),
                        };
                    }
                }
            }
            16 => collection.flush().unwrap(),
            17 if rng.once_in(4) => {
                let tenant = *rng.pick(&TENANTS);
                collection.drop_tenant(tenant).unwrap();
                model.rows.retain(|(of, _), _| of != tenant);
            }
            18 if rng.once_in(2) => collection.optimize().unwrap(),
            19 => {
                database.close().unwrap();
                drop((database, collection));
                if rng.once_in(3) {
                    remove_segments(folder.path());
                }
                (database, collection) = open(folder.path(), &schema);
            }
            _ => {}
        }
        if step % 20 == 0 {
            check(&collection, &model, &what);
        }
    }
    assert!(copies > 20, "{copies} copies");
    check(&collection, &model, "the end");
    collection.verify().unwrap();
}

/// They are built again from rows.
fn remove_segments(folder: &Path) {
    for entry in std::fs::read_dir(folder.join("segments")).unwrap() {
        for file in std::fs::read_dir(entry.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "seg") {
                std::fs::remove_file(path).unwrap();
            }
        }
    }
}

#[test]
fn copies_are_left_out_as_the_model_says() {
    run(DedupPolicy::Skip, 0.8, 500);
}

#[test]
fn copies_are_flagged_as_the_model_says() {
    run(DedupPolicy::Flag, 0.5, 500);
}

#[test]
fn copies_are_linked_as_the_model_says() {
    run(DedupPolicy::Link, 0.8, 500);
}

#[test]
fn the_same_words_alone_count_where_nothing_else_is_asked() {
    run(DedupPolicy::Skip, 1.0, 300);
}

#[test]
fn of_writers_at_once_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let (database, collection) = open(folder.path(), &schema(DedupPolicy::Skip, 0.8));
    let mut rng = Rng::announced("dedup concurrent", 0xded9);
    let texts: Vec<String> =
        (0..300).map(|text| (0..30).map(|word| format!("t{text}x{word} ")).collect()).collect();
    let orders: Vec<Vec<usize>> =
        (0..4).map(|_| (0..600).map(|_| rng.below(texts.len())).collect()).collect();
    let kept: u64 = std::thread::scope(|scope| {
        let writers = orders.iter().enumerate().map(|(writer, order)| {
            let (collection, texts) = (&collection, &texts);
            scope.spawn(move || {
                let mut kept = 0;
                for (at, texts_of) in order.chunks(5).enumerate() {
                    let row = |(n, text): (usize, &usize)| {
                        Row::new(format!("{writer}-{at}-{n}")).text("body", texts[*text].as_str())
                    };
                    kept += collection.upsert(texts_of.iter().enumerate().map(row).collect()).unwrap().rows;
                }
                kept
            })
        });
        writers.collect::<Vec<_>>().into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    let distinct = orders.iter().flatten().collect::<BTreeSet<_>>().len() as u64;
    assert_eq!((kept, collection.count("", None).unwrap()), (distinct, distinct));
    database.close().unwrap();
}

fn document(key: &str, parts: &[&str]) -> Document {
    // Long enough that each is a chunk.
    let part = |part: &&str| (0..60).map(|word| format!("{part}{word} ")).collect::<String>();
    Document {
        key: key.into(),
        text: parts.iter().map(part).collect::<Vec<_>>().join("\n\n"),
        ..Document::default()
    }
}

#[test]
fn documents_are_not_copies_of_what_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let (database, collection) = open(folder.path(), &schema(DedupPolicy::Skip, 0.8));
    let chunk = ChunkOptions { tokens_max: 200, overlap_tokens: 0, ..ChunkOptions::default() };
    let options = IngestOptions { text_field: Some("body".into()), chunk, ..IngestOptions::default() };
    let keys = |prefix: &str| {
        let request = spandrel::ScrollRequest { limit: 100, ..spandrel::ScrollRequest::default() };
        let rows = collection.scroll(&request).unwrap().rows;
        rows.into_iter().map(|row| row.key).filter(|key| key.starts_with(prefix)).collect::<Vec<_>>()
    };
    let first = collection.ingest(&document("a", &["p", "q", "r"]), &options).unwrap();
    assert_eq!((first.rows, first.copies), (3, 0), "a chunk each");
    // All chunks move by one, and the last is new.
    let moved = collection.ingest(&document("a", &["new", "p", "q", "r"]), &options).unwrap();
    assert_eq!((moved.rows, moved.copies), (4, 0));
    // A shorter version: the rest is deleted, and no copy of it.
    let short = collection.ingest(&document("a", &["r", "q"]), &options).unwrap();
    assert_eq!((short.rows, short.copies, keys("a#").len()), (2, 0, 2));
    // Another document with a chunk that is there.
    let other = collection.ingest(&document("b", &["s", "q", "u"]), &options).unwrap();
    assert_eq!((other.rows, other.copies, keys("b#")), (2, 1, vec!["b#0".to_owned(), "b#2".to_owned()]));
    assert_eq!((&*other.copied[0].key, &*other.copied[0].of, other.copied[0].exact), ("b#1", "a#1", true));
    // And again: what it has stays, what was left out still is.
    let again = collection.ingest(&document("b", &["s", "q", "u"]), &options).unwrap();
    assert_eq!((again.rows, again.copies, keys("b#").len()), (2, 1, 2));
    database.close().unwrap();
}

#[test]
fn a_copy_is_seen_by_nobody_who_does_not_see_the_original() {
    let folder = tempfile::tempdir().unwrap();
    let (database, collection) = open(folder.path(), &schema(DedupPolicy::Skip, 0.8));
    let row = |key: &str, label: &str| {
        let row = Row::new(key).text("body", "one and the same text for all who read it");
        if label.is_empty() { row } else { row.label(label) }
    };
    let rows =
        |written: spandrel::Written| (written.rows, written.copied.first().map(|copied| copied.of.clone()));
    assert_eq!(rows(collection.upsert(vec![row("a", "hr")]).unwrap()), (1, None));
    // Readers of `eng` would find nothing.
    assert_eq!(rows(collection.upsert(vec![row("b", "eng")]).unwrap()), (1, None));
    assert_eq!(rows(collection.upsert(vec![row("c", "hr")]).unwrap()), (0, Some("a".into())));
    assert_eq!(rows(collection.upsert(vec![row("d", "")]).unwrap()), (0, Some("a".into())));
    database.close().unwrap();
}

#[test]
fn tenants_are_copied_whole_and_quotas_count_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (database, collection) = open(folder.path(), &schema(DedupPolicy::Link, 0.8));
    let row = |key: &str, text: &str| Row::new(key).tenant("a").text("body", text);
    let rows =
        vec![row("z", "the very same words here"), row("b", "the very same words here"), row("c", "other")];
    assert_eq!(collection.upsert(rows).unwrap().copies, 1);
    assert_eq!(collection.copy_tenant("a", "b").unwrap().rows, 3);
    let of = |tenant: &str| {
        let keys = ["z", "b", "c"].map(str::to_owned);
        let rows = collection.get(tenant, &keys, &Fields::All).unwrap();
        rows.into_iter().map(|row| row.unwrap().fields).collect::<Vec<_>>()
    };
    assert_eq!(of("a"), of("b"), "the same row is the original");
    assert_eq!(of("a")[1]["of"], FieldValue::Payload("z".into()));

    let folder = tempfile::tempdir().unwrap();
    let (skipping, collection) = open(folder.path(), &schema(DedupPolicy::Skip, 0.8));
    collection.set_quota("a", Some(Quota { rows_max: Some(2), ..Quota::default() })).unwrap();
    let twice = vec![
        row("1", "some words of one row"),
        row("2", "some words of one row"),
        row("3", "others of another"),
    ];
    let written = collection.upsert(twice).unwrap();
    assert_eq!((written.rows, written.copies), (2, 1));
    let error = collection.upsert(vec![row("4", "too much of it")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    // What was refused is no original.
    collection.set_quota("a", None).unwrap();
    let written = collection.upsert(vec![row("5", "too much of it")]).unwrap();
    assert_eq!((written.rows, written.copies), (1, 0));
    skipping.close().unwrap();
    database.close().unwrap();
}

#[test]
fn what_was_left_out_is_found_by_its_original() {
    let folder = tempfile::tempdir().unwrap();
    let (database, collection) = open(folder.path(), &schema(DedupPolicy::Skip, 0.8));
    let words: HashMap<&str, String> =
        ["a", "b"].map(|of| (of, (0..50).map(|word| format!("{of}{word} ")).collect())).into();
    let row = |key: &str, text: &str| Row::new(key).text("body", text);
    collection.upsert(vec![row("a", &words["a"])]).unwrap();
    collection.flush().unwrap();
    let near = words["a"].replace("a49 ", "different ");
    let written = collection.upsert(vec![row("x", &near), row("y", &words["b"])]).unwrap();
    assert_eq!(written.copied, [Copied { key: "x".into(), of: "a".into(), ..Copied::default() }]);
    // A row that is written again is compared with others, not with itself.
    assert_eq!(collection.upsert(vec![row("a", &near)]).unwrap().rows, 1);
    assert_eq!(collection.upsert(vec![row("y", &near)]).unwrap().rows, 1, "its key is there");
    collection.delete("", &["a".into(), "y".into()]).unwrap();
    assert_eq!(collection.upsert(vec![row("x", &near)]).unwrap().copies, 0, "the originals are gone");
    database.close().unwrap();
}
