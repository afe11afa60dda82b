//! Sorts keys with their docs, and makes a [`Table`] of them.
//!
//! Keys come doc by doc and lie there by bucket. Up to a bound they are sorted in memory; more become sorted
//! runs in a file that nobody else sees, which are merged. Cost: 12 bytes a key in the file, 16 in memory up
//! to the bound; 60 ns a key (AMD EPYC, Zen 5, one core).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use spandrel_storage::DocId;

use super::{DOCS_OF_KEY_MAX, Docs, KEY_BITS, Packed, Table, samples, split};
use crate::error::Result;

/// Keys sorted in memory when nothing else is asked for: 256 MB.
const RUN_KEYS: usize = 16 << 20;
/// Bytes of a key in a run, and of what is read of one at once.
const RUN_KEY_BYTES: usize = 12;
const READ_BYTES: usize = 1 << 18;

/// Collects the keys of docs.
pub struct TableBuilder {
    /// Bits of a key after its bucket.
    width: u32,
    keys: Vec<(u64, DocId)>,
    run_keys: usize,
    runs: Vec<File>,
    /// Where runs go that memory is too short for.
    folder: Option<PathBuf>,
    last_doc: DocId,
}

impl TableBuilder {
    /// Of texts of so many keys. One with keys that no doc has is taken to share one with a chance of at
    /// most `promise`, between 0 and 1, as far as it takes 8 to 48 bits a key. Where there is a `folder`,
    /// what memory is too short for goes there.
    pub fn new(keys_of_text: usize, promise: f64, folder: Option<&Path>) -> Self {
        let bits = (keys_of_text.max(1) as f64 / promise).log2().ceil();
        let width = (bits as u32).clamp(*KEY_BITS.start(), *KEY_BITS.end());
        let folder = folder.map(Path::to_owned);
        Self { width, keys: Vec::new(), run_keys: RUN_KEYS, runs: Vec::new(), folder, last_doc: 0 }
    }

    /// Sorts so many keys in memory, at most.
    #[cfg(test)]
    pub(super) fn run_keys(self, run_keys: usize) -> Self {
        Self { run_keys, ..self }
    }

    /// Adds the keys of a doc.
    ///
    /// # Errors
    /// [`Error::Storage`](crate::Error::Storage) when a run cannot be written.
    pub fn push(&mut self, doc: DocId, keys: &[u64]) -> Result<()> {
        self.last_doc = self.last_doc.max(doc);
        if self.keys.len() + keys.len() > self.run_keys
            && let Some(folder) = self.folder.clone()
        {
            self.spill(&folder)
                .map_err(|error| spandrel_storage::Error::io("write to a file in", &folder, error))?;
        }
        self.keys.extend(keys.iter().map(|key| (*key, doc)));
        Ok(())
    }

    fn spill(&mut self, folder: &Path) -> io::Result<()> {
        self.keys.sort_unstable();
        let mut file = tempfile::tempfile_in(folder)?;
        let mut bytes = Vec::with_capacity(READ_BYTES);
        for keys in self.keys.chunks(READ_BYTES / RUN_KEY_BYTES) {
            bytes.clear();
            for (key, doc) in keys {
                bytes.extend(key.to_le_bytes());
                bytes.extend(doc.to_le_bytes());
            }
            file.write_all(&bytes)?;
        }
        file.seek(SeekFrom::Start(0))?;
        self.keys.clear();
        self.runs.push(file);
        Ok(())
    }

    /// The table of what was added.
    ///
    /// # Errors
    /// [`Error::Storage`](crate::Error::Storage) when what was written cannot be read.
    pub fn finish(mut self) -> Result<Table> {
        self.keys.sort_unstable();
        let doc_width = (32 - self.last_doc.leading_zeros()).max(1);
        if self.runs.is_empty() {
            let mut keys = std::mem::take(&mut self.keys);
            drop_crowd(&mut keys);
            let mut writer = Writer::new(keys.len() as u64, self.width, doc_width);
            keys.iter().for_each(|(key, doc)| writer.push(*key, *doc));
            return Ok(writer.finish());
        }
        // How many there are is known when the crowds are gone: they are merged twice.
        let folder = self.folder.clone().unwrap_or_default();
        let failed = |error| spandrel_storage::Error::io("read from a file in", &folder, error);
        let mut count = 0;
        self.merge(&mut |_, _| count += 1).map_err(failed)?;
        let mut writer = Writer::new(count, self.width, doc_width);
        self.merge(&mut |key, doc| writer.push(key, doc)).map_err(failed)?;
        Ok(writer.finish())
    }

    /// Tells all keys in order, no more than [`DOCS_OF_KEY_MAX`] times each.
    fn merge(&mut self, each: &mut dyn FnMut(u64, DocId)) -> io::Result<()> {
        let mut runs = Vec::with_capacity(self.runs.len());
        for run in &mut self.runs {
            run.seek(SeekFrom::Start(0))?;
            runs.push(BufReader::with_capacity(READ_BYTES, run));
        }
        let mut heap = BinaryHeap::new();
        for (at, run) in runs.iter_mut().enumerate() {
            heap.extend(next(run)?.map(|key| Reverse((key, at))));
        }
        let memory = runs.len();
        let mut rest = self.keys.iter().copied();
        heap.extend(rest.next().map(|key| Reverse((key, memory))));
        let (mut last, mut times) = (None, 0);
        while let Some(Reverse(((key, doc), at))) = heap.pop() {
            times = if last == Some(key) { times + 1 } else { 1 };
            last = Some(key);
            if times <= DOCS_OF_KEY_MAX {
                each(key, doc);
            }
            let next = if at == memory { rest.next() } else { next(&mut runs[at])? };
            heap.extend(next.map(|key| Reverse((key, at))));
        }
        Ok(())
    }
}

/// The next key of a run; none at its end.
fn next(run: &mut impl Read) -> io::Result<Option<(u64, DocId)>> {
    let (mut key, mut doc) = ([0; 8], [0; 4]);
    match run.read_exact(&mut key) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    run.read_exact(&mut doc)?;
    Ok(Some((u64::from_le_bytes(key), DocId::from_le_bytes(doc))))
}

/// Leaves the first [`DOCS_OF_KEY_MAX`] docs of each key.
fn drop_crowd(keys: &mut Vec<(u64, DocId)>) {
    let (mut last, mut times) = (None, 0);
    keys.retain(|(key, _)| {
        times = if last == Some(*key) { times + 1 } else { 1 };
        last = Some(*key);
        times <= DOCS_OF_KEY_MAX
    });
}

/// Writes numbers of so many bits.
struct Packer {
    packed: Packed,
    word: u128,
    used: u32,
}

impl Packer {
    fn new(count: u64, width: u32) -> Self {
        let bytes = Vec::with_capacity(Packed::bytes_of(count, width) as usize);
        Self { packed: Packed { width, bytes }, word: 0, used: 0 }
    }

    fn push(&mut self, number: u64) {
        self.word |= u128::from(number) << self.used;
        self.used += self.packed.width;
        while self.used >= 8 {
            self.packed.bytes.push(self.word as u8);
            self.word >>= 8;
            self.used -= 8;
        }
    }

    fn finish(mut self) -> Packed {
        if self.used > 0 {
            self.packed.bytes.push(self.word as u8);
        }
        self.packed
    }
}

/// Takes keys in order.
struct Writer {
    count: u64,
    unary: Vec<u64>,
    /// Bits of `unary` that are written, and the bucket that they end in.
    bit: u64,
    bucket: u64,
    kept: Packer,
    docs: Packer,
}

impl Writer {
    fn new(count: u64, width: u32, doc_width: u32) -> Self {
        let unary = vec![0; (2 * count).div_ceil(64) as usize];
        let (kept, docs) = (Packer::new(count, width), Packer::new(count, doc_width));
        Self { count, unary, bit: 0, bucket: 0, kept, docs }
    }

    fn push(&mut self, key: u64, doc: DocId) {
        let (bucket, kept) = split(key, self.count, self.kept.packed.width);
        // A zero for each bucket that ends before it.
        self.bit += bucket - self.bucket;
        self.bucket = bucket;
        self.unary[(self.bit / 64) as usize] |= 1 << (self.bit % 64);
        self.bit += 1;
        self.kept.push(kept);
        self.docs.push(u64::from(doc));
    }

    fn finish(self) -> Table {
        let samples = samples(&self.unary, self.count);
        let (kept, docs) = (self.kept.finish(), Docs::Memory(self.docs.finish()));
        Table { count: self.count, unary: self.unary, samples, kept, docs }
    }
}
