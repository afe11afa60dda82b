//! The flags that say what is done about copies in a new collection.

use serde_json::json;
use spandrel::{DedupPolicy, DedupSpec, PayloadKind, Schema};

use super::CliError;

/// What is done about copies.
#[derive(clap::Args)]
pub(super) struct DedupArgs {
    /// Compare new rows with those that are there by this text field, from this similarity on: 0.1 to 0.99,
    /// or 1 for the same words only [default: 0.8]
    #[arg(long, value_name = "FIELD[:SIMILARITY]", conflicts_with = "schema")]
    dedup: Option<String>,
    /// What becomes of copies: skip, flag:FIELD (of bools) or link:FIELD (of keywords), a payload field that
    /// is made if it is not there [default: skip]
    #[arg(long, value_name = "POLICY", requires = "dedup")]
    copies: Option<String>,
}

impl DedupArgs {
    /// What the flags ask for.
    pub(super) fn spec(&self) -> Result<Option<DedupSpec>, CliError> {
        let Some(dedup) = &self.dedup else { return Ok(None) };
        let spec = match dedup.rsplit_once(':') {
            None => DedupSpec::skip(dedup),
            Some((field, threshold)) => {
                DedupSpec::skip(field).threshold(threshold.parse().map_err(|_| {
                    CliError::usage(format!("--dedup {dedup}: write it as FIELD:SIMILARITY, like body:0.8"))
                })?)
            }
        };
        let Some(copies) = &self.copies else { return Ok(Some(spec)) };
        let (policy, into) = match copies.split_once(':') {
            Some((policy, into)) => (policy, Some(into.to_owned())),
            None => (copies.as_str(), None),
        };
        let policy = match policy {
            "skip" => DedupPolicy::Skip,
            "flag" => DedupPolicy::Flag,
            "link" => DedupPolicy::Link,
            _ => {
                let message = format!("--copies {copies}: write it as skip, flag:FIELD or link:FIELD");
                return Err(CliError::usage(message));
            }
        };
        Ok(Some(DedupSpec { policy, into, ..spec }))
    }

    /// A schema with what the flags ask for, and the field that it needs.
    pub(super) fn add_to(&self, mut schema: Schema) -> Result<Schema, CliError> {
        let Some(spec) = self.spec()? else { return Ok(schema) };
        if let Some(into) = spec.into.as_ref().filter(|into| schema.find(into).is_none()) {
            let kind = match spec.policy {
                DedupPolicy::Flag => PayloadKind::Bool,
                DedupPolicy::Skip | DedupPolicy::Link => PayloadKind::Keyword,
            };
            schema = schema.payload(into, kind);
        }
        let schema = schema.dedup(spec);
        schema.check().map_err(|error| CliError::usage(error.to_string()))?;
        Ok(schema)
    }
}

/// What is done about copies, for people; a line.
pub(super) fn dedup_text(spec: &DedupSpec) -> String {
    let like = match spec.threshold < 1.0 {
        true => format!("at least {} similar", spec.threshold),
        false => "the same words".to_owned(),
    };
    let into = spec.into.as_ref().map(|into| format!(" in {into}")).unwrap_or_default();
    let policy = json!(spec.policy);
    let policy = policy.as_str().unwrap_or_default();
    format!("copies by {} ({like}): {policy}{into}\n", spec.field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dedup: &str, copies: Option<&str>) -> DedupArgs {
        DedupArgs { dedup: Some(dedup.to_owned()), copies: copies.map(str::to_owned) }
    }

    #[test]
    fn flags_become_a_schema_with_the_field_that_they_need() {
        let schema = || Schema::new().text("body");
        let none = DedupArgs { dedup: None, copies: None }.add_to(schema()).unwrap();
        assert_eq!(none, schema());
        let skip = args("body", None).add_to(schema()).unwrap();
        assert_eq!(skip, schema().dedup(DedupSpec::skip("body")));
        let link = args("body:0.5", Some("link:of")).add_to(schema()).unwrap();
        let spec = DedupSpec::link("body", "of").threshold(0.5);
        assert_eq!(link, schema().payload("of", PayloadKind::Keyword).dedup(spec.clone()));
        assert_eq!(dedup_text(&spec), "copies by body (at least 0.5 similar): link in of\n");
        let exact = DedupSpec::flag("body", "copy").threshold(1.0);
        assert_eq!(dedup_text(&exact), "copies by body (the same words): flag in copy\n");
        for (dedup, copies, wrong) in [
            ("body:much", None, "like body:0.8"),
            ("title", None, "no field 'title'"),
            ("body:7", None, "threshold is"),
            ("body", Some("drop"), "skip, flag:FIELD or link:FIELD"),
            ("body", Some("flag"), "flag needs into"),
            ("body", Some("flag:body"), "payload field of kind bool"),
        ] {
            let error = args(dedup, copies).add_to(schema()).unwrap_err();
            assert!(error.message.contains(wrong), "{}", error.message);
        }
    }
}
