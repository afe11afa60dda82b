//! What works of one group do to each other where copies are looked for, and what an ingestion leaves behind
//! that another one overtook.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use spandrel_storage::{DedupPolicy, DedupSpec, Metric, PayloadKind, Row, Schema};

use super::*;
use crate::check::check_rows;
use crate::database::Database;
use crate::rag::chunk::ChunkOptions;
use crate::rag::embed::{EmbedPurpose, Embedder};
use crate::rag::ingest::Document;
use crate::request::{Fields, IngestOptions};
use crate::settings::{Components, Settings};
use crate::{Collection, Copied};

fn schema(policy: DedupPolicy) -> Schema {
    let schema = Schema::new().text("body").dense("v", 2, Metric::L2);
    let schema = schema.payload("copy", PayloadKind::Bool).payload("of", PayloadKind::Keyword);
    schema.dedup(match policy {
        DedupPolicy::Skip => DedupSpec::skip("body"),
        DedupPolicy::Flag => DedupSpec::flag("body", "copy"),
        DedupPolicy::Link => DedupSpec::link("body", "of"),
    })
}

fn text(of: &str) -> String {
    (0..30).map(|word| format!("{of}{word} ")).collect()
}

fn upsert(collection: &Collection, rows: &[(&str, &str)]) -> Work {
    let rows = rows.iter().map(|(key, of)| Row::new(*key).text("body", text(of))).collect();
    let rows = check_rows(&collection.shared.schema, rows).unwrap();
    Work::Upsert(PreparedRow::all(&collection.shared, rows).unwrap())
}

#[test]
fn a_group_does_what_its_works_would_one_after_the_other() {
    for policy in [DedupPolicy::Skip, DedupPolicy::Flag, DedupPolicy::Link] {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path(), Settings::default()).unwrap();
        let collection = database.create_collection("rows", schema(policy)).unwrap();
        let write = |works: Vec<Work>| -> Vec<Written> {
            let written = apply(&collection.shared, works).unwrap();
            written.into_iter().map(|written| written.unwrap()).collect()
        };
        let marks = |keys: &[&str]| {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            let rows = collection.get("", &keys, &Fields::All).unwrap();
            let marked = |row: &Row| row.fields.contains_key("copy") || row.fields.contains_key("of");
            rows.iter().map(|row| row.as_ref().map(marked)).collect::<Vec<_>>()
        };
        // What the first has written is replaced by the second: b is the only one to say it.
        let works = vec![upsert(&collection, &[("a", "t")]), upsert(&collection, &[("a", "x"), ("b", "t")])];
        assert!(write(works).iter().all(|written| written.copies == 0));
        assert_eq!(marks(&["a", "b"]), [Some(false); 2], "{}", policy.name());
        // The same new row, twice at once.
        let works = vec![upsert(&collection, &[("c", "u")]), upsert(&collection, &[("c", "u")])];
        assert!(write(works).iter().all(|written| (written.rows, written.copies) == (1, 0)));
        assert_eq!(marks(&["c"]), [Some(false)], "{}", policy.name());
        // A copy of what the group has written, and one of what it has deleted.
        let delete = Work::Delete { tenant: String::new(), keys: vec!["c".into()] };
        let works = vec![
            upsert(&collection, &[("d", "w")]),
            delete,
            upsert(&collection, &[("e", "w"), ("f", "u"), ("g", "u")]),
        ];
        let written = write(works);
        let copied =
            |key: &str, of: &str| Copied { key: key.into(), of: of.into(), exact: true, ..Copied::default() };
        assert_eq!(written[2].copied, [copied("e", "d"), copied("g", "f")], "{}", policy.name());
        let copy = if policy == DedupPolicy::Skip { None } else { Some(true) };
        assert_eq!(marks(&["d", "e", "f", "g"]), [Some(false), copy, Some(false), copy]);
        collection.verify().unwrap();
        database.close().unwrap();
    }
}

/// Counts texts, and does something while they are embedded.
#[derive(Default)]
struct Slow {
    texts: Mutex<Vec<usize>>,
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Embedder for Slow {
    fn embed(
        &self,
        texts: &[&str],
        _: EmbedPurpose,
        _: Option<Instant>,
    ) -> crate::error::Result<Vec<Vec<f32>>> {
        self.texts.lock().unwrap().push(texts.len());
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        Ok(vec![vec![1.0, 2.0]; texts.len()])
    }

    fn dim(&self) -> Option<usize> {
        Some(2)
    }

    fn name(&self) -> &str {
        "slow"
    }
}

#[test]
fn copies_are_not_embedded_and_no_version_is_left_between_others() {
    let folder = tempfile::tempdir().unwrap();
    let embedder = Arc::new(Slow::default());
    let components = Components { embedder: Some(Arc::clone(&embedder) as _), ..Components::default() };
    let database = Database::open_with(folder.path(), Settings::default(), components).unwrap();
    let collection = database.create_collection("rows", schema(DedupPolicy::Skip)).unwrap();
    let document = |key: &str, parts: &[&str]| {
        let text = parts.iter().map(|part| text(part)).collect::<Vec<_>>().join("\n\n");
        Document { key: key.into(), text, ..Document::default() }
    };
    let chunk = ChunkOptions { tokens_max: 100, overlap_tokens: 0, ..ChunkOptions::default() };
    let options = IngestOptions { vector_field: Some("v".into()), chunk, ..IngestOptions::default() };
    let first = collection.ingest(&document("other", &["p", "q"]), &options).unwrap();
    assert_eq!((first.rows, first.copies), (2, 0));
    let second = collection.ingest(&document("d", &["r", "q", "s"]), &options).unwrap();
    assert_eq!((second.rows, second.copies), (2, 1));
    assert_eq!(*embedder.texts.lock().unwrap(), [2, 2], "what is left out is not embedded");
    assert_eq!((&*second.copied[0].key, &*second.copied[0].of), ("d#1", "other#1"));

    // While this one embeds, another writes a version in which that chunk is new.
    let (again, older) = (Arc::clone(&collection), document("d", &["r", "k", "s"]));
    let ingest = options.clone();
    *embedder.meanwhile.lock().unwrap() = Some(Box::new(move || {
        assert_eq!(again.ingest(&older, &ingest).unwrap().rows, 3);
    }));
    let third = collection.ingest(&document("d", &["r", "q", "s"]), &options).unwrap();
    assert_eq!((third.rows, third.copies), (2, 1));
    let keys = ["d#0", "d#1", "d#2"].map(str::to_owned);
    let rows = collection.get("", &keys, &Fields::All).unwrap();
    assert_eq!(rows.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    collection.verify().unwrap();
    database.close().unwrap();
}
