//! What a catalogue of chunk caches holds at most, and what reuse in it is estimated by.

use serde::{Deserialize, Serialize};

use super::reuse::Rule;
use crate::error::{Error, Result};

/// Most variants a chunk that can be set.
pub const VARIANTS_MAX: usize = 64;
/// Most chunks whose uses are remembered.
pub const HISTORY_CHUNKS_MAX: usize = 1 << 24;

/// What a catalogue holds at most.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KvSettings {
    /// Variants a chunk and model: 1 to 64.
    pub variants_per_chunk: usize,
    /// Descriptors, each of about half a KB of memory: 1 or more.
    pub descriptors_max: usize,
    /// Bytes of tensors, by tier; 0 where a tier is not used.
    pub bytes_max: [u64; 3],
    /// Chunks whose uses are remembered after all their variants went: 0 to 16 Mi, best a few times those
    /// kept.
    pub history_chunks: usize,
    /// What reuse is estimated by.
    pub rule: Rule,
}

impl Default for KvSettings {
    fn default() -> Self {
        Self {
            variants_per_chunk: 5,
            descriptors_max: 100_000,
            bytes_max: [8 << 30, 64 << 30, 1 << 40],
            history_chunks: 1 << 16,
            rule: Rule::default(),
        }
    }
}

impl KvSettings {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) with what to change.
    pub fn check(&self) -> Result<()> {
        if !(1..=VARIANTS_MAX).contains(&self.variants_per_chunk) {
            let variants = self.variants_per_chunk;
            return Err(Error::invalid(format!(
                "variants_per_chunk is {variants}, must be 1 to {VARIANTS_MAX}: 5 is enough for most"
            )));
        }
        if self.descriptors_max == 0 || self.bytes_max.iter().all(|bytes| *bytes == 0) {
            return Err(Error::invalid(
                "descriptors_max and bytes_max of a tier must be more than 0: else nothing can be kept",
            ));
        }
        if self.history_chunks > HISTORY_CHUNKS_MAX {
            return Err(Error::invalid(format!(
                "history_chunks is {}, must be at most {HISTORY_CHUNKS_MAX}: each takes 16 bytes",
                self.history_chunks
            )));
        }
        self.rule.check()
    }
}
