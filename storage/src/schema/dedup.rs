//! What a schema says about copies: which texts are compared, from which similarity on they are copies, and
//! what becomes of those.

use serde::{Deserialize, Serialize};

use super::{FieldKind, PayloadKind, Schema};
use crate::error::{Error, Result};

/// What becomes of a row whose text is a copy of another row's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DedupPolicy {
    /// It is not written, unless its key has a row already: that is replaced whatever it says now.
    #[default]
    Skip,
    /// It is written, with `true` in a bool payload field.
    Flag,
    /// It is written, with the key of the other row in a keyword payload field.
    Link,
}

impl DedupPolicy {
    /// The word that schemas and flags use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Flag => "flag",
            Self::Link => "link",
        }
    }
}

/// Which rows are taken for copies of others when they are written, and what becomes of them. Rows are
/// compared with those of their tenant only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DedupSpec {
    /// The text field that is compared.
    pub field: String,
    /// From which Jaccard similarity of runs of five words on texts are copies: [`DEDUP_THRESHOLD_MIN`] to
    /// [`DEDUP_THRESHOLD_MAX`], or 1 for the same words in the same order and nothing else.
    #[serde(default = "default_dedup_threshold")]
    pub threshold: f64,
    /// What becomes of copies.
    #[serde(default)]
    pub policy: DedupPolicy,
    /// The payload field that says so: of bools with [`DedupPolicy::Flag`], of keywords with
    /// [`DedupPolicy::Link`]. The engine writes it, whatever callers send in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub into: Option<String>,
}

/// Least similarity that texts can be compared by.
pub const DEDUP_THRESHOLD_MIN: f64 = 0.1;
/// Largest similarity below 1 that texts can be compared by.
pub const DEDUP_THRESHOLD_MAX: f64 = 0.99;
/// Similarity when nothing else is asked for.
pub const DEDUP_THRESHOLD_DEFAULT: f64 = 0.8;

fn default_dedup_threshold() -> f64 {
    DEDUP_THRESHOLD_DEFAULT
}

impl DedupSpec {
    /// Leaves out copies of texts of `field`, as similar as [`DEDUP_THRESHOLD_DEFAULT`].
    pub fn skip(field: impl Into<String>) -> Self {
        let (threshold, policy) = (DEDUP_THRESHOLD_DEFAULT, DedupPolicy::Skip);
        Self { field: field.into(), threshold, policy, into: None }
    }

    /// Marks copies of texts of `field` in the bool payload field `into`.
    pub fn flag(field: impl Into<String>, into: impl Into<String>) -> Self {
        Self { policy: DedupPolicy::Flag, into: Some(into.into()), ..Self::skip(field) }
    }

    /// Names what copies of texts of `field` are copies of in the keyword payload field `into`.
    pub fn link(field: impl Into<String>, into: impl Into<String>) -> Self {
        Self { policy: DedupPolicy::Link, into: Some(into.into()), ..Self::skip(field) }
    }

    /// Sets the similarity.
    pub fn threshold(self, threshold: f64) -> Self {
        Self { threshold, ..self }
    }

    /// Checks it against the schema that it is of.
    ///
    /// # Errors
    /// [`Error::Invalid`] with what to change.
    pub(super) fn check(&self, schema: &Schema) -> Result<()> {
        let invalid = |what: String| Err(Error::Invalid(format!("dedup: {what}")));
        if self.threshold != 1.0 && !(DEDUP_THRESHOLD_MIN..=DEDUP_THRESHOLD_MAX).contains(&self.threshold) {
            return invalid(format!(
                "threshold is {DEDUP_THRESHOLD_MIN} to {DEDUP_THRESHOLD_MAX}, or 1, not {}",
                self.threshold
            ));
        }
        match schema.find(&self.field).map(|(_, field)| &field.kind) {
            Some(FieldKind::Text(_)) => {}
            Some(kind) => {
                return invalid(format!("'{}' is a {} field, not a text one", self.field, kind.name()));
            }
            None => return invalid(format!("there is no field '{}'", self.field)),
        }
        let wanted = match self.policy {
            DedupPolicy::Skip => None,
            DedupPolicy::Flag => Some((PayloadKind::Bool, "bool")),
            DedupPolicy::Link => Some((PayloadKind::Keyword, "keyword")),
        };
        match (wanted, &self.into) {
            (None, None) => Ok(()),
            (None, Some(_)) => invalid("skip writes no field; leave out into".into()),
            (Some((_, kind)), None) => {
                invalid(format!("{} needs into, a payload field of kind {kind}", self.policy.name()))
            }
            (Some((wanted, kind)), Some(into)) => match schema.find(into).map(|(_, field)| &field.kind) {
                Some(FieldKind::Payload { kind }) if *kind == wanted => Ok(()),
                _ => invalid(format!("into has to be a payload field of kind {kind}, '{into}' is not")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(dedup: DedupSpec) -> Schema {
        let schema = Schema::new().text("body").sparse("words");
        let schema = schema.payload("copy", PayloadKind::Bool).payload("copy_of", PayloadKind::Keyword);
        schema.dedup(dedup)
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_to_change() {
        for spec in [DedupSpec::skip("body"), DedupSpec::flag("body", "copy")] {
            schema(spec).check().unwrap();
        }
        for threshold in [DEDUP_THRESHOLD_MIN, DEDUP_THRESHOLD_MAX, 1.0] {
            schema(DedupSpec::link("body", "copy_of").threshold(threshold)).check().unwrap();
        }
        let into = |into: Option<&str>, policy| DedupSpec {
            into: into.map(str::to_owned),
            policy,
            ..DedupSpec::skip("body")
        };
        for (spec, wrong) in [
            (DedupSpec::skip("title"), "there is no field 'title'"),
            (DedupSpec::skip("words"), "'words' is a sparse field"),
            (DedupSpec::skip("body").threshold(0.0), "threshold is 0.1 to 0.99, or 1"),
            (DedupSpec::skip("body").threshold(f64::NAN), "threshold is 0.1 to 0.99, or 1"),
            (into(Some("copy"), DedupPolicy::Skip), "skip writes no field"),
            (into(None, DedupPolicy::Flag), "flag needs into, a payload field of kind bool"),
            (into(Some("copy_of"), DedupPolicy::Flag), "a payload field of kind bool, 'copy_of' is not"),
            (into(Some("nowhere"), DedupPolicy::Link), "a payload field of kind keyword"),
        ] {
            let error = schema(spec).check().unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn schemas_without_it_are_read_and_written_as_before() {
        let plain = Schema::new().text("body");
        let json = serde_json::to_string(&plain).unwrap();
        assert!(!json.contains("dedup"), "{json}");
        assert_eq!(serde_json::from_str::<Schema>(&json).unwrap(), plain);
        let json = r#"{"fields": [{"name": "body", "type": "text"}], "dedup": {"field": "body"}}"#;
        let read: Schema = serde_json::from_str(json).unwrap();
        assert_eq!(read.dedup, Some(DedupSpec::skip("body")));
        assert_eq!(serde_json::from_str::<Schema>(&serde_json::to_string(&read).unwrap()).unwrap(), read);
    }
}
