//! Runs DiskANN3's crate `diskann-disk` for bench/peers: builds a disk index, opens it, and times searches.
//!
//! One JSON request a line on stdin, one answer a line on stdout. It ends when stdin does, also in a build.
//!
//! ```text
//! {"build": {"data", "prefix", "metric", "degree", "list_size", "code_bytes", "threads", "memory_gib"}}
//! {"open": {"prefix", "metric", "threads", "cached_nodes"}}
//! {"pass": {"queries", "dim", "k", "list_size", "beam_width", "warm_up"}}
//! ```
//!
//! `data` is an fbin file, `queries` bare f32 in rows. The crate reads the graph past the page cache, with
//! O_DIRECT, a beam at a time by io_uring; in memory are the codes, and as many nodes next to the entry point
//! as it is told.

use std::error::Error;
use std::io::{self, BufRead, Write};
use std::sync::{Barrier, mpsc};
use std::time::{Duration, Instant};
use std::{fs, process, thread};

use diskann::graph::config;
use diskann::utils::ONE;
use diskann_disk::DiskIndexBuildParameters;
use diskann_disk::QuantizationType;
use diskann_disk::build::builder::build::DiskIndexBuilder;
use diskann_disk::data_model::{AdHoc, CachingStrategy};
use diskann_disk::disk_index_build_parameter::{DISK_SECTOR_LEN, MemoryBudget, NumPQChunks};
use diskann_disk::search::provider::disk_provider::{DiskIndexSearcher, SearchResult};
use diskann_disk::search::provider::disk_vertex_provider_factory::DiskVertexProviderFactory;
use diskann_disk::search::search_mode::SearchMode;
use diskann_disk::storage::{DiskIndexWriter, disk_index_reader::DiskIndexReader};
use diskann_providers::model::IndexConfiguration;
use diskann_providers::storage::{
    FileStorageProvider, get_compressed_pq_file, get_disk_index_file, get_pq_pivot_file,
};
use diskann_providers::utils::load_metadata_from_file;
use diskann_vector::distance::Metric;
use serde::Deserialize;
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ask {
    Build(Build),
    Open(Open),
    Pass(Pass),
}

#[derive(Deserialize)]
struct Build {
    data: String,
    prefix: String,
    metric: String,
    degree: usize,
    list_size: usize,
    code_bytes: usize,
    threads: usize,
    memory_gib: f64,
}

#[derive(Deserialize)]
struct Open {
    prefix: String,
    metric: String,
    threads: usize,
    cached_nodes: usize,
}

#[derive(Deserialize)]
struct Pass {
    queries: String,
    dim: usize,
    k: u32,
    list_size: u32,
    beam_width: usize,
    warm_up: usize,
}

struct Opened {
    searcher: DiskIndexSearcher<AdHoc<f32>>,
    threads: usize,
}

/// What one thread did between its two readings of the clock.
struct Share {
    begin: Instant,
    end: Instant,
    calls: Vec<(Duration, SearchResult<()>)>,
}

fn main() {
    let (sender, requests) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
        process::exit(0);
    });
    let mut opened = None;
    for line in requests {
        let answer = answer(&line, &mut opened).unwrap_or_else(|error| json!({"error": error.to_string()}));
        if writeln!(io::stdout(), "{answer}").and_then(|()| io::stdout().flush()).is_err() {
            break;
        }
    }
}

fn answer(line: &str, opened: &mut Option<Opened>) -> Outcome<Value> {
    match serde_json::from_str(line)? {
        Ask::Build(ask) => build(&ask)?,
        Ask::Open(ask) => *opened = Some(open(&ask)?),
        Ask::Pass(ask) => return opened.as_ref().ok_or("no index is open")?.pass(&ask),
    }
    Ok(json!({}))
}

fn metric(name: &str) -> Outcome<Metric> {
    match name {
        "l2" => Ok(Metric::L2),
        "ip" => Ok(Metric::InnerProduct),
        other => Err(format!("no metric is called '{other}'").into()),
    }
}

/// The graph is made over the vectors themselves; codes are for the search alone.
fn build(ask: &Build) -> Outcome<()> {
    let (files, metric) = (FileStorageProvider, metric(&ask.metric)?);
    let shape = load_metadata_from_file(&files, &ask.data)?;
    let graph = config::Builder::new_with(
        ask.degree,
        config::MaxDegree::default_slack(),
        ask.list_size,
        metric.into(),
        |graph| {
            graph.saturate_after_prune(true);
        },
    )
    .build()?;
    let parameters = DiskIndexBuildParameters::new(
        MemoryBudget::try_from_gb(ask.memory_gib)?,
        QuantizationType::FP,
        NumPQChunks::new_with(ask.code_bytes, shape.ndims())?,
    );
    let index = IndexConfiguration::new(metric, shape.ndims(), shape.npoints(), ONE, ask.threads, graph)
        .with_pseudo_rng();
    let writer = DiskIndexWriter::new(ask.data.clone(), ask.prefix.clone(), None, DISK_SECTOR_LEN)?;
    DiskIndexBuilder::<AdHoc<f32>, _>::new(&files, parameters, index, writer)?.build()?;
    Ok(())
}

fn open(ask: &Open) -> Outcome<Opened> {
    let caching = match ask.cached_nodes {
        0 => CachingStrategy::None,
        nodes => CachingStrategy::StaticCacheWithBfsNodes(nodes),
    };
    let codes = DiskIndexReader::new(
        get_pq_pivot_file(&ask.prefix),
        get_compressed_pq_file(&ask.prefix),
        &FileStorageProvider,
    )?;
    let nodes = DiskVertexProviderFactory::from_disk_index_path(get_disk_index_file(&ask.prefix), caching)?;
    let searcher =
        DiskIndexSearcher::new(ask.threads, usize::MAX, &codes, nodes, metric(&ask.metric)?, None)?;
    Ok(Opened { searcher, threads: ask.threads })
}

impl Opened {
    /// As bench/peers/measure.py: each thread has its share of the queries, and reads the clock once all are
    /// warm.
    fn pass(&self, ask: &Pass) -> Outcome<Value> {
        let bytes = fs::read(&ask.queries)?;
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
        let queries: &Vec<&[f32]> = &values.chunks_exact(ask.dim).collect();
        let gate = &Barrier::new(self.threads);
        let shares: Vec<Outcome<Share>> = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads)
                .map(|first| scope.spawn(move || self.share(ask, queries, first, gate)))
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|_| Err("a thread panicked".into())))
                .collect()
        });
        let shares = shares.into_iter().collect::<Outcome<Vec<Share>>>()?;
        let begin = shares.iter().map(|share| share.begin).min().ok_or("no threads")?;
        let end = shares.iter().map(|share| share.end).max().ok_or("no threads")?;
        let (mut times, mut found) = (vec![0; queries.len()], vec![Vec::new(); queries.len()]);
        for (first, share) in shares.into_iter().enumerate() {
            for (turn, (time, result)) in share.calls.into_iter().enumerate() {
                let at = first + turn * self.threads;
                times[at] = time.as_nanos() as u64;
                let hits = result.results.iter().take(result.stats.result_count as usize);
                found[at] = hits.map(|hit| hit.vertex_id).collect::<Vec<u32>>();
            }
        }
        Ok(json!({"wall_s": (end - begin).as_secs_f64(), "times_ns": times, "found": found}))
    }

    fn share(&self, ask: &Pass, queries: &[&[f32]], first: usize, gate: &Barrier) -> Outcome<Share> {
        let mine = || queries.iter().skip(first).step_by(self.threads);
        let warm = mine().take(ask.warm_up).try_for_each(|query| self.search(ask, query).map(drop));
        gate.wait();
        warm?;
        let (begin, mut calls) = (Instant::now(), Vec::with_capacity(mine().len()));
        for query in mine() {
            let before = Instant::now();
            let result = self.search(ask, query)?;
            calls.push((before.elapsed(), result));
        }
        Ok(Share { begin, end: Instant::now(), calls })
    }

    fn search(&self, ask: &Pass, query: &[f32]) -> Outcome<SearchResult<()>> {
        Ok(self.searcher.search(query, ask.k, ask.list_size, Some(ask.beam_width), SearchMode::graph())?)
    }
}
