//! `spandrel tenant export`: rows as the JSON lines that `spandrel import` reads.
//!
//! A line is an object of the row's key, its fields by their names, and, where it has them, its access labels
//! and the document that it is a piece of. Floats of 32 bits are written so that they are read back the same.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};
use serde_json::json;
use spandrel::{FieldKind, FieldValue, PayloadKind, Row, Schema, Value};

use super::super::out::Out;
use super::super::output::{self, thousands};
use super::super::progress::Progress;
use super::super::target::TargetArgs;
use super::super::{CliError, Common};

/// Whose rows, and where to.
#[derive(clap::Args)]
pub(in crate::cli) struct ExportArgs {
    /// The collection
    collection: String,
    /// The tenant [default: the default tenant, or the key's only one]
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "NAME")]
    tenant: String,
    /// File to write, such as acme.jsonl; one that is there is replaced [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Name of the keys in a line
    #[arg(long, default_value = "key", value_name = "NAME", help_heading = "What is what")]
    key_field: String,
    /// Name of the access labels in a line
    #[arg(long, default_value = "labels", value_name = "NAME", help_heading = "What is what")]
    labels_field: String,
    /// Name of the document in a line; where it is a field of the schema, that field is written
    #[arg(long, default_value = "document", value_name = "NAME", help_heading = "What is what")]
    document_field: String,
    #[command(flatten)]
    target: TargetArgs,
}

/// What the parts of a row are called that are not fields.
struct Columns<'a> {
    key: &'a str,
    labels: &'a str,
    document: Option<&'a str>,
}

impl ExportArgs {
    fn columns(&self, schema: &Schema) -> Result<Columns<'_>, CliError> {
        for (flag, name) in [("--key-field", &self.key_field), ("--labels-field", &self.labels_field)] {
            if schema.find(name).is_some() {
                return Err(CliError::usage(format!(
                    "the schema has a field '{name}'; choose another name with {flag}, and give it to the import"
                )));
            }
        }
        let document = Some(&*self.document_field).filter(|name| schema.find(name).is_none());
        let (key, labels) = (&*self.key_field, &*self.labels_field);
        if key == labels || document.is_some_and(|document| document == key || document == labels) {
            return Err(CliError::usage("keys, labels and documents need names of their own"));
        }
        Ok(Columns { key, labels, document })
    }
}

/// A row as a line.
struct Line<'a> {
    schema: &'a Schema,
    columns: &'a Columns<'a>,
    row: &'a Row,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { schema, columns, row } = self;
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry(columns.key, &row.key)?;
        for (name, value) in &row.fields {
            let kind = schema.find(name).map(|(_, field)| &field.kind);
            let is_json = matches!(kind, Some(FieldKind::Payload { kind: PayloadKind::Json }));
            line.serialize_entry(name, &Cell { value, is_json })?;
        }
        if !row.labels.is_empty() {
            line.serialize_entry(columns.labels, &row.labels)?;
        }
        if let (Some(column), Some(chunk)) = (columns.document, &row.chunk) {
            line.serialize_entry(column, &chunk.document)?;
        }
        line.end()
    }
}

/// A field's value as an import reads it.
struct Cell<'a> {
    value: &'a FieldValue,
    is_json: bool,
}

impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            FieldValue::Dense(vector) => vector.serialize(serializer),
            FieldValue::Sparse(vector) => {
                let mut sparse = serializer.serialize_map(Some(2))?;
                sparse.serialize_entry("dims", &vector.dims)?;
                sparse.serialize_entry("weights", &vector.weights)?;
                sparse.end()
            }
            FieldValue::Text(text) => text.serialize(serializer),
            FieldValue::Payload(Value::String(text)) if self.is_json => {
                let json: serde_json::Value = serde_json::from_str(text).map_err(S::Error::custom)?;
                json.serialize(serializer)
            }
            FieldValue::Payload(value) => value.serialize(serializer),
        }
    }
}

pub(super) fn run(common: &Common, args: &ExportArgs) -> Result<(), CliError> {
    let target = args.target.open(common, false)?;
    let schema = target.schema(&args.collection)?;
    let columns = args.columns(&schema)?;
    // A key that is bound to labels may not know.
    let total = target.tenant(&args.collection, &args.tenant).ok().map(|stats| stats.rows);
    let progress = Progress::new(total, None, Arc::new(AtomicU64::new(0)));
    let mut out = Out::open("--out", args.out.as_deref())?;
    let (mut rows, started) = (0, Instant::now());
    let exported = target.export_tenant(&args.collection, &args.tenant, |page| {
        for row in &page {
            out.write_json(&Line { schema: &schema, columns: &columns, row })?;
        }
        if out.is_closed() {
            return Err(CliError::failed("the reader went away"));
        }
        rows += page.len() as u64;
        progress.add(page.len() as u64);
        Ok(())
    });
    progress.finish();
    let exported = exported.and_then(|()| out.finish());
    if !out.is_closed() {
        let so_far = match out.part() {
            Some(part) => format!("{} rows were written to {}", thousands(rows), part.display()),
            None => format!("{} rows were written; what is there is not whole", thousands(rows)),
        };
        exported.map_err(|error| error.hint(&so_far))?;
    }
    let seconds = started.elapsed().as_secs_f64();
    match (&args.out, common.json) {
        (None, _) => {}
        (Some(path), true) => {
            output::print_json(&json!({"out": path.display().to_string(), "rows": rows, "seconds": seconds}))?
        }
        (Some(path), false) => {
            let rows = thousands(rows);
            output::print(&format!("{rows} rows into {} in {seconds:.1} s\n", path.display()))?;
        }
    }
    target.close()
}
