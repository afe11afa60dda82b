//! `spandrel dedup`: a corpus without its near copies, before it is embedded and imported.
//!
//! Lines go through as they are. What was seen is kept in about 44 bytes a text, and in a file where the next
//! part of a corpus is to be compared with this one.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};
use spandrel::import::Lines;
use spandrel::seen::{Seen, SeenTexts, Spec};

use super::out::Out;
use super::output::{self, bytes, thousands};
use super::progress::Progress;
use super::{CliError, Common};

/// Lines that are compared at once, and bytes of those after which no other is.
const BATCH_LINES: usize = 4_096;
const BATCH_BYTES: usize = 64 << 20;
/// Fields that have the text where no other is named, as in an import.
const TEXT_FIELDS: [&str; 4] = ["text", "body", "content", "passage"];

/// Reads JSON lines, plain or packed (.zst), and writes those whose texts are no near copies of earlier ones.
/// Lines without a text go through.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  spandrel dedup corpus.jsonl.zst --out kept.jsonl --copies-out copies.jsonl
  spandrel dedup monday.jsonl --state seen --room 10000000 --out monday-kept.jsonl
  spandrel dedup tuesday.jsonl --state seen > tuesday-kept.jsonl")]
pub(super) struct DedupArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// File for the lines that are kept; one that is there is replaced [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// File for the lines that are copies [default: they are left out]
    #[arg(long, value_name = "FILE")]
    copies_out: Option<PathBuf>,
    /// Field of the text [default: the first of text, body, content, passage that a line has]
    #[arg(long, value_name = "FIELD")]
    text_field: Option<String>,
    /// Field that names the tenant: lines are compared with those of the same
    #[arg(long, value_name = "FIELD")]
    tenant_field: Option<String>,
    /// From which similarity of runs of five words on texts are copies: 0.1 to 0.99 [default: 0.8]
    #[arg(long, value_name = "SIMILARITY")]
    similarity: Option<f64>,
    /// Texts that there is room for at first; it grows, but takes less when it need not [default: 65536]
    #[arg(long, value_name = "TEXTS")]
    room: Option<u64>,
    /// File of what was seen before: read where it is there, and written at the end
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

impl DedupArgs {
    /// Refuses one file for two purposes.
    fn check(&self) -> Result<(), CliError> {
        let files = [
            ("FILE", Some(&self.file)),
            ("--out", self.out.as_ref()),
            ("--copies-out", self.copies_out.as_ref()),
            ("--state", self.state.as_ref()),
        ];
        let files: Vec<_> = files.into_iter().filter_map(|(flag, path)| Some((flag, path?))).collect();
        for (at, (flag, path)) in files.iter().enumerate() {
            if let Some((other, _)) = files[..at].iter().find(|(_, other)| other == path) {
                let what = format!("{other} and {flag} are one file, {}; name two", path.display());
                return Err(CliError::usage(what));
            }
        }
        Ok(())
    }

    /// What was seen before.
    fn seen(&self) -> Result<SeenTexts, CliError> {
        let there = self.state.as_deref().map_or(Ok(None), SeenTexts::load)?;
        let Some(there) = there else {
            let mut spec = Spec::default();
            spec.threshold = self.similarity.unwrap_or(spec.threshold);
            spec.room = self.room.unwrap_or(spec.room);
            return Ok(SeenTexts::new(spec, self.tenant_field.is_some())?);
        };
        if there.of_tenants() != self.tenant_field.is_some() {
            let what = if there.of_tenants() { "by tenant; give" } else { "without tenants; leave out" };
            return Err(CliError::usage(format!(
                "--state: what was seen was compared {what} --tenant-field, or name another file"
            )));
        }
        let of = there.spec();
        if self.similarity.is_some_and(|asked| asked != of.threshold)
            || self.room.is_some_and(|asked| asked != of.room)
        {
            return Err(CliError::usage(format!(
                "--state: what was seen is of similarity {} with room for {}; leave out --similarity and --room, \
                 or name another file",
                of.threshold, of.room
            )));
        }
        Ok(there)
    }

    /// The tenant of a line, and its text; empty where it has none.
    fn read(&self, line: &[u8]) -> Result<(String, String), String> {
        let Value::Object(mut fields) = serde_json::from_slice(line).map_err(|error| error.to_string())?
        else {
            return Err("it is no JSON object".to_owned());
        };
        let mut string = |name: &str| match fields.remove(name) {
            Some(Value::String(value)) => Ok(Some(value)),
            None | Some(Value::Null) => Ok(None),
            Some(_) => Err(format!("field '{name}' is no string")),
        };
        let tenant = self.tenant_field.as_deref().map_or(Ok(None), &mut string)?;
        let names = self.text_field.as_deref().map_or(TEXT_FIELDS.to_vec(), |name| vec![name]);
        let mut text = None;
        for name in names {
            text = string(name)?;
            if text.is_some() {
                break;
            }
        }
        Ok((tenant.unwrap_or_default(), text.unwrap_or_default()))
    }
}

/// Lines so far.
#[derive(Default)]
struct Counts {
    lines: u64,
    exact: u64,
    near: u64,
}

/// Some lines, and the tenant and the text of each.
#[derive(Default)]
struct Batch {
    lines: Vec<Vec<u8>>,
    texts: Vec<(String, String)>,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.lines.len() >= BATCH_LINES || self.bytes >= BATCH_BYTES
    }

    /// Writes the lines where they belong.
    fn pass(
        &mut self,
        seen: &mut SeenTexts,
        (out, copies): (&mut Out, Option<&mut Out>),
        counts: &mut Counts,
    ) -> Result<(), CliError> {
        let texts: Vec<(&str, &str)> =
            self.texts.iter().map(|(tenant, text)| (tenant.as_str(), text.as_str())).collect();
        let found = seen.add(&texts)?;
        let mut copies = copies;
        for (line, found) in self.lines.iter().zip(found) {
            counts.lines += 1;
            match found {
                Seen::New => out.write_line(line)?,
                Seen::Exact => counts.exact += 1,
                Seen::Near => counts.near += 1,
            }
            if let Some(copies) = copies.as_deref_mut().filter(|_| found != Seen::New) {
                copies.write_line(line)?;
            }
        }
        *self = Self::default();
        Ok(())
    }
}

pub(super) fn run(common: &Common, args: &DedupArgs) -> Result<(), CliError> {
    args.check()?;
    let mut lines = Lines::open(&args.file)?;
    let mut seen = args.seen()?;
    let mut out = Out::open("--out", args.out.as_deref())?;
    let mut copies =
        args.copies_out.as_deref().map(|path| Out::open("--copies-out", Some(path))).transpose()?;
    let progress = Progress::new(None, Some(lines.file_bytes()), lines.read_bytes());
    let (mut batch, mut counts, started) = (Batch::default(), Counts::default(), Instant::now());
    let mut line = Vec::new();
    let mut more = true;
    while more {
        more = lines.next(&mut line)?;
        if more {
            let text = args.read(&line).map_err(|what| {
                CliError::usage(format!("{}: line {}: {what}", args.file.display(), lines.number()))
            })?;
            batch.bytes += line.len();
            batch.texts.push(text);
            batch.lines.push(std::mem::take(&mut line));
        }
        if batch.is_full() || !more {
            let count = batch.lines.len() as u64;
            batch.pass(&mut seen, (&mut out, copies.as_mut()), &mut counts)?;
            progress.add(count);
        }
        if out.is_closed() {
            // Who read it has enough: what was not written was not seen.
            return Ok(());
        }
    }
    progress.finish();
    out.finish()?;
    copies.as_mut().map_or(Ok(()), Out::finish)?;
    if let Some(state) = &args.state {
        seen.save(state)?;
    }
    report(common, args, &counts, &seen, started)
}

fn report(
    common: &Common,
    args: &DedupArgs,
    counts: &Counts,
    seen: &SeenTexts,
    started: Instant,
) -> Result<(), CliError> {
    let Counts { lines, exact, near } = *counts;
    let kept = lines - exact - near;
    let seconds = started.elapsed().as_secs_f64();
    if common.json && args.out.is_some() {
        return output::print_json(&json!({
            "lines": lines, "kept": kept, "exact_copies": exact, "near_copies": near, "seconds": seconds,
            "state_bytes": seen.bytes(),
        }));
    }
    // Standard output has the lines themselves.
    eprintln!(
        "{} of {} lines are kept; {} say the same, {} about the same as earlier ones ({seconds:.1} s, {})",
        thousands(kept),
        thousands(lines),
        thousands(exact),
        thousands(near),
        bytes(seen.bytes() as u64)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text_field: Option<&str>) -> DedupArgs {
        let text_field = text_field.map(str::to_owned);
        let (out, copies_out, state, tenant_field) = (None, None, None, None);
        let (similarity, room) = (None, None);
        DedupArgs { file: "f".into(), out, copies_out, text_field, tenant_field, similarity, room, state }
    }

    #[test]
    fn a_line_has_one_text() {
        let text = |args: &DedupArgs, line: &str| args.read(line.as_bytes());
        let said = |tenant: &str, text: &str| Ok((tenant.to_owned(), text.to_owned()));
        let any = args(None);
        assert_eq!(text(&any, r#"{"body": "b", "text": "a"}"#), said("", "a"));
        assert_eq!(text(&any, r#"{"passage": "p", "id": 1}"#), said("", "p"));
        assert_eq!(text(&any, r#"{"abstract": "p", "text": null}"#), said("", ""));
        assert_eq!(text(&args(Some("abstract")), r#"{"abstract": "p", "text": "t"}"#), said("", "p"));
        let of_tenants = DedupArgs { tenant_field: Some("of".into()), ..args(None) };
        assert_eq!(text(&of_tenants, r#"{"of": "acme", "text": "t"}"#), said("acme", "t"));
        assert!(text(&of_tenants, r#"{"of": 3, "text": "t"}"#).unwrap_err().contains("'of' is no string"));
        assert!(text(&any, r#"{"text": 3}"#).unwrap_err().contains("'text' is no string"));
        assert!(text(&any, "[1]").unwrap_err().contains("no JSON object"));
        assert!(text(&any, "{").is_err());
    }

    #[test]
    fn lines_go_where_they_belong_and_what_was_seen_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let line = |text: &str| format!("{}\n", json!({"text": text}));
        let words = |of: &str| (0..30).map(|word| format!("{of}{word} ")).collect::<String>();
        let (a, b, c) = (words("a"), words("b"), words("c"));
        std::fs::write(at("1"), [line(&a), line(&b), "\n".into(), line(&a.to_uppercase())].concat()).unwrap();
        std::fs::write(at("2"), [line(&b), "{\"n\": 1}\n".into(), line(&c).trim_end().into()].concat())
            .unwrap();
        let common = Common { json: false, config: None, settings: Vec::new() };
        for file in ["1", "2"] {
            let (out, copies_out) = (Some(at(&format!("{file}.kept"))), Some(at(&format!("{file}.copies"))));
            let state = Some(at("seen"));
            run(&common, &DedupArgs { file: at(file), out, copies_out, state, ..args(None) }).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
        assert_eq!(read("1.kept"), [line(&a), line(&b)].concat());
        assert_eq!(read("1.copies"), line(&a.to_uppercase()));
        assert_eq!(read("2.kept"), ["{\"n\": 1}\n".to_owned(), line(&c)].concat());
        assert_eq!(read("2.copies"), line(&b));
        // Another similarity cannot be compared with.
        let other = DedupArgs { similarity: Some(0.5), state: Some(at("seen")), ..args(None) };
        assert!(other.seen().err().unwrap().message.contains("of similarity 0.8"));
        let of_tenants = DedupArgs { tenant_field: Some("t".into()), state: Some(at("seen")), ..args(None) };
        assert!(
            of_tenants.seen().err().unwrap().message.contains("without tenants; leave out --tenant-field")
        );
        let twice = DedupArgs { out: Some(at("x")), copies_out: Some(at("x")), ..args(None) };
        assert!(twice.check().unwrap_err().message.contains("--out and --copies-out are one file"));
        std::fs::write(at("3"), "{\"text\": 1}").unwrap();
        let error =
            run(&common, &DedupArgs { file: at("3"), out: Some(at("no")), ..args(None) }).unwrap_err();
        assert!(error.message.contains("line 1: field 'text' is no string"), "{}", error.message);
        assert!(!at("no").exists(), "what is not whole has no name");
    }
}
