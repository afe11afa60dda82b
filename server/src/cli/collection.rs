//! `spandrel collection create|list|show|drop`.

use serde_json::json;
use spandrel::{Field, FieldKind, Metric, PayloadKind, Schema, TextSpec};

use super::copies::{DedupArgs, dedup_text};
use super::query::schema_argument;
use super::target::TargetArgs;
use super::{CliError, Common, output};

/// Create, list, show and drop collections.
#[derive(clap::Subcommand)]
pub(super) enum CollectionCommand {
    /// Create a collection from flags or from a schema in JSON
    #[command(after_help = "\
Examples:
  spandrel collection create docs --text body:english --dense embedding:384:cosine --payload year:integer
  spandrel collection create docs --text body --dedup body:0.8 --copies link:copy_of
  spandrel collection create docs --schema @schema.json")]
    Create(CreateArgs),
    /// List collections
    #[command(after_help = "Example:\n  spandrel collection list --url http://127.0.0.1:7780")]
    List(ListArgs),
    /// Show the schema of a collection
    #[command(after_help = "Example:\n  spandrel collection show docs --json > schema.json")]
    Show(ShowArgs),
    /// Drop a collection with the rows of all tenants
    #[command(after_help = "Example:\n  spandrel collection drop docs --yes")]
    Drop(DropArgs),
}

/// A new collection.
#[derive(clap::Args)]
pub(super) struct CreateArgs {
    /// Letters, digits, _ - and .
    name: String,
    /// The whole schema as JSON, @FILE or - for standard input; `collection show --json` prints one
    #[arg(long, value_name = "JSON", conflicts_with_all = ["text", "dense", "sparse", "payload", "tokenizer"])]
    schema: Option<String>,
    /// Text field searched by BM25, with an optional language for its stemmer (repeatable)
    #[arg(long, value_name = "NAME[:LANGUAGE]")]
    text: Vec<String>,
    /// Dense vector field; the metric is l2, ip or cosine (repeatable)
    #[arg(long, value_name = "NAME:DIM:METRIC")]
    dense: Vec<String>,
    /// Sparse vector field (repeatable)
    #[arg(long, value_name = "NAME")]
    sparse: Vec<String>,
    /// Payload field; the kind is keyword, integer, float, bool, datetime, text or json (repeatable)
    #[arg(long, value_name = "NAME:KIND")]
    payload: Vec<String>,
    /// Tokenizer that counts tokens: o200k_base or cl100k_base
    #[arg(long, value_name = "NAME")]
    tokenizer: Option<String>,
    #[command(flatten)]
    dedup: DedupArgs,
    #[command(flatten)]
    target: TargetArgs,
}

/// Where to look.
#[derive(clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    target: TargetArgs,
}

/// Which to show.
#[derive(clap::Args)]
pub(super) struct ShowArgs {
    /// The collection
    name: String,
    #[command(flatten)]
    target: TargetArgs,
}

/// Which to drop.
#[derive(clap::Args)]
pub(super) struct DropArgs {
    /// The collection
    name: String,
    /// Say that you mean it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// A word that serde knows as a variant of `T`.
pub(super) fn word<T: serde::de::DeserializeOwned>(what: &str, word: &str) -> Result<T, CliError> {
    serde_json::from_value(json!(word)).map_err(|error| CliError::usage(format!("{what}: {error}")))
}

impl CreateArgs {
    fn schema(&self) -> Result<Schema, CliError> {
        if let Some(schema) = &self.schema {
            return schema_argument("--schema", schema);
        }
        let mut schema = Schema::new();
        for text in &self.text {
            let (name, language) = match text.split_once(':') {
                Some((name, language)) => (name, Some(language.to_owned())),
                None => (text.as_str(), None),
            };
            schema = schema.field(name, FieldKind::Text(TextSpec { language }));
        }
        for dense in &self.dense {
            let wrong = || {
                CliError::usage(format!("--dense {dense}: write it as NAME:DIM:METRIC, like v:384:cosine"))
            };
            let mut parts = dense.split(':');
            let (Some(name), Some(dim), Some(metric), None) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                return Err(wrong());
            };
            let metric: Metric = word(&format!("--dense {dense}"), metric)?;
            schema = schema.dense(name, dim.parse().map_err(|_| wrong())?, metric);
        }
        for sparse in &self.sparse {
            schema = schema.sparse(sparse);
        }
        for payload in &self.payload {
            let (name, kind) = payload.split_once(':').ok_or_else(|| {
                CliError::usage(format!("--payload {payload}: write it as NAME:KIND, like year:integer"))
            })?;
            schema = schema.payload(name, word::<PayloadKind>(&format!("--payload {payload}"), kind)?);
        }
        if let Some(tokenizer) = &self.tokenizer {
            schema.tokenizer.clone_from(tokenizer);
        }
        self.dedup.add_to(schema)
    }
}

fn kind_text(kind: &FieldKind) -> String {
    match kind {
        FieldKind::Dense(dense) => {
            let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let metric = word(json!(dense.metric));
            format!(
                "{} x {}, {metric}, index {}",
                dense.dim,
                word(json!(dense.element)),
                word(json!(dense.index))
            )
        }
        FieldKind::Sparse => "inner product".to_owned(),
        FieldKind::Text(text) => text.language.clone().unwrap_or_else(|| "no stemming".to_owned()),
        FieldKind::Payload { kind } => json!(kind).as_str().unwrap_or_default().to_owned(),
    }
}

/// A schema for people.
pub(super) fn schema_text(schema: &Schema) -> String {
    let line = |field: &Field| vec![field.name.clone(), field.kind.name().to_owned(), kind_text(&field.kind)];
    let lines: Vec<_> = schema.fields.iter().map(line).collect();
    format!(
        "{}tokens are counted by {}\n{}",
        output::table(&["field", "type", "details"], &lines),
        schema.tokenizer,
        schema.dedup.as_ref().map(dedup_text).unwrap_or_default()
    )
}

pub(super) fn run(common: &Common, command: CollectionCommand) -> Result<(), CliError> {
    match command {
        CollectionCommand::Create(args) => create(common, &args),
        CollectionCommand::List(args) => list(common, &args),
        CollectionCommand::Show(args) => show(common, &args),
        CollectionCommand::Drop(args) => drop_one(common, &args),
    }
}

fn create(common: &Common, args: &CreateArgs) -> Result<(), CliError> {
    let schema = args.schema()?;
    schema.check().map_err(|error| CliError::usage(error.to_string()))?;
    let target = args.target.open(common, true)?;
    target.create(&args.name, &schema)?;
    if common.json {
        output::print_json(&json!({"name": args.name, "schema": schema}))?;
    } else {
        output::print(&format!("collection {} created\n{}", args.name, schema_text(&schema)))?;
    }
    target.close()
}

fn list(common: &Common, args: &ListArgs) -> Result<(), CliError> {
    let target = args.target.open(common, false)?;
    let collections = target.collections()?;
    if common.json {
        let all: Vec<_> =
            collections.iter().map(|(name, schema)| json!({"name": name, "schema": schema})).collect();
        output::print_json(&json!({"collections": all}))?;
    } else {
        let fields = |schema: &Schema| {
            let field = |field: &Field| format!("{} ({})", field.name, field.kind.name());
            output::one_line(
                &schema.fields.iter().map(field).collect::<Vec<_>>().join(", "),
                output::width() - 24,
            )
        };
        let lines: Vec<_> =
            collections.iter().map(|(name, schema)| vec![name.clone(), fields(schema)]).collect();
        output::print(&output::table(&["collection", "fields"], &lines))?;
    }
    target.close()
}

fn show(common: &Common, args: &ShowArgs) -> Result<(), CliError> {
    let target = args.target.open(common, false)?;
    let schema = target.schema(&args.name)?;
    if common.json {
        output::print_json(&json!(schema))?;
    } else {
        output::print(&format!("collection {}\n{}", args.name, schema_text(&schema)))?;
    }
    target.close()
}

fn drop_one(common: &Common, args: &DropArgs) -> Result<(), CliError> {
    if !args.yes {
        return Err(CliError::usage(format!(
            "this deletes collection '{}' with the rows of all its tenants, for ever; add --yes if you mean it",
            args.name
        )));
    }
    let target = args.target.open(common, false)?;
    target.drop_collection(&args.name)?;
    if common.json {
        output::print_json(&json!({"dropped": args.name}))?;
    } else {
        output::print(&format!("collection {} dropped\n", args.name))?;
    }
    target.close()
}
