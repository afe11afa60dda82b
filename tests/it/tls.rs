//! Transport security: the right certificates come in, everything else stays out. Certificates are made by
//! `fixtures/tls/make.sh`.

use std::path::PathBuf;

use spandrel_proto::v1 as pb;
use spandrel_server::client::{Client, ClientSettings};
use spandrel_server::config::Tls;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::served::{Served, clients, config_in, open, serve_with};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/tls").join(name)
}

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

async fn serve_tls(client_ca: bool) -> Served {
    serve_with(|config| {
        config.tls = Tls {
            cert: Some(fixture("server.pem")),
            key: Some(fixture("server.key")),
            client_ca: client_ca.then(|| fixture("ca.pem")),
        };
    })
    .await
}

/// A call through TLS, or what stopped it.
async fn call(served: &Served, tls: ClientTlsConfig) -> Result<(), String> {
    let endpoint = Endpoint::from_shared(format!("https://{}", served.server.address())).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.map_err(|error| error.to_string())?;
    list(channel).await
}

async fn list(channel: Channel) -> Result<(), String> {
    let mut clients = clients(channel, None);
    clients
        .collections
        .list(pb::ListCollectionsRequest {})
        .await
        .map(drop)
        .map_err(|status| status.to_string())
}

/// Whether the blocking client gets an answer.
async fn list_by(settings: ClientSettings) -> bool {
    let listing =
        move || Client::connect(&settings).and_then(|client| client.collections().map(drop)).is_ok();
    tokio::task::spawn_blocking(listing).await.unwrap()
}

fn trusting() -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem("ca.pem")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_proves_the_server() {
    let served = serve_tls(false).await;
    call(&served, trusting()).await.unwrap();
    let other = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem("stranger.pem")));
    call(&served, other).await.unwrap_err();
    call(&served, trusting().domain_name("example.org")).await.unwrap_err();
    let plain = Endpoint::from_shared(format!("http://{}", served.server.address())).unwrap();
    match plain.connect().await {
        Ok(channel) => list(channel).await.unwrap_err(),
        Err(error) => error.to_string(),
    };
    call(&served, trusting()).await.unwrap();
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_must_show_its_own_where_the_server_says_so() {
    let served = serve_tls(true).await;
    let identity = |name: &str| Identity::from_pem(pem(&format!("{name}.pem")), pem(&format!("{name}.key")));
    call(&served, trusting().identity(identity("client"))).await.unwrap();
    call(&served, trusting()).await.unwrap_err();
    call(&served, trusting().identity(identity("stranger"))).await.unwrap_err();
    // The client of the command line does the same with files.
    let settings = |name: Option<&str>, trusted: bool| ClientSettings {
        url: format!("https://{}", served.server.address()),
        authorities: trusted.then(|| pem("ca.pem")),
        identity: name.map(|name| (pem(&format!("{name}.pem")), pem(&format!("{name}.key")))),
        ..ClientSettings::default()
    };
    assert!(list_by(settings(Some("client"), true)).await);
    assert!(!list_by(settings(None, true)).await);
    assert!(!list_by(settings(Some("stranger"), true)).await);
    // The authorities that browsers trust have not signed it.
    assert!(!list_by(settings(Some("client"), false)).await);
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_come_has_its_time() {
    use tokio::io::AsyncReadExt;
    let served = serve_with(|config| {
        config.tls =
            Tls { cert: Some(fixture("server.pem")), key: Some(fixture("server.key")), client_ca: None };
        config.limits.handshake_timeout_ms = 300;
        config.limits.connections_max = 1;
    })
    .await;
    let mut silent = tokio::net::TcpStream::connect(served.server.address()).await.unwrap();
    let read = tokio::time::timeout(std::time::Duration::from_secs(20), silent.read(&mut [0; 64])).await;
    assert_eq!(read.unwrap().unwrap_or(0), 0, "the server closes it");
    // Its place is free again.
    let mut answer = call(&served, trusting()).await;
    for _ in 0..50 {
        if answer.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        answer = call(&served, trusting()).await;
    }
    answer.unwrap();
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = config_in(folder.path().join("data"));
    let database = open(&config).await;
    let nonsense = folder.path().join("nonsense.pem");
    std::fs::write(&nonsense, "nonsense").unwrap();
    let cases = [
        (fixture("nothing.pem"), fixture("server.key"), None, "tls.cert"),
        (fixture("server.pem"), fixture("nothing.key"), None, "tls.key"),
        (fixture("server.pem"), fixture("server.key"), Some(fixture("nothing.pem")), "tls.client_ca"),
        (nonsense.clone(), fixture("server.key"), None, "tls"),
        (fixture("server.pem"), nonsense.clone(), None, "tls"),
        (fixture("server.pem"), fixture("client.key"), None, "tls"),
    ];
    for (cert, key, client_ca, expected) in cases {
        let mut config = config.clone();
        config.tls = Tls { cert: Some(cert), key: Some(key), client_ca };
        let error = spandrel_server::start(database.clone(), &config).await.err().unwrap().to_string();
        assert!(error.starts_with(expected), "{error} / {expected}");
    }
    database.close().unwrap();
}
