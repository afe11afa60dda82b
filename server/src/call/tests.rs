//! The layer around a service that does as its test says.

use super::*;
use crate::auth::{Access, Tenants, keys};
use tower_layer::Layer;

/// Answers with what the closure makes of the request.
#[derive(Clone)]
struct Inner<F>(F);

impl<F> Service<Request<Body>> for Inner<F>
where
    F: Fn(Request<Body>) -> Response<Body> + Clone + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.0.clone();
        Box::pin(async move { Ok(answer(request)) })
    }
}

fn shared(keyring: Keyring, requests_max: usize) -> Arc<Shared> {
    with_phases(keyring, requests_max, serving())
}

fn with_phases(keyring: Keyring, requests_max: usize, phases: Phases) -> Arc<Shared> {
    Shared::new(Arc::new(keyring), Arc::new(Metrics::new()), phases, requests_max)
}

/// Phases of a server that never stops.
fn serving() -> Phases {
    let (lead, phases) = crate::phase::start();
    std::mem::forget(lead);
    phases
}

fn open_ring() -> Keyring {
    Keyring::open("/nowhere/keys.json").unwrap()
}

async fn ask(
    shared: &Arc<Shared>,
    request: Request<Body>,
    answer: impl Fn(Request<Body>) -> Response<Body> + Clone + Send + 'static,
) -> Response<Body> {
    CallLayer(Arc::clone(shared)).layer(Inner(answer)).call(request).await.unwrap()
}

fn request(path: &str, headers: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = Request::builder().uri(format!("http://x{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

fn status_of(response: &Response<Body>) -> Status {
    Status::from_header_map(response.headers()).unwrap()
}

fn fine(_: Request<Body>) -> Response<Body> {
    Response::new(Body::empty())
}

#[tokio::test]
async fn the_key_decides_who_comes_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let (record, token) = keys::create(&path, "", Access::Read, Tenants::All).unwrap();
    let shared = shared(Keyring::open(&path).unwrap(), 8);
    let search = "/spandrel.v1.SearchService/Search";
    let header = format!("Bearer {token}");
    let seen = move |request: Request<Body>| {
        assert_eq!(request.extensions().get::<Call>().unwrap().caller.id(), record.id);
        Response::new(Body::empty())
    };
    let response = ask(&shared, request(search, &[("authorization", &header)]), seen).await;
    assert!(Status::from_header_map(response.headers()).is_none());

    let never = |_: Request<Body>| -> Response<Body> { panic!("must not be reached") };
    for headers in
        [vec![], vec![("authorization", "Bearer spd_000000000000_00")], vec![("authorization", "x")]]
    {
        for path in [search, "/anything", "/spandrel.v1.AdminService/Backup"] {
            let response = ask(&shared, request(path, &headers), never).await;
            assert_eq!(status_of(&response).code(), Code::Unauthenticated);
        }
    }
    for open in OPEN_PATHS {
        let response = ask(&shared, request(&format!("{open}Check"), &[]), fine).await;
        assert!(Status::from_header_map(response.headers()).is_none());
    }
}

#[tokio::test]
async fn a_panic_ends_one_request() {
    let shared = shared(open_ring(), 8);
    let response = ask(&shared, request("/x", &[]), |_| panic!("secret detail")).await;
    let status = status_of(&response);
    assert_eq!(status.code(), Code::Internal);
    assert!(!status.message().contains("secret"));
    ask(&shared, request("/x", &[]), fine).await;
    let text = shared.metrics.encode();
    assert!(text.contains("spandrel_panics_total 1"), "{text}");
    assert!(text.contains("spandrel_requests_in_flight 0"), "{text}");
}

#[tokio::test]
async fn too_many_requests_are_refused_until_one_ends() {
    let shared = shared(open_ring(), 1);
    let waits = |_: Request<Body>| {
        let frames = tokio_stream::pending::<Result<Frame<Bytes>, Status>>();
        Response::new(Body::new(StreamBody(Box::pin(frames))))
    };
    let first = ask(&shared, request("/x", &[]), waits).await;
    let second = ask(&shared, request("/x", &[]), fine).await;
    let status = status_of(&second);
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("limits.requests_max"));
    drop(first);
    let third = ask(&shared, request("/x", &[]), fine).await;
    assert!(Status::from_header_map(third.headers()).is_none());
    let text = shared.metrics.encode();
    assert!(text.contains("code=\"CANCELLED\"} 1"), "{text}");
}

struct StreamBody<S>(Pin<Box<S>>);

impl<S: tokio_stream::Stream<Item = Result<Frame<Bytes>, Status>>> HttpBody for StreamBody<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.as_mut().poll_next(cx)
    }
}

#[tokio::test]
async fn the_clients_timeout_becomes_a_deadline() {
    let shared = shared(open_ring(), 8);
    let left = |request: Request<Body>| {
        let left = request.extensions().get::<Call>().unwrap().deadline.left().unwrap();
        assert!(left <= Duration::from_millis(1_980) && left > Duration::from_millis(500), "{left:?}");
        Response::new(Body::empty())
    };
    for timeout in ["2S", "2000m", "2000000u"] {
        ask(&shared, request("/x", &[("grpc-timeout", timeout)]), left).await;
    }
    let none = |request: Request<Body>| {
        assert_eq!(request.extensions().get::<Call>().unwrap().deadline, Deadline::NONE);
        Response::new(Body::empty())
    };
    ask(&shared, request("/x", &[]), none).await;
    for timeout in ["", "2", "S", "2s", "123456789S", "-1S", "2.5S"] {
        let response = ask(&shared, request("/x", &[("grpc-timeout", timeout)]), fine).await;
        assert_eq!(status_of(&response).code(), Code::InvalidArgument, "{timeout}");
    }
}

#[tokio::test]
async fn statuses_in_trailers_are_counted() {
    let shared = shared(open_ring(), 8);
    let trailers = |_: Request<Body>| {
        let mut map = HeaderMap::new();
        Status::not_found("x").add_header(&mut map).unwrap();
        let frames = tokio_stream::iter([Ok(Frame::trailers(map))]);
        Response::new(Body::new(StreamBody(Box::pin(frames))))
    };
    let response = ask(&shared, request("/spandrel.v1.RowService/Get", &[]), trailers).await;
    let mut body = response.into_body();
    std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
    drop(body);
    let text = shared.metrics.encode();
    assert!(
        text.contains("spandrel_requests_total{method=\"RowService/Get\",code=\"NOT_FOUND\"} 1"),
        "{text}"
    );
}

#[tokio::test]
async fn a_request_without_the_layer_is_nobodys() {
    assert_eq!(Call::of(&tonic::Request::new(())).unwrap_err().code(), Code::Internal);
}

#[tokio::test]
async fn a_deadline_that_has_passed_starts_nothing() {
    let shared = shared(open_ring(), 8);
    let never = |_: Request<Body>| -> Response<Body> { panic!("must not be reached") };
    let response = ask(&shared, request("/x", &[("grpc-timeout", "1n")]), never).await;
    assert_eq!(status_of(&response).code(), Code::DeadlineExceeded);
}

/// Never answers.
#[derive(Clone)]
struct Silent;

impl Service<Request<Body>> for Silent {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Pending<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        std::future::pending()
    }
}

#[tokio::test]
async fn a_silent_service_is_answered_for_at_the_deadline() {
    let shared = shared(open_ring(), 8);
    let mut service = CallLayer(Arc::clone(&shared)).layer(Silent);
    let response = service.call(request("/x", &[("grpc-timeout", "30m")])).await.unwrap();
    assert_eq!(status_of(&response).code(), Code::DeadlineExceeded);
    assert!(shared.metrics.encode().contains("code=\"DEADLINE_EXCEEDED\"} 1"));
}

#[tokio::test]
async fn the_end_of_the_server_ends_every_request_and_nothing_begins_before_it() {
    let (lead, phases) = crate::phase::start();
    let shared = with_phases(open_ring(), 8, phases);
    let mut service = CallLayer(Arc::clone(&shared)).layer(Silent);
    let waiting = tokio::spawn(service.call(request("/x", &[])));
    tokio::task::yield_now().await;
    lead.advance(Phase::Stopping);
    let late = ask(&shared, request("/x", &[]), fine).await;
    assert_eq!(status_of(&late).code(), Code::Unavailable);
    let all_ended = tokio::time::timeout(Duration::from_millis(20), shared.all_ended()).await;
    assert!(all_ended.is_err(), "one is in progress");
    lead.advance(Phase::Ended);
    let response = waiting.await.unwrap().unwrap();
    assert_eq!(status_of(&response).code(), Code::Unavailable);
    drop(response);
    shared.all_ended().await;
}

#[tokio::test]
async fn a_call_knows_when_its_key_is_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let (record, token) = keys::create(&path, "", Access::Write, Tenants::All).unwrap();
    let shared = shared(Keyring::open(&path).unwrap(), 8);
    let keyring = Arc::clone(&shared.keyring);
    let seen = move |request: Request<Body>| {
        let call = request.extensions().get::<Call>().unwrap();
        assert!(call.asked_again().is_ok());
        keys::revoke(&path, &record.id).unwrap();
        keyring.refresh().unwrap();
        assert_eq!(call.asked_again().unwrap_err().code(), Code::Unauthenticated);
        Response::new(Body::empty())
    };
    let header = format!("Bearer {token}");
    ask(&shared, request("/x", &[("authorization", &header)]), seen).await;
}
