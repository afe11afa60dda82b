//! Upsert streams that meet something: a shutdown, a revoked key, a deadline. Each ends between two batches
//! and says how far it came.

use std::time::{Duration, Instant};

use spandrel_proto::v1 as pb;
use spandrel_server::auth::{Access, keys};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use crate::served::{Clients, rows, serve};

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
    let refused = acme.rows.drop_tenant(drop_tenant(Some(""))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(operator.count("acme").await.unwrap(), 3);
    let dropped = acme.rows.drop_tenant(drop_tenant(Some("acme"))).await.unwrap().into_inner();
    assert_eq!(dropped.written.unwrap().rows, 3);
    served.server.shutdown().await.unwrap();
}
