//! `spandrel-bench dedup`: near copies among real passages, by the engine and by datasketch's MinHashLSH.
//!
//! Copies of some passages are planted, with a known share of words replaced, left out or put in, and all
//! texts shuffled. Each text is asked for, then kept unless it is called a copy. Truth is the same rule with
//! the exact Jaccard similarity of sets of 5-word shingles. All sides are given the same words. A side that
//! decides as truth does nothing wrong: what is called a copy and is one counts for precision and recall.
//!
//! datasketch runs in `bench/peers/dedup.py`, where Python has it; our side is measured in any case.

mod corpus;
mod exact;
mod peer;

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;
use spandrel_index::dedup::bands::Bands;
use spandrel_index::dedup::generations::{Generations, PROMISE_DEFAULT};
use spandrel_index::dedup::minhash::MinHash;
use spandrel_index::dedup::shingle::Shingler;
use spandrel_index::dedup::table::Table;
use spandrel_index::dedup::{Dedup, ROOM_DEFAULT, Seen, Spec};
use spandrel_index::simd::Kernels;

use self::peer::Peer;
use crate::Result;
use crate::ann::positive;
use crate::machine::Machine;
use crate::report::{self, Column, Goal, Report, Row};

/// Lanes of a signature, on both sides.
const LANES: usize = 128;
/// Disk of datasketch's LSH over ours, at least.
const DISK_GOAL: f64 = 10.0;
/// How far precision and recall may be from datasketch's, of one run; a run's own chance is larger than that.
const QUALITY_GOAL: f64 = 0.001;

const COLUMNS: [Column; 13] = [
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
    /// Rounds of our side, of which the fastest counts; datasketch, which takes minutes, runs once
    #[arg(long, default_value = "3", value_parser = positive)]
    rounds: usize,
    /// Python with datasketch; left out: what scripts/python_env.sh makes of requirements/datasketch.txt
    #[arg(long)]
    python: Option<PathBuf>,
    /// The peer's script; left out: bench/peers/dedup.py here, or where this program was built
    #[arg(long)]
    script: Option<PathBuf>,
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
    let mut peer = match Peer::start(args.python.as_deref(), args.script.as_deref()) {
        Ok(peer) => Some(peer),
        Err(error) => {
            eprintln!("our side only: {error}");
            None
        }
    };
    let passages = corpus::read(&args.passages, args.count)?;
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    for &seed in &args.seeds {
        let texts = corpus::with_copies(&passages, args.copies, seed);
        let words: Vec<String> = texts.iter().map(|text| corpus::words(text)).collect();
        if let Some(peer) = &mut peer {
            peer.load(&words)?;
        }
        for &threshold in &args.thresholds {
            let truth = exact::decide(&words, threshold);
            let at = Point { seed, threshold, texts: &texts, truth: &truth };
            let mut ours = at.ours(args.rounds)?;
            if let Some(peer) = &mut peer {
                at.beside(peer, &mut ours, &mut rows, &mut goals)?;
            }
            rows.push(ours);
            rows.push(at.front()?);
        }
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
    /// room.
    fn ours(&self, rounds: usize) -> Result<Row> {
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
        let (table_s, table_bytes, lookup_s) = table(&signatures, bands, &fits.decisions)?;
        let figures = json!({
            "bands": bands.bands(), "rows": bands.rows(), "kept": fits.kept, "shingle_s": shingle_s,
            "sign_s": sign_s, "index_s": fits.index_s, "disk_mb": fits.bytes as f64 / 1e6,
            "grown_disk_mb": grown.bytes as f64 / 1e6, "grown_index_s": grown.index_s,
            "grown_differ": differ(&grown.decisions, &fits.decisions), "table_s": table_s,
            "table_mb": table_bytes as f64 / 1e6, "lookup_s": lookup_s,
        });
        self.row("spandrel", &fits.decisions, figures)
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

    /// The front that the engine uses, with a key for the exact content; all of it in `index_s`.
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
        self.row("spandrel, all", &decisions, figures)
    }

    /// datasketch's sides, and our filters over its signatures.
    fn beside(
        &self,
        peer: &mut Peer,
        ours: &mut Row,
        rows: &mut Vec<Row>,
        goals: &mut Vec<Goal>,
    ) -> Result<()> {
        let number = |row: &Row, name: &str| row.get(name).and_then(serde_json::Value::as_f64);
        let number = |row: &Row, name: &str| number(row, name).ok_or("a side has no such figure");
        for side in peer.sides()? {
            let answer = peer.decide(&side, self.threshold)?;
            let mut row = self.row(&side, &answer.decisions, serde_json::to_value(&answer.figures)?)?;
            if answer.figures.signatures.is_some() {
                let signatures = peer.signatures(&answer.figures)?;
                let bands = Bands::new(answer.figures.bands, answer.figures.rows)?;
                let same = pass(&signatures, bands, self.texts.len() as u64)?;
                row.insert("differ".into(), json!(differ(&same.decisions, &answer.decisions)));
                let (disk, seconds) = (number(&row, "disk_mb")?, |row: &Row| -> Result<f64> {
                    Ok(number(row, "shingle_s")? + number(row, "sign_s")? + number(row, "index_s")?)
                });
                let ratio = disk / number(ours, "disk_mb")?;
                ours.insert("disk_ratio".into(), json!(ratio));
                ours.insert("grown_disk_ratio".into(), json!(disk / number(ours, "grown_disk_mb")?));
                ours.insert("time_ratio".into(), json!(seconds(&row)? / seconds(ours)?));
                let what = format!("seed {}, threshold {}", self.seed, self.threshold);
                goals.push(Goal::at_least(format!("{what}: disk of {side} over ours"), ratio, DISK_GOAL));
                for name in ["precision", "recall"] {
                    let apart = (number(&row, name)? - number(ours, name)?).abs();
                    goals.push(Goal::at_most(
                        format!("{what}: {name} apart from {side}"),
                        apart,
                        QUALITY_GOAL,
                    ));
                }
            }
            rows.push(row);
        }
        Ok(())
    }
}

/// The table of what was kept: seconds to build, bytes, and seconds to look all up.
fn table(signatures: &[u32], bands: Bands, decisions: &[bool]) -> Result<(f64, usize, f64)> {
    let mut keys = Vec::new();
    let mut all: Vec<Vec<u64>> = Vec::with_capacity(decisions.len());
    for signature in signatures.chunks_exact(LANES) {
        bands.keys(signature, &mut keys);
        all.push(keys.clone());
    }
    let start = Instant::now();
    let kept = all.iter().zip(0..).zip(decisions).filter(|(_, copy)| !**copy);
    let table = Table::build(bands.bands(), kept.map(|((keys, doc), _)| (doc, keys)))?;
    let build_s = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let named = all.iter().filter(|keys| table.first(keys).is_some()).count();
    let lookup_s = start.elapsed().as_secs_f64();
    // All but the filters' mistakes, of which 1e-5 of all texts are promised, share a band with one kept.
    let mistakes = all.len() - named;
    if mistakes > 5 + all.len() / 10_000 {
        return Err(format!("{mistakes} texts share no band with one that was kept").into());
    }
    Ok((build_s, table.encode().len(), lookup_s))
}

#[cfg(test)]
mod tests;
