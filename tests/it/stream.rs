//! Upsert streams, and calls that meet something: a shutdown, a revoked key, a deadline. A stream ends
//! between two batches and says how far it came.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use prost::Message;
use spandrel_proto::v1 as pb;
use spandrel_server::auth::{Access, keys};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::{self, HeaderMap};
use tonic::{Code, Request, Status};

use crate::served::{Clients, named, open, row, rows, serve, serve_with};

/// A client that sends batches of ten rows as fast as they are taken, until the stream ends.
fn busy(mut clients: Clients, deadline: Option<Duration>) -> tokio::task::JoinHandle<Result<(), Status>> {
    let (send, receive) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        for at in 0.. {
            let message = pb::UpsertStreamRequest {
                collection: "docs".to_owned(),
                tenant: "acme".to_owned(),
                rows: rows(at % 50 * 10..at % 50 * 10 + 10),
            };
            if send.send(message).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let mut request = Request::new(ReceiverStream::new(receive));
        if let Some(deadline) = deadline {
            request.set_timeout(deadline);
        }
        clients.rows.upsert_stream(request).await.map(drop)
    })
}

async fn until_rows(clients: &mut Clients) {
    while clients.count("acme").await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn rows_written(status: &Status) -> u64 {
    status.metadata().get("spandrel-rows-written").unwrap().to_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_never_pauses_does_not_hold_up_a_shutdown() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let stream = busy(served.clients().await, None);
    until_rows(&mut clients).await;
    drop(clients);
    let begin = Instant::now();
    served.server.shutdown().await.unwrap();
    // The grace of these tests is five seconds: the stream did not use it up.
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    let status = stream.await.unwrap().unwrap_err();
    // A client that is still sending may meet the closed connection before it reads the answer.
    if status.metadata().contains_key("spandrel-rows-written") {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(rows_written(&status) > 0);
    } else {
        assert!(status.message().contains("transport error"), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_writes_no_further_batch() {
    let served = serve().await;
    let mut operator = served.clients_with(Access::Admin, &["*"]).await;
    operator.create_docs().await;
    let (record, key) = keys::create(
        &served.config.keys_file(),
        "writer",
        Access::Write,
        spandrel_server::auth::Tenants::All,
    )
    .unwrap();
    let mut writer = served.clients_of(Some(key.clone())).await;
    while writer.count("acme").await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let stream = busy(served.clients_of(Some(key)).await, None);
    until_rows(&mut operator).await;
    keys::revoke(&served.config.keys_file(), &record.id).unwrap();
    let status = stream.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(status.message().contains("revoked"), "{status}");
    assert!(rows_written(&status) > 0);
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_a_silent_stream_is_its_own_code_with_totals() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let (send, receive) = tokio::sync::mpsc::channel(4);
    let message =
        pb::UpsertStreamRequest { collection: "docs".to_owned(), tenant: String::new(), rows: rows(0..10) };
    send.send(message).await.unwrap();
    let mut request = Request::new(ReceiverStream::new(receive));
    request.metadata_mut().insert("grpc-timeout", "700m".parse().unwrap());
    let status = clients.rows.upsert_stream(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(rows_written(&status), 10);
    drop(send);
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_tenant_is_not_the_keys_own() {
    let served = serve().await;
    let mut operator = served.clients_with(Access::Admin, &["*"]).await;
    operator.create_docs().await;
    operator.upsert("acme", rows(0..3)).await.unwrap();
    let mut acme = served.clients_with(Access::Admin, &["acme"]).await;
    let drop_tenant = |tenant: Option<&str>| pb::DropTenantRequest {
        collection: "docs".to_owned(),
        tenant: tenant.map(str::to_owned),
    };
    let refused = acme.tenants.drop(drop_tenant(Some(""))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(operator.count("acme").await.unwrap(), 3);
    let dropped = acme.tenants.drop(drop_tenant(Some("acme"))).await.unwrap().into_inner();
    assert_eq!(dropped.written.unwrap().rows, 3);
    served.server.shutdown().await.unwrap();
}

fn messages(batches: Vec<Vec<pb::Row>>) -> Vec<pb::UpsertStreamRequest> {
    let message = |(at, rows)| pb::UpsertStreamRequest {
        collection: if at == 0 { named("docs") } else { String::new() },
        tenant: if at == 0 { named("acme") } else { String::new() },
        rows,
    };
    batches.into_iter().enumerate().map(message).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_writes_its_batches_in_order() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let mut batches: Vec<_> = (0..20).map(|at| rows(at * 50..at * 50 + 50)).collect();
    // The last word on a key stands.
    batches.push(vec![pb::Row { chunk: None, ..row(3) }]);
    let answer =
        clients.rows.upsert_stream(tokio_stream::iter(messages(batches))).await.unwrap().into_inner();
    assert_eq!((answer.batches, answer.written.unwrap().rows), (21, 1_001));
    assert_eq!(clients.count("acme").await.unwrap(), 1_000);
    let get = pb::GetRowsRequest {
        collection: named("docs"),
        tenant: named("acme"),
        keys: vec![named("k00003")],
        fields: None,
    };
    let got = clients.rows.get(get).await.unwrap().into_inner();
    assert!(got.rows[0].row.as_ref().unwrap().chunk.is_none());
    let nothing = clients.rows.upsert_stream(tokio_stream::iter(Vec::new())).await.unwrap().into_inner();
    assert_eq!((nothing.batches, nothing.written.unwrap().rows), (0, 0));
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_fails_tells_how_far_it_came() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let mut batches: Vec<_> = (0..6).map(|at| rows(at * 10..at * 10 + 10)).collect();
    batches[3][4].key.clear();
    let status = clients.rows.upsert_stream(tokio_stream::iter(messages(batches))).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("batch 3: "), "{status}");
    assert_eq!(status.metadata().get("spandrel-batches-written").unwrap(), "3");
    assert_eq!(status.metadata().get("spandrel-rows-written").unwrap(), "30");
    assert_eq!(clients.count("acme").await.unwrap(), 30);
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded() {
    let served = serve_with(|config| config.limits.streams_max = 1).await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let mut first = served.clients().await;
    let stream = tokio_stream::wrappers::ReceiverStream::new(receive);
    let first = tokio::spawn(async move { first.rows.upsert_stream(stream).await });
    for message in messages(vec![rows(0..1), rows(1..2), rows(2..3)]) {
        send.send(message).await.unwrap();
    }
    while clients.count("acme").await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let second =
        clients.rows.upsert_stream(tokio_stream::iter(messages(vec![rows(9..10)]))).await.unwrap_err();
    assert_eq!(second.code(), Code::ResourceExhausted);
    assert!(second.message().contains("limits.streams_max"), "{second}");
    drop(send);
    assert_eq!(first.await.unwrap().unwrap().into_inner().batches, 3);
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_loses_nothing_and_says_so() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut writer = served.clients().await;
    let writer = tokio::spawn(async move { writer.rows.upsert_stream(stream).await });
    for message in messages(vec![rows(0..10), rows(10..20), rows(20..30)]) {
        send.send(message).await.unwrap();
    }
    while clients.count("acme").await.unwrap() < 30 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(clients);
    let config = served.config.clone();
    // The folder is free when the last clone is gone.
    drop(served.database);
    served.server.shutdown().await.unwrap();
    let status = writer.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(status.metadata().get("spandrel-rows-written").unwrap(), "30");
    drop(send);
    let database = open(&config).await;
    assert_eq!(database.collection("docs").unwrap().count("acme", None).unwrap(), 30);
    database.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_gives_its_place_to_another() {
    let served = serve_with(|config| {
        config.limits.streams_max = 1;
        config.limits.stream_idle_timeout_ms = 300;
    })
    .await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    for message in messages(vec![rows(0..1)]) {
        send.send(message).await.unwrap();
    }
    let silent = clients.rows.upsert_stream(tokio_stream::wrappers::ReceiverStream::new(receive));
    let status = silent.await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("limits.stream_idle_timeout_ms"), "{status}");
    assert_eq!(rows_written(&status), 1);
    clients.rows.upsert_stream(tokio_stream::iter(messages(vec![rows(1..2)]))).await.unwrap();
    served.server.shutdown().await.unwrap();
}

/// A call over bare HTTP/2, of a client that has no clock of its own and never ends its side: the head of the
/// answer, where a failure has its status.
async fn raw_call(
    address: SocketAddr,
    path: &'static str,
    timeout: Option<&'static str>,
    messages: Vec<Vec<u8>>,
) -> HeaderMap {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{address}/spandrel.v1.{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    let mut sender = sender.ready().await.unwrap();
    let (answer, mut body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    for message in messages {
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend(message);
        // The server may have answered already.
        if body.send_data(frame.into(), false).is_err() {
            break;
        }
    }
    let head = tokio::time::timeout(Duration::from_secs(30), answer).await.unwrap().unwrap();
    head.headers().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_has_passed_starts_nothing() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let request = pb::UpsertRequest { collection: named("docs"), tenant: named("acme"), rows: rows(0..1) };
    let head =
        raw_call(served.server.address(), "RowService/Upsert", Some("1n"), vec![request.encode_to_vec()])
            .await;
    assert_eq!(Status::from_header_map(&head).unwrap().code(), Code::DeadlineExceeded);
    assert_eq!(clients.count("acme").await.unwrap(), 0);
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_at_its_deadline_how_far_it_came() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let sent = messages(vec![rows(0..10), rows(10..20)]).iter().map(Message::encode_to_vec).collect();
    let head = raw_call(served.server.address(), "RowService/UpsertStream", Some("1500m"), sent).await;
    let status = Status::from_header_map(&head).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(rows_written(&status), 20);
    assert_eq!(status.metadata().get("spandrel-batches-written").unwrap(), "2");
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_never_ends_does_not_outlive_the_grace_time() {
    let served = serve_with(|config| config.shutdown_grace_ms = 500).await;
    let address = served.server.address();
    let waiting = tokio::spawn(raw_call(address, "RowService/Upsert", None, Vec::new()));
    while !served.page("/metrics").await.contains("spandrel_requests_in_flight 1") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(served.database);
    tokio::time::timeout(Duration::from_secs(10), served.server.shutdown()).await.unwrap().unwrap();
    let status = Status::from_header_map(&waiting.await.unwrap()).unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    // Nothing holds the folder any more.
    open(&served.config).await.close().unwrap();
}
