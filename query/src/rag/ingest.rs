//! Plans what the ingestion of a document writes: one row a chunk, and which older rows the new ones leave
//! behind.
//!
//! Nothing here touches a collection. The rows of document `d` have the keys `d#0`, `d#1`, ...; a shorter
//! version of a document overwrites the first of them and leaves the rest, which [`is_stale`] recognises.
//! Whoever writes the rows has to delete those in the same commit, or a search sees two versions mixed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use spandrel_index::stop::Stop;
use spandrel_storage::id::KEY_BYTES_MAX;
use spandrel_storage::{FieldValue, Row, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::rag::chunk::{ChunkOptions, chunks};
use crate::rag::embed::{EmbedPurpose, Embedder};
use crate::rag::tokens::Tokenizer;

/// Longest key of a document in bytes: with `#` and a chunk number it is still a row's key.
pub const DOCUMENT_KEY_BYTES_MAX: usize = KEY_BYTES_MAX - 11;
/// Texts given to an embedder in one call.
pub const EMBED_BATCH_MAX: usize = 256;

/// A document to be stored as chunks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The document's key: 1 to 501 bytes, unique within the tenant.
    pub key: String,
    /// The whole text.
    pub text: String,
    /// The tenant's name; empty is the default tenant.
    #[serde(default)]
    pub tenant: String,
    /// Payload values that every chunk gets.
    #[serde(default)]
    pub payload: BTreeMap<String, Value>,
}

/// The rows of `document`, in the order of its text, with their text in the field `text_field`. White space
/// makes no rows.
///
/// # Errors
/// [`ErrorKind::Invalid`] when the key is empty or too long, a payload value has the text field's name, or
/// the options or the text are outside their limits.
pub fn rows(
    document: &Document,
    text_field: &str,
    options: &ChunkOptions,
    tokenizer: &Tokenizer,
) -> Result<Vec<Row>> {
    if document.key.is_empty() || document.key.len() > DOCUMENT_KEY_BYTES_MAX {
        let shown: String = document.key.chars().take(64).collect();
        return Err(Error::invalid(format!(
            "document key '{shown}' has {} bytes; it must have 1 to {DOCUMENT_KEY_BYTES_MAX}",
            document.key.len()
        )));
    }
    if document.payload.contains_key(text_field) {
        return Err(Error::invalid(format!(
            "document '{}': payload value '{text_field}' has the name of the text field",
            document.key
        )));
    }
    let payload = |(name, value): (&String, &Value)| (name.clone(), FieldValue::Payload(value.clone()));
    let fields: BTreeMap<_, _> = document.payload.iter().map(payload).collect();
    let row = |(n, (text, chunk))| {
        let row = Row { fields: fields.clone(), ..Row::new(row_key(&document.key, n)) };
        row.tenant(&document.tenant).text(text_field, text).chunk(chunk)
    };
    Ok(chunks(&document.key, &document.text, options, tokenizer)?.into_iter().enumerate().map(row).collect())
}

/// The key of chunk `n` of a document.
pub fn row_key(document: &str, n: usize) -> String {
    format!("{document}#{n}")
}

/// What the keys of all chunks of a document start with. Other keys can start with it too; ask [`is_stale`].
pub fn key_prefix(document: &str) -> String {
    format!("{document}#")
}

/// Whether `key` is the key of a chunk of `document` beyond its first `count`.
pub fn is_stale(key: &str, document: &str, count: usize) -> bool {
    let Some(number) = key.strip_prefix(document).and_then(|rest| rest.strip_prefix('#')) else {
        return false;
    };
    let canonical =
        number.bytes().all(|byte| byte.is_ascii_digit()) && (number == "0" || !number.starts_with('0'));
    canonical && number.parse().is_ok_and(|n: usize| n >= count)
}

/// Embeds the texts in `text_field` of `rows` into their field `vector_field`, where a row has a text and no
/// vector yet, at most [`EMBED_BATCH_MAX`] texts a call.
///
/// # Errors
/// The embedder's own, or [`ErrorKind::Invalid`] when it answers with another number of vectors, other
/// dimensions or elements that are not finite. Rows of earlier batches keep their vectors then.
pub fn embed_rows(
    rows: &mut [Row],
    text_field: &str,
    vector_field: &str,
    embedder: &dyn Embedder,
    stop: &Stop,
) -> Result<()> {
    let wanted = |row: &&mut Row| {
        matches!(row.fields.get(text_field), Some(FieldValue::Text(text)) if !text.trim().is_empty())
            && !row.fields.contains_key(vector_field)
    };
    let mut wanted: Vec<&mut Row> = rows.iter_mut().filter(wanted).collect();
    let mut dim = embedder.dim();
    for batch in wanted.chunks_mut(EMBED_BATCH_MAX) {
        let text = |row: &'_ &mut Row| match row.fields.get(text_field) {
            Some(FieldValue::Text(text)) => text.clone(),
            _ => String::new(),
        };
        let texts: Vec<String> = batch.iter().map(text).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        stop.check()?;
        let vectors = embedder.embed(&texts, EmbedPurpose::Passage, stop.deadline())?;
        check_vectors(&vectors, texts.len(), &mut dim, embedder.name())?;
        for (row, vector) in batch.iter_mut().zip(vectors) {
            row.fields.insert(vector_field.to_owned(), FieldValue::Dense(vector));
        }
    }
    Ok(())
}

/// Checks an embedder's answer; the first vector fixes `dim` where it is not known.
///
/// # Errors
/// [`ErrorKind::Invalid`] for another number of vectors than `count`, another dimension, NaN or infinity.
pub fn check_vectors(vectors: &[Vec<f32>], count: usize, dim: &mut Option<usize>, name: &str) -> Result<()> {
    let wrong = |what: String| Err(Error::new(ErrorKind::Invalid, format!("embedder '{name}' {what}")));
    if vectors.len() != count {
        return wrong(format!("returned {} vectors for {count} texts", vectors.len()));
    }
    for (at, vector) in vectors.iter().enumerate() {
        let expected = *dim.get_or_insert(vector.len());
        if vector.len() != expected || expected == 0 {
            return wrong(format!(
                "returned a vector of {} elements where {expected} were expected",
                vector.len()
            ));
        }
        if !vector.iter().all(|element| element.is_finite()) {
            return wrong(format!("returned a vector with NaN or infinity for text {at}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
