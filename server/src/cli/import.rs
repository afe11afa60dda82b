//! `spandrel import`: a file becomes rows of a collection, here or on a server.
//!
//! One thread reads and parses, another writes; two batches at most lie between them. Rows of one key within
//! a batch are told apart by ending the batch, so that the later one replaces the earlier, as it would if
//! they were further apart.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde_json::json;
use spandrel::import::{self, ImportOptions, RowReader, VectorFile};
use spandrel::{Field, FieldKind, Metric, Row, Schema, Written};

use super::copies::DedupArgs;
use super::progress::Progress;
use super::query::schema_argument;
use super::target::{Target, TargetArgs};
use super::{CliError, Common, collection, output};

/// Batches between the reader and the writer.
const BATCHES_QUEUED_MAX: usize = 2;

/// Reads a file into a collection. Formats by extension: jsonl, parquet, npy, fvecs, bvecs, fbin, u8bin,
/// i8bin, each also with .zst. Rows replace those of the same key, so an import that was interrupted is
/// simply run again.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  spandrel import passages.jsonl -c docs --create
  spandrel import passages.jsonl --vectors embeddings.npy -c docs --create --metric ip
  spandrel import passages.jsonl -c docs --create --dedup text:0.8
  spandrel import base.fbin -c vectors --create --metric l2 --limit 100000
  spandrel import wiki.parquet -c docs --key-field id --text-field abstract --tenant-field publisher
  spandrel import passages.jsonl.zst --url http://127.0.0.1:7780 -c docs --tenant acme")]
pub(super) struct ImportArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Collection to write to
    #[arg(short, long, value_name = "NAME")]
    collection: String,
    /// Create the collection if it is not there, with --schema or with one inferred from the first rows
    #[arg(long)]
    create: bool,
    /// Schema of the new collection: JSON, @FILE, or a file's name
    #[arg(long, value_name = "JSON", requires = "create")]
    schema: Option<String>,
    /// Metric of the vectors in an inferred schema: l2, ip or cosine [default: cosine]
    #[arg(long, value_name = "METRIC")]
    metric: Option<String>,
    #[command(flatten)]
    dedup: DedupArgs,
    /// File of vectors; vector i belongs to row i of FILE
    #[arg(long, value_name = "FILE", help_heading = "What is what")]
    vectors: Option<PathBuf>,
    /// Field of the keys [default: the first of key, id, _id; else rows are numbered]
    #[arg(long, value_name = "FIELD", help_heading = "What is what")]
    key_field: Option<String>,
    /// Number of the first row, where rows are numbered
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "What is what")]
    start_key: u64,
    /// Tenant of rows that name none
    #[arg(
        short,
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME",
        help_heading = "What is what"
    )]
    tenant: String,
    /// Field that names the tenant of a row
    #[arg(long, value_name = "FIELD", help_heading = "What is what")]
    tenant_field: Option<String>,
    /// Field that lists the access labels of a row
    #[arg(long, value_name = "FIELD", help_heading = "What is what")]
    labels_field: Option<String>,
    /// Field that an inferred schema searches as text [default: the first of text, body, content, passage]
    #[arg(long, value_name = "FIELD", help_heading = "What is what")]
    text_field: Option<String>,
    /// Field of the vectors [default: embedding]
    #[arg(long, value_name = "FIELD", help_heading = "What is what")]
    vector_field: Option<String>,
    /// Field that names the document a row is a piece of
    #[arg(long, value_name = "FIELD", help_heading = "What is what")]
    document_field: Option<String>,
    /// Leave out fields that the schema does not have, instead of stopping
    #[arg(long, help_heading = "What is what")]
    ignore_unknown: bool,
    /// Stop after this many rows
    #[arg(long, value_name = "ROWS")]
    limit: Option<u64>,
    /// Rows of one durable write
    #[arg(long, default_value_t = 256, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    batch_rows: u32,
    #[command(flatten)]
    target: TargetArgs,
}

impl ImportArgs {
    fn vector_field(&self) -> &str {
        self.vector_field.as_deref().unwrap_or("embedding")
    }

    fn metric(&self) -> Result<Option<Metric>, CliError> {
        self.metric.as_deref().map(|metric| collection::word("--metric", metric)).transpose()
    }

    /// Refuses a collection that is there and is not what the flags ask for: a schema cannot be changed.
    fn agrees(&self, there: &Schema) -> Result<(), CliError> {
        let differs = |flag: &str, what: &str| {
            Err(CliError::usage(format!(
                "collection '{}' is there already, and {flag} asks for another {what}; leave the flag out, or name \
                 another collection",
                self.collection
            )))
        };
        if self.given_schema()?.is_some_and(|given| given != *there) {
            return differs("--schema", "schema");
        }
        if self.dedup.spec()?.is_some_and(|asked| there.dedup.as_ref() != Some(&asked)) {
            return differs("--dedup", "way with copies");
        }
        let metric = self.metric()?;
        match there.find(self.vector_field()).map(|(_, field)| &field.kind) {
            Some(FieldKind::Dense(dense)) if metric.is_some_and(|metric| metric != dense.metric) => {
                differs("--metric", "metric")
            }
            _ => Ok(()),
        }
    }

    fn options(&self, schema: Option<Schema>) -> ImportOptions {
        ImportOptions {
            key_field: self.key_field.clone(),
            tenant_field: self.tenant_field.clone(),
            tenant: self.tenant.clone(),
            labels_field: self.labels_field.clone(),
            text_field: self.text_field.clone(),
            vector_field: self.vector_field().to_owned(),
            document_field: self.document_field.clone(),
            schema,
            ignore_unknown: self.ignore_unknown,
            limit: self.limit,
            start_key: self.start_key,
            ..ImportOptions::default()
        }
    }

    fn open(&self, schema: Option<Schema>) -> Result<Box<dyn RowReader>, CliError> {
        let rows = import::open(&self.file, &self.options(schema))?;
        Ok(match &self.vectors {
            Some(path) => import::with_vectors(rows, VectorFile::open(path)?, self.vector_field()),
            None => rows,
        })
    }

    /// The schema given with `--schema`; a name without `@` is taken for JSON only when it looks like it.
    fn given_schema(&self) -> Result<Option<Schema>, CliError> {
        let Some(text) = &self.schema else { return Ok(None) };
        let plain_name = !text.starts_with('@') && !text.trim_start().starts_with('{') && text != "-";
        let text = if plain_name { format!("@{text}") } else { text.clone() };
        schema_argument("--schema", &text).map(Some)
    }
}

/// The reader, for a collection that is there when this returns.
fn prepare(args: &ImportArgs, target: &Target) -> Result<(Box<dyn RowReader>, bool), CliError> {
    if let Some(schema) = target.find_schema(&args.collection)? {
        args.agrees(&schema)?;
        return Ok((args.open(Some(schema))?, false));
    }
    if !args.create {
        let message = format!("there is no collection '{}'", args.collection);
        let error = CliError { message, code: super::NOT_FOUND };
        return Err(error.hint(
            "add --create to make it, with a schema inferred from the first rows or given by --schema",
        ));
    }
    let given = args.given_schema()?;
    let mut reader = args.open(given.clone())?;
    let schema = match given {
        Some(schema) => schema,
        None => {
            let schema = reader.infer_schema(args.metric()?.unwrap_or(Metric::Cosine))?;
            let schema = args.dedup.add_to(schema)?;
            let is_dense = |name: &String| {
                matches!(schema.find(name), Some((_, Field { kind: FieldKind::Dense(_), .. })))
            };
            if let Some(name) = args.vector_field.as_ref().filter(|name| !is_dense(name)) {
                return Err(CliError::usage(format!(
                    "--vector-field {name}: the file has no such column of vectors"
                )));
            }
            schema
        }
    };
    if schema.fields.is_empty() {
        return Err(CliError::usage(format!(
            "{} has no rows that a schema could be inferred from; give one with --schema",
            args.file.display()
        )));
    }
    target.create(&args.collection, &schema)?;
    eprintln!("collection {} created", args.collection);
    eprint!("{}", collection::schema_text(&schema));
    Ok((reader, true))
}

/// Cuts a batch where a key comes again, so that no part has two rows of one tenant and key.
fn without_repeats(rows: Vec<Row>) -> Vec<Vec<Row>> {
    let mut seen = HashSet::with_capacity(rows.len());
    let mut cuts = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        if !seen.insert((row.tenant.as_str(), row.key.as_str())) {
            cuts.push(at);
            seen.clear();
            seen.insert((row.tenant.as_str(), row.key.as_str()));
        }
    }
    let mut rows = rows;
    let mut parts: Vec<Vec<Row>> = cuts.into_iter().rev().map(|at| rows.split_off(at)).collect();
    parts.push(rows);
    parts.reverse();
    parts
}

/// Reads until the end, an error, or until nobody writes any more.
fn read(
    mut reader: Box<dyn RowReader>,
    batch_rows: usize,
    batches: &SyncSender<Vec<Row>>,
    bytes_read: &AtomicU64,
) -> Result<bool, CliError> {
    loop {
        let mut rows = Vec::with_capacity(batch_rows);
        let outcome = reader.next_batch(batch_rows, &mut rows);
        bytes_read.store(reader.bytes_read(), Ordering::Relaxed);
        if rows.is_empty() {
            return Ok(outcome.map(|()| reader.is_cut_short())?);
        }
        for part in without_repeats(rows) {
            if batches.send(part).is_err() {
                return Ok(false);
            }
        }
        outcome?;
    }
}

fn write(
    target: &Target,
    name: &str,
    batches: Receiver<Vec<Row>>,
    progress: &Arc<Progress>,
) -> Result<(Written, u64), CliError> {
    match target {
        Target::Remote(client) => {
            let progress = Arc::clone(progress);
            Ok(client.upsert_stream(name, batches, move |rows| progress.add(rows))?)
        }
        Target::Local(database) => {
            let collection = database.collection(name)?;
            let (mut total, mut count) = (Written::default(), 0);
            for batch in batches {
                let rows = batch.len() as u64;
                let written = collection.upsert(batch)?;
                count += 1;
                progress.add(rows);
                total.add(written);
            }
            Ok((total, count))
        }
    }
}

pub(super) fn run(common: &Common, args: ImportArgs) -> Result<(), CliError> {
    let target = args.target.open(common, args.create)?;
    let (reader, created) = prepare(&args, &target)?;
    let bytes_read = Arc::new(AtomicU64::new(0));
    let progress =
        Arc::new(Progress::new(reader.total_rows(), reader.bytes_total(), Arc::clone(&bytes_read)));
    let (send, receive) = sync_channel(BATCHES_QUEUED_MAX);
    let batch_rows = usize::try_from(args.batch_rows).unwrap_or(1);
    let started = Instant::now();
    let (read, written) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            // Dropped at the end of reading, which ends the writing.
            let send = send;
            read(reader, batch_rows, &send, &bytes_read)
        });
        let written = write(&target, &args.collection, receive, &progress);
        let read =
            reader.join().unwrap_or_else(|_| Err(CliError::failed("the reader panicked; this is a defect")));
        (read, written)
    });
    progress.finish();
    let again = "run the import again when it is put right; rows repeat safely";
    // A server's message says itself what was written.
    let (written, batches) = written.map_err(|error| error.hint(again))?;
    let cut_short = read.map_err(|error| {
        let rows = output::thousands(written.rows);
        error.hint(&format!("{rows} rows before it are written; {again}"))
    })?;
    target.close()?;
    report(common, &args, &written, batches, created, cut_short, started.elapsed())
}

fn report(
    common: &Common,
    args: &ImportArgs,
    written: &Written,
    batches: u64,
    created: bool,
    cut_short: bool,
    took: Duration,
) -> Result<(), CliError> {
    let seconds = took.as_secs_f64();
    let rate = written.rows as f64 / seconds.max(1e-9);
    if common.json {
        return output::print_json(&json!({
            "collection": args.collection,
            "created": created,
            "rows": written.rows,
            "copies": written.copies,
            "batches": batches,
            "last_row": written.last_row,
            "cut_short": cut_short,
            "seconds": seconds,
            "rows_per_s": rate,
        }));
    }
    let copies = match written.copies {
        0 => String::new(),
        copies => format!(", {} copies of rows that were there", output::thousands(copies)),
    };
    let rest = if cut_short { "; the limit left out the rest of the file" } else { "" };
    output::print(&format!(
        "{} rows into {}{copies} in {seconds:.1} s ({} rows/s){rest}\n",
        output::thousands(written.rows),
        args.collection,
        output::thousands(rate as u64)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_comes_again_starts_a_new_batch() {
        let rows = |keys: &str| keys.chars().map(|key| Row::new(key.to_string())).collect::<Vec<_>>();
        let parts = |keys: &str| {
            let part = |part: Vec<Row>| part.into_iter().map(|row| row.key).collect::<String>();
            without_repeats(rows(keys)).into_iter().map(part).collect::<Vec<_>>()
        };
        assert_eq!(parts("abc"), ["abc"]);
        assert_eq!(parts("aab"), ["a", "ab"]);
        assert_eq!(parts("abcabca"), ["abc", "abc", "a"]);
        assert_eq!(parts("aaa"), ["a", "a", "a"]);
        let two_tenants = vec![Row::new("a").tenant("x"), Row::new("a").tenant("y")];
        assert_eq!(without_repeats(two_tenants).len(), 1);
    }
}
