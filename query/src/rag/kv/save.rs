//! A catalogue as lines of JSON, and back.
//!
//! The first line says the format and where the policy's clocks stand, then come a line a variant and a line
//! a notice that waits, then counts of past uses, and the last has the hash of all bytes before it, without
//! which nothing is believed. What is read again decides as it would have done: uses, costs and worths are
//! kept. Where limits are smaller now, what has no room goes, and notices say so. Cost: linear.

use serde::{Deserialize, Serialize};

use super::catalogue::ChunkCaches;
use super::descriptor::{TokenHash, Variant};
use super::gdsf::{EvictionPolicy, Item};
use super::hash::hash_bytes;
use super::history::Count;
use super::notice::Notice;
use super::settings::KvSettings;
use crate::error::{Error, ErrorKind, Result};

/// What the first line says.
const FORMAT: &str = "spandrel chunk caches";
const VERSION: u32 = 1;
/// Counts a line.
const COUNTS: usize = 64;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: String,
    version: u32,
    policy: String,
    clocks: Vec<f64>,
    uses: u64,
    next_id: u64,
    #[serde(default)]
    last_notice: u64,
    asks: u64,
    lines: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Variant { id: u64, item: Item, worth: f64, variant: Box<Variant> },
    Notice(Notice),
    Counts(Vec<Count>),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tail {
    sha256_128: TokenHash,
}

impl<P: EvictionPolicy> ChunkCaches<P> {
    /// All of it as bytes; the same catalogue gives the same bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where a number cannot be written, which checked variants do not have.
    pub fn save(&self) -> Result<Vec<u8>> {
        let (clocks, uses) = self.tiers.clocks();
        let kept = self.variants.iter().filter_map(|(id, variant)| {
            let (item, worth) = self.tiers.item(*id)?;
            Some(Line::Variant { id: *id, item, worth, variant: Box::new(variant.clone()) })
        });
        let (counts, asks) = self.history.counts();
        let counts = counts.chunks(COUNTS).map(|counts| Line::Counts(counts.to_vec()));
        let lines: Vec<Line> =
            kept.chain(self.notices.iter().cloned().map(Line::Notice)).chain(counts).collect();
        let (format, policy) = (FORMAT.to_owned(), P::NAME.to_owned());
        let (next_id, last_notice, count) = (self.next_id, self.notices.last, lines.len());
        let mut bytes = Vec::new();
        write(
            &mut bytes,
            &Head {
                format,
                version: VERSION,
                policy,
                clocks,
                uses,
                next_id,
                last_notice,
                asks,
                lines: count,
            },
        )?;
        lines.iter().try_for_each(|line| write(&mut bytes, line))?;
        let sha256_128 = TokenHash(hash_bytes(&bytes));
        write(&mut bytes, &Tail { sha256_128 })?;
        Ok(bytes)
    }

    /// A catalogue from what [`save`](Self::save) gave.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the bytes are not what was saved, [`ErrorKind::Invalid`] where they are
    /// of another version or policy or the settings are out of range.
    pub fn load(bytes: &[u8], settings: KvSettings) -> Result<Self> {
        let mut caches = Self::new(settings)?;
        let body = checked(bytes)?;
        let mut lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let head: Head = read(lines.next().unwrap_or_default())?;
        if head.format != FORMAT || head.version != VERSION || head.policy != P::NAME {
            return Err(Error::invalid(format!(
                "chunk caches of version {} by {}, must be {VERSION} by {}: start with an empty catalogue",
                head.version,
                head.policy,
                P::NAME
            )));
        }
        if head.clocks.iter().any(|clock| !clock.is_finite()) {
            return Err(corrupt("a clock is not a number"));
        }
        caches.tiers.set_clocks(&head.clocks, head.uses);
        caches.notices.last = head.last_notice;
        let mut count = 0;
        for line in lines {
            count += 1;
            match read(line)? {
                Line::Counts(counts) => caches.history.restore(&counts, head.asks),
                Line::Notice(notice) => caches.notices.restore(notice),
                Line::Variant { id, item, worth, variant } => {
                    let is_known = caches.variants.contains_key(&id);
                    let is_item =
                        item.size_bytes == variant.bytes && item.cost_us >= 0.0 && item.used <= head.uses;
                    if is_known || id >= head.next_id || !is_item || !worth.is_finite() {
                        return Err(corrupt(format_args!("variant {id} contradicts itself or another")));
                    }
                    variant.check().map_err(|error| corrupt(error.message()))?;
                    caches.enter_again(id, (item, worth), *variant);
                }
            }
        }
        if count != head.lines {
            return Err(corrupt(format_args!("{count} lines, {} were saved", head.lines)));
        }
        caches.next_id = head.next_id;
        Ok(caches)
    }

    /// Puts a variant where it was; a notice says so where there is no room.
    fn enter_again(&mut self, id: u64, weighed: (Item, f64), variant: Variant) {
        let has_room = self.variants.len() < self.settings.descriptors_max;
        if has_room && self.tiers.restore(id, weighed, variant.tier as usize) {
            self.enter(id, variant);
        } else {
            self.notices.add(Notice::of(id, &variant, variant.tier, None));
        }
    }
}

/// The bytes before the last line, which has their hash.
fn checked(bytes: &[u8]) -> Result<&[u8]> {
    let inner = bytes.strip_suffix(b"\n").ok_or_else(|| corrupt("the last line is cut short"))?;
    let end = inner.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let tail: Tail = read(&inner[end..])?;
    if tail.sha256_128 != TokenHash(hash_bytes(&inner[..end])) {
        return Err(corrupt("the checksum does not match"));
    }
    Ok(&inner[..end])
}

fn write(bytes: &mut Vec<u8>, line: &impl Serialize) -> Result<()> {
    serde_json::to_writer(&mut *bytes, line).map_err(|error| Error::invalid(error.to_string()))?;
    bytes.push(b'\n');
    Ok(())
}

fn read<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T> {
    serde_json::from_slice(line).map_err(corrupt)
}

fn corrupt(what: impl std::fmt::Display) -> Error {
    let message = format!("saved chunk caches are damaged ({what}): start with an empty catalogue");
    Error::new(ErrorKind::Corrupt, message)
}
