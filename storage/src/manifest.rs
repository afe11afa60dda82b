//! Which segment files of a collection are live, which of their documents are deleted, and which rows they
//! cover.
//!
//! One small file `MANIFEST` in the collection's folder, replaced whole and durably at each change: what it
//! names is there, what it does not name is an orphan that [`remove_orphans`] deletes. Recovery loads it,
//! opens the segments and replays the rows after [`Manifest::covered`]. It holds nothing that only the
//! writing process could know, and no paths: a copy of the folder is a copy of the collection's segments.
//!
//! ```text
//! sealed block: magic `SPANDMAN`, version u32, body, crc32c of everything before
//! body:  collection u32, epoch u64, covered u64, trimmed u64, last_row u64, next_segment u64,
//!        segment count u32, segments, learned for each of them, labels for each of them
//! segment:  id u64, first u64, last u64, docs u32, bytes u64, checksum u32,
//!           deleted as u32 length and the portable roaring format
//! learned, labels:  u32 length and bytes; version 1 has neither, version 2 no labels
//! ```
//! Cost: O(segments + bytes of their bitmaps) to load and to save, and the syncs of
//! [`replace_file`].

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::codec::{Decoder, Encoder, Truncated};
use crate::durable::{TEMP_SUFFIX, read_bounded, replace_file};
use crate::error::{Error, Result};
use crate::file::SegmentFile;
use crate::id::{CollectionId, RowId};
use crate::io::BatchRead;
use crate::seal::{HEAD_BYTES, Seal};

/// Name of the manifest in a collection's folder.
pub const MANIFEST_NAME: &str = "MANIFEST";
/// Newest manifest version that this build reads, and the one it writes.
pub const FORMAT_VERSION: u32 = 3;
/// Ending of segment file names; before it stands the id in 16 hexadecimal digits.
pub const SEGMENT_SUFFIX: &str = ".seg";

/// Most segments of a collection; merging keeps them far fewer.
pub const SEGMENTS_MAX: usize = 1 << 20;

/// Longest manifest that is written and read: the deleted documents of thousands of millions of rows.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;

const SEAL: Seal = Seal { magic: *b"SPANDMAN", version: FORMAT_VERSION, noun: "manifest" };
/// Bytes of a segment with an empty bitmap encoding: what a count must at least be worth.
const ENTRY_BYTES_MIN: usize = 8 + 8 + 8 + 4 + 8 + 4 + 4;

/// The live segments of a collection.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Whose segments these are.
    pub collection: CollectionId,
    /// Grows by one with each replacement.
    pub epoch: u64,
    /// Rows up to and including this one are in segments or deleted.
    pub covered: RowId,
    /// Log records up to this one are trimmed: what the row table still has of them are live rows.
    pub trimmed: RowId,
    /// Highest row known durable when this was written: a row table that ends before it has lost rows.
    pub last_row: RowId,
    /// Id of the next segment; ids are not used twice.
    pub next_segment: u64,
    /// By row range, ascending and disjoint.
    pub segments: Vec<SegmentEntry>,
}

/// A live segment.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentEntry {
    /// Names its file, see [`segment_name`].
    pub id: u64,
    /// First row of its range.
    pub first: RowId,
    /// Last row of its range, inclusive.
    pub last: RowId,
    /// Documents, deleted ones included.
    pub docs: u32,
    /// Length of the file.
    pub bytes: u64,
    /// [`SegmentInfo::checksum`](crate::file::SegmentInfo::checksum) of the file: names exactly this content.
    pub checksum: u32,
    /// Deleted documents by DocId.
    pub deleted: RoaringBitmap,
    /// What was learned about the segment since it was written, for whoever wrote it.
    pub learned: Vec<u8>,
    /// Labels that its rows have got and lost since it was written, for whoever wrote it.
    pub labels: Vec<u8>,
}

impl SegmentEntry {
    /// Opens the file of this segment in the collection's `folder`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the file is missing or is not the one that this entry names, and as
    /// [`SegmentFile::open`].
    pub fn open(&self, folder: &Path, reader: Arc<dyn BatchRead>) -> Result<SegmentFile> {
        let path = folder.join(segment_name(self.id));
        let file = SegmentFile::open(&path, reader).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
                Error::corrupt(&path, 0, "the manifest names this segment file, and it is missing")
            }
            error => error,
        })?;
        let info = file.info();
        if (info.id, info.bytes, info.checksum) != (self.id, self.bytes, self.checksum) {
            let what = format!(
                "the manifest names segment {} of {} bytes, checksum {:08x}; the file is {} of {}, {:08x}",
                self.id, self.bytes, self.checksum, info.id, info.bytes, info.checksum
            );
            return Err(Error::corrupt(&path, 0, what));
        }
        Ok(file)
    }
}

impl Manifest {
    /// The manifest of a collection without segments.
    pub fn new(collection: CollectionId) -> Self {
        Self {
            collection,
            epoch: 0,
            covered: RowId(0),
            trimmed: RowId(0),
            last_row: RowId(0),
            next_segment: 1,
            segments: Vec::new(),
        }
    }

    /// Reads the manifest in `folder`; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Version`] for a foreign file or a newer format, [`Error::Corrupt`] for damage or numbers that
    /// contradict each other, [`Error::Io`].
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(MANIFEST_NAME);
        let bytes = read_bounded(&path, MANIFEST_BYTES_MAX)?;
        bytes.map(|bytes| Self::decode(&bytes, &path)).transpose()
    }

    /// Replaces the manifest in `folder`. When this returns the new one survives a power cut; until then the
    /// old one does.
    ///
    /// # Errors
    /// [`Error::Invalid`] when its numbers contradict each other or it is longer than 1 GiB,
    /// [`Error::Io`], [`Error::NoSpace`]: the old one is in place. After [`Error::SyncFailed`] with `renamed`
    /// the new one is, and a power cut may bring the old one back: what either names has to stay.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let invalid = |what| Error::Invalid(format!("manifest of {}: {what}", folder.display()));
        self.check().map_err(invalid)?;
        let bytes = self.encode();
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(invalid(format!("{} bytes; at most {MANIFEST_BYTES_MAX} are allowed", bytes.len())));
        }
        replace_file(&folder.join(MANIFEST_NAME), &bytes)
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Encoder::default();
        body.u32(self.collection.0)
            .u64(self.epoch)
            .u64(self.covered.0)
            .u64(self.trimmed.0)
            .u64(self.last_row.0)
            .u64(self.next_segment)
            .u32(u32::try_from(self.segments.len()).expect("at most SEGMENTS_MAX, checked"));
        for entry in &self.segments {
            let mut deleted = Vec::with_capacity(entry.deleted.serialized_size());
            entry.deleted.serialize_into(&mut deleted).expect("a Vec takes every write");
            body.u64(entry.id)
                .u64(entry.first.0)
                .u64(entry.last.0)
                .u32(entry.docs)
                .u64(entry.bytes)
                .u32(entry.checksum)
                .bytes(&deleted);
        }
        for entry in &self.segments {
            body.bytes(&entry.learned);
        }
        for entry in &self.segments {
            body.bytes(&entry.labels);
        }
        SEAL.close(&body.finish())
    }

    pub(crate) fn decode(bytes: &[u8], file: &Path) -> Result<Self> {
        let mut decoder = Decoder::new(SEAL.open(bytes, file, 0)?);
        let manifest = decode_body(&mut decoder).and_then(|manifest| {
            if decoder.left() > 0 {
                return Err(format!("{} bytes after the last segment", decoder.left()));
            }
            manifest.check().map(|()| manifest)
        });
        manifest.map_err(|what| Error::corrupt(file, (HEAD_BYTES + decoder.position()) as u64, what))
    }

    /// Whether the numbers agree with each other.
    fn check(&self) -> Result<(), String> {
        if self.segments.len() > SEGMENTS_MAX {
            return Err(format!("{} segments; at most {SEGMENTS_MAX} are allowed", self.segments.len()));
        }
        if self.covered > self.last_row {
            return Err(format!("covered row {} is after the last row {}", self.covered, self.last_row));
        }
        if self.trimmed > self.covered {
            return Err(format!("trimmed row {} is after the covered row {}", self.trimmed, self.covered));
        }
        let mut ids = HashSet::with_capacity(self.segments.len());
        let mut before = RowId(0);
        for entry in &self.segments {
            let SegmentEntry { id, first, last, docs, ref deleted, .. } = *entry;
            if id >= self.next_segment || !ids.insert(id) {
                return Err(format!("segment {id} stands twice or is not below {}", self.next_segment));
            }
            if first <= before || last < first || last > self.covered {
                return Err(format!(
                    "rows {first}..={last} of segment {id} do not lie after {before} and up to {}",
                    self.covered
                ));
            }
            if u64::from(docs) > (last.0 - first.0).saturating_add(1) {
                return Err(format!("segment {id} has {docs} documents of rows {first}..={last}"));
            }
            if deleted.max().is_some_and(|doc| doc >= docs) {
                return Err(format!("segment {id} has {docs} documents, and a later one is deleted"));
            }
            before = last;
        }
        Ok(())
    }
}

pub(crate) fn decode_body(decoder: &mut Decoder<'_>) -> Result<Manifest, String> {
    let text = |e: Truncated| e.to_string();
    let mut manifest = Manifest {
        collection: CollectionId(decoder.u32("collection").map_err(text)?),
        epoch: decoder.u64("epoch").map_err(text)?,
        covered: RowId(decoder.u64("covered row").map_err(text)?),
        trimmed: RowId(decoder.u64("trimmed row").map_err(text)?),
        last_row: RowId(decoder.u64("last row").map_err(text)?),
        next_segment: decoder.u64("next segment").map_err(text)?,
        segments: Vec::new(),
    };
    let count = decoder.u32("segment count").map_err(text)? as usize;
    if count > decoder.left() / ENTRY_BYTES_MIN {
        return Err(format!("{count} segments do not fit in {} bytes", decoder.left()));
    }
    manifest.segments.reserve_exact(count);
    for _ in 0..count {
        manifest.segments.push(SegmentEntry {
            id: decoder.u64("segment id").map_err(text)?,
            first: RowId(decoder.u64("first row").map_err(text)?),
            last: RowId(decoder.u64("last row").map_err(text)?),
            docs: decoder.u32("document count").map_err(text)?,
            bytes: decoder.u64("file length").map_err(text)?,
            checksum: decoder.u32("file checksum").map_err(text)?,
            deleted: decode_bitmap(decoder.bytes("deleted bitmap").map_err(text)?)?,
            learned: Vec::new(),
            labels: Vec::new(),
        });
    }
    // Version 1 ends here.
    if decoder.left() > 0 {
        for entry in &mut manifest.segments {
            entry.learned = decoder.bytes("what was learned").map_err(text)?.to_vec();
        }
    }
    // And version 2 here.
    if decoder.left() > 0 {
        for entry in &mut manifest.segments {
            entry.labels = decoder.bytes("labels").map_err(text)?.to_vec();
        }
    }
    Ok(manifest)
}

/// Reads a bitmap that fills `bytes`. roaring checks order, cardinalities and runs and returns errors; before
/// it has seen that the containers are there it allocates at most 0.5 MiB, whatever the bytes say.
fn decode_bitmap(mut bytes: &[u8]) -> Result<RoaringBitmap, String> {
    let bitmap = RoaringBitmap::deserialize_from(&mut bytes).map_err(|e| format!("deleted bitmap: {e}"))?;
    if bytes.is_empty() { Ok(bitmap) } else { Err(format!("{} bytes after a deleted bitmap", bytes.len())) }
}

/// File name of segment `id`.
pub fn segment_name(id: u64) -> String {
    format!("{id:016x}{SEGMENT_SUFFIX}")
}

/// The id in a name that [`segment_name`] made.
fn segment_id(name: &str) -> Option<u64> {
    let id = u64::from_str_radix(name.strip_suffix(SEGMENT_SUFFIX)?, 16).ok()?;
    (segment_name(id) == name).then_some(id)
}

/// Removes what a crash left in `folder`: segment files that `manifest` does not name, and temp files of
/// segments and manifests. Other files stay. Returns what was removed.
///
/// To be called before anything builds segments there: a file still being written is an orphan too.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be listed or a file not removed.
pub fn remove_orphans(folder: &Path, manifest: &Manifest) -> Result<Vec<PathBuf>> {
    let live: HashSet<u64> = manifest.segments.iter().map(|entry| entry.id).collect();
    let list_error = |e| Error::io("list", folder, e);
    let mut removed = Vec::new();
    for item in fs::read_dir(folder).map_err(list_error)? {
        let item = item.map_err(list_error)?;
        let name = item.file_name();
        let orphan = name.to_str().is_some_and(|name| match name.strip_suffix(TEMP_SUFFIX) {
            Some(name) => name == MANIFEST_NAME || segment_id(name).is_some(),
            None => segment_id(name).is_some_and(|id| !live.contains(&id)),
        });
        if orphan {
            fs::remove_file(item.path()).map_err(|e| Error::io("remove", &item.path(), e))?;
            removed.push(item.path());
        }
    }
    removed.sort_unstable();
    Ok(removed)
}

#[cfg(test)]
mod tests;
