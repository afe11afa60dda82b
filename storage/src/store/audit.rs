//! The audit: RocksDB's logs are read before RocksDB reads them, to tell the trace of a crash from damage.
//!
//! RocksDB's own reader (`log_reader.cc`, 11.8) cannot tell the two apart. Where a flipped length makes a
//! record of the last 32 KB block end past the file, it takes the rest for a torn tail and drops it, in the
//! manifest as in the write-ahead log; where a flipped bit turns a record's type into that of a recycled log,
//! it drops the rest of the log or reads the same record for ever. Stricter modes refuse every crash. So the
//! store walks the files itself, once an open, at the speed of crc32c and in one block of memory: after a
//! clean close there is only the manifest, a few KB.
//!
//! A log is 32 KB blocks of records: masked crc32c u32, length u16, type u8, payload; the crc covers type and
//! payload; a record that does not fit is split into first, middle and last; fewer than 7 bytes at the end of
//! a block are filler. A batch begins with its sequence number as u64.
//!
//! What follows the last whole record is *torn*, and may go, when all of this holds:
//! - it looks torn: a record that ends past the file with no whole record inside it, or a page of zeros in
//!   it, as a power failure leaves where a page was allocated and not written. A flipped bit looks like
//!   neither;
//! - the [`witness`](super::witness) says that everything durable lies before it.
//!
//! A torn write-ahead log is cut there and later ones are set aside, so that RocksDB can run in its strictest
//! mode, in which each log also names the one before it with its size. Anything else is [`Error::Corrupt`].
//! What remains unseen is a flipped length in the very last record, if that record was a
//! [`Buffered`](super::Durability::Buffered) commit never made durable.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::witness::Account;
use crate::codec::Decoder;
use crate::durable::{read_bounded, sync_folder};
use crate::error::{Error, Result};

const BLOCK_BYTES: usize = 32 * 1024;
const HEADER_BYTES: usize = 7;
const PAGE_BYTES: usize = 4096;
/// Fewest zeros at the end of a file that count as a page that was not written.
const HOLE_BYTES_MIN: usize = 64;
/// Longest CURRENT that is read; it holds the name of a manifest.
const CURRENT_BYTES_MAX: u64 = 4096;
/// Ending of a log that was set aside.
const ASIDE: &str = "log.torn";
/// A log's first record, where RocksDB notes the log before: 7 + 24 bytes. A file no longer than this holds
/// no batch.
const OPENING_BYTES: usize = HEADER_BYTES + 24;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
const PREDECESSOR: u8 = 130;

/// What a walk over one log found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Bytes up to the end of the last whole record.
    whole_bytes: u64,
    /// Sequence number of the last whole batch.
    sequence: Option<u64>,
    /// What the log says of the log before it.
    opening: Option<Opening>,
    /// Why the walk ended before the end of the file.
    damage: Option<Damage>,
}

#[derive(Debug)]
struct Log {
    number: u64,
    path: PathBuf,
    walk: Walk,
}

/// A log's first record: what the log before it was when it was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Opening {
    number: u64,
    bytes: u64,
    /// Sequence number of its last batch; none without one.
    sequence: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
struct Damage {
    what: &'static str,
    /// Whether a crash can have left this.
    torn: bool,
}

/// Checks manifest and logs of the RocksDB in `folder`, and removes the torn tail that a crash left. After a
/// clean close, logs that were set aside by earlier opens go: what they held was not acknowledged, and the
/// store has been whole without them since.
///
/// # Errors
/// [`Error::Corrupt`] with file and offset when something durable is damaged, [`Error::Io`],
/// [`Error::SyncFailed`].
pub(super) fn audit(folder: &Path, account: &Account) -> Result<()> {
    let (path, check) = manifest_check(folder)?;
    if account.manifest.is_some_and(|expected| expected != check) {
        return Err(Error::corrupt(&path, 0, "changed since the store was closed"));
    }
    let walk = walk_file(&path, false)?;
    if let Some(damage) = walk.damage.filter(|damage| !damage.torn) {
        return Err(Error::corrupt(&path, walk.whole_bytes, damage.what));
    }
    audit_logs(folder, account)?;
    if account.manifest.is_some() {
        remove_aside(folder)?;
    }
    Ok(())
}

/// The manifest that CURRENT names, and a checksum of both: length and crc32c.
pub(super) fn manifest_check(folder: &Path) -> Result<(PathBuf, u64)> {
    let current = folder.join("CURRENT");
    let missing = |path: &Path| Error::corrupt(path, 0, "the file is missing");
    let bytes = read_bounded(&current, CURRENT_BYTES_MAX)?.ok_or_else(|| missing(&current))?;
    let name = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n'));
    let number = name.and_then(|name| name.strip_prefix("MANIFEST-"));
    match (name, number) {
        (Some(name), Some(number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            let path = folder.join(name);
            let (mut check, mut len) = (crc32c::crc32c(&bytes), 0);
            let read = each_block(&path, |block| {
                check = crc32c::crc32c_append(check, block);
                len += block.len() as u64;
                true
            });
            read.map_err(|e| match e.kind() {
                ErrorKind::NotFound => missing(&path),
                _ => Error::io("read", &path, e),
            })?;
            Ok((path, len << 32 | u64::from(check)))
        }
        _ => Err(Error::corrupt(&current, 0, "does not name a manifest")),
    }
}

/// Reads a file block by block, whatever its length, until `take` has seen enough.
fn each_block(path: &Path, mut take: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    loop {
        block.clear();
        file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if block.is_empty() || !take(&block) {
            return Ok(());
        }
    }
}

fn audit_logs(folder: &Path, account: &Account) -> Result<()> {
    // The last sequence number seen, and the log before: its number and its bytes.
    let mut sequence = None;
    let mut before: Option<(u64, u64)> = None;
    let mut logs = live_logs(folder)?.into_iter();
    for Log { number, path, walk } in logs.by_ref() {
        // After a failed write a log is shorter than the next one says. No commit was taken after it.
        let short = walk.opening.zip(before).is_some_and(|(opening, (before_number, before_bytes))| {
            opening.number == before_number && opening.bytes != before_bytes
        });
        if short {
            if sequence.unwrap_or(0) < account.sequence {
                return Err(Error::corrupt(&path, 0, "the log before this one has lost its end"));
            }
            set_aside(&path)?;
            break;
        }
        sequence = sequence.max(walk.opening.and_then(|opening| opening.sequence)).max(walk.sequence);
        before = Some((number, walk.whole_bytes));
        let Some(damage) = walk.damage else { continue };
        let acknowledged = match sequence {
            Some(sequence) => sequence < account.sequence,
            // Nothing in this session's logs was durable, or a durable batch may have been in here.
            None => account.sequence > 0 && !holds_no_batch(&path)?,
        };
        if !damage.torn || acknowledged {
            return Err(Error::corrupt(&path, walk.whole_bytes, damage.what));
        }
        cut(&path, walk.whole_bytes)?;
        break;
    }
    for log in logs {
        set_aside(&log.path)?;
    }
    Ok(())
}

/// The logs, oldest first. One that RocksDB could not even begin, on a full disk, and of which the next one
/// knows nothing, is set aside.
fn live_logs(folder: &Path) -> Result<Vec<Log>> {
    let mut live: Vec<Log> = Vec::new();
    for (number, path) in logs(folder)? {
        let walk = walk_file(&path, true)?;
        if let Some(last) = live.last()
            && last.walk.whole_bytes == 0
            && walk.opening.is_none_or(|opening| opening.number != last.number)
            && holds_no_batch(&last.path)?
        {
            set_aside(&last.path)?;
            live.pop();
        }
        live.push(Log { number, path, walk });
    }
    Ok(live)
}

/// Whether a log that has no whole record is too short for a batch, or was never written.
fn holds_no_batch(path: &Path) -> Result<bool> {
    let (mut len, mut is_blank) = (0, true);
    let read = each_block(path, |block| {
        len += block.len();
        is_blank &= block.iter().all(|byte| *byte == 0);
        is_blank || len <= OPENING_BYTES
    });
    read.map_err(|e| Error::io("read", path, e))?;
    Ok(is_blank || len <= OPENING_BYTES)
}

/// The write-ahead logs in `folder` and their numbers, oldest first.
fn logs(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut logs: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))? {
        let path = entry.map_err(|e| Error::io("list", folder, e))?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let (Some("log"), Some(number)) = (path.extension().and_then(|e| e.to_str()), number) {
            logs.push((number, path));
        }
    }
    logs.sort();
    Ok(logs)
}

/// Cuts the tail off that a crash tore.
fn cut(path: &Path, whole_bytes: u64) -> Result<()> {
    tracing::warn!(
        log = %path.display(),
        whole_bytes,
        "a write that was not acknowledged as durable was cut off by a crash; it is dropped"
    );
    let cut = || {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(whole_bytes)?;
        file.sync_all()
    };
    cut().map_err(|e| Error::io("cut", path, e))
}

/// Moves a log out of RocksDB's sight: it is blank, or would leave a hole where the log before it lost its
/// end.
fn set_aside(path: &Path) -> Result<()> {
    let aside = path.with_extension(ASIDE);
    tracing::warn!(
        log = %path.display(),
        aside = %aside.display(),
        "a log that was never begun, or follows one that lost its end, is set aside"
    );
    fs::rename(path, &aside).map_err(|e| Error::io("rename", path, e))?;
    // RocksDB goes on as if it were gone: it must not be back after a power failure.
    path.parent().map_or(Ok(()), sync_folder)
}

/// Removes the logs that earlier opens set aside.
fn remove_aside(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))? {
        let path = entry.map_err(|e| Error::io("list", folder, e))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_suffix(ASIDE).and_then(|number| number.strip_suffix('.'));
        if number.is_some_and(|number| number.parse::<u64>().is_ok()) {
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
    }
    Ok(())
}

fn walk_file(path: &Path, is_wal: bool) -> Result<Walk> {
    File::open(path).and_then(|file| walk(file, is_wal)).map_err(|e| Error::io("read", path, e))
}

/// Reads a log up to its end or its first damage.
pub(crate) fn walk(mut log: impl Read, is_wal: bool) -> io::Result<Walk> {
    let mut walk = Walk::default();
    // The first bytes of the split record being read; none outside of one.
    let mut split: Option<Vec<u8>> = None;
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    for number in 0.. {
        block.clear();
        log.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        let mut at = 0;
        while at < block.len() && at + HEADER_BYTES <= BLOCK_BYTES {
            let (kind, payload) = match record_at(&block, at) {
                Ok(record) => record,
                Err(what) => {
                    walk.damage = Some(Damage { what, torn: looks_torn(&block, at) });
                    return Ok(walk);
                }
            };
            if !walk.take(is_wal, kind, payload, &mut split) {
                walk.damage = Some(Damage { what: "records are out of order", torn: false });
                return Ok(walk);
            }
            at += HEADER_BYTES + payload.len();
            if split.is_none() {
                walk.whole_bytes = (number * BLOCK_BYTES + at) as u64;
            }
        }
        if block.len() < BLOCK_BYTES {
            break;
        }
    }
    if split.is_some() {
        walk.damage = Some(Damage { what: "a split record has no end", torn: true });
    }
    Ok(walk)
}

impl Walk {
    /// Takes the next record in; says whether it may come here.
    fn take(&mut self, is_wal: bool, kind: u8, payload: &[u8], split: &mut Option<Vec<u8>>) -> bool {
        let whole = match (kind, &mut *split) {
            (FULL, None) => Some(head(payload)),
            (FIRST, None) => {
                *split = Some(head(payload));
                None
            }
            (MIDDLE, Some(start)) => {
                extend_head(start, payload);
                None
            }
            (LAST, Some(start)) => {
                extend_head(start, payload);
                split.take()
            }
            (PREDECESSOR, None) if is_wal => {
                self.opening = opening(payload);
                return self.opening.is_some();
            }
            _ => return false,
        };
        if let Some(whole) = whole.filter(|_| is_wal) {
            self.sequence = self.sequence.max(Decoder::new(&whole).u64("sequence").ok());
        }
        true
    }
}

fn opening(payload: &[u8]) -> Option<Opening> {
    let mut payload = Decoder::new(payload);
    let number = payload.u64("number").ok()?;
    let bytes = payload.u64("bytes").ok()?;
    let sequence = payload.u64("sequence").ok()?;
    Some(Opening { number, bytes, sequence: (sequence > 0).then_some(sequence) })
}

/// The first 8 bytes of a record: its sequence number.
fn head(payload: &[u8]) -> Vec<u8> {
    payload[..payload.len().min(8)].to_vec()
}

fn extend_head(head: &mut Vec<u8>, payload: &[u8]) {
    let missing = 8 - head.len().min(8);
    head.extend_from_slice(&payload[..payload.len().min(missing)]);
}

/// Type and payload of the record at `at` of a block, if it is whole.
pub(crate) fn record_at(block: &[u8], at: usize) -> Result<(u8, &[u8]), &'static str> {
    let mut left = Decoder::new(block.get(at..).unwrap_or_default());
    let truncated = |_| "a record ends past its block or the file";
    let check = left.u32("crc").map_err(truncated)?;
    let len = left.u16("length").map_err(truncated)?;
    let kind = left.u8("type").map_err(truncated)?;
    let payload = left.take(usize::from(len), "payload").map_err(truncated)?;
    if !matches!(kind, FULL | FIRST | MIDDLE | LAST | PREDECESSOR) {
        return Err("a record is of an unknown type");
    }
    // Checksums that are stored beside what they cover are masked: rotated, plus a constant.
    let stored = check.wrapping_sub(0xa282_ead8).rotate_left(15);
    match crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload) == stored {
        true => Ok((kind, payload)),
        false => Err("a record does not match its checksum"),
    }
}

/// Whether a crash can have left the bytes of a block from `at` on, which do not begin with a whole record.
fn looks_torn(block: &[u8], at: usize) -> bool {
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let pages = block[at.next_multiple_of(PAGE_BYTES).min(block.len())..].chunks(PAGE_BYTES);
    if is_zero(&block[at..]) || pages.into_iter().any(|page| page.len() >= HOLE_BYTES_MIN && is_zero(page)) {
        return true;
    }
    let runs_past_file = match &block[at..] {
        [_, _, _, _, low, high, _, payload @ ..] => {
            let len = usize::from(u16::from_le_bytes([*low, *high]));
            block.len() < BLOCK_BYTES && len > payload.len()
        }
        _ => block.len() < BLOCK_BYTES,
    };
    // The damaged length of a whole record also runs past the file; then whole records follow.
    runs_past_file && (at + 1..block.len()).all(|later| record_at(block, later).is_err())
}

#[cfg(test)]
mod tests;
