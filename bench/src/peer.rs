//! The peers, in a Python process of their own that stays alive between rounds.
//!
//! One JSON object a line each way; bench/peers/flat.py has the protocol. A peer never decides how it is
//! measured: this side sends batch, threads and number of queries, and tries the ways in which a library can
//! use its threads.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Error, Result};

/// Libraries that exact search is measured beside.
pub const PEERS: [&str; 2] = ["faiss", "numpy"];
/// What BLAS libraries read when they load; set by some machines, and then not the peer's own choice.
const TUNING: [&str; 5] =
    ["OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"];

/// Where peers are.
#[derive(clap::Args, Serialize)]
pub struct PeerArgs {
    /// Python with the peers; left out: the environment that was made for them
    #[arg(long)]
    pub python: Option<PathBuf>,
    /// The peers' script; left out: the one of bench/peers here, or where this program was built
    #[arg(long)]
    pub script: Option<PathBuf>,
}

/// How a peer runs a batch on some threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Threads that call the library, each with its own queries.
    pub callers: usize,
    /// Threads that the library uses inside a call.
    pub inner: usize,
    /// Whether faiss is made to use a matrix product whatever the batch.
    pub blas: bool,
}

impl Way {
    /// All ways in which `peer` can run batches of `batch` on `threads` threads.
    pub fn all(peer: &str, threads: usize, batch: usize) -> Vec<Self> {
        let splits = if threads == 1 { vec![(1, 1)] } else { vec![(threads, 1), (1, threads)] };
        let products: &[bool] = if peer == "faiss" && batch > 1 { &[false, true] } else { &[false] };
        let ways = splits
            .iter()
            .flat_map(|&(callers, inner)| products.iter().map(move |&blas| Self { callers, inner, blas }));
        ways.collect()
    }

    /// For people: `2 callers x 1 thread, blas`.
    pub fn name(self) -> String {
        let blas = if self.blas { ", blas" } else { "" };
        format!("{} callers x {} threads{blas}", self.callers, self.inner)
    }
}

/// One round of a peer.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Round {
    /// Queries a second of wall time.
    pub qps: f64,
    /// Median time of a call in microseconds.
    pub p50_us: f64,
}

/// The process. It ends when this is dropped.
pub struct Peers {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peers {
    /// Starts `script` with the interpreter `python`.
    ///
    /// # Errors
    /// The interpreter or the script is not there.
    pub fn start(python: &Path, script: &Path) -> Result<Self> {
        if !script.is_file() {
            return Err(format!("{} is not there; name it with --script", script.display()).into());
        }
        let mut command = Command::new(python);
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        for name in TUNING {
            command.env_remove(name);
        }
        let mut child = command.spawn().map_err(|error| -> Error {
            let python = python.display();
            format!("cannot start {python}: {error}; `make bench` installs the peers").into()
        })?;
        let input = child.stdin.take().ok_or("the peer has no stdin")?;
        let output = BufReader::new(child.stdout.take().ok_or("the peer has no stdout")?);
        Ok(Self { child, input, output })
    }

    /// Names and versions of the libraries, for the report.
    ///
    /// # Errors
    /// The process failed; the packages are not installed.
    pub fn versions(&mut self) -> Result<Value> {
        self.ask(&json!({"do": "versions"}))
    }

    /// Loads a set into every peer.
    ///
    /// # Errors
    /// The process failed.
    pub fn load(&mut self, base: &Path, queries: &Path, metric: &Value) -> Result<()> {
        let _: Value =
            self.ask(&json!({"do": "load", "base": base, "queries": queries, "metric": metric}))?;
        Ok(())
    }

    /// Runs the first `queries` queries through a peer.
    ///
    /// # Errors
    /// The process failed.
    pub fn run(&mut self, peer: &str, way: Way, k: usize, batch: usize, queries: usize) -> Result<Round> {
        self.ask(&json!({
            "do": "run", "peer": peer, "k": k, "batch": batch, "queries": queries,
            "callers": way.callers, "inner": way.inner, "blas": way.blas,
        }))
    }

    /// Rows that a peer finds for every query, best first.
    ///
    /// # Errors
    /// The process failed.
    pub fn answers(&mut self, peer: &str, k: usize) -> Result<Vec<Vec<u32>>> {
        #[derive(Deserialize)]
        struct Answers {
            rows: Vec<Vec<u32>>,
        }
        let answers: Answers = self.ask(&json!({"do": "answers", "peer": peer, "k": k}))?;
        Ok(answers.rows)
    }

    /// Sends one object and reads the answer.
    ///
    /// # Errors
    /// The process failed or ended; the answer is of another shape.
    pub fn ask<T: DeserializeOwned>(&mut self, ask: &Value) -> Result<T> {
        writeln!(self.input, "{ask}")?;
        self.input.flush()?;
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("the peer process ended; `make bench` installs what it needs".into());
        }
        let answer: Value = serde_json::from_str(&line)?;
        if let Some(error) = answer.get("error") {
            return Err(format!("the peer failed on {ask}: {error}").into());
        }
        Ok(serde_json::from_value(answer)?)
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // The process ends by itself; killing covers one that hangs.
        let _ = writeln!(self.input, "{}", json!({"do": "quit"}));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A script in the checkout that this is run in, or else in the one that it was built from.
pub fn script(path: &str) -> PathBuf {
    let here = Path::new(path);
    if here.is_file() { here.to_owned() } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path) }
}

/// The interpreter that scripts/python_env.sh makes for the peers.
///
/// # Errors
/// No home folder is known.
pub fn default_python() -> Result<PathBuf> {
    python_of("peers")
}

/// The interpreter of the environment with this name.
///
/// # Errors
/// No home folder is known.
pub fn python_of(environment: &str) -> Result<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || {
        let base = named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")))?;
        Some(named("SPANDREL_CACHE").unwrap_or_else(|| base.join("spandrel")))
    };
    let venv = cache().map(|cache| cache.join(environment));
    let venv = venv.ok_or("HOME is not set; name the interpreter with --python")?;
    Ok(venv.join("bin").join("python"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_cover_threads_and_products() {
        assert_eq!(Way::all("numpy", 1, 32).len(), 1);
        assert_eq!(Way::all("faiss", 1, 1).len(), 1);
        assert_eq!(Way::all("faiss", 2, 32).len(), 4);
        assert!(Way::all("faiss", 2, 32).iter().all(|way| way.callers * way.inner == 2));
    }
}
