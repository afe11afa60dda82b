//! Commands of tenants in a folder and over a server: what is exported is read back equal.

use std::path::Path;

use clap::Parser;
use spandrel::{
    Chunk, Database, Fields, Metric, PayloadKind, Row, Schema, ScrollRequest, Settings, SparseVector, Value,
};

use super::super::{Cli, CliError, NOT_FOUND, WRONG_INPUT};
use crate::config::Config;

/// Runs a command line.
fn spandrel(line: &[&str]) -> Result<(), CliError> {
    let words = std::iter::once("spandrel").chain(line.iter().copied());
    super::super::run(Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")))
}

fn schema() -> Schema {
    let payloads = [
        ("n", PayloadKind::Integer),
        ("f", PayloadKind::Float),
        ("b", PayloadKind::Bool),
        ("when", PayloadKind::Datetime),
        ("tags", PayloadKind::Keyword),
        ("note", PayloadKind::Text),
        ("json", PayloadKind::Json),
    ];
    let schema = Schema::new().text("body").dense("v", 3, Metric::Ip).sparse("s");
    payloads.into_iter().fold(schema, |schema, (name, kind)| schema.payload(name, kind))
}

/// A number that is hard to write in decimal.
fn odd(at: u32) -> f32 {
    f32::from_bits(0x3000_0000 + at.wrapping_mul(0x0012_3457) % 0x1000_0000)
}

fn row(at: u32) -> Row {
    let text = format!("number {at} \u{2028} \"quoted\"\n\t\u{1f980}");
    let row = Row::new(format!("k{at:04}")).tenant("acme").dense("v", vec![odd(at), -odd(at + 1), 0.0]);
    let labels = (0..at % 3).map(|label| format!("label {label}")).collect();
    // Some fields are left out.
    let row = match at % 4 {
        0 => row.sparse("s", SparseVector { dims: vec![at, at + 7], weights: vec![odd(at), 0.5] }),
        1 => row
            .payload("f", f64::from_bits(0x3fb0_0000_0000_0000 + u64::from(at) * 0x1357_9bdf_1357))
            .payload("b", at % 8 == 1),
        2 => row.payload("when", "2026-07-28T12:00:00.000001Z").payload("tags", vec!["a", "b"]),
        _ => row.payload("json", r#"{"a":[1,{"b":null}]}"#).payload("tags", Value::List(Vec::new())),
    };
    let chunk = Chunk { document: format!("d{}", at / 5), span: 0..text.len() as u64, tokens: 0 };
    let row = row.payload("n", i64::MAX - i64::from(at)).payload("note", "words").text("body", text);
    Row { labels, ..if at.is_multiple_of(2) { row.chunk(chunk) } else { row } }
}

/// All rows of a tenant, under another's name, without the tokens of chunks, which an import counts anew.
fn rows(data: &Path, collection: &str, tenant: &str) -> Vec<Row> {
    let database = Database::open(data, Settings::default()).unwrap();
    let request = ScrollRequest {
        tenant: tenant.to_owned(),
        limit: 10_000,
        fields: Fields::All,
        ..ScrollRequest::default()
    };
    let page = database.collection(collection).unwrap().scroll(&request).unwrap();
    database.close().unwrap();
    let plain = |row: Row| {
        let chunk = row.chunk.clone().map(|chunk| Chunk { tokens: 0, ..chunk });
        Row { tenant: String::new(), chunk, ..row }
    };
    page.rows.into_iter().map(plain).collect()
}

fn same(found: &[Row], expected: &[Row]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
}

fn fill(data: &Path) {
    let database = Database::open(data, Settings::default()).unwrap();
    for name in ["docs", "other"] {
        database.create_collection(name, schema()).unwrap();
    }
    database.collection("docs").unwrap().upsert((0..200).map(row).collect()).unwrap();
    database.close().unwrap();
}

#[test]
fn what_is_exported_is_imported_equal() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("acme.jsonl"));
    fill(&data);
    let here = ["--data", data.to_str().unwrap()];
    let file = file.to_str().unwrap();
    let line = |words: &[&str]| spandrel(&[words, &here].concat());
    line(&["tenant", "export", "docs", "--tenant", "acme", "--out", file, "--json"]).unwrap();
    let import = ["--labels-field", "labels", "--document-field", "document"];
    line(&[&["import", file, "-c", "docs", "--tenant", "beta"][..], &import].concat()).unwrap();
    line(&[&["import", file, "-c", "other", "--tenant", "acme"][..], &import].concat()).unwrap();
    line(&["tenant", "copy", "docs", "--from", "acme", "--to", "gamma"]).unwrap();
    let original = rows(&data, "docs", "acme");
    assert_eq!(original.len(), 200);
    same(&rows(&data, "docs", "beta"), &original);
    same(&rows(&data, "other", "acme"), &original);
    same(&rows(&data, "docs", "gamma"), &original);

    let text = std::fs::read_to_string(file).unwrap();
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((&first["key"], &first["document"]), (&"k0000".into(), &"d0".into()));
    assert_eq!(first.get("labels"), None, "only where there are some");
    let error = line(&["tenant", "export", "docs", "--tenant", "acme", "--key-field", "n"]).unwrap_err();
    assert_eq!(error.code, WRONG_INPUT);
    assert!(error.message.contains("--key-field"), "{}", error.message);
    let error = line(&["tenant", "export", "docs", "--tenant", "nobody"]).unwrap_err();
    assert_eq!(error.code, NOT_FOUND);
}

#[test]
fn tenants_are_listed_limited_and_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fill(&data);
    let here = ["--data", data.to_str().unwrap()];
    let line = |words: &[&str]| spandrel(&[words, &here].concat());
    line(&["tenant", "list", "docs"]).unwrap();
    line(&["tenant", "show", "docs", "--tenant", "acme"]).unwrap();
    line(&["tenant", "warm", "docs", "--tenant", "acme"]).unwrap();
    line(&["tenant", "quota", "docs", "--rows-max", "5", "--queries-per-second", "2.5"]).unwrap();
    line(&["tenant", "quota", "docs", "--tenant", "acme", "--bytes-max", "1000000"]).unwrap();
    let quotas = || {
        let database = Database::open(&data, Settings::default()).unwrap();
        let docs = database.collection("docs").unwrap();
        let quotas = (docs.default_quota(), docs.tenant_stats("acme").unwrap().quota);
        database.close().unwrap();
        quotas
    };
    let (default, own) = quotas();
    assert_eq!(default.unwrap().rows_max, Some(5));
    assert_eq!(default.unwrap().queries_per_second, Some(2.5));
    assert_eq!(own.unwrap().bytes_max, Some(1_000_000));
    // What is not said does not hold.
    line(&["tenant", "quota", "docs", "--tenant", "acme", "--in-flight-max", "3"]).unwrap();
    assert_eq!(quotas().1.unwrap().bytes_max, None);
    line(&["tenant", "quota", "docs", "--tenant", "nobody", "--json"]).unwrap();
    line(&["tenant", "quota", "docs", "--tenant", "acme", "--none"]).unwrap();
    line(&["tenant", "quota", "docs", "--none"]).unwrap();
    assert_eq!(quotas(), (None, None));
    assert_eq!(line(&["tenant", "drop", "docs", "--tenant", "acme"]).unwrap_err().code, WRONG_INPUT);
    line(&["tenant", "drop", "docs", "--tenant", "acme", "--yes"]).unwrap();
    assert_eq!(line(&["tenant", "show", "docs", "--tenant", "acme"]).unwrap_err().code, NOT_FOUND);
}

#[test]
fn a_server_is_asked_like_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("acme.jsonl"));
    fill(&data);
    let original = rows(&data, "docs", "acme");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config {
        data: data.clone(),
        listen: ([127, 0, 0, 1], 0).into(),
        metrics_listen: None,
        ..Config::default()
    };
    let database = Database::open(&data, Settings::default()).unwrap();
    let server = runtime.block_on(crate::start(database, &config)).unwrap();
    let url = format!("http://{}", server.address());
    let line = |words: &[&str]| spandrel(&[words, &["--url", &url]].concat());
    let file = file.to_str().unwrap();
    line(&["tenant", "list", "docs", "--limit", "1"]).unwrap();
    line(&["tenant", "show", "docs", "--tenant", "acme", "--json"]).unwrap();
    line(&["tenant", "warm", "docs", "--tenant", "acme"]).unwrap();
    line(&["tenant", "copy", "docs", "--from", "acme", "--to", "beta"]).unwrap();
    line(&["tenant", "export", "docs", "--tenant", "beta", "--out", file]).unwrap();
    let import = ["import", file, "-c", "docs", "--labels-field", "labels", "--document-field", "document"];
    line(&[&import[..], &["--tenant", "gamma"]].concat()).unwrap();
    line(&["tenant", "quota", "docs", "--tenant", "beta", "--rows-max", "3"]).unwrap();
    line(&["tenant", "quota", "docs", "--tenant", "beta"]).unwrap();
    line(&["tenant", "drop", "docs", "--tenant", "beta", "--yes"]).unwrap();
    assert_eq!(line(&["tenant", "show", "docs", "--tenant", "beta"]).unwrap_err().code, NOT_FOUND);
    assert_eq!(line(&["tenant", "export", "docs", "--tenant", "beta"]).unwrap_err().code, NOT_FOUND);
    runtime.block_on(server.shutdown()).unwrap();
    same(&rows(&data, "docs", "gamma"), &original);
}
