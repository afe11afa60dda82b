//! An [`Embedder`] that speaks the OpenAI-compatible embeddings API over HTTP.
//!
//! It serves hosted models and local servers alike (`POST {base_url}/embeddings`). Texts go out in batches of
//! bounded size, one after another on the caller's thread; replies are bounded, ordered by their `index` and
//! checked. What may pass by itself (429, 5xx, a broken connection, a timeout) is retried with exponential
//! back-off and jitter, as long as `Retry-After` and the total time allow. The key never appears in messages,
//! logs or `Debug` output.

mod retry;
mod wire;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use spandrel_storage::schema::DIM_MAX;

use crate::error::{Error, ErrorKind, Result};
use crate::rag::embed::{EmbedPurpose, Embedder};
use crate::rag::ingest::check_vectors;

use retry::Failure;

/// How vectors come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncodingFormat {
    /// JSON numbers; every server has it.
    #[default]
    Float,
    /// Little-endian f32 as base64: about a third of the bytes.
    Base64,
}

/// Where the embeddings come from, and how patiently. Times are in milliseconds.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpenAiSettings {
    /// `http` or `https`, up to and including the version: `https://api.openai.com/v1`.
    pub base_url: String,
    /// The model's name as the server knows it; required.
    pub model: String,
    /// Sent as a bearer token, where there is one. Read from settings but never written back.
    #[serde(skip_serializing)]
    pub api_key: Option<String>,
    /// Asks the server for vectors of this many elements; none: the model's own.
    pub dimensions: Option<usize>,
    /// How vectors come back.
    pub encoding_format: EncodingFormat,
    /// Stands before every stored passage, for models that want it, for example `passage: `.
    pub passage_prefix: String,
    /// Stands before every question, for example `query: `.
    pub query_prefix: String,
    /// Most texts of one request: 1 to 2,048.
    pub batch_texts_max: usize,
    /// Most characters of one request, unless a single text has more.
    pub batch_chars_max: usize,
    /// Most characters of one text; a longer one is refused, not cut.
    pub text_chars_max: usize,
    /// Time to connect.
    pub connect_timeout_ms: u64,
    /// Time of one request with its reply.
    pub timeout_ms: u64,
    /// Time of a batch of passages with all its retries.
    pub total_timeout_ms: u64,
    /// Time of a question with all its retries.
    pub query_timeout_ms: u64,
    /// Most retries of one batch.
    pub retries_max: u32,
    /// Wait before the first retry; it doubles with each.
    pub backoff_ms: u64,
}

impl Default for OpenAiSettings {
    fn default() -> Self {
        Self {
            base_url: "https://api.openai.com/v1".to_owned(),
            model: String::new(),
            api_key: None,
            dimensions: None,
            encoding_format: EncodingFormat::Float,
            passage_prefix: String::new(),
            query_prefix: String::new(),
            batch_texts_max: 64,
            batch_chars_max: 200_000,
            text_chars_max: 100_000,
            connect_timeout_ms: 5_000,
            timeout_ms: 30_000,
            total_timeout_ms: 120_000,
            query_timeout_ms: 10_000,
            retries_max: 6,
            backoff_ms: 500,
        }
    }
}

impl std::fmt::Debug for OpenAiSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenAiSettings")
            .field("base_url", &self.base_url)
            .field("model", &self.model)
            .field("api_key", &self.api_key.as_ref().map(|_| "redacted"))
            .field("dimensions", &self.dimensions)
            .field("batch_texts_max", &self.batch_texts_max)
            .field("timeout_ms", &self.timeout_ms)
            .field("total_timeout_ms", &self.total_timeout_ms)
            .finish_non_exhaustive()
    }
}

impl OpenAiSettings {
    /// Checks that everything is given and within its limits.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with what to change.
    pub fn check(&self) -> Result<()> {
        let bad = |what: String| Err(Error::invalid(format!("embeddings settings: {what}")));
        let authority = ["https://", "http://"].iter().find_map(|scheme| self.base_url.strip_prefix(scheme));
        let Some(authority) = authority.filter(|rest| !rest.is_empty() && !rest.starts_with('/')) else {
            return bad("base_url must be http://HOST[:PORT]/... or https://...".to_owned());
        };
        if authority.contains(['@', '?', '#']) {
            return bad(
                "base_url must not hold a user, a query or a fragment; the key goes to api_key".to_owned()
            );
        }
        if self.model.is_empty() {
            return bad("model is not set".to_owned());
        }
        if self
            .api_key
            .as_ref()
            .is_some_and(|key| key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()))
        {
            return bad(
                "api_key must be visible ASCII characters without spaces; leave it out for none".to_owned()
            );
        }
        if self.dimensions.is_some_and(|dim| dim == 0 || dim > DIM_MAX as usize) {
            return bad(format!("dimensions must be 1 to {DIM_MAX}"));
        }
        if !(1..=2048).contains(&self.batch_texts_max) {
            return bad(format!("batch_texts_max is {}, it must be 1 to 2048", self.batch_texts_max));
        }
        if self.batch_chars_max == 0 || self.text_chars_max == 0 {
            return bad("batch_chars_max and text_chars_max must be at least 1".to_owned());
        }
        let times = [self.connect_timeout_ms, self.timeout_ms, self.total_timeout_ms, self.query_timeout_ms];
        if times.contains(&0) {
            return bad("timeouts must be at least 1 ms".to_owned());
        }
        Ok(())
    }
}

/// The embedder. Its connections are kept and shared by all threads.
pub struct OpenAiEmbedder {
    settings: OpenAiSettings,
    url: String,
    authorization: Option<ureq::http::HeaderValue>,
    agent: ureq::Agent,
    /// Elements of a vector; 0 before the first answer.
    dim: AtomicUsize,
}

impl std::fmt::Debug for OpenAiEmbedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenAiEmbedder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl OpenAiEmbedder {
    /// Makes an embedder; nothing is sent yet.
    ///
    /// # Errors
    /// Those of [`OpenAiSettings::check`].
    pub fn new(settings: OpenAiSettings) -> Result<Self> {
        settings.check()?;
        let base = settings.base_url.trim_end_matches('/');
        let url = if base.ends_with("/embeddings") { base.to_owned() } else { format!("{base}/embeddings") };
        let authorization = match &settings.api_key {
            None => None,
            Some(key) => {
                let mut value =
                    ureq::http::HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| {
                        Error::invalid("embeddings settings: api_key is not a valid header value")
                    })?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let mut agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(Duration::from_millis(settings.connect_timeout_ms)))
            .user_agent(concat!("spandrel/", env!("CARGO_PKG_VERSION")));
        if is_local(base) {
            // A proxy from the environment cannot reach this machine's own servers.
            agent = agent.proxy(None);
        }
        let agent = agent.build().new_agent();
        let dim = AtomicUsize::new(settings.dimensions.unwrap_or(0));
        Ok(Self { settings, url, authorization, agent, dim })
    }

    /// Sends one batch until it succeeds, cannot succeed, or has no time left.
    fn embed_batch(&self, texts: &[String], total: Duration) -> Result<Vec<Vec<f32>>> {
        let body = wire::request(&self.settings, texts)?;
        let start = Instant::now();
        let mut attempt = 0;
        loop {
            let left = total.saturating_sub(start.elapsed());
            let failure = match self.attempt(&body, texts.len(), left) {
                Ok(vectors) => return Ok(vectors),
                Err(failure) => failure,
            };
            let left = total.saturating_sub(start.elapsed());
            let Some(wait) = retry::wait(&failure, attempt, &self.settings, left) else {
                return Err(retry::gave_up(failure, attempt, start.elapsed()));
            };
            tracing::warn!(
                error = %failure.error,
                attempt = attempt + 1,
                wait_ms = wait.as_millis() as u64,
                "embeddings request failed, retrying"
            );
            std::thread::sleep(wait);
            attempt += 1;
        }
    }

    /// One request and its reply.
    fn attempt(&self, body: &[u8], count: usize, left: Duration) -> Result<Vec<Vec<f32>>, Failure> {
        let timeout = left.min(Duration::from_millis(self.settings.timeout_ms)).max(Duration::from_millis(1));
        let mut request = self.agent.post(&self.url).config().timeout_global(Some(timeout)).build();
        request = request.content_type("application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization.clone());
        }
        let response = request.send(body).map_err(|error| self.transport(error, timeout))?;
        let (head, body) = response.into_parts();
        let limit = wire::reply_bytes_max(count, self.dim());
        let body = wire::read_bounded(body, limit).map_err(|error| self.transport(error, timeout))?;
        if !head.status.is_success() {
            return Err(self.refused(
                head.status.as_u16(),
                &head.headers,
                body.as_deref().unwrap_or_default(),
            ));
        }
        let Some(body) = body else {
            let what = format!("{} sent more than {limit} bytes for {count} texts", self.url);
            return Err(Failure::fatal(Error::invalid(what)));
        };
        let fatal = |error: Error| Failure::fatal(error.context(&self.url));
        let vectors = wire::vectors(&body, count).map_err(fatal)?;
        let mut dim = self.dim();
        check_vectors(&vectors, count, &mut dim, &self.settings.model).map_err(fatal)?;
        self.dim.store(dim.unwrap_or(0), Ordering::Relaxed);
        Ok(vectors)
    }

    /// What a broken exchange means.
    fn transport(&self, error: ureq::Error, timeout: Duration) -> Failure {
        let url = &self.url;
        match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                let what = format!("base_url does not work ({error}): {url}");
                Failure::fatal(Error::new(ErrorKind::Unavailable, what))
            }
            ureq::Error::Timeout(_) => {
                Failure::passing(format!("{url} did not answer in {} ms", timeout.as_millis()))
            }
            ureq::Error::HostNotFound => {
                Failure::passing(format!("{url}: the host is not known; check base_url"))
            }
            error => Failure::passing(format!("{url}: {error}")),
        }
    }

    /// What a status other than success means.
    fn refused(&self, status: u16, headers: &ureq::http::HeaderMap, body: &[u8]) -> Failure {
        let said = wire::error_message(body, self.settings.api_key.as_deref());
        let (url, model) = (&self.url, &self.settings.model);
        let advice = match status {
            300..=399 => "it redirects; set base_url to the new address".to_owned(),
            401 => "check the API key".to_owned(),
            403 => format!("the API key may not use the model '{model}'"),
            404 => format!("check the base URL and the model '{model}'"),
            413 => "lower batch_texts_max or batch_chars_max".to_owned(),
            429 if wire::quota_is_spent(body) => "the account's quota is spent".to_owned(),
            429 => "too many requests".to_owned(),
            500..=599 => "the server failed".to_owned(),
            _ => "the request was refused".to_owned(),
        };
        let message = format!("{url} answered {status}: {advice}{said}");
        match status {
            429 if wire::quota_is_spent(body) => Failure::fatal(Error::new(ErrorKind::Exhausted, message)),
            408 | 429 | 500..=599 => {
                Failure { after: retry::retry_after(headers), ..Failure::passing(message) }
            }
            // Where and as whom to ask is the operator's to set, not the caller's to change.
            300..=399 | 401 | 403 | 404 => Failure::fatal(Error::new(ErrorKind::Unavailable, message)),
            _ => Failure::fatal(Error::invalid(message)),
        }
    }

    /// The texts with their prefix.
    fn prepare(&self, texts: &[&str], prefix: &str) -> Result<Vec<(String, usize)>> {
        let max = self.settings.text_chars_max;
        let prepare = |(at, text): (usize, &&str)| {
            let text = format!("{prefix}{text}");
            let chars = text.chars().count();
            if text.trim().is_empty() {
                return Err(Error::invalid(format!("text {at} is empty: it has no embedding")));
            }
            if chars > max {
                return Err(Error::invalid(format!(
                    "text {at} has {chars} characters, more than text_chars_max = {max}: split it into chunks"
                )));
            }
            Ok((text, chars))
        };
        texts.iter().enumerate().map(prepare).collect()
    }
}

impl Embedder for OpenAiEmbedder {
    fn embed(
        &self,
        texts: &[&str],
        purpose: EmbedPurpose,
        deadline: Option<Instant>,
    ) -> Result<Vec<Vec<f32>>> {
        let settings = &self.settings;
        let (prefix, total_ms) = match purpose {
            EmbedPurpose::Passage => (&settings.passage_prefix, settings.total_timeout_ms),
            EmbedPurpose::Query => (&settings.query_prefix, settings.query_timeout_ms),
        };
        let left = || {
            let total = Duration::from_millis(total_ms);
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => {
                    Err(Error::new(ErrorKind::Deadline, "no time was left to embed the text"))
                }
                left => Ok(left.map_or(total, |left| left.min(total))),
            }
        };
        let mut vectors = Vec::with_capacity(texts.len());
        let mut batch = Vec::new();
        let mut batch_chars = 0;
        for (text, chars) in self.prepare(texts, prefix)? {
            let full =
                batch.len() == settings.batch_texts_max || batch_chars + chars > settings.batch_chars_max;
            if full && !batch.is_empty() {
                vectors.extend(self.embed_batch(&batch, left()?)?);
                batch.clear();
                batch_chars = 0;
            }
            batch.push(text);
            batch_chars += chars;
        }
        if !batch.is_empty() {
            vectors.extend(self.embed_batch(&batch, left()?)?);
        }
        Ok(vectors)
    }

    fn dim(&self) -> Option<usize> {
        Some(self.dim.load(Ordering::Relaxed)).filter(|&dim| dim > 0)
    }

    fn name(&self) -> &str {
        &self.settings.model
    }
}

/// Whether the server is on this machine.
fn is_local(base_url: &str) -> bool {
    let authority = base_url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host == "localhost" || host == "[::1]" || host.starts_with("127.")
}

#[cfg(test)]
mod tests;
