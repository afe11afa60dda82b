//! How fast are the kernels and the exact scan on this machine?
//!
//! `cargo run --profile bench -p spandrel-index --example kernel_rate -- [--rows 100000] [--dim 384]
//! [--fbin FILE] [--metric ip|l2|cosine] [--element f32|f16|i8] [--batch N] [--k 10] [--seconds 2]
//! [--level NAME] [--kernels]`
//!
//! Without `--kernels` it times searches of a flat index in memory, one thread, and prints one JSON line:
//! milliseconds a call (median and best) and the rate of vectors read. With it, it prints a table of every
//! kernel level on rows that fit in the second-level cache and on all rows. Vectors are random, or the rows
//! of a `.fbin` file (u32 rows, u32 dimension, f32 values); the queries are rows spread over the set, a
//! little moved.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use half::f16;
use spandrel_index::dense::Ask;
use spandrel_index::dense::flat::{Flat, FlatBuilder};
use spandrel_index::dense::vectors::{ChunkSource, Residency};
use spandrel_index::simd::{Element as _, Kernels};
use spandrel_index::{Allow, Counters, Matrix, Scratch, TopK, VectorIndex};
use spandrel_storage::io::Extent;
use spandrel_storage::{DenseSpec, Element, IndexKind, Metric, RowId};

struct Settings {
    rows: usize,
    dim: usize,
    fbin: Option<String>,
    metric: Metric,
    element: Element,
    batch: usize,
    k: usize,
    seconds: f64,
    level: Option<String>,
    kernels: bool,
}

impl Settings {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut settings = Self {
            rows: 100_000,
            dim: 384,
            fbin: None,
            metric: Metric::Ip,
            element: Element::F32,
            batch: 1,
            k: 10,
            seconds: 2.0,
            level: None,
            kernels: false,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            if name == "--kernels" {
                settings.kernels = true;
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--level" => settings.level = Some(value),
                "--rows" => settings.rows = value.parse()?,
                "--dim" => settings.dim = value.parse()?,
                "--fbin" => settings.fbin = Some(value),
                "--batch" => settings.batch = value.parse()?,
                "--k" => settings.k = value.parse()?,
                "--seconds" => settings.seconds = value.parse()?,
                "--metric" => {
                    settings.metric = match value.as_str() {
                        "ip" => Metric::Ip,
                        "l2" => Metric::L2,
                        "cosine" => Metric::Cosine,
                        _ => return Err("--metric is ip, l2 or cosine".into()),
                    };
                }
                "--element" => {
                    settings.element = match value.as_str() {
                        "f32" => Element::F32,
                        "f16" => Element::F16,
                        "i8" => Element::I8,
                        _ => return Err("--element is f32, f16 or i8".into()),
                    };
                }
                _ => return Err(format!("unknown setting {name}").into()),
            }
        }
        Ok(settings)
    }

    /// The vectors, `rows x dim`; updates `rows` and `dim` from a file.
    fn load(&mut self) -> Result<Vec<f32>, Box<dyn Error>> {
        let Some(path) = &self.fbin else {
            let mut state = 1u64;
            return Ok((0..self.rows * self.dim)
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 40) as f32 / (1 << 23) as f32 - 1.0
                })
                .collect());
        };
        let bytes = std::fs::read(path)?;
        let (header, values) = bytes.split_at_checked(8).ok_or("the file has no header")?;
        let (counts, _) = header.as_chunks::<4>();
        self.rows = u32::from_le_bytes(counts[0]) as usize;
        self.dim = u32::from_le_bytes(counts[1]) as usize;
        let mut vectors = Vec::with_capacity(values.len() / 4);
        f32::decode(values, &mut vectors);
        if self.dim == 0 || vectors.len() != self.rows * self.dim {
            return Err("the file does not hold what its header says".into());
        }
        Ok(vectors)
    }
}

/// A section of a segment.
struct Section(Vec<u8>);

impl ChunkSource for Section {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, at: u64, out: &mut [u8]) -> spandrel_index::Result<()> {
        out.copy_from_slice(&self.0[at as usize..][..out.len()]);
        Ok(())
    }

    fn read_batch(
        &self,
        extents: &[Extent],
        done: &mut dyn FnMut(usize, &[u8]),
    ) -> spandrel_index::Result<u64> {
        for (index, extent) in extents.iter().enumerate() {
            done(index, &self.0[extent.offset as usize..][..extent.len]);
        }
        Ok(extents.iter().map(|extent| extent.len as u64).sum())
    }
}

/// Runs `work` for `seconds`, at least three times; the median and the best time in seconds.
fn time(seconds: f64, mut work: impl FnMut()) -> (f64, f64) {
    work();
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || start.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        work();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}

fn time_search(settings: &Settings, vectors: &[f32]) -> Result<(), Box<dyn Error>> {
    let (rows, dim) = (settings.rows, settings.dim);
    let spec = DenseSpec {
        dim: dim as u32,
        metric: settings.metric,
        element: settings.element,
        index: IndexKind::Flat,
    };
    let fit = |value: &f32| {
        if settings.element == Element::I8 { (value * 127.0).round().clamp(-127.0, 127.0) } else { *value }
    };
    let mut builder = FlatBuilder::new(&spec)?;
    for vector in vectors.chunks_exact(dim) {
        builder.push(Some(&vector.iter().map(fit).collect::<Vec<f32>>()))?;
    }
    // As a segment on disk that is kept in memory.
    let mut section = Vec::new();
    builder.write(&mut section)?;
    let mut flat = Flat::open("example", &spec, Arc::new(Section(section)), Residency::Memory)?;
    let mut level = Kernels::best();
    if let Some(name) = &settings.level {
        let found = Kernels::available().into_iter().find(|kernels| kernels.level() == name);
        level = found.ok_or_else(|| format!("this CPU has no level {name}"))?;
        flat = flat.with_kernels(level);
    }
    let ids: Vec<RowId> = (1..=rows as u64).map(RowId).collect();
    let queries: Vec<f32> = (0..settings.batch)
        .flat_map(|query| {
            let row = query * rows / settings.batch;
            vectors[row * dim..(row + 1) * dim].iter().enumerate()
        })
        .map(|(at, value)| fit(&(value + if at % 2 == 0 { 0.01 } else { -0.01 })))
        .collect();
    let queries = Matrix::new(&queries, dim);
    let (mut scratch, mut counters) = (Scratch::new(), Counters::default());
    let mut tops = vec![TopK::new(settings.k); settings.batch];
    let mut failure = None;
    let (median, best) = time(settings.seconds, || {
        tops.iter_mut().for_each(|top| top.reset(settings.k));
        counters = Counters::default();
        let allow = Allow::all(rows as u32);
        let done =
            flat.search_batch(queries, &Ask::new(&ids, &allow), &mut tops, &mut scratch, &mut counters);
        failure = done.err().or(failure.take());
        black_box(&tops);
    });
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    let bytes = (rows * dim * settings.element.bytes()) as f64;
    println!(
        "{{\"level\":\"{}\",\"rows\":{rows},\"dim\":{dim},\"metric\":\"{:?}\",\
         \"element\":\"{:?}\",\"batch\":{},\
         \"median_ms\":{:.4},\"best_ms\":{:.4},\"gb_per_s\":{:.2},\"rescored\":{}}}",
        level.level(),
        settings.metric,
        settings.element,
        settings.batch,
        median * 1e3,
        best * 1e3,
        bytes / median / 1e9,
        counters.rescored
    );
    Ok(())
}

/// Scores so many queries against so many rows into floats or integers.
type Kernel<'a> = &'a dyn Fn(usize, usize, &mut [f32], &mut [i32]);

fn time_kernels(settings: &Settings, vectors: &[f32]) {
    let dim = settings.dim;
    let halves: Vec<f16> = vectors.iter().map(|value| f16::from_f32(*value)).collect();
    let ints: Vec<i8> = vectors.iter().map(|value| (value * 127.0) as i8).collect();
    println!("nanoseconds a pair, dimension {dim}: rows in cache (128 KiB) / all {} rows", settings.rows);
    println!("{:<12}{:<12}{:>22}{:>22}", "level", "kernel", "one query", "32 queries");
    for kernels in Kernels::available() {
        let table: [(&str, Kernel<'_>); 8] = [
            ("f32 dot", &|q, r, out, _| kernels.dot_tile(part(vectors, q, dim), part(vectors, r, dim), out)),
            ("f32 l2", &|q, r, out, _| kernels.l2_tile(part(vectors, q, dim), part(vectors, r, dim), out)),
            ("f16 dot", &|q, r, out, _| kernels.dot_tile(part(vectors, q, dim), part(&halves, r, dim), out)),
            ("f16 l2", &|q, r, out, _| kernels.l2_tile(part(vectors, q, dim), part(&halves, r, dim), out)),
            ("i8 f32 dot", &|q, r, out, _| kernels.dot_tile(part(vectors, q, dim), part(&ints, r, dim), out)),
            ("i8 f32 l2", &|q, r, out, _| kernels.l2_tile(part(vectors, q, dim), part(&ints, r, dim), out)),
            ("i8 dot", &|q, r, _, out| kernels.int_dot_tile(part(&ints, q, dim), part(&ints, r, dim), out)),
            ("i8 l2", &|q, r, _, out| kernels.int_l2_tile(part(&ints, q, dim), part(&ints, r, dim), out)),
        ];
        for (name, kernel) in table {
            let bytes = if name.starts_with("f32") { 4 } else { 1 + usize::from(name.starts_with("f16")) };
            let cached = ((128 << 10) / (dim * bytes)).clamp(1, settings.rows);
            print!("{:<12}{name:<12}", kernels.level());
            for queries in [1, 32] {
                let mut nanos = [0.0; 2];
                for (rows, nanos) in [cached, settings.rows].into_iter().zip(&mut nanos) {
                    let (mut floats, mut sums) = (vec![0.0; queries * rows], vec![0; queries * rows]);
                    let (median, _) = time(settings.seconds / 10.0, || {
                        kernel(queries, rows, &mut floats, &mut sums);
                        black_box((&floats, &sums));
                    });
                    *nanos = median * 1e9 / (queries * rows) as f64;
                }
                print!("{:>22}", format!("{:.1} / {:.1}", nanos[0], nanos[1]));
            }
            println!();
        }
    }
    Kernels::absent().iter().for_each(|level| println!("{level:<12}this CPU does not have it"));
}

fn part<T>(values: &[T], rows: usize, dim: usize) -> Matrix<'_, T> {
    Matrix::new(values, dim).slice(0..rows)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut settings = Settings::parse()?;
    let vectors = settings.load()?;
    if settings.kernels {
        time_kernels(&settings, &vectors);
        return Ok(());
    }
    time_search(&settings, &vectors)
}
