//! Bad input through gRPC: each kind has its own test, the right code, a message that names the field, and
//! leaves nothing behind.

use std::collections::BTreeMap;

use spandrel_proto::v1 as pb;
use spandrel_server::auth::Access;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};

use crate::served::{Clients, DIM, Served, dense, field, row, rows, search, serve, serve_with, string};

async fn docs() -> (Served, Clients) {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    clients.upsert("", rows(0..10)).await.unwrap();
    (served, clients)
}

fn vector_row(name: &str, vector: &[f32]) -> pb::Row {
    let fields = BTreeMap::from([(name.to_owned(), field(pb::field_value::Kind::Dense(dense(vector))))]);
    pb::Row { key: "new".to_owned(), fields, ..pb::Row::default() }
}

fn dense_search(name: &str, vector: &[f32]) -> pb::SearchRequest {
    search("", name, pb::route::Query::Dense(dense(vector)))
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, parts: &[&str]) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    for part in parts {
        assert!(status.message().contains(part), "'{part}' is not in: {}", status.message());
    }
}

/// Nothing of what was refused is there, and the server still works.
async fn unharmed(served: Served, mut clients: Clients) {
    assert_eq!(clients.count("").await.unwrap(), 10);
    clients.search.search(dense_search("v", &[1.0, 0.0, 0.0, 0.0])).await.unwrap();
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_dimension() {
    let (served, mut clients) = docs().await;
    for vector in [&[1.0; 3][..], &[1.0; 5]] {
        let batch = vec![row(90), vector_row("v", vector)];
        refused(clients.upsert("", batch).await, &["row 'new', field 'v'", "wrong dimension: expected 4"]);
        refused(clients.search.search(dense_search("v", vector)).await, &["v", "dimension"]);
    }
    refused(clients.upsert("", vec![vector_row("v", &[])]).await, &["fields[\"v\"].dense", "empty"]);
    unharmed(served, clients).await;
}

/// A vector with this element, in a row, in a dense and in a sparse search.
async fn element(bad: f32) {
    let (served, mut clients) = docs().await;
    let vector = [0.0, 1.0, bad, 0.0];
    let batch = vec![row(90), vector_row("v", &vector)];
    // The path and the words of the example in common.proto.
    let path = format!("rows[1].fields[\"v\"].dense[2]: {bad} is not finite");
    refused(clients.upsert("", batch).await, &[&path]);
    let path = format!("routes[0].dense[2]: {bad} is not finite");
    refused(clients.search.search(dense_search("v", &vector)).await, &[&path]);
    let sparse = pb::SparseVector { dims: vec![1], weights: vec![bad] };
    let query = search("", "s", pb::route::Query::Sparse(sparse));
    refused(clients.search.search(query).await, &["route on 's'", "finite"]);
    unharmed(served, clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn not_a_number() {
    element(f32::NAN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn infinity() {
    element(f32::INFINITY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn minus_infinity() {
    element(f32::NEG_INFINITY).await;
}

/// What common.proto says of sparse vectors: any order, zeros dropped, a dimension twice refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_dimension_twice() {
    let (served, mut clients) = docs().await;
    let sparse = |dims: &[u32], weights: &[f32]| {
        pb::route::Query::Sparse(pb::SparseVector { dims: dims.to_vec(), weights: weights.to_vec() })
    };
    clients.search.search(search("", "s", sparse(&[9, 3, 5], &[1.0, 0.0, 2.0]))).await.unwrap();
    refused(
        clients.search.search(search("", "s", sparse(&[9, 3, 9], &[1.0, 1.0, 2.0]))).await,
        &["dimension 9 occurs twice"],
    );
    refused(clients.search.search(search("", "s", sparse(&[9, 3], &[1.0]))).await, &["2 dims and 1 weights"]);
    unharmed(served, clients).await;
}

/// What common.proto says of ranges: at least one bound, one at each end.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_without_bounds_or_with_two_at_one_end() {
    let (served, mut clients) = docs().await;
    let count = |range: pb::RangeCondition| pb::CountRequest {
        collection: "docs".to_owned(),
        filter: Some(pb::Filter { condition: Some(pb::filter::Condition::Range(range)) }),
        ..pb::CountRequest::default()
    };
    let year = || pb::RangeCondition { field: "year".to_owned(), ..Default::default() };
    let value = |value| Some(crate::served::integer(value));
    refused(clients.rows.count(count(year())).await, &["year", "gt, gte, lt or lte"]);
    let both = pb::RangeCondition { gt: value(1), gte: value(2), ..year() };
    refused(clients.rows.count(count(both)).await, &["year", "both gt and gte"]);
    let both = pb::RangeCondition { lt: value(1), lte: value(2), ..year() };
    refused(clients.rows.count(count(both)).await, &["year", "both lt and lte"]);
    unharmed(served, clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zero_vector_under_cosine() {
    let (served, mut clients) = docs().await;
    let zero = [0.0; DIM as usize];
    refused(clients.upsert("", vec![vector_row("cos", &zero)]).await, &["cos", "zero"]);
    refused(clients.search.search(dense_search("cos", &zero)).await, &["zero"]);
    clients.search.search(dense_search("v", &zero)).await.unwrap();
    unharmed(served, clients).await;
}

fn of_k(k: u32, offset: u32) -> pb::SearchRequest {
    pb::SearchRequest { k, offset, ..dense_search("v", &[1.0, 0.0, 0.0, 0.0]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_k() {
    let (served, mut clients) = docs().await;
    refused(clients.search.search(of_k(0, 0)).await, &["k: 0"]);
    let batch =
        pb::SearchBatchRequest { collection: "docs".to_owned(), searches: vec![of_k(1, 0), of_k(0, 0)] };
    refused(clients.search.search_batch(batch).await, &["searches[1].k: 0"]);
    let page = pb::ScrollRequest { collection: "docs".to_owned(), limit: 0, ..pb::ScrollRequest::default() };
    refused(clients.rows.scroll(page).await, &["limit: 0"]);
    unharmed(served, clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_a_k() {
    let (served, mut clients) = docs().await;
    refused(clients.search.search(of_k(10_001, 0)).await, &["10001", "limits.k_max"]);
    refused(clients.search.search(of_k(1, 10_000)).await, &["limits.k_max"]);
    refused(clients.search.search(of_k(u32::MAX, u32::MAX)).await, &["limits.k_max"]);
    clients.search.search(of_k(10_000, 0)).await.unwrap();
    unharmed(served, clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_field() {
    let (served, mut clients) = docs().await;
    let vector = [1.0, 0.0, 0.0, 0.0];
    refused(clients.upsert("", vec![vector_row("nothing", &vector)]).await, &["nothing"]);
    refused(clients.search.search(dense_search("nothing", &vector)).await, &["nothing"]);
    let exists = pb::filter::Condition::Exists(pb::ExistsCondition { field: "nothing".to_owned() });
    let filter = Some(pb::Filter { condition: Some(exists) });
    refused(
        clients.search.search(pb::SearchRequest { filter, ..dense_search("v", &vector) }).await,
        &["nothing"],
    );
    let names = vec!["nothing".to_owned()];
    let fields = Some(pb::Fields { names, ..pb::Fields::default() });
    refused(
        clients.search.search(pb::SearchRequest { fields, ..dense_search("v", &vector) }).await,
        &["nothing"],
    );
    let wrong_kind = search("", "year", pb::route::Query::Text("x".to_owned()));
    refused(clients.search.search(wrong_kind).await, &["year"]);
    unharmed(served, clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_of_the_wrong_type() {
    let (served, mut clients) = docs().await;
    let value = || Some(string("two thousand"));
    let year = || "year".to_owned();
    use pb::filter::Condition;
    let conditions = [
        Condition::Equals(pb::EqualsCondition { field: year(), value: value() }),
        Condition::OneOf(pb::OneOfCondition { field: year(), values: vec![string("x")] }),
        Condition::Range(pb::RangeCondition { field: year(), gt: value(), ..Default::default() }),
        Condition::Prefix(pb::PrefixCondition { field: year(), prefix: "2".to_owned() }),
        Condition::TextMatch(pb::TextMatchCondition { field: year(), text: "2".to_owned() }),
    ];
    for condition in conditions {
        let filter = Some(pb::Filter { condition: Some(condition) });
        let request =
            pb::SearchRequest { filter: filter.clone(), ..dense_search("v", &[1.0, 0.0, 0.0, 0.0]) };
        refused(clients.search.search(request).await, &["year"]);
        let count = pb::CountRequest { collection: "docs".to_owned(), filter, ..pb::CountRequest::default() };
        refused(clients.rows.count(count).await, &["year"]);
    }
    unharmed(served, clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_nested_too_deeply() {
    let (served, mut clients) = docs().await;
    let nested = |levels: usize| {
        let leaf = pb::filter::Condition::Exists(pb::ExistsCondition { field: "year".to_owned() });
        (1..levels).fold(pb::Filter { condition: Some(leaf) }, |inner, _| {
            let list = pb::FilterList { filters: vec![inner] };
            pb::Filter { condition: Some(pb::filter::Condition::AllOf(list)) }
        })
    };
    let count = |levels| pb::CountRequest {
        collection: "docs".to_owned(),
        filter: Some(nested(levels)),
        ..pb::CountRequest::default()
    };
    assert_eq!(clients.rows.count(count(32)).await.unwrap().into_inner().rows, 10);
    refused(clients.rows.count(count(33)).await, &["32 levels"]);
    // Deeper than the protobuf decoder goes.
    refused(clients.rows.count(count(500)).await, &["32 levels"]);
    unharmed(served, clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large() {
    let served = serve_with(|config| config.limits.message_bytes_max = 100_000).await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    clients.upsert("", rows(0..10)).await.unwrap();
    let body = field(pb::field_value::Kind::Text("x".repeat(200_000)));
    let large =
        pb::Row { key: "new".to_owned(), fields: BTreeMap::from([("body".to_owned(), body)]), ..row(0) };
    let status = clients.upsert("", vec![large.clone()]).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("limits.message_bytes_max"), "{status}");
    let message =
        pb::UpsertStreamRequest { collection: "docs".to_owned(), tenant: String::new(), rows: vec![large] };
    let status = clients.rows.upsert_stream(tokio_stream::iter([message])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("limits.message_bytes_max"), "{status}");
    unharmed(served, clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message() {
    let (served, clients) = docs().await;
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{}", served.server.address())).unwrap();
    let mut raw = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
    for bytes in [&b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..], b"\x0a\x7f", b"\x0a\x01\xff", b"\x38"]
    {
        raw.ready().await.unwrap();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/spandrel.v1.SearchService/Search");
        let answer = raw.unary(tonic::Request::new(bytes.to_vec()), path, RawCodec).await;
        refused(answer.map(drop), &["decode"]);
    }
    unharmed(served, clients).await;
}

/// Sends and reads bytes as they are.
#[derive(Clone, Copy, Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put_slice(buf, &item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        use prost::bytes::Buf;
        let bytes = buf.copy_to_bytes(buf.remaining());
        Ok(Some(bytes.to_vec()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_twice_in_a_batch() {
    let (served, mut clients) = docs().await;
    refused(clients.upsert("", vec![row(90), row(91), row(90)]).await, &["k00090"]);
    // The same key of two tenants is two rows.
    let other = pb::Row { tenant: "other".to_owned(), ..row(5) };
    clients.upsert("", vec![row(5), other]).await.unwrap();
    unharmed(served, clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_empty_or_too_long() {
    let served = serve_with(|config| config.limits.batch_rows_max = 10).await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    clients.upsert("", rows(0..10)).await.unwrap();
    refused(clients.upsert("", Vec::new()).await, &["rows: 0"]);
    refused(clients.upsert("", rows(0..11)).await, &["rows: 11", "limits.batch_rows_max"]);
    let keys = (0..11).map(|at| at.to_string()).collect::<Vec<_>>();
    let get = pb::GetRowsRequest { collection: "docs".to_owned(), keys, ..pb::GetRowsRequest::default() };
    refused(clients.rows.get(get).await, &["keys: 11", "limits.batch_rows_max"]);
    unharmed(served, clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_names_out_of_bounds() {
    let (served, mut clients) = docs().await;
    let with_key = |key: String| vec![pb::Row { key, ..row(90) }];
    refused(clients.upsert("", with_key(String::new())).await, &["key"]);
    refused(clients.upsert("", with_key("k".repeat(513))).await, &["key"]);
    refused(clients.upsert(&"t".repeat(257), rows(90..91)).await, &["tenant"]);
    for name in ["", "9x", "a/b", "..", &"n".repeat(129)] {
        let schema = Some(crate::served::schema());
        let request = pb::CreateCollectionRequest { name: name.to_owned(), schema, if_not_exists: false };
        refused(clients.collections.create(request).await, &[]);
    }
    let request = pb::CreateCollectionRequest { name: "x".to_owned(), ..Default::default() };
    refused(clients.collections.create(request).await, &["schema: is required"]);
    unharmed(served, clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_not_there() {
    let (served, mut clients) = docs().await;
    let request =
        pb::SearchRequest { collection: "nothing".to_owned(), ..dense_search("v", &[1.0, 0.0, 0.0, 0.0]) };
    assert_eq!(clients.search.search(request.clone()).await.unwrap_err().code(), Code::NotFound);
    let unnamed = pb::SearchRequest { collection: String::new(), ..request };
    refused(clients.search.search(unnamed).await, &["collection: is required"]);
    unharmed(served, clients).await;
}

/// A server with keys, with rows of two tenants.
async fn two_tenants() -> Served {
    let served = serve().await;
    let mut operator = served.clients_with(Access::Admin, &["*"]).await;
    operator.create_docs().await;
    operator.upsert("acme", rows(0..3)).await.unwrap();
    operator.upsert("beta", vec![row(7)]).await.unwrap();
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key() {
    let served = two_tenants().await;
    for key in [None, Some(""), Some("spd_"), Some("spd_0123456789ab_ff"), Some("nonsense")] {
        let mut clients = served.clients_of(key.map(str::to_owned)).await;
        assert_eq!(clients.count("acme").await.unwrap_err().code(), Code::Unauthenticated);
        assert_eq!(clients.upsert("acme", rows(0..1)).await.unwrap_err().code(), Code::Unauthenticated);
    }
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_row() {
    let served = two_tenants().await;
    let mut acme = served.clients_with(Access::Write, &["acme"]).await;
    let get = |tenant: &str| pb::GetRowsRequest {
        collection: "docs".to_owned(),
        tenant: tenant.to_owned(),
        keys: vec!["k00007".to_owned()],
        fields: None,
    };
    assert_eq!(acme.rows.get(get("beta")).await.unwrap_err().code(), Code::PermissionDenied);
    // A key of another tenant's row is nothing in one's own.
    assert_eq!(acme.rows.get(get("")).await.unwrap().into_inner().rows[0].row, None);
    let filter = pb::filter::Condition::Keys(pb::KeysCondition { keys: vec!["k00007".to_owned()] });
    let request = pb::SearchRequest {
        filter: Some(pb::Filter { condition: Some(filter) }),
        ..dense_search("v", &[1.0, 0.0, 0.0, 0.0])
    };
    assert!(acme.search.search(request).await.unwrap().into_inner().hits.is_empty());
    served.server.shutdown().await.unwrap();
}
