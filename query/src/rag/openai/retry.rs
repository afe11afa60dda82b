//! When a failed request is sent again, and after what wait.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use super::OpenAiSettings;
use crate::error::{Error, ErrorKind};

/// Longest back-off, in milliseconds; a longer `Retry-After` is honoured all the same.
const BACKOFF_MAX_MS: u64 = 20_000;

/// A request that failed.
pub(super) struct Failure {
    pub(super) error: Error,
    /// Whether the same request may succeed later.
    pub(super) passing: bool,
    /// The server's own wish for the wait.
    pub(super) after: Option<Duration>,
}

impl Failure {
    /// One that no retry helps.
    pub(super) fn fatal(error: Error) -> Self {
        Self { error, passing: false, after: None }
    }

    /// One that may pass.
    pub(super) fn passing(message: String) -> Self {
        Self { error: Error::new(ErrorKind::Unavailable, message), passing: true, after: None }
    }
}

/// How long to wait before the retry that follows attempt `attempt` (from 0); none: there is no use or no
/// time.
pub(super) fn wait(
    failure: &Failure,
    attempt: u32,
    settings: &OpenAiSettings,
    left: Duration,
) -> Option<Duration> {
    if !failure.passing || attempt >= settings.retries_max {
        return None;
    }
    let wait = failure.after.unwrap_or_else(|| {
        let backoff_ms = settings.backoff_ms.saturating_mul(1 << attempt.min(20)).min(BACKOFF_MAX_MS);
        // Between half and all of it, so that clients that failed together do not come back together.
        let jitter_ms = RandomState::new().hash_one(attempt) % (backoff_ms / 2 + 1);
        Duration::from_millis(backoff_ms - jitter_ms)
    });
    (wait < left).then_some(wait)
}

/// The error for the caller, with what was tried.
pub(super) fn gave_up(failure: Failure, attempt: u32, elapsed: Duration) -> Error {
    if !failure.passing {
        return failure.error;
    }
    let asked = failure.after.map(|after| format!("; the server asks to wait {:.1} s", after.as_secs_f64()));
    let tried = format!("gave up after {} attempts in {:.1} s", attempt + 1, elapsed.as_secs_f64());
    let message = format!("{} ({tried}{})", failure.error.message(), asked.unwrap_or_default());
    Error::new(failure.error.kind(), message)
}

/// What `retry-after-ms` or `Retry-After` (seconds or an HTTP date) asks for; none where it says nothing
/// readable.
pub(super) fn retry_after(headers: &ureq::http::HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |name: &str| text(name)?.parse::<f64>().ok().filter(|number| (0.0..1e9).contains(number));
    if let Some(ms) = number("retry-after-ms") {
        return Some(Duration::from_secs_f64(ms / 1000.0));
    }
    if let Some(seconds) = number("retry-after") {
        return Some(Duration::from_secs_f64(seconds));
    }
    let date = httpdate::parse_http_date(text("retry-after")?).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> ureq::http::HeaderMap {
        [(ureq::http::HeaderName::from_static(name), value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn reads_retry_after() {
        let after = |name, value| retry_after(&headers(name, value)).map(|after| after.as_millis());
        assert_eq!(after("retry-after", "3"), Some(3000));
        assert_eq!(after("retry-after", "0.25"), Some(250));
        assert_eq!(after("retry-after-ms", "40"), Some(40));
        assert_eq!(after("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"), Some(0));
        for bad in ["soon", "-1", "NaN", "inf", ""] {
            assert_eq!(after("retry-after", bad), None, "{bad}");
        }
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(90));
        let wait = after("retry-after", &date).unwrap();
        assert!((80_000..=90_000).contains(&wait), "{wait}");
    }

    #[test]
    fn waits_grow_within_bounds() {
        let settings = OpenAiSettings { backoff_ms: 100, retries_max: 40, ..OpenAiSettings::default() };
        let failure = Failure::passing("busy".into());
        let hour = Duration::from_secs(3600);
        for attempt in 0..40 {
            let full = (100u64 << attempt.min(20)).min(BACKOFF_MAX_MS);
            let ms = wait(&failure, attempt, &settings, hour).unwrap().as_millis() as u64;
            assert!(ms >= full / 2 && ms <= full, "attempt {attempt}: {ms} of {full}");
        }
        assert!(wait(&failure, 40, &settings, hour).is_none());
        assert!(wait(&failure, 5, &settings, Duration::from_millis(100)).is_none());
        let asked = Failure { after: Some(Duration::from_secs(50)), ..Failure::passing("busy".into()) };
        assert_eq!(wait(&asked, 0, &settings, hour), Some(Duration::from_secs(50)));
        assert!(wait(&asked, 0, &settings, Duration::from_secs(49)).is_none());
        assert!(wait(&Failure::fatal(Error::invalid("no")), 0, &settings, hour).is_none());
    }
}
