//! `spandrel-bench dedup`: near copies among real passages, by the engine and by datasketch's MinHashLSH.
//!
//! Copies of some passages are planted, with a known share of words replaced, left out or put in, and all
//! texts shuffled. Each text is asked for, then kept unless it is called a copy. Truth is the same rule with
//! the exact Jaccard similarity of sets of 5-word shingles. All sides are given the same words. A side that
//! decides as truth does nothing wrong: what is called a copy and is one counts for precision and recall.
//!
//! Our sides: *filter*, the Bloom filters for streams of texts; *table*, what a segment on disk has, its keys
//! alone and with the docs that it names; *front*, a filter with a key of the exact content; and
//! *collection*, rows written to a database that leaves out copies, beside one that does not look.
//!
//! datasketch runs in `bench/peers/dedup.py`, where Python has it; our side is measured in any case.

pub(crate) mod corpus;
mod exact;
mod ingest;
mod peer;

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;
use spandrel_index::dedup::bands::Bands;
use spandrel_index::dedup::compare::SEGMENT_PROMISE;
use spandrel_index::dedup::generations::{Generations, PROMISE_DEFAULT};
use spandrel_index::dedup::minhash::MinHash;
use spandrel_index::dedup::shingle::Shingler;
use spandrel_index::dedup::table::TableBuilder;
use spandrel_index::dedup::{Dedup, ROOM_DEFAULT, Seen, Spec};
use spandrel_index::simd::Kernels;

use self::peer::Peer;
use crate::Result;
use crate::ann::positive;
use crate::machine::Machine;
use crate::peer::PeerArgs;
use crate::report::{self, Column, Goal, Report, Row};

/// Lanes of a signature, on both sides.
const LANES: usize = 128;
/// Disk of datasketch's LSH over ours, at least.
const DISK_GOAL: f64 = 10.0;
/// Time of datasketch over ours, at least.
const TIME_GOAL: f64 = 3.0;
/// How far the means of precision and recall over all seeds may be from datasketch's. Those of one seed are
/// further apart by chance, also between two hash functions of datasketch.
const QUALITY_GOAL: f64 = 0.001;

const COLUMNS: [Column; 14] = [
    ("seed", 0),
    ("threshold", 1),
    ("side", 0),
    ("bands", 0),
    ("rows", 0),
    ("copies", 0),
    ("precision", 4),
    ("recall", 4),
    ("shingle_s", 3),
    ("sign_s", 3),
    ("index_s", 3),
    ("disk_mb", 2),
    ("named_mb", 2),
    ("differ", 0),
];

/// What to measure.
#[derive(clap::Args, Serialize)]
pub struct Args {
    /// Passages, one JSON object with `text` and perhaps `title` a line, also as .zst
    #[arg(long)]
    passages: PathBuf,
    /// Only the first so many; left out: all
    #[arg(long, value_parser = positive)]
    count: Option<usize>,
    /// Copies that are planted
    #[arg(long, default_value = "20000", value_parser = positive)]
    copies: usize,
    /// Jaccard similarities from which on a text is a copy
    #[arg(long, value_delimiter = ',', default_value = "0.8,0.5")]
    thresholds: Vec<f64>,
    /// Seeds, each of which makes a corpus of its own
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Sides of datasketch; left out: all that it has
    #[arg(long, value_delimiter = ',')]
    sides: Vec<String>,
    /// Also write the texts to a collection
    #[arg(long)]
    ingest: bool,
    /// Rounds of our side, of which the fastest counts; datasketch, which takes minutes, runs once
    #[arg(long, default_value = "3", value_parser = positive)]
    rounds: usize,
    #[command(flatten)]
    #[serde(flatten)]
    peer: PeerArgs,
    /// Write the report to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Files are not there; a threshold is out of range; the peer fails; the report cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let machine = Machine::read();
    let mut peer = match Peer::start(args.peer.python.as_deref(), args.peer.script.as_deref()) {
        Ok(peer) => Some(peer),
        Err(error) => {
            eprintln!("our side only: {error}");
            None
        }
    };
    let passages = corpus::read(&args.passages, args.count)?;
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    let mut beside: Vec<Beside> = Vec::new();
    for &seed in &args.seeds {
        let texts = corpus::with_copies(&passages, args.copies, seed);
        let words: Vec<String> = texts.iter().map(|text| corpus::words(text)).collect();
        if let Some(peer) = &mut peer {
            peer.load(&words)?;
        }
        for &threshold in &args.thresholds {
            let truth = exact::decide(&words, threshold);
            let at = Point { seed, threshold, texts: &texts, truth: &truth };
            let ours = at.ours(args.rounds)?;
            if let Some(peer) = &mut peer {
                for side in peer.sides()? {
                    if args.sides.is_empty() || args.sides.contains(&side) {
                        beside.extend(at.beside(peer, &side, &ours, &mut rows)?);
                    }
                }
            }
            rows.extend([ours.filter, ours.table, at.front()?]);
            if args.ingest {
                rows.push(at.ingest()?);
            }
        }
    }
    for &threshold in &args.thresholds {
        goals.extend(goals_of(threshold, &beside));
    }
    let versions = peer.as_ref().map(Peer::versions);
    let level = Kernels::best().level();
    let settings = json!({"command": "dedup", "arguments": args, "simd": level, "peers": versions});
    Report { machine, settings, rows, goals }.publish(&COLUMNS, args.json.as_deref())
}

/// A corpus and a threshold.
struct Point<'a> {
    seed: u64,
    threshold: f64,
    texts: &'a [String],
    truth: &'a [bool],
}

/// What one pass over the keys of all texts came to.
struct Pass {
    decisions: Vec<bool>,
    index_s: f64,
    bytes: usize,
    kept: u64,
}

/// Decides text by text whether one like it was kept, in filters with this room.
fn pass(signatures: &[u32], bands: Bands, room: u64) -> Result<Pass> {
    let (mut keys, mut decisions) = (Vec::new(), Vec::with_capacity(signatures.len() / LANES));
    let start = Instant::now();
    let mut seen = Generations::new(bands.bands(), PROMISE_DEFAULT, room)?;
    for signature in signatures.chunks_exact(LANES) {
        bands.keys(signature, &mut keys);
        decisions.push(seen.insert_if_absent(&keys)?);
    }
    let index_s = start.elapsed().as_secs_f64();
    let bytes = seen.encode();
    if Generations::decode(&bytes)? != seen {
        return Err("filters were not read as they were written".into());
    }
    Ok(Pass { decisions, index_s, bytes: bytes.len(), kept: seen.docs() })
}

/// Share of what was called a copy that is one, and share of the copies that were.
fn quality(decisions: &[bool], truth: &[bool]) -> (f64, f64) {
    let count = |bits: &[bool]| bits.iter().filter(|bit| **bit).count() as f64;
    let hit = decisions.iter().zip(truth).filter(|(a, b)| **a && **b).count() as f64;
    (hit / count(decisions), hit / count(truth))
}

fn differ(a: &[bool], b: &[bool]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

impl Point<'_> {
    /// A row with what every side has.
    fn row(&self, side: &str, decisions: &[bool], figures: serde_json::Value) -> Result<Row> {
        let (precision, recall) = quality(decisions, self.truth);
        let mut row = report::row(figures)?;
        let more = json!({
            "seed": self.seed, "threshold": self.threshold, "side": side, "texts": self.texts.len(),
            "true_copies": self.truth.iter().filter(|copy| **copy).count(),
            "copies": decisions.iter().filter(|copy| **copy).count(),
            "precision": precision, "recall": recall,
        });
        row.extend(report::row(more)?);
        Ok(row)
    }

    /// The algorithm that datasketch has, too: bands only, with room for all texts; and grown from the usual
    /// room. And the table of what was kept.
    fn ours(&self, rounds: usize) -> Result<Ours> {
        let bands = Bands::for_threshold(self.threshold, LANES)?;
        let (mut signatures, mut shingle_s, mut sign_s) = self.sign()?;
        let mut fits = pass(&signatures, bands, self.texts.len() as u64)?;
        for _ in 1..rounds {
            let again = self.sign()?;
            let round = pass(&again.0, bands, self.texts.len() as u64)?;
            if again.1 + again.2 + round.index_s < shingle_s + sign_s + fits.index_s {
                ((signatures, shingle_s, sign_s), fits) = (again, round);
            }
        }
        let grown = pass(&signatures, bands, ROOM_DEFAULT)?;
        let figures = json!({
            "bands": bands.bands(), "rows": bands.rows(), "kept": fits.kept, "shingle_s": shingle_s,
            "sign_s": sign_s, "index_s": fits.index_s, "disk_mb": fits.bytes as f64 / 1e6,
            "grown_disk_mb": grown.bytes as f64 / 1e6, "grown_index_s": grown.index_s,
            "grown_differ": differ(&grown.decisions, &fits.decisions),
        });
        let filter = self.row("spandrel filter", &fits.decisions, figures)?;
        let kept = table(&signatures, bands, &fits.decisions)?;
        let index_s = kept.build_s + kept.lookup_s;
        let figures = json!({
            "bands": bands.bands(), "rows": bands.rows(), "kept": fits.kept, "shingle_s": shingle_s,
            "sign_s": sign_s, "index_s": index_s, "build_s": kept.build_s, "lookup_s": kept.lookup_s,
            "disk_mb": kept.key_bytes as f64 / 1e6,
            "named_mb": (kept.key_bytes + kept.doc_bytes) as f64 / 1e6,
        });
        let table = self.row("spandrel table", &fits.decisions, figures)?;
        Ok(Ours { filter, table, seconds: shingle_s + sign_s + fits.index_s.max(index_s) })
    }

    /// Signatures, and the seconds for shingles and for signatures; in pieces, so that nothing waits for
    /// memory.
    fn sign(&self) -> Result<(Vec<u32>, f64, f64)> {
        let (shingler, hash) = (Shingler::default(), MinHash::new(LANES)?);
        let mut signatures = vec![0; self.texts.len() * LANES];
        let (mut shingles, mut shingle_s, mut sign_s) = (vec![Vec::new(); 256], 0.0, 0.0);
        for (texts, signatures) in self.texts.chunks(256).zip(signatures.chunks_mut(256 * LANES)) {
            let start = Instant::now();
            texts.iter().zip(&mut shingles).for_each(|(text, out)| shingler.shingles(text, out));
            shingle_s += start.elapsed().as_secs_f64();
            let start = Instant::now();
            let each = shingles.iter().zip(signatures.chunks_exact_mut(LANES));
            each.for_each(|(shingles, signature)| hash.sign(shingles, signature));
            sign_s += start.elapsed().as_secs_f64();
        }
        Ok((signatures, shingle_s, sign_s))
    }

    /// The front for streams, with a key for the exact content; all of it in `index_s`.
    fn front(&self) -> Result<Row> {
        let room = self.texts.len() as u64;
        let start = Instant::now();
        let mut dedup = Dedup::new(Spec { threshold: self.threshold, room, ..Spec::default() })?;
        let mut seen = Vec::with_capacity(self.texts.len());
        for text in self.texts {
            let signature = dedup.signer().sign(text);
            seen.push(dedup.insert_if_absent(&signature)?);
        }
        let index_s = start.elapsed().as_secs_f64();
        let decisions: Vec<bool> = seen.iter().map(|seen| *seen != Seen::New).collect();
        let bands = dedup.signer().bands();
        let figures = json!({
            "bands": bands.bands(), "rows": bands.rows(), "kept": dedup.docs(), "index_s": index_s,
            "disk_mb": dedup.encode().len() as f64 / 1e6,
            "exact": seen.iter().filter(|seen| **seen == Seen::Exact).count(),
        });
        self.row("spandrel front", &decisions, figures)
    }

    /// Rows written to a collection; all of it in `index_s`, beside what it takes without looking for copies.
    fn ingest(&self) -> Result<Row> {
        let looked = ingest::write(self.texts, Some(self.threshold))?;
        let plain = ingest::write(self.texts, None)?;
        let figures = json!({
            "index_s": looked.seconds, "plain_s": plain.seconds,
            "kept": looked.decisions.iter().filter(|copy| !**copy).count(),
        });
        self.row("spandrel collection", &looked.decisions, figures)
    }

    /// A side of datasketch, with our filters over its signatures where it has some to give: those are
    /// compared with ours.
    fn beside(
        &self,
        peer: &mut Peer,
        side: &str,
        ours: &Ours,
        rows: &mut Vec<Row>,
    ) -> Result<Option<Beside>> {
        let number = |row: &Row, name: &str| row.get(name).and_then(serde_json::Value::as_f64);
        let number = |row: &Row, name: &str| number(row, name).ok_or("a side has no such figure");
        let answer = peer.decide(side, self.threshold)?;
        let mut row = self.row(side, &answer.decisions, serde_json::to_value(&answer.figures)?)?;
        let mut beside = None;
        if answer.figures.signatures.is_some() {
            let signatures = peer.signatures(&answer.figures)?;
            let bands = Bands::new(answer.figures.bands, answer.figures.rows)?;
            let same = pass(&signatures, bands, self.texts.len() as u64)?;
            let differ = differ(&same.decisions, &answer.decisions);
            row.insert("differ".into(), json!(differ));
            let seconds = number(&row, "shingle_s")? + number(&row, "sign_s")? + number(&row, "index_s")?;
            beside = Some(Beside {
                threshold: self.threshold,
                disk: number(&row, "disk_mb")? / number(&ours.table, "disk_mb")?,
                filter_disk: number(&row, "disk_mb")? / number(&ours.filter, "disk_mb")?,
                time: seconds / ours.seconds,
                precision: number(&ours.filter, "precision")? - number(&row, "precision")?,
                recall: number(&ours.filter, "recall")? - number(&row, "recall")?,
                differ: differ as f64,
            });
        }
        rows.push(row);
        Ok(beside)
    }
}

/// Our sides of a point.
struct Ours {
    filter: Row,
    table: Row,
    /// All of the work of the slower.
    seconds: f64,
}

/// A point of datasketch's over ours, or beside it.
struct Beside {
    threshold: f64,
    disk: f64,
    filter_disk: f64,
    time: f64,
    precision: f64,
    recall: f64,
    differ: f64,
}

/// What all seeds of a threshold come to.
fn goals_of(threshold: f64, beside: &[Beside]) -> Vec<Goal> {
    let of: Vec<&Beside> = beside.iter().filter(|beside| beside.threshold == threshold).collect();
    if of.is_empty() {
        return Vec::new();
    }
    let least = |figure: fn(&Beside) -> f64| of.iter().map(|beside| figure(beside)).fold(f64::NAN, f64::min);
    let most = |figure: fn(&Beside) -> f64| of.iter().map(|beside| figure(beside)).fold(f64::NAN, f64::max);
    let apart = |name: &str, figure: fn(&Beside) -> f64| {
        let count = of.len() as f64;
        let mean = of.iter().map(|beside| figure(beside)).sum::<f64>() / count;
        let square = |beside: &&Beside| (figure(beside) - mean).powi(2);
        let error = (of.iter().map(square).sum::<f64>() / (count - 1.0) / count).sqrt();
        let what = format!("{threshold}: mean {name} apart ({mean:+.5} +- {error:.5})");
        Goal::at_most(what, mean.abs(), QUALITY_GOAL)
    };
    vec![
        Goal::at_least(
            format!("{threshold}: disk over a segment's keys"),
            least(|beside| beside.disk),
            DISK_GOAL,
        ),
        Goal::at_least(
            format!("{threshold}: disk over a filter with room"),
            least(|beside| beside.filter_disk),
            DISK_GOAL,
        ),
        Goal::at_least(format!("{threshold}: time over ours"), least(|beside| beside.time), TIME_GOAL),
        Goal::at_most(
            format!("{threshold}: decisions that differ on the same signatures"),
            most(|beside| beside.differ),
            0.0,
        ),
        apart("precision", |beside| beside.precision),
        apart("recall", |beside| beside.recall),
    ]
}

/// What a table of what was kept came to.
struct Kept {
    build_s: f64,
    key_bytes: usize,
    doc_bytes: usize,
    lookup_s: f64,
}

/// The table of what was kept: built, and asked for all texts.
fn table(signatures: &[u32], bands: Bands, decisions: &[bool]) -> Result<Kept> {
    let mut keys = Vec::new();
    let mut all: Vec<Vec<u64>> = Vec::with_capacity(decisions.len());
    for signature in signatures.chunks_exact(LANES) {
        bands.keys(signature, &mut keys);
        all.push(keys.clone());
    }
    let start = Instant::now();
    let mut table = TableBuilder::new(bands.bands(), SEGMENT_PROMISE, None);
    for ((keys, doc), _) in all.iter().zip(0..).zip(decisions).filter(|(_, copy)| !**copy) {
        table.push(doc, keys)?;
    }
    let table = table.finish()?;
    let build_s = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut named = 0;
    for keys in &all {
        let mut any = false;
        table.find(keys, &mut |_, _| any = true)?;
        named += usize::from(any);
    }
    let lookup_s = start.elapsed().as_secs_f64();
    // All but the filters' mistakes, of which 1e-5 of all texts are promised, share a band with one kept.
    let mistakes = all.len() - named;
    if mistakes > 5 + all.len() / 10_000 {
        return Err(format!("{mistakes} texts share no band with one that was kept").into());
    }
    let doc_bytes = table.doc_bytes().map_or(0, <[u8]>::len);
    Ok(Kept { build_s, key_bytes: table.encode().len(), doc_bytes, lookup_s })
}

#[cfg(test)]
mod tests;
