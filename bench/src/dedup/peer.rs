//! datasketch, in the process of `bench/peers/dedup.py`: it is given words, and gives decisions and times.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::LANES;
use crate::Result;
use crate::peer::{self, Peers};

/// The peer's script in a checkout, its environment, and how that is made.
const SCRIPT: &str = "bench/peers/dedup.py";
const ENVIRONMENT: &str = "datasketch";
const INSTALL: &str = "scripts/python_env.sh datasketch bench/peers/requirements/datasketch.txt";

/// The process, and the folder that texts and answers go through.
pub(super) struct Peer {
    process: Peers,
    folder: TempDir,
    versions: Value,
}

/// What a side says of a pass.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Figures {
    pub(super) bands: usize,
    pub(super) rows: usize,
    shingle_s: f64,
    sign_s: f64,
    index_s: f64,
    disk_mb: f64,
    #[serde(skip_serializing)]
    decisions: PathBuf,
    /// A file of the signatures that it decided by, where they can be given to our side.
    #[serde(skip_serializing)]
    pub(super) signatures: Option<PathBuf>,
}

/// A pass of a side.
pub(super) struct Answer {
    pub(super) decisions: Vec<bool>,
    pub(super) figures: Figures,
}

impl Peer {
    /// Starts it.
    ///
    /// # Errors
    /// It, or its environment, is not there; the message says how to make that.
    pub(super) fn start(python: Option<&Path>, script: Option<&Path>) -> Result<Self> {
        let python = python.map_or_else(|| peer::python_of(ENVIRONMENT), |python| Ok(python.to_owned()))?;
        if !python.is_file() {
            let python = python.display();
            return Err(format!("{python} is not there; for datasketch's side run {INSTALL}").into());
        }
        let script = script.map_or_else(|| peer::script(SCRIPT), Path::to_owned);
        let mut process = Peers::start(&python, &script)?;
        let versions = process
            .ask(&json!({"do": "versions"}))
            .map_err(|error| format!("datasketch does not start ({error}); {INSTALL} makes what it needs"))?;
        Ok(Self { process, folder: TempDir::new()?, versions })
    }

    /// Names and versions of the libraries.
    pub(super) fn versions(&self) -> Value {
        self.versions.clone()
    }

    /// Gives it a corpus, which it signs.
    ///
    /// # Errors
    /// The process failed.
    pub(super) fn load(&mut self, words: &[String]) -> Result<()> {
        let path = self.folder.path().join("words");
        std::fs::write(&path, words.join("\n") + "\n")?;
        let ask = json!({"do": "load", "words": path, "lanes": LANES, "folder": self.folder.path()});
        self.process.ask::<Value>(&ask)?;
        Ok(())
    }

    /// The sides that it has.
    ///
    /// # Errors
    /// The process failed.
    pub(super) fn sides(&mut self) -> Result<Vec<String>> {
        self.process.ask(&json!({"do": "sides"}))
    }

    /// Has a side decide which texts of the corpus are copies.
    ///
    /// # Errors
    /// The process failed.
    pub(super) fn decide(&mut self, side: &str, threshold: f64) -> Result<Answer> {
        let figures: Figures =
            self.process.ask(&json!({"do": "decide", "side": side, "threshold": threshold}))?;
        let decisions = std::fs::read(&figures.decisions)?.iter().map(|byte| *byte != 0).collect();
        Ok(Answer { decisions, figures })
    }

    /// The signatures that a side decided by, one after the other; none where it has none to give.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn signatures(&self, figures: &Figures) -> Result<Vec<u32>> {
        let path = figures.signatures.as_ref().ok_or("this side gives no signatures")?;
        let bytes = std::fs::read(path)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|lane| u32::from_le_bytes(*lane)).collect())
    }
}
