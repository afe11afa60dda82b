//! `spandrel-bench cells`: how long it takes to make cells of vectors that are in memory, and nothing else:
//! what a library without a database calls its build.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;
use spandrel::{DenseSpec, Element, IndexKind, Metric};
use spandrel_index::dense::ssd::{self, Room};

use crate::Result;
use crate::ann::{named, positive};
use crate::dataset;
use crate::machine::Machine;
use crate::report::{self, Column, Report};

const COLUMNS: [Column; 6] =
    [("vectors", 0), ("dim", 0), ("threads", 0), ("build_s", 2), ("build_s_max", 2), ("section_mb", 1)];

/// What to measure.
#[derive(clap::Args, Serialize)]
pub struct Args {
    /// Vectors: fvecs, bvecs, fbin, u8bin or npy (f16, f32), each also as .zst
    #[arg(long)]
    base: PathBuf,
    /// How vectors are compared: l2, ip or cosine
    #[arg(long, value_parser = named::<Metric>)]
    metric: Metric,
    /// Threads that build; several values give several rows: 1,2
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_parser = positive)]
    threads: Vec<usize>,
    /// Builds a row; the middle time is reported
    #[arg(long, default_value = "3", value_parser = positive)]
    repeat: usize,
    /// Write the report to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Point {
    vectors: usize,
    dim: usize,
    threads: usize,
    build_s: f64,
    build_s_max: f64,
    /// The cells as bytes of a segment, without the vectors.
    section_mb: f64,
}

/// Runs the command.
///
/// # Errors
/// The vectors cannot be read or built; the report cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let machine = Machine::read();
    let base = dataset::read(&args.base)?;
    let (vectors, dim) = (base.rows(), base.dim);
    let (element, index) = (Element::F32, IndexKind::Auto);
    let spec = DenseSpec { dim: u32::try_from(dim)?, metric: args.metric, element, index };
    let give = |first: usize, out: &mut [f32]| out.copy_from_slice(&base.data[first * dim..][..out.len()]);
    let mut rows = Vec::new();
    for &threads in &args.threads {
        let (mut times, mut section) = (Vec::new(), Vec::new());
        for _ in 0..args.repeat {
            let started = Instant::now();
            let all = ssd::Vectors::new(&give, u32::try_from(vectors)?);
            let built = ssd::build(&spec, all, None, Room::of_threads(threads))?;
            times.push(started.elapsed().as_secs_f64());
            section.clear();
            built.write(&mut section)?;
        }
        let (build_s, build_s_max) = (report::median(&times), times.iter().copied().fold(0.0, f64::max));
        let section_mb = section.len() as f64 / f64::from(1 << 20);
        rows.push(report::row(Point { vectors, dim, threads, build_s, build_s_max, section_mb })?);
    }
    let settings = json!({"command": "cells", "arguments": args});
    Report { machine, settings, rows, goals: Vec::new() }.publish(&COLUMNS, args.json.as_deref())
}
