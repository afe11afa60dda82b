//! What surrounds every request, before and after its service: who asks, until when, whether there is room,
//! what it cost, and that a panic ends one request and not the server.
//!
//! A tower layer around tonic's routes. Health and reflection pass untouched, so that a probe works on a busy
//! server and without a key. Cost: one boxed future and one boxed body a request.

use std::any::Any;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http_body::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response, header::AUTHORIZATION};
use tonic::codegen::{Body as HttpBody, Bytes, Service};
use tonic::{Code, Status};

use crate::auth::Caller;
use crate::auth::keyring::Keyring;
use crate::phase::{Phase, Phases};
use crate::pool::Deadline;
use crate::status;
use crate::telemetry::metrics::{Metrics, code_label, method_label};

/// Paths that need no key and are not counted: health and reflection.
const OPEN_PATHS: [&str; 3] = [
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// The part of a client's timeout, at most [`MARGIN_MAX`], that is kept for the answer's way back, so that
/// the client sees our DEADLINE_EXCEEDED and not only its own clock.
const MARGIN_PARTS: u32 = 10;
const MARGIN_MAX: Duration = Duration::from_millis(20);

/// What a service knows of the call besides its message.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who asks.
    pub caller: Caller,
    /// Until when the answer is wanted.
    pub deadline: Deadline,
    credentials: Credentials,
}

/// What the caller was told from, so that a long call can ask again.
#[derive(Clone)]
struct Credentials {
    keyring: Arc<Keyring>,
    header: Option<HeaderValue>,
}

impl Credentials {
    fn caller(&self) -> Result<Caller, Status> {
        self.keyring.authenticate(self.header.as_ref().map(|value| value.as_bytes()))
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Call {
    /// The call that `request` came with.
    ///
    /// # Errors
    /// INTERNAL when the layer is missing: never "anybody".
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Status::internal("request without a caller"))
    }

    /// The call by the keys that are in force now.
    ///
    /// # Errors
    /// UNAUTHENTICATED when the key has been revoked since the call began.
    pub fn asked_again(&self) -> Result<Self, Status> {
        Ok(Self { caller: self.credentials.caller()?, ..self.clone() })
    }
}

/// What all calls share.
pub struct Shared {
    keyring: Arc<Keyring>,
    metrics: Arc<Metrics>,
    phases: Phases,
    requests: Arc<Semaphore>,
    requests_max: usize,
}

impl Shared {
    /// At most `requests_max` requests at a time, none from [`Phase::Stopping`] on.
    pub fn new(
        keyring: Arc<Keyring>,
        metrics: Arc<Metrics>,
        phases: Phases,
        requests_max: usize,
    ) -> Arc<Self> {
        let requests = Arc::new(Semaphore::new(requests_max));
        Arc::new(Self { keyring, metrics, phases, requests, requests_max })
    }

    /// Waits until no request is in progress.
    pub async fn all_ended(&self) {
        let all = u32::try_from(self.requests_max).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let _ = self.requests.acquire_many(all).await;
    }

    /// Lets a request in, or says why not.
    fn admit(&self, headers: &HeaderMap) -> Result<(Call, OwnedSemaphorePermit), Status> {
        if self.phases.has_reached(Phase::Stopping) {
            return Err(Status::unavailable("the server is shutting down"));
        }
        let credentials =
            Credentials { keyring: Arc::clone(&self.keyring), header: headers.get(AUTHORIZATION).cloned() };
        let caller = credentials.caller()?;
        let deadline = timeout_of(headers)?.map_or(Deadline::NONE, |timeout| {
            Deadline::after(timeout.saturating_sub(MARGIN_MAX.min(timeout / MARGIN_PARTS)))
        });
        if deadline.has_passed() {
            return Err(Status::deadline_exceeded("the deadline passed before the request was started"));
        }
        let permit = Arc::clone(&self.requests).try_acquire_owned().map_err(|_| {
            let most = self.requests_max;
            Status::resource_exhausted(format!(
                "{most} requests are in progress (limits.requests_max); retry later"
            ))
        })?;
        Ok((Call { caller, deadline, credentials }, permit))
    }
}

/// The client's timeout: up to eight digits and a unit, as in `250m`.
fn timeout_of(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let amount: u64 = digits.parse().ok()?;
        Some(match unit {
            "H" => Duration::from_secs(amount * 3_600),
            "M" => Duration::from_secs(amount * 60),
            "S" => Duration::from_secs(amount),
            "m" => Duration::from_millis(amount),
            "u" => Duration::from_micros(amount),
            "n" => Duration::from_nanos(amount),
            _ => return None,
        })
    });
    match parsed {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(Status::invalid_argument(
            "the header grpc-timeout is not 1 to 8 digits and one of H M S m u n",
        )),
    }
}

/// Puts [`CallService`] around routes.
#[derive(Clone)]
pub struct CallLayer(pub Arc<Shared>);

impl<S> tower_layer::Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> CallService<S> {
        CallService { inner, shared: Arc::clone(&self.0) }
    }
}

/// Routes with all that surrounds them.
#[derive(Clone)]
pub struct CallService<S> {
    inner: S,
    shared: Arc<Shared>,
}

type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S> Service<Request<Body>> for CallService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> ResponseFuture {
        let path = request.uri().path();
        if OPEN_PATHS.iter().any(|open| path.starts_with(open)) {
            return Box::pin(self.inner.call(request));
        }
        let mut record = Record::begin(&self.shared, method_label(path));
        let call = match self.shared.admit(request.headers()) {
            Ok((call, permit)) => {
                record.permit = Some(permit);
                record.key = call.caller.id().to_owned();
                call
            }
            Err(status) => {
                record.code = Some(status.code());
                return Box::pin(std::future::ready(Ok(status.into_http())));
            }
        };
        record.deadline = call.deadline;
        request.extensions_mut().insert(call);
        let answer = Caught(Box::pin(self.inner.call(request)));
        let mut phases = self.shared.phases.clone();
        Box::pin(async move {
            let response = tokio::select! {
                // A service that is ready at its deadline knows more than we do: how far it came.
                biased;
                answer = answer => match answer {
                    Ok(Ok(response)) => response,
                    Ok(Err(never)) => match never {},
                    Err(panic) => {
                        record.shared.metrics.panicked();
                        status::panicked(&*panic).into_http()
                    }
                },
                () = record.deadline.passed() => {
                    Status::deadline_exceeded("the deadline passed before there was an answer").into_http()
                }
                () = phases.reached(Phase::Ended) => {
                    Status::unavailable("the server has shut down; whether this was done is not known")
                        .into_http()
                }
            };
            Ok(record.observe(response))
        })
    }
}

/// A future whose panic is a value.
struct Caught<F>(Pin<Box<F>>);

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Box<dyn Any + Send>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A future that has panicked is dropped and never polled again.
        match std::panic::catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

/// What is noted of a request when it ends, however it ends.
struct Record {
    shared: Arc<Shared>,
    method: &'static str,
    key: String,
    started: Instant,
    deadline: Deadline,
    code: Option<Code>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Record {
    fn begin(shared: &Arc<Shared>, method: &'static str) -> Self {
        shared.metrics.begin();
        Self {
            shared: Arc::clone(shared),
            method,
            key: String::new(),
            started: Instant::now(),
            deadline: Deadline::NONE,
            code: None,
            permit: None,
        }
    }

    /// Follows the response to its end.
    fn observe(mut self, response: Response<Body>) -> Response<Body> {
        // A failure without messages has its status in the head.
        if let Some(status) = Status::from_header_map(response.headers()) {
            let status = status::reword(status);
            self.code = Some(status.code());
            return if status.code() == Code::Ok { response } else { status.into_http() };
        }
        if response.body().is_end_stream() {
            // Neither a status nor a body: not an answer of a gRPC service.
            self.code = Some(Code::Unknown);
            return response;
        }
        response.map(|body| Body::new(Observed { body, record: self }))
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Ended without a status: the client went away, or the transport gave up at the client's deadline.
        let unfinished = if self.deadline.has_passed() { Code::DeadlineExceeded } else { Code::Cancelled };
        let code = self.code.unwrap_or(unfinished);
        let took = self.started.elapsed();
        self.shared.metrics.end(self.method, code, took);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(method = self.method, code = code_label(code), took_us, key = self.key, "request");
    }
}

/// A body that notes the status in its trailers.
struct Observed {
    body: Body,
    record: Record,
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    self.record.code = Some(status.code());
                }
            }
            Some(Err(status)) => self.record.code = Some(status.code()),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
