//! Rows from every format, packed and not; inference; damaged files.

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::builder::{FixedSizeListBuilder, Float32Builder, Int64Builder, ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Float64Array, Int32Array, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use parquet::arrow::ArrowWriter;
use spandrel_storage::{DenseSpec, Element, FieldKind, FieldValue, PayloadKind, SparseVector, Value};

use super::*;

/// A folder that goes away.
pub(super) struct TempFolder {
    pub(super) path: PathBuf,
    _folder: tempfile::TempDir,
}

impl TempFolder {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { path: folder.path().to_path_buf(), _folder: folder }
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Writes `name.zst`.
    pub(super) fn write_packed(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let mut packed = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        packed.include_checksum(true).unwrap();
        std::io::Write::write_all(&mut packed, bytes).unwrap();
        self.write(&format!("{name}.zst"), &packed.finish().unwrap())
    }
}

/// A file as NumPy writes it.
pub(super) fn npy(version: u8, descr: &str, shape: &str, elements: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let before = if version == 1 { 10 } else { 12 };
    while (before + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let len = header.len() as u32;
    let len = if version == 1 { (len as u16).to_le_bytes().to_vec() } else { len.to_le_bytes().to_vec() };
    [b"\x93NUMPY", &[version, 0][..], &len, header.as_bytes(), elements].concat()
}

/// All rows, read in small batches.
fn read(path: &Path, options: &ImportOptions) -> Result<Vec<Row>> {
    drain(open(path, options)?.as_mut())
}

fn drain(reader: &mut dyn RowReader) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    loop {
        let mut batch = Vec::new();
        reader.next_batch(3, &mut batch)?;
        if batch.is_empty() {
            return Ok(rows);
        }
        assert!(batch.len() <= 3);
        rows.extend(batch);
    }
}

fn payload(row: &Row, field: &str) -> Option<Value> {
    match row.fields.get(field)? {
        FieldValue::Payload(value) => Some(value.clone()),
        other => panic!("{field}: {other:?}"),
    }
}

fn kind(schema: &Schema, field: &str) -> FieldKind {
    schema.find(field).unwrap_or_else(|| panic!("{field} in {schema:?}")).1.kind.clone()
}

/// Three rows, the first of them with a value of every kind; line breaks in here stand for spaces.
const LINES: [&str; 4] = [
    r#"{"id": "a", "text": "The first text.", "year": 2020, "score": 1.5, "tags": ["x", "y"], "ok": true,
       "at": "2024-05-01T10:00:00Z", "embedding": [0.5, 1],
       "lex": {"indices": [9, 2], "values": [1.5, 0.25]}, "meta": {"b": [1, {"c": null}]}}"#,
    "",
    r#"{"id": 7, "text": "\u00e9 \"quoted\"", "year": null, "score": 2, "tags": [], "ok": false,
       "at": "2024-05-01T10:00:00+02:00", "embedding": [-1e-3, 0],
       "lex": {"dims": [1], "weights": [0.5]}, "meta": 5}"#,
    r#"{"id": "c", "extra key": "kept"}"#,
];

#[test]
fn json_lines() {
    let folder = TempFolder::new();
    let lines = LINES.map(|line| line.replace('\n', " ") + "\n").concat();
    let with_mark = format!("\u{FEFF}{}", lines.replace('\n', "\r\n"));
    for path in [
        folder.write("a.jsonl", lines.as_bytes()),
        folder.write_packed("a.jsonl", lines.as_bytes()),
        folder.write("mark.ndjson", with_mark.as_bytes()),
        folder.write("no_end.jsonl", lines.trim_end().as_bytes()),
    ] {
        let mut reader = open(&path, &ImportOptions::default()).unwrap();
        let schema = reader.infer_schema(Metric::Ip).unwrap();
        schema.check().unwrap();
        assert_eq!(schema.fields[0].name, "text");
        assert!(matches!(kind(&schema, "text"), FieldKind::Text(_)));
        assert!(matches!(
            kind(&schema, "embedding"),
            FieldKind::Dense(DenseSpec { dim: 2, metric: Metric::Ip, .. })
        ));
        assert_eq!(kind(&schema, "lex"), FieldKind::Sparse);
        let kinds = [
            ("year", PayloadKind::Integer),
            ("score", PayloadKind::Float),
            ("tags", PayloadKind::Keyword),
            ("ok", PayloadKind::Bool),
            ("at", PayloadKind::Datetime),
            ("meta", PayloadKind::Json),
            ("extra_key", PayloadKind::Keyword),
        ];
        for (field, expected) in kinds {
            assert_eq!(kind(&schema, field), FieldKind::Payload { kind: expected }, "{field}");
        }
        assert!(schema.find("id").is_none());
        let rows = drain(reader.as_mut()).unwrap();
        assert_eq!(rows.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(), ["a", "7", "c"]);
        assert_eq!(rows[0].fields["embedding"], FieldValue::Dense(vec![0.5, 1.0]));
        let lex = SparseVector { dims: vec![2, 9], weights: vec![0.25, 1.5] };
        assert_eq!(rows[0].fields["lex"], FieldValue::Sparse(lex));
        assert_eq!(payload(&rows[0], "meta"), Some(r#"{"b":[1,{"c":null}]}"#.into()));
        assert_eq!(payload(&rows[0], "tags"), Some(vec!["x", "y"].into()));
        assert_eq!(payload(&rows[0], "at"), Some("2024-05-01T10:00:00Z".into()));
        assert_eq!(rows[1].fields["text"], FieldValue::Text("\u{E9} \"quoted\"".into()));
        assert_eq!(payload(&rows[1], "score"), Some(2.0.into()));
        assert_eq!(payload(&rows[1], "year"), None);
        assert_eq!(payload(&rows[1], "meta"), Some("5".into()));
        assert_eq!(rows[2].fields.len(), 1);
        assert_eq!(Some(reader.bytes_read()), reader.bytes_total());
        assert!(!reader.is_cut_short());
    }
}

#[test]
fn rows_before_a_bad_one_are_read() {
    let folder = TempFolder::new();
    let mut lines: Vec<String> = (0..25).map(|n| format!(r#"{{"id": "r{n}", "n": {n}}}"#)).collect();
    for (bad, what) in [(r#"{"id": "x", "n""#, "line 18"), (r#"{"id": "x", "n": [}"#, "line 18")] {
        lines[17] = bad.to_owned();
        let path = folder.write("a.jsonl", lines.join("\n").as_bytes());
        for schema in [None, Some(Schema::new().payload("n", PayloadKind::Integer))] {
            let mut reader = open(&path, &ImportOptions { schema, ..ImportOptions::default() }).unwrap();
            assert_eq!(reader.infer_schema(Metric::L2).unwrap().fields.len(), 1);
            let mut rows = Vec::new();
            reader.next_batch(10, &mut rows).unwrap();
            assert_eq!(rows.len(), 10);
            let error = reader.next_batch(10, &mut rows).unwrap_err();
            assert_eq!((rows.len(), rows[6].key.as_str()), (7, "r16"));
            assert!(error.message().contains(what), "{error}");
        }
    }
    // As are those that have a vector.
    let rows: Vec<String> = (0..5).map(|n| format!(r#"{{"id": {n}}}"#)).collect();
    let rows = open(&folder.write("b.jsonl", rows.join("\n").as_bytes()), &ImportOptions::default()).unwrap();
    let vectors = folder.write("b.npy", &npy(1, "<f4", "(3, 2)", &[0; 24]));
    let mut joined = with_vectors(rows, VectorFile::open(&vectors).unwrap(), "v");
    let mut rows = Vec::new();
    assert!(joined.next_batch(10, &mut rows).unwrap_err().message().contains("only 3 vectors"));
    assert_eq!(rows.len(), 3);
    joined.next_batch(10, &mut rows).unwrap();
    assert!(rows.is_empty());
}

#[test]
fn numbers_of_rows_do_not_run_out_in_silence() {
    let folder = TempFolder::new();
    let lines = folder.write("a.jsonl", b"{\"n\": 1}\n{\"n\": 2}\n");
    let vectors = folder.write("a.npy", &npy(1, "<f4", "(2, 2)", &[0; 16]));
    for path in [lines, vectors] {
        let options = |start_key| ImportOptions { start_key, ..ImportOptions::default() };
        assert_eq!(read(&path, &options(u64::MAX - 1)).unwrap()[1].key, u64::MAX.to_string());
        assert!(read(&path, &options(u64::MAX)).unwrap_err().message().contains("numbers end"));
    }
}

#[test]
fn labels_are_the_lists_of_a_column() {
    let folder = TempFolder::new();
    let lines = [
        r#"{"key": "a", "n": 1}"#,
        r#"{"key": "b", "n": 2, "seen_by": ["staff", "board", "staff"]}"#,
        r#"{"key": "c", "n": 3, "seen_by": null}"#,
    ];
    let path = folder.write("a.jsonl", lines.join("\n").as_bytes());
    let options = ImportOptions { labels_field: Some("seen_by".into()), ..ImportOptions::default() };
    let mut reader = open(&path, &options).unwrap();
    let rows = drain(reader.as_mut()).unwrap();
    let labels: Vec<Vec<&str>> =
        rows.iter().map(|row| row.labels.iter().map(String::as_str).collect()).collect();
    assert_eq!(labels, [vec![], vec!["board", "staff"], vec![]]);
    let schema = reader.infer_schema(Metric::L2).unwrap();
    assert_eq!(schema.fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>(), ["n"]);
    let path = folder.write("b.jsonl", br#"{"key": "a", "seen_by": "staff"}"#);
    let error = read(&path, &options).unwrap_err().to_string();
    assert!(error.contains("line 1: field 'seen_by'"), "{error}");
}

#[test]
fn options_name_the_columns() {
    let folder = TempFolder::new();
    let lines = (0..9).map(|n| {
        format!(r#"{{"n": {n}, "who": "t{}", "doc": "d", "abstract": "Some words {n}.", "v": [{n}]}}"#, n % 2)
    });
    let path = folder.write("a.jsonl", lines.collect::<Vec<_>>().join("\n").as_bytes());
    let options = ImportOptions {
        tenant_field: Some("who".into()),
        text_field: Some("abstract".into()),
        document_field: Some("doc".into()),
        vector_field: "v".into(),
        limit: Some(4),
        start_key: 100,
        ..ImportOptions::default()
    };
    let mut reader = open(&path, &options).unwrap();
    let rows = drain(reader.as_mut()).unwrap();
    assert!(reader.is_cut_short());
    let schema = reader.infer_schema(Metric::L2).unwrap();
    assert_eq!(
        schema.fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>(),
        ["abstract", "v", "n", "doc"]
    );
    assert_eq!(rows.len(), 4);
    assert_eq!((rows[3].key.as_str(), rows[3].tenant.as_str()), ("103", "t1"));
    let chunk = rows[3].chunk.clone().unwrap();
    assert_eq!((chunk.document.as_str(), chunk.span, chunk.tokens), ("d", 0..13, 5));
    assert_eq!(payload(&rows[3], "doc"), Some("d".into()));
    let options =
        ImportOptions { key_field: Some("n".into()), tenant: "all".into(), ..ImportOptions::default() };
    let rows = read(&path, &options).unwrap();
    assert_eq!((rows[8].key.as_str(), rows[8].tenant.as_str(), rows.len()), ("8", "all", 9));
    let wrong = ImportOptions { text_field: Some("boddy".into()), ..ImportOptions::default() };
    let error = read(&path, &wrong).unwrap_err().to_string();
    assert!(error.contains("no column 'boddy'; there are n, who, doc, abstract, v"), "{error}");
    assert!(open(&path, &ImportOptions { limit: Some(0), ..wrong }).is_err());
}

#[test]
fn a_given_schema_decides() {
    let folder = TempFolder::new();
    let schema =
        Schema::new().text("text").payload("year", PayloadKind::Float).payload("id", PayloadKind::Integer);
    let options = ImportOptions { schema: Some(schema.clone()), ..ImportOptions::default() };
    let path = folder.write("a.jsonl", br#"{"id": 5, "year": 2020, "text": "t"}"#);
    let mut reader = open(&path, &options).unwrap();
    assert_eq!(reader.infer_schema(Metric::Ip).unwrap(), schema);
    let rows = drain(reader.as_mut()).unwrap();
    assert_eq!(rows[0], Row::new("5").text("text", "t").payload("year", 2020.0).payload("id", 5));
    let path = folder.write("b.jsonl", b"{\"id\": 5, \"other\": 1}\n");
    let error = read(&path, &options).unwrap_err().to_string();
    assert!(error.contains("line 1: field 'other': unknown field"), "{error}");
    let rows = read(&path, &ImportOptions { ignore_unknown: true, ..options }).unwrap();
    assert_eq!(rows[0], Row::new("5").payload("id", 5));
}

#[test]
fn inference_edges() {
    let schema = |lines: &str| {
        let folder = TempFolder::new();
        let path = folder.write("a.jsonl", lines.as_bytes());
        open(&path, &ImportOptions::default()).unwrap().infer_schema(Metric::Ip)
    };
    let kind_of = |lines: &str| kind(&schema(lines).unwrap(), "x");
    let payload = |kind| FieldKind::Payload { kind };
    assert_eq!(kind_of("{\"x\": 1}\n{\"x\": 2.5}"), payload(PayloadKind::Float));
    assert_eq!(kind_of("{\"x\": 1}\n{\"x\": \"a\"}"), payload(PayloadKind::Json));
    assert_eq!(kind_of("{\"x\": null}"), payload(PayloadKind::Json));
    assert_eq!(kind_of("{\"x\": [1, 2]}"), payload(PayloadKind::Integer));
    assert_eq!(kind_of("{\"x\": [[1], [2]]}"), payload(PayloadKind::Json));
    assert_eq!(kind_of("{\"x\": 18446744073709551615}"), payload(PayloadKind::Float));
    assert_eq!(kind_of("{\"x\": \"2024-01-01\"}"), payload(PayloadKind::Keyword));
    let long = "w ".repeat(200);
    assert!(matches!(kind_of(&format!("{{\"x\": \"{long}\"}}")), FieldKind::Text(_)));
    assert_eq!(kind_of(&format!("{{\"x\": [\"{long}\"]}}")), payload(PayloadKind::Text));
    let floats = vec!["0.5"; 40].join(",");
    assert!(matches!(
        kind_of(&format!("{{\"x\": [{floats}]}}")),
        FieldKind::Dense(DenseSpec { dim: 40, .. })
    ));
    let error = schema("{\"embedding\": [1, 2]}\n{\"embedding\": [1]}").unwrap_err().to_string();
    assert!(error.contains("vectors of 1 and of 2 elements"), "{error}");
    assert!(schema("").unwrap().fields.is_empty());
}

#[test]
fn bad_lines_are_named() {
    let folder = TempFolder::new();
    let good =
        "{\"id\": 1, \"year\": 1, \"embedding\": [1, 2], \"lex\": {\"dims\": [1], \"weights\": [1]}}\n\n";
    let fails = |line: &[u8]| {
        let path = folder.write("bad.jsonl", &[good.as_bytes(), line].concat());
        let options = ImportOptions { sample_rows: 1, ..ImportOptions::default() };
        let error = read(&path, &options).unwrap_err().to_string();
        assert!(error.contains("bad.jsonl: line 3: "), "{error}");
        error
    };
    let cases: [(&[u8], &str); 14] = [
        (b"{\"id\": 2, \"year\": \"x\"}", "field 'year': expected an integer, found 'x'"),
        (b"{\"id\": 2, \"year\": [1, [2]]}", "a list in a list"),
        (b"{\"id\": 2, \"year\": 1.5}", "expected an integer, found 1.5"),
        (b"{\"id\": 2, \"embedding\": [1]}", "field 'embedding': a vector of 1 elements where 2"),
        (b"{\"id\": 2, \"embedding\": [1, \"a\"]}", "field 'embedding': invalid type"),
        (b"{\"id\": 2, \"lex\": {\"dims\": [1, 1], \"weights\": [1, 2]}}", "dimension 1 occurs twice"),
        (b"{\"id\": 2, \"lex\": {\"dims\": [1], \"weights\": []}}", "1 dimensions and 0 weights"),
        (b"{\"id\": 2, \"lex\": {\"dims\": [-1], \"weights\": [1]}}", "field 'lex'"),
        (b"{\"id\": 2, \"new\": 1}", "field 'new': unknown field: it is not in the 1 rows"),
        (b"{\"year\": 2}", "field 'id': the key is missing"),
        (b"{\"id\": [2]}", "expected a string or an integer"),
        (b"[1, 2]", "expected a JSON object"),
        (b"{\"id\": 2", "EOF"),
        (b"{\"id\": \"\xFF\"}", "unicode"),
    ];
    for (line, expected) in cases {
        let error = fails(line);
        assert!(error.contains(expected), "{}: {error}", String::from_utf8_lossy(line));
    }
    let path = folder.write("first.jsonl", b"\n5\n");
    assert!(
        read(&path, &ImportOptions::default())
            .unwrap_err()
            .to_string()
            .contains("line 2: invalid type: integer `5`, expected a JSON object")
    );
    let path = folder.write_packed("cut.jsonl", good.repeat(5000).as_bytes());
    let packed = std::fs::read(&path).unwrap();
    std::fs::write(&path, &packed[..packed.len() - 9]).unwrap();
    assert!(read(&path, &ImportOptions::default()).unwrap_err().to_string().contains("zstd data is damaged"));
    assert!(open(&folder.write("a.csv", b""), &ImportOptions::default()).is_err());
    assert!(open(&folder.path.join("none.jsonl"), &ImportOptions::default()).is_err());
}

/// Five rows of every type that is read, row 3 all missing but the key.
fn parquet_file() -> Vec<u8> {
    let mut embedding = FixedSizeListBuilder::new(Float32Builder::new(), 2);
    let mut scores = ListBuilder::new(Int64Builder::new());
    let mut tags = ListBuilder::new(StringBuilder::new());
    for row in 0..5 {
        let there = row != 3;
        embedding.values().append_slice(&[row as f32, 0.5]);
        embedding.append(there);
        scores.values().append_value(row);
        scores.append(there);
        tags.values().append_value("t");
        tags.values().append_value(format!("u{row}"));
        tags.append(there);
    }
    fn at<T: Copy>(row: i64, value: T) -> Option<T> {
        (row != 3).then_some(value)
    }
    let columns: [(&str, ArrayRef); 11] = [
        ("id", Arc::new(Int32Array::from_iter_values(10..15))),
        (
            "body",
            Arc::new(StringArray::from_iter((0..5).map(|row| at(row, ()).map(|()| format!("body {row}"))))),
        ),
        ("year", Arc::new(Int32Array::from_iter((0..5).map(|row| at(row, 2000 + row as i32))))),
        ("price", Arc::new(Float64Array::from_iter((0..5).map(|row| at(row, row as f64 / 4.0))))),
        ("holes", Arc::new(Float64Array::from(vec![1.0, f64::NAN, 2.0, f64::NAN, 3.0]))),
        ("ok", Arc::new(BooleanArray::from_iter((0..5).map(|row| at(row, row % 2 == 0))))),
        ("at", Arc::new(TimestampMillisecondArray::from_iter((0..5).map(|row| at(row, row * 1000))))),
        ("day", Arc::new(Date32Array::from_iter((0..5).map(|row| at(row, row as i32))))),
        ("embedding", Arc::new(embedding.finish())),
        ("scores", Arc::new(scores.finish())),
        ("tags", Arc::new(tags.finish())),
    ];
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn parquet() {
    let folder = TempFolder::new();
    let bytes = parquet_file();
    for path in [folder.write("a.parquet", &bytes), folder.write_packed("a.parquet", &bytes)] {
        let mut reader = open(&path, &ImportOptions::default()).unwrap();
        assert_eq!(reader.total_rows(), Some(5));
        let schema = reader.infer_schema(Metric::L2).unwrap();
        schema.check().unwrap();
        assert!(matches!(kind(&schema, "body"), FieldKind::Text(_)));
        assert!(matches!(
            kind(&schema, "embedding"),
            FieldKind::Dense(DenseSpec { dim: 2, metric: Metric::L2, .. })
        ));
        let kinds = [
            ("year", PayloadKind::Integer),
            ("price", PayloadKind::Float),
            ("holes", PayloadKind::Float),
            ("ok", PayloadKind::Bool),
            ("at", PayloadKind::Datetime),
            ("day", PayloadKind::Datetime),
            ("scores", PayloadKind::Integer),
            ("tags", PayloadKind::Keyword),
        ];
        for (field, expected) in kinds {
            assert_eq!(kind(&schema, field), FieldKind::Payload { kind: expected }, "{field}");
        }
        let rows = drain(reader.as_mut()).unwrap();
        assert_eq!(rows.len(), 5);
        let expected = Row::new("12")
            .text("body", "body 2")
            .payload("year", 2002)
            .payload("price", 0.5)
            .payload("holes", 2.0)
            .payload("ok", true)
            .payload("at", 2_000_000)
            .payload("day", 2 * 86_400_000_000)
            .payload("scores", vec![2])
            .payload("tags", vec!["t", "u2"])
            .dense("embedding", vec![2.0, 0.5]);
        assert_eq!(rows[2], expected);
        assert_eq!(rows[3], Row::new("13"));
        assert_eq!(Some(reader.bytes_read()), reader.bytes_total());
        let limited = ImportOptions { limit: Some(4), ..ImportOptions::default() };
        let mut reader = open(&path, &limited).unwrap();
        assert_eq!((reader.total_rows(), drain(reader.as_mut()).unwrap().len()), (Some(4), 4));
        assert!(reader.is_cut_short());
    }
    let path = folder.write("b.parquet", &bytes);
    let schema = Schema::new().text("body").dense("embedding", 3, Metric::Ip);
    let options = ImportOptions { schema: Some(schema), ..ImportOptions::default() };
    let error = read(&path, &options).unwrap_err().to_string();
    assert!(error.contains("field 'year': unknown field"), "{error}");
    let error = read(&path, &ImportOptions { ignore_unknown: true, ..options }).unwrap_err().to_string();
    assert!(error.contains("b.parquet: row 0, field 'embedding': a vector of 2 elements where 3"), "{error}");
}

/// Damage anywhere is an error or goes unnoticed in a value; it never panics or takes all memory.
#[test]
fn damaged_parquet() {
    let folder = TempFolder::new();
    let bytes = parquet_file();
    for len in (0..bytes.len()).step_by(61) {
        let path = folder.write("cut.parquet", &bytes[..len]);
        assert!(read(&path, &ImportOptions::default()).is_err(), "{len} bytes");
    }
    let seed = crate::rag::random::Random::new_seed();
    let mut random = crate::rag::random::Random::new(seed);
    for _ in 0..400 {
        let mut damaged = bytes.clone();
        let at = random.below(damaged.len());
        damaged[at] ^= 1 << random.below(8);
        let path = folder.write("flip.parquet", &damaged);
        let _ = read(&path, &ImportOptions::default());
    }
}

#[test]
fn rows_of_vectors() {
    let folder = TempFolder::new();
    let elements: Vec<u8> = (0..8u16).flat_map(|n| half::f16::from_f32(f32::from(n)).to_le_bytes()).collect();
    let file = npy(1, "<f2", "(4, 2)", &elements);
    for path in [folder.write("a.npy", &file), folder.write_packed("a.npy", &file)] {
        let options = ImportOptions { start_key: 1, tenant: "t".into(), ..ImportOptions::default() };
        let mut reader = open(&path, &options).unwrap();
        let schema = reader.infer_schema(Metric::Ip).unwrap();
        let expected =
            DenseSpec { dim: 2, metric: Metric::Ip, element: Element::F16, index: Default::default() };
        assert_eq!(kind(&schema, "embedding"), FieldKind::Dense(expected));
        let rows = drain(reader.as_mut()).unwrap();
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[3], Row::new("4").tenant("t").dense("embedding", vec![6.0, 7.0]));
        let limited = ImportOptions { limit: Some(2), ..options };
        let mut reader = open(&path, &limited).unwrap();
        assert_eq!((reader.total_rows(), drain(reader.as_mut()).unwrap().len()), (Some(2), 2));
        assert!(reader.is_cut_short());
    }
}

#[test]
fn rows_joined_with_vectors() {
    let folder = TempFolder::new();
    let elements: Vec<u8> = (0..8).flat_map(|n| (n as f32).to_le_bytes()).collect();
    let vectors = folder.write("v.npy", &npy(1, "<f4", "(4, 2)", &elements));
    let lines =
        |count: usize| (0..count).map(|n| format!("{{\"id\": {n}, \"text\": \"t\"}}\n")).collect::<String>();
    let join = |count: usize, limit: Option<u64>| {
        let path = folder.write("a.jsonl", lines(count).as_bytes());
        let rows = open(&path, &ImportOptions { limit, ..ImportOptions::default() }).unwrap();
        with_vectors(rows, VectorFile::open(&vectors).unwrap(), "v")
    };
    let mut reader = join(4, None);
    let schema = reader.infer_schema(Metric::Cosine).unwrap();
    assert!(matches!(kind(&schema, "v"), FieldKind::Dense(DenseSpec { dim: 2, element: Element::F32, .. })));
    assert_eq!(reader.total_rows(), Some(4));
    let rows = drain(reader.as_mut()).unwrap();
    assert_eq!(rows[3], Row::new("3").text("text", "t").dense("v", vec![6.0, 7.0]));
    let mut rows = Vec::new();
    reader.next_batch(5, &mut rows).unwrap();
    assert!(rows.is_empty());
    assert!(drain(join(3, None).as_mut()).unwrap_err().to_string().contains("4 vectors for 3 rows"));
    assert!(drain(join(5, None).as_mut()).unwrap_err().to_string().contains("only 4 vectors"));
    assert_eq!(drain(join(9, Some(2)).as_mut()).unwrap().len(), 2);
}
