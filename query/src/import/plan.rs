//! What becomes of each column of a file: key, tenant, labels, document, a field of the schema, or nothing.

use std::collections::{BTreeSet, HashMap};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny};
use spandrel_storage::{Chunk, FieldKind, FieldValue, Metric, Row, Schema, Value};

use super::ImportOptions;
use super::cell::{FieldSeed, NameSeed};
use super::infer::Sample;
use crate::rag::tokens::Tokenizer;

/// Columns that are taken as the key when none is named.
const KEY_COLUMNS: [&str; 3] = ["key", "id", "_id"];

/// What a column is; it may be several things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    key: bool,
    tenant: bool,
    labels: bool,
    document: bool,
    /// Position in the schema.
    pub(super) field: Option<usize>,
}

impl Target {
    fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// Turns values into rows.
pub(super) struct Plan {
    options: ImportOptions,
    pub(super) schema: Schema,
    key_column: Option<String>,
    /// Position of the text field that a document's chunk is taken from.
    text_field: Option<usize>,
    targets: HashMap<String, Target>,
    tokenizer: &'static Tokenizer,
    sampled: usize,
}

impl Plan {
    /// A plan by the options and, where they leave something open, by the sample.
    ///
    /// # Errors
    /// When the options name a column wrongly or no schema fits.
    pub(super) fn new(options: ImportOptions, sample: &Sample) -> Result<Self, String> {
        let key_column = match &options.key_field {
            Some(given) => Some(given.clone()),
            None => KEY_COLUMNS.into_iter().find(|name| sample.has(name)).map(str::to_owned),
        };
        let schema = match &options.schema {
            Some(schema) => schema.clone(),
            None => {
                let apart = [&key_column, &options.tenant_field, &options.labels_field];
                let skip = |name: &str| apart.iter().any(|column| column.as_deref() == Some(name));
                sample.schema(&options, Metric::Cosine, skip)?
            }
        };
        if sample.rows() > 0 {
            let named =
                [&options.key_field, &options.tenant_field, &options.document_field, &options.text_field];
            if let Some(missing) = named.into_iter().flatten().find(|name| !sample.has(name)) {
                let columns = sample.columns().collect::<Vec<_>>().join(", ");
                return Err(format!("no column '{missing}'; there are {columns}"));
            }
        }
        let tokenizer = Tokenizer::named(&schema.tokenizer).map_err(|error| error.to_string())?;
        let is_text = |field: &spandrel_storage::Field| matches!(field.kind, FieldKind::Text(_));
        let text_name = options.text_field.as_deref().map(schema_name);
        let named =
            schema.fields.iter().position(|field| is_text(field) && Some(&field.name) == text_name.as_ref());
        let text_field = named.or_else(|| schema.fields.iter().position(is_text));
        let sampled = sample.rows();
        let mut plan =
            Self { options, schema, key_column, text_field, targets: HashMap::new(), tokenizer, sampled };
        for column in sample.columns() {
            // A column that is not in a given schema is an error where a row has it, with its line.
            if let Ok(target) = plan.find(column) {
                plan.targets.insert(column.to_owned(), target);
            }
        }
        Ok(plan)
    }

    /// The schema with its inferred dense fields compared by `metric`.
    pub(super) fn schema(&self, metric: Metric) -> Schema {
        let mut schema = self.schema.clone();
        if self.options.schema.is_none() {
            for field in &mut schema.fields {
                if let FieldKind::Dense(spec) = &mut field.kind {
                    spec.metric = metric;
                }
            }
        }
        schema
    }

    /// What becomes of `column`.
    ///
    /// # Errors
    /// When the schema does not have it and unknown columns are not ignored.
    pub(super) fn target(&self, column: &str) -> Result<Target, String> {
        self.targets.get(column).map_or_else(|| self.find(column), |&target| Ok(target))
    }

    fn find(&self, column: &str) -> Result<Target, String> {
        let options = &self.options;
        let is = |name: &Option<String>| name.as_deref() == Some(column);
        let target = Target {
            key: is(&self.key_column),
            tenant: is(&options.tenant_field),
            labels: is(&options.labels_field),
            document: is(&options.document_field),
            field: self.schema.find(&schema_name(column)).map(|(id, _)| usize::from(id.0)),
        };
        if !target.is_nothing() || options.ignore_unknown {
            return Ok(target);
        }
        let origin = if options.schema.is_some() {
            "it is not in the schema".to_owned()
        } else {
            format!("it is not in the {} rows that the schema was inferred from", self.sampled)
        };
        Err(format!("unknown field: {origin}; add it to the schema, or ignore unknown fields"))
    }

    /// Starts a row.
    pub(super) fn draft(&self) -> Draft {
        Draft { row: Row::new("").tenant(&self.options.tenant), document: None, has_key: false }
    }

    /// Reads a value into a row.
    pub(super) fn set<'de, D: Deserializer<'de>>(
        &self,
        draft: &mut Draft,
        target: Target,
        value: D,
    ) -> Result<(), D::Error> {
        if target.labels {
            draft.row.labels = Option::<BTreeSet<String>>::deserialize(value)?.unwrap_or_default();
            return Ok(());
        }
        let name = match target.field {
            None if target.is_nothing() => {
                IgnoredAny::deserialize(value)?;
                return Ok(());
            }
            None => NameSeed.deserialize(value)?,
            Some(at) => {
                let field = &self.schema.fields[at];
                let Some(value) = FieldSeed(&field.kind).deserialize(value)? else { return Ok(()) };
                let name = if target.is_named() { as_name(&value) } else { None };
                draft.row.fields.insert(field.name.clone(), value);
                name
            }
        };
        draft.name(target, name);
        Ok(())
    }

    /// Puts a vector into a row.
    pub(super) fn set_dense(&self, draft: &mut Draft, at: usize, vector: Vec<f32>) -> Result<(), String> {
        let field = &self.schema.fields[at];
        if let FieldKind::Dense(spec) = &field.kind
            && spec.dim as usize != vector.len()
        {
            return Err(format!("a vector of {} elements where {} are expected", vector.len(), spec.dim));
        }
        draft.row.fields.insert(field.name.clone(), FieldValue::Dense(vector));
        Ok(())
    }

    /// Ends row number `row` of the file, counted from 0.
    pub(super) fn finish(&self, mut draft: Draft, row: u64) -> Result<Row, String> {
        if !draft.has_key {
            if let Some(column) = &self.key_column {
                return Err(format!("field '{column}': the key is missing"));
            }
            draft.row.key = number(&self.options, row)?;
        }
        if let Some(document) = draft.document {
            let text = self.text_field.and_then(|at| draft.row.fields.get(&self.schema.fields[at].name));
            let (bytes, tokens) = match text {
                Some(FieldValue::Text(text)) => (text.len() as u64, self.tokenizer.count(text)),
                _ => (0, 0),
            };
            let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
            draft.row.chunk = Some(Chunk { document, span: 0..bytes, tokens });
        }
        Ok(draft.row)
    }
}

/// The key of row number `row` of the file, counted from 0, where rows are numbered.
///
/// # Errors
/// When there are no such numbers any more.
pub(super) fn number(options: &ImportOptions, row: u64) -> Result<String, String> {
    let number = options.start_key.checked_add(row).map(|number| number.to_string());
    number.ok_or_else(|| format!("numbers end at {}; start the rows at a smaller one", u64::MAX))
}

impl Target {
    fn is_named(self) -> bool {
        self.key || self.tenant || self.document
    }
}

/// A row that is being read.
pub(super) struct Draft {
    row: Row,
    document: Option<String>,
    has_key: bool,
}

impl Draft {
    fn name(&mut self, target: Target, name: Option<String>) {
        let Some(name) = name else { return };
        if target.key {
            self.row.key.clone_from(&name);
            self.has_key = true;
        }
        if target.tenant {
            self.row.tenant.clone_from(&name);
        }
        if target.document {
            self.document = Some(name);
        }
    }
}

fn as_name(value: &FieldValue) -> Option<String> {
    match value {
        FieldValue::Text(text) | FieldValue::Payload(Value::String(text)) => Some(text.clone()),
        FieldValue::Payload(Value::Integer(number)) => Some(number.to_string()),
        _ => None,
    }
}

/// A column's name as a field's: what a schema does not allow becomes `_`.
pub(super) fn schema_name(column: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '_' };
    let mut name: String =
        column.chars().map(allowed).take(spandrel_storage::id::NAME_BYTES_MAX - 1).collect();
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        name.insert(0, '_');
    }
    name
}
