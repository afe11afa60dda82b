//! Round trips of everything, through bytes; and everything wrong is told with its path.

use std::time::Duration;

use prost::Message;
use spandrel::request::{FILTER_DEPTH_MAX, FILTER_TERMS_MAX};
use spandrel::{
    Chunk, DedupSpec, DenseSpec, Element, Explain, FieldKind, Fields, Filter, Fusion, Hit, IndexKind, Metric,
    PayloadKind, Planned, Route, RouteQuery, RouteScore, Row, Schema, ScrollRequest, ScrollResponse,
    SearchRequest, SearchResponse, Short, SparseVector, Stage, TextSpec, Value,
};
use spandrel_proto::v1 as pb;

use super::filter::{filter_from_wire, filter_to_wire};
use super::request::{fields_from_wire, scroll_from_wire, scroll_to_wire, search_from_wire, search_to_wire};
use super::row::{dense_from_wire, dense_to_wire, row_from_wire, row_to_wire, rows_from_wire};
use super::schema::{schema_from_wire, schema_to_wire};
use super::{Invalid, response};

/// The message as the other side reads it.
pub(super) fn sent<M: Message + Default>(message: M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

fn row() -> Row {
    Row::new("k")
        .tenant("t")
        .text("body", "words")
        .dense("v", vec![0.5, -1.0, f32::MIN_POSITIVE])
        .sparse("s", SparseVector { dims: vec![1, 7], weights: vec![0.5, 2.0] })
        .payload("b", true)
        .payload("i", i64::MIN)
        .payload("f", 0.25)
        .payload("s2", "x")
        .payload("list", vec!["a", "b"])
        .payload("empty", Value::List(Vec::new()))
        .chunk(Chunk { document: "d".to_owned(), span: 3..9, tokens: 4 })
}

pub(super) fn filter() -> Filter {
    let field = || "f".to_owned();
    Filter::And(vec![
        Filter::Or(vec![Filter::Exists { field: field() }, Filter::Or(Vec::new())]),
        Filter::Not(Box::new(Filter::Equals { field: field(), value: Value::Bool(false) })),
        Filter::In { field: field(), values: vec![Value::Integer(1), Value::Float(0.5)] },
        Filter::Range {
            field: field(),
            gt: Some(Value::Integer(1)),
            gte: None,
            lt: None,
            lte: Some(Value::from("z")),
        },
        Filter::Prefix { field: field(), prefix: String::new() },
        Filter::Match { field: field(), text: "two words".to_owned() },
        Filter::Keys(vec!["a".to_owned()]),
        Filter::And(Vec::new()),
    ])
}

pub(super) fn search() -> SearchRequest {
    SearchRequest {
        tenant: "t".to_owned(),
        routes: vec![
            Route { candidates: 7, ..Route::dense("v", vec![1.0, 2.0]) },
            Route::sparse("s", SparseVector { dims: vec![3], weights: vec![1.0] }).weight(0.0),
            Route::text("body", "q"),
        ],
        fusion: Fusion::Rrf { k: 0.0 },
        filter: Some(filter()),
        k: 11,
        offset: 5,
        score_threshold: Some(0.0),
        fields: Fields::Named(vec!["body".to_owned()]),
        explain: true,
        recall: 0.5,
        exact: true,
        rescore: false,
        labels: Some(vec!["staff".to_owned(), "é".to_owned()]),
        timeout: None,
    }
}

pub(super) fn explain() -> Explain {
    let plan =
        |estimate_us| Planned { plan: "codes".into(), matches: 9, estimate_us, time_us: 2.5, scored: 8 };
    let plans = vec![plan(Some(1.5)), plan(None)];
    let (name, read_bytes, time_us) = ("x".to_owned(), 4, 5);
    let stage = Stage { name, rows_in: 1, rows_out: 2, scored: 3, read_bytes, time_us, plans };
    Explain { stages: vec![stage], segments: 6, tenant_rows: 7, total_us: 8 }
}

pub(super) fn hit() -> Hit {
    Hit { row: row(), score: -2.5, routes: vec![None, Some(RouteScore { score: 1.0, rank: 3 })] }
}

pub(super) fn told<T: std::fmt::Debug>(result: Result<T, Invalid>, expected: &str) {
    assert_eq!(result.unwrap_err().to_string(), expected);
}

#[test]
fn rows_come_back_as_they_were() {
    assert_eq!(row_from_wire(sent(row_to_wire(row()))).unwrap(), row());
    assert_eq!(row_from_wire(sent(row_to_wire(Row::new("k")))).unwrap(), Row::new("k"));
}

#[test]
fn a_vector_is_read_in_both_forms() {
    let vector = vec![1.0, -0.0, 3.5e-30];
    let packed = pb::DenseVector { values: vector.clone(), ..pb::DenseVector::default() };
    assert_eq!(dense_from_wire(sent(packed)).unwrap(), vector);
    assert_eq!(dense_from_wire(sent(dense_to_wire(&vector))).unwrap(), vector);
    let both = pb::DenseVector { values: vector.clone(), ..dense_to_wire(&vector) };
    told(dense_from_wire(both), "set either `values` or `f32_le`, not both");
    told(dense_from_wire(pb::DenseVector::default()), "the vector is empty; set `values` or `f32_le`");
    let odd = pb::DenseVector { f32_le: vec![0; 7].into(), ..pb::DenseVector::default() };
    told(dense_from_wire(odd), "f32_le: 7 bytes are not a multiple of 4");
    for (at, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
        let mut vector = vec![0.0; 5];
        vector[at] = bad;
        told(dense_from_wire(dense_to_wire(&vector)), &format!("[{at}]: {bad} is not finite"));
    }
}

#[test]
fn schemas_come_back_as_they_were() {
    let mut schema = Schema::new().sparse("s").text("plain");
    for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
        for element in [Element::F32, Element::F16, Element::I8] {
            for index in [IndexKind::Auto, IndexKind::Flat, IndexKind::Hnsw] {
                let name = format!("{metric:?}{element:?}{index:?}");
                schema = schema.field(name, FieldKind::Dense(DenseSpec { dim: 3, metric, element, index }));
            }
        }
    }
    schema = schema.field("t", FieldKind::Text(TextSpec { language: Some("english".to_owned()) }));
    use PayloadKind::{Bool, Datetime, Float, Integer, Json, Keyword, Text};
    for kind in [Keyword, Integer, Float, Bool, Datetime, Text, Json] {
        schema = schema.payload(format!("p{kind:?}"), kind);
    }
    schema.tokenizer = "cl100k_base".to_owned();
    assert_eq!(schema_from_wire(sent(schema_to_wire(&schema))).unwrap(), schema);
    for spec in [DedupSpec::skip("body"), DedupSpec::link("body", "of").threshold(1.0)] {
        let schema = schema.clone().dedup(spec);
        assert_eq!(schema_from_wire(sent(schema_to_wire(&schema))).unwrap(), schema);
    }
    let without = pb::Schema { tokenizer: String::new(), ..schema_to_wire(&schema) };
    assert_eq!(schema_from_wire(without).unwrap().tokenizer, Schema::default().tokenizer);
}

#[test]
fn wrong_schemas_name_the_field() {
    use pb::field::Kind;
    let one = |kind: Option<Kind>| pb::Schema {
        fields: vec![pb::Field { name: "v".to_owned(), kind }],
        ..pb::Schema::default()
    };
    let dense = |metric, element, index| Some(Kind::Dense(pb::DenseField { dim: 3, metric, element, index }));
    told(schema_from_wire(one(None)), "fields[0].kind: is required");
    told(schema_from_wire(one(dense(0, 0, 0))), "fields[0].dense.metric: is required: l2, ip or cosine");
    told(
        schema_from_wire(one(dense(9, 0, 0))),
        "fields[0].dense.metric: 9 is not a value that this server knows",
    );
    told(
        schema_from_wire(one(dense(1, 9, 0))),
        "fields[0].dense.element: 9 is not a value that this server knows",
    );
    told(
        schema_from_wire(one(dense(1, 0, -1))),
        "fields[0].dense.index: -1 is not a value that this server knows",
    );
    let dedup = pb::Dedup { policy: 9, ..pb::Dedup::default() };
    let with = pb::Schema { dedup: Some(dedup), ..pb::Schema::default() };
    told(schema_from_wire(with), "dedup.policy: 9 is not a value that this server knows");
    let payload = |kind| Some(Kind::Payload(pb::PayloadField { kind }));
    told(schema_from_wire(one(payload(0))), "fields[0].payload.kind: is required");
    told(
        schema_from_wire(one(payload(99))),
        "fields[0].payload.kind: 99 is not a value that this server knows",
    );
}

#[test]
fn filters_come_back_as_they_were_and_are_bounded() {
    assert_eq!(filter_from_wire(sent(filter_to_wire(filter()))).unwrap(), filter());
    let nested = |levels: usize| {
        let leaf = Filter::Exists { field: "f".to_owned() };
        (1..levels).fold(leaf, |inner, at| {
            if at % 2 == 0 { Filter::Not(Box::new(inner)) } else { Filter::And(vec![inner]) }
        })
    };
    let deepest = nested(FILTER_DEPTH_MAX);
    // As deep as it may be it must pass the decoder's own limit, inside the largest message that holds it.
    let batch = pb::SearchBatchRequest {
        collection: String::new(),
        searches: vec![pb::SearchRequest {
            filter: Some(filter_to_wire(deepest.clone())),
            ..Default::default()
        }],
    };
    let read = sent(batch).searches.remove(0).filter.unwrap();
    assert_eq!(filter_from_wire(read).unwrap(), deepest);
    let deeper = filter_from_wire(filter_to_wire(nested(FILTER_DEPTH_MAX + 1))).unwrap_err().to_string();
    assert!(deeper.ends_with("more than 32 levels deep"), "{deeper}");

    let keys = |count| filter_to_wire(Filter::Keys(vec!["k".to_owned(); count]));
    assert!(filter_from_wire(keys(FILTER_TERMS_MAX - 1)).is_ok());
    told(filter_from_wire(keys(FILTER_TERMS_MAX)), "more than 65536 conditions, values and keys together");
    let many = Filter::And(vec![Filter::Exists { field: "f".to_owned() }; FILTER_TERMS_MAX]);
    assert!(filter_from_wire(filter_to_wire(many)).is_err());
}

#[test]
fn wrong_filters_name_the_condition() {
    use pb::filter::Condition;
    let of = |condition| pb::Filter { condition: Some(condition) };
    let all_of =
        |inner| of(Condition::AllOf(pb::FilterList { filters: vec![filter_to_wire(filter()), inner] }));
    told(filter_from_wire(pb::Filter::default()), "condition: is required");
    told(filter_from_wire(all_of(pb::Filter::default())), "all_of.filters[1].condition: is required");
    let equals = |value| of(Condition::Equals(pb::EqualsCondition { field: "f".to_owned(), value }));
    told(filter_from_wire(all_of(equals(None))), "all_of.filters[1].equals.value: is required");
    told(filter_from_wire(equals(Some(pb::Value::default()))), "equals.value.kind: is required");
    let list = pb::value::Kind::ListValue(pb::ValueList::default());
    told(
        filter_from_wire(equals(Some(pb::Value { kind: Some(list) }))),
        "equals.value.list_value: a list is not allowed here",
    );
    let nan = pb::Value { kind: Some(pb::value::Kind::FloatValue(f64::NAN)) };
    let range = pb::RangeCondition { field: "f".to_owned(), lt: Some(nan), ..Default::default() };
    told(filter_from_wire(of(Condition::Range(range))), "range.lt.float_value: NaN is not finite");
}

#[test]
fn searches_come_back_as_they_were() {
    assert_eq!(search_from_wire(sent(search_to_wire("c", search()))).unwrap(), search());
    let plain = SearchRequest::new(Route::text("body", "q"));
    assert_eq!(search_from_wire(sent(search_to_wire("c", plain.clone()))).unwrap(), plain);
    let timed =
        SearchRequest { timeout: Some(Duration::from_secs(1)), fusion: Fusion::Weighted, ..plain.clone() };
    let read = search_from_wire(sent(search_to_wire("c", timed.clone()))).unwrap();
    assert_eq!(read, SearchRequest { timeout: None, ..timed });
    // What is left out has its default.
    let bare = pb::SearchRequest {
        k: 10,
        routes: vec![pb::Route {
            field: "body".to_owned(),
            query: Some(pb::route::Query::Text("q".to_owned())),
            ..Default::default()
        }],
        ..Default::default()
    };
    assert_eq!(search_from_wire(sent(bare)).unwrap(), plain);

    for after in [None, Some(String::new()), Some("k".to_owned())] {
        let scroll = ScrollRequest {
            tenant: "t".to_owned(),
            after,
            limit: 9,
            filter: Some(filter()),
            fields: Fields::All,
        };
        assert_eq!(scroll_from_wire(sent(scroll_to_wire("c", scroll.clone()))).unwrap(), scroll);
    }
}

#[test]
fn wrong_searches_name_the_field() {
    let wire = |change: &dyn Fn(&mut pb::SearchRequest)| {
        let mut request = search_to_wire("c", search());
        change(&mut request);
        search_from_wire(request)
    };
    told(wire(&|r| r.routes.clear()), "routes: at least one is needed");
    told(wire(&|r| r.routes[2].query = None), "routes[2].query: is required");
    told(
        wire(&|r| r.routes[0].weight = Some(-1.0)),
        "routes[0].weight: -1 is not a finite number of at least 0",
    );
    told(
        wire(&|r| r.routes[0].weight = Some(f32::NAN)),
        "routes[0].weight: NaN is not a finite number of at least 0",
    );
    told(
        wire(&|r| r.routes[0].query = Some(pb::route::Query::Dense(dense_to_wire(&[1.0, f32::NAN])))),
        "routes[0].dense[1]: NaN is not finite",
    );
    let uneven = pb::SparseVector { dims: vec![1, 2], weights: vec![1.0] };
    told(
        wire(&|r| r.routes[1].query = Some(pb::route::Query::Sparse(uneven.clone()))),
        "routes[1].sparse: 2 dims and 1 weights; each needs its own",
    );
    told(wire(&|r| r.score_threshold = Some(f32::INFINITY)), "score_threshold: inf is not finite");
    told(wire(&|r| r.filter = Some(pb::Filter::default())), "filter.condition: is required");
    let rrf = pb::fusion::Method::Rrf(pb::RrfFusion { k: Some(-1.0) });
    told(
        wire(&|r| r.fusion = Some(pb::Fusion { method: Some(rrf) })),
        "fusion.rrf.k: -1 is not a finite number of at least 0",
    );
}

#[test]
fn wrong_rows_name_the_field() {
    let wire = |change: &dyn Fn(&mut pb::Row)| {
        let mut second = row_to_wire(row());
        change(&mut second);
        rows_from_wire(vec![row_to_wire(row()), second])
    };
    let field = |kind| pb::FieldValue { kind };
    use pb::field_value::Kind;
    told(
        wire(&|row| drop(row.fields.insert("x".to_owned(), field(None)))),
        "rows[1].fields[\"x\"].kind: is required",
    );
    let nan = dense_to_wire(&[0.0, f32::NAN]);
    told(
        wire(&|row| drop(row.fields.insert("v".to_owned(), field(Some(Kind::Dense(nan.clone())))))),
        "rows[1].fields[\"v\"].dense[1]: NaN is not finite",
    );
    let infinite = pb::Value { kind: Some(pb::value::Kind::FloatValue(f64::INFINITY)) };
    let list = pb::value::Kind::ListValue(pb::ValueList { values: vec![infinite] });
    let value = pb::Value { kind: Some(list) };
    told(
        wire(&|row| drop(row.fields.insert("p".to_owned(), field(Some(Kind::Payload(value.clone())))))),
        "rows[1].fields[\"p\"].payload.list_value.values[0].float_value: inf is not finite",
    );
    let chunk = pb::Chunk { span_start: 9, span_end: 8, ..Default::default() };
    told(wire(&|row| row.chunk = Some(chunk.clone())), "rows[1].chunk.span_end: 8 is before span_start 9");
}

#[test]
fn fields_are_chosen_in_every_way() {
    let of = |mode: i32, names: &[&str]| {
        fields_from_wire(Some(pb::Fields {
            mode,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        }))
    };
    let named = Fields::Named(vec!["a".to_owned()]);
    assert_eq!(fields_from_wire(None).unwrap(), Fields::Default);
    assert_eq!(of(0, &[]).unwrap(), Fields::Default);
    assert_eq!(of(0, &["a"]).unwrap(), named);
    assert_eq!(of(3, &["a"]).unwrap(), named);
    assert_eq!(of(1, &[]).unwrap(), Fields::All);
    assert_eq!(of(2, &[]).unwrap(), Fields::None);
    told(of(1, &["a"]), "fields.names: names go with MODE_NAMED only");
    told(of(7, &[]), "fields.mode: 7 is not a mode that this server knows");
}

#[test]
fn answers_come_back_as_they_were() {
    for short in [
        None,
        Some(Short::EmptyTenant),
        Some(Short::FewMatches),
        Some(Short::Threshold),
        Some(Short::AccessLost),
    ] {
        let answer = SearchResponse { hits: vec![hit(), hit()], short, explain: Some(explain()) };
        let read = response::search_from_wire(sent(response::search_to_wire(answer.clone()))).unwrap();
        assert_eq!(read, answer);
    }
    let page = ScrollResponse { rows: vec![row()], next: Some(String::new()) };
    assert_eq!(response::scroll_from_wire(sent(response::scroll_to_wire(page.clone()))).unwrap(), page);
    let stats = spandrel::DatabaseStats {
        collections: vec![spandrel::CollectionStats {
            name: "c".to_owned(),
            rows: 1,
            tenants: 2,
            last_row: 3,
            segments: 4,
            segment_rows: 5,
            deleted_rows: 6,
            memory_rows: 7,
            segment_bytes: 8,
            memory_bytes: 9,
        }],
        store_bytes: 10,
        reader: "pread".to_owned(),
        simd: "avx2".to_owned(),
    };
    assert_eq!(response::stats_from_wire(sent(response::stats_to_wire(stats.clone(), "1"))), stats);
    let copied =
        ["a", "b"].map(|of| spandrel::Copied { of: of.into(), exact: of == "a", ..Default::default() });
    let written = spandrel::Written { rows: 1, last_row: 2, copies: 3, copied: copied.into() };
    assert_eq!(response::written_from_wire(Some(response::written_to_wire(written.clone()))), written);
    let long = spandrel::Copied { key: "k".repeat(500), of: "o".repeat(500), ..Default::default() };
    let many = spandrel::Written { copies: 16_384, copied: vec![long; 16_384], ..written };
    let wire = response::written_to_wire(many);
    assert!((900..1_100).contains(&wire.copied.len()) && wire.copies == 16_384);
}

/// A client reads what a broken or hostile server may send.
#[test]
fn senseless_answers_are_refused() {
    let bad = |routes: Vec<pb::RouteScore>| pb::SearchResponse {
        hits: vec![pb::Hit { row: Some(pb::Row::default()), score: 0.0, routes }],
        ..Default::default()
    };
    let far = pb::RouteScore { route: u32::MAX, ..Default::default() };
    told(response::search_from_wire(bad(vec![far])), "hits[0].routes: route 4294967295 is out of range");
    let no_row = pb::SearchResponse { hits: vec![pb::Hit::default()], ..Default::default() };
    told(response::search_from_wire(no_row), "hits[0].row: is required");
}

#[test]
fn a_route_query_keeps_its_kind() {
    let routes = search_from_wire(sent(search_to_wire("c", search()))).unwrap().routes;
    assert!(matches!(routes[0].query, RouteQuery::Dense(_)));
    assert!(matches!(routes[1].query, RouteQuery::Sparse(_)));
    assert!(matches!(routes[2].query, RouteQuery::Text(_)));
}
