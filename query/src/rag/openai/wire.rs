//! The JSON of the embeddings API: requests, replies, and what servers say when they refuse.

use std::fmt;
use std::io::Read;

use base64::Engine;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use spandrel_storage::schema::DIM_MAX;

use super::{EncodingFormat, OpenAiSettings};
use crate::error::{Error, ErrorKind, Result};

/// Most characters of a server's message that are passed on.
const MESSAGE_CHARS_MAX: usize = 300;

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    input: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<usize>,
    encoding_format: EncodingFormat,
}

/// The body of a request.
pub(super) fn request(settings: &OpenAiSettings, input: &[String]) -> Result<Vec<u8>> {
    let OpenAiSettings { model, dimensions, encoding_format, .. } = settings;
    let request = Request { model, input, dimensions: *dimensions, encoding_format: *encoding_format };
    serde_json::to_vec(&request).map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))
}

/// Bytes a reply with `count` vectors may have.
pub(super) fn reply_bytes_max(count: usize, dim: Option<usize>) -> u64 {
    // A number, its comma and white space around it take at most 32 bytes.
    const NUMBER_BYTES_MAX: u64 = 32;
    const REST_BYTES_MAX: u64 = 64 << 10;
    let dim = dim.map_or(u64::from(DIM_MAX), |dim| dim as u64);
    REST_BYTES_MAX + count as u64 * (dim * NUMBER_BYTES_MAX + 1024)
}

/// The whole body; none when it has more than `limit` bytes, sent or once unpacked.
pub(super) fn read_bounded(body: ureq::Body, limit: u64) -> Result<Option<Vec<u8>>, ureq::Error> {
    let mut bytes = Vec::new();
    let reader = body.into_with_config().limit(limit + 2).reader();
    match reader.take(limit + 1).read_to_end(&mut bytes).map_err(ureq::Error::from) {
        Err(ureq::Error::BodyExceedsLimit(_)) => return Ok(None),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

#[derive(Deserialize)]
struct Reply {
    data: Vec<Datum>,
}

#[derive(Deserialize)]
struct Datum {
    #[serde(default)]
    index: Option<usize>,
    #[serde(deserialize_with = "embedding")]
    embedding: Vec<f32>,
}

/// An array of numbers, or base64 of little-endian f32.
fn embedding<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
    struct Embedding;
    impl<'de> Visitor<'de> for Embedding {
        type Value = Vec<f32>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of numbers or base64")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<f32>, A::Error> {
            let mut elements = Vec::new();
            while let Some(element) = seq.next_element()? {
                elements.push(element);
            }
            Ok(elements)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<f32>, E> {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(E::custom)?;
            let (elements, rest) = bytes.as_chunks::<4>();
            if !rest.is_empty() {
                return Err(E::custom("base64 of a length that is no multiple of 4 bytes"));
            }
            Ok(elements.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
        }
    }
    deserializer.deserialize_any(Embedding)
}

/// The vectors of a reply, in the order of the `count` texts asked for.
pub(super) fn vectors(body: &[u8], count: usize) -> Result<Vec<Vec<f32>>> {
    let reply: Reply = serde_json::from_slice(body).map_err(|error| {
        let start = one_line(&String::from_utf8_lossy(&body[..body.len().min(400)]), 100);
        Error::invalid(format!(
            "the reply is not one of the embeddings API ({error}); it starts with: {start}"
        ))
    })?;
    let found = reply.data.len();
    let mut vectors = vec![Vec::new(); count];
    let mut filled = vec![false; count];
    for (at, datum) in reply.data.into_iter().enumerate() {
        let index = datum.index.unwrap_or(at);
        if filled.get(index) != Some(&false) {
            return Err(Error::invalid(format!("the reply has index {index} twice or beyond {count} texts")));
        }
        filled[index] = true;
        vectors[index] = datum.embedding;
    }
    if found != count {
        return Err(Error::invalid(format!("the reply has {found} vectors for {count} texts")));
    }
    Ok(vectors)
}

/// `; the server says: ...` where the body holds a message, without the key.
pub(super) fn error_message(body: &[u8], key: Option<&str>) -> String {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let message = [&value["error"]["message"], &value["error"], &value["message"], &value["detail"]]
        .into_iter()
        .find_map(|message| message.as_str().map(str::to_owned));
    let mut text =
        message.unwrap_or_else(|| String::from_utf8_lossy(&body[..body.len().min(4096)]).into_owned());
    if let Some(key) = key {
        text = text.replace(key, "(key)");
    }
    let text = one_line(&text, MESSAGE_CHARS_MAX);
    if text.is_empty() { text } else { format!("; the server says: {text}") }
}

/// Whether a 429 means that paying, not waiting, helps.
pub(super) fn quota_is_spent(body: &[u8]) -> bool {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    [&value["error"]["code"], &value["error"]["type"]].into_iter().any(|code| code == "insufficient_quota")
}

/// At most `chars_max` characters on one line.
fn one_line(text: &str, chars_max: usize) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(chars_max) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_floats_and_base64() {
        let body = br#"{"object":"list","data":[{"index":0,"embedding":[1,-0.5,1e-3]}],"usage":{}}"#;
        assert_eq!(vectors(body, 1).unwrap(), [[1.0, -0.5, 0.001]]);
        let body = br#"{"data":[{"embedding":"AACAPwAAAL8="}]}"#;
        assert_eq!(vectors(body, 1).unwrap(), [[1.0, -0.5]]);
    }

    #[test]
    fn refuses_other_replies() {
        let refused = |body: &str, count| vectors(body.as_bytes(), count).unwrap_err().to_string();
        assert!(refused("<html>\n<p>hello", 1).contains("<html> <p>hello"));
        assert!(refused(r#"{"data":[]}"#, 2).contains("0 vectors for 2 texts"));
        assert!(refused(r#"{"data":[{"index":5,"embedding":[1]}]}"#, 1).contains("index 5"));
        let twice = r#"{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}"#;
        assert!(refused(twice, 2).contains("index 0 twice"));
        assert!(refused(r#"{"data":[{"embedding":"AAAA"}]}"#, 1).contains("multiple of 4"));
        assert!(refused(r#"{"data":[{"embedding":["x"]}]}"#, 1).contains("not one of"));
        assert!(refused(r#"{"data":[{"embedding":[null]}]}"#, 1).contains("not one of"));
    }

    #[test]
    fn messages_are_short_and_without_the_key() {
        let said = error_message(br#"{"error":{"message":"bad key sk-1 given"}}"#, Some("sk-1"));
        assert_eq!(said, "; the server says: bad key (key) given");
        assert_eq!(
            error_message(br#"{"error":"model not found"}"#, None),
            "; the server says: model not found"
        );
        assert_eq!(error_message(b"", None), "");
        assert!(error_message("\u{E9}".repeat(5000).as_bytes(), None).len() < 700);
    }
}
