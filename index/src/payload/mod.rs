//! Which documents of a segment pass a test of one payload field: the leaves of filters, answered as roaring
//! bitmaps.
//!
//! One index a field and segment, immutable, the same in memory and from a section's bytes. Kinds: keyword (a
//! sorted dictionary), integer, bool, datetime and float (sorted numbers), text (the words of texts); json
//! has no index. An answer costs a binary search and the merging of what the document lists it hits hold in
//! the range of documents asked for; [`PayloadIndex::estimate`] costs the search alone and says which of
//! several tests to begin with. It is not where filters are combined, nor where values are stored: rows are.
//!
//! On disk, little-endian: u8 [`FORMAT`], u8 kind, u32 documents, the bitmap of documents that have the
//! field, then what `keyword.rs`, `number.rs` or `words.rs` writes.

mod build;
pub mod datetime;
mod keyword;
pub(crate) mod lists;
mod number;
mod predicate;
mod words;

use std::ops::{Bound, Range};

use roaring::RoaringBitmap;
use spandrel_storage::codec::{Decoder, Encoder};
use spandrel_storage::{DocId, PayloadKind, Value};

pub use self::build::PayloadIndexBuilder;
use self::keyword::Keywords;
use self::lists::{DocLists, Within, read_bitmap, write_bitmap};
use self::number::{Numbers, Stored};
pub use self::predicate::Predicate;
use self::predicate::number;
use self::words::Words;
use crate::error::{Error, Result};

/// Version of the layout in the module's head.
const FORMAT: u8 = 1;

/// The values of one payload field of one segment.
#[derive(Clone, Debug, PartialEq)]
pub struct PayloadIndex {
    kind: PayloadKind,
    doc_count: u32,
    exists: RoaringBitmap,
    values: Values,
}

#[derive(Clone, Debug, PartialEq)]
enum Values {
    Keyword(Keywords),
    /// Integers, instants and booleans.
    Integer(Numbers<i64>),
    Float(Numbers<f64>),
    Text(Words),
}

impl PayloadIndex {
    /// The kind of the field.
    pub fn kind(&self) -> PayloadKind {
        self.kind
    }

    /// Documents that its lists number: one more than the last that has the field.
    pub fn doc_count(&self) -> u32 {
        self.doc_count
    }

    /// The documents of `docs` that pass.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`Predicate::check`].
    pub fn select(&self, predicate: &Predicate<'_>, docs: Range<DocId>) -> Result<RoaringBitmap> {
        predicate.check(self.kind)?;
        if let (Predicate::Matches(text), Values::Text(words)) = (predicate, &self.values) {
            return Ok(words.matches(text, &docs));
        }
        let within = Within::new(docs, self.doc_count);
        if matches!(predicate, Predicate::Exists) {
            return Ok(within.cut(&self.exists));
        }
        let mut selected = RoaringBitmap::new();
        self.hits(predicate, |lists, ordinals| selected |= lists.union(ordinals, &within))?;
        Ok(selected)
    }

    /// At most how many documents of the segment pass, without collecting them. Exact for equals and exists,
    /// and for ranges and prefixes of fields without lists.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`Predicate::check`].
    pub fn estimate(&self, predicate: &Predicate<'_>) -> Result<u64> {
        predicate.check(self.kind)?;
        let count = match (predicate, &self.values) {
            (Predicate::Exists, _) => self.exists.len(),
            (Predicate::Matches(text), Values::Text(words)) => words.estimate(text),
            _ => {
                let mut count = 0;
                self.hits(predicate, |lists, ordinals| count += lists.count(ordinals))?;
                count
            }
        };
        Ok(count.min(self.exists.len()))
    }

    /// The documents that have the field.
    pub fn exists(&self) -> &RoaringBitmap {
        &self.exists
    }

    /// Bytes of memory in use.
    pub fn memory_bytes(&self) -> usize {
        let values = match &self.values {
            Values::Keyword(values) => values.memory_bytes(),
            Values::Integer(values) => values.memory_bytes(),
            Values::Float(values) => values.memory_bytes(),
            Values::Text(values) => values.memory_bytes(),
        };
        size_of::<Self>() + self.exists.serialized_size() + values
    }

    /// The bytes of a section, in the layout in the module's head.
    pub fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        encoder.u8(FORMAT).u8(kind_tag(self.kind)).u32(self.doc_count);
        write_bitmap(&self.exists, &mut encoder);
        match &self.values {
            Values::Keyword(values) => values.write(&mut encoder),
            Values::Integer(values) => values.write(&mut encoder),
            Values::Float(values) => values.write(&mut encoder),
            Values::Text(values) => values.write(&mut encoder),
        }
        encoder.finish()
    }

    /// Reads what [`Self::encode`] gave, all of `bytes`.
    ///
    /// # Errors
    /// [`Error::Section`] for bytes of another format version or that do not hold an index.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut bytes = Decoder::new(bytes);
        let format = bytes.u8("format").map_err(damaged)?;
        if format != FORMAT {
            return Err(damaged(format!("format {format} is not {FORMAT}, the one this build reads")));
        }
        let tag = bytes.u8("kind").map_err(damaged)?;
        let kind = KINDS.into_iter().find(|kind| kind_tag(*kind) == tag);
        let kind = kind.ok_or_else(|| damaged(format!("unknown kind {tag}")))?;
        let doc_count = bytes.u32("document count").map_err(damaged)?;
        let exists = read_bitmap(&mut bytes, doc_count)?;
        let values = match kind {
            PayloadKind::Keyword => Values::Keyword(Keywords::read(&mut bytes)?),
            PayloadKind::Float => Values::Float(Numbers::read(&mut bytes)?),
            PayloadKind::Text => Values::Text(Words::read(&mut bytes, doc_count)?),
            _ => Values::Integer(Numbers::read(&mut bytes)?),
        };
        let index = Self { kind, doc_count, exists, values };
        let lists = match &index.values {
            Values::Keyword(values) => Some(values.lists()),
            Values::Integer(values) => Some(values.lists()),
            Values::Float(values) => Some(values.lists()),
            Values::Text(_) => None,
        };
        if bytes.left() > 0 || lists.is_some_and(|lists| lists.doc_count() != doc_count) {
            return Err(damaged("values do not end with the section or name other documents"));
        }
        let fits = match &index.values {
            Values::Text(words) => words.is_within(&index.exists),
            _ => lists.is_some_and(|lists| lists.all().is_subset(&index.exists)),
        };
        if !fits {
            return Err(damaged("values name documents that do not have the field"));
        }
        Ok(index)
    }

    /// Calls `hit` with the runs of value ordinals that pass; the predicate is checked.
    fn hits(&self, predicate: &Predicate<'_>, mut hit: impl FnMut(&DocLists, Range<usize>)) -> Result<()> {
        match &self.values {
            Values::Keyword(values) => {
                keyword_ranges(values, predicate, |ordinals| hit(values.lists(), ordinals))
            }
            Values::Integer(values) => {
                number_ranges(self.kind, values, predicate, |ordinals| hit(values.lists(), ordinals))
            }
            Values::Float(values) => {
                number_ranges(self.kind, values, predicate, |ordinals| hit(values.lists(), ordinals))
            }
            Values::Text(_) => Ok(()),
        }
    }
}

fn keyword_ranges(
    values: &Keywords,
    predicate: &Predicate<'_>,
    mut hit: impl FnMut(Range<usize>),
) -> Result<()> {
    match predicate {
        Predicate::Equals(value) => hit(values.equal(predicate::keyword(value)?)),
        Predicate::AnyOf(asked) => {
            for ordinals in distinct(asked, |value| Ok(values.equal(predicate::keyword(value)?)))? {
                hit(ordinals);
            }
        }
        Predicate::Range { lower, upper } => {
            hit(values.range(bound(lower, predicate::keyword)?, bound(upper, predicate::keyword)?));
        }
        Predicate::Prefix(prefix) => hit(values.prefix(prefix)),
        Predicate::Matches(_) | Predicate::Exists => {}
    }
    Ok(())
}

fn number_ranges<T: Stored>(
    kind: PayloadKind,
    values: &Numbers<T>,
    predicate: &Predicate<'_>,
    mut hit: impl FnMut(Range<usize>),
) -> Result<()> {
    match predicate {
        Predicate::Equals(value) => hit(values.equal(number(kind, value)?)),
        Predicate::AnyOf(asked) => {
            for ordinals in distinct(asked, |value| Ok(values.equal(number(kind, value)?)))? {
                hit(ordinals);
            }
        }
        Predicate::Range { lower, upper } => {
            let parse = |value| number(kind, value);
            hit(values.range(bound(lower, parse)?, bound(upper, parse)?));
        }
        Predicate::Prefix(_) | Predicate::Matches(_) | Predicate::Exists => {}
    }
    Ok(())
}

/// The ordinals of a list of asked values, each once, neighbours joined.
fn distinct(asked: &[Value], find: impl Fn(&Value) -> Result<Range<usize>>) -> Result<Vec<Range<usize>>> {
    let mut found = asked.iter().map(find).collect::<Result<Vec<_>>>()?;
    found.retain(|ordinals| !ordinals.is_empty());
    found.sort_unstable_by_key(|ordinals| ordinals.start);
    found.dedup();
    found.dedup_by(|next, last| {
        let joins = last.end == next.start;
        if joins {
            last.end = next.end;
        }
        joins
    });
    Ok(found)
}

fn bound<'a, T>(bound: &Bound<&'a Value>, parse: impl Fn(&'a Value) -> Result<T>) -> Result<Bound<T>> {
    Ok(match bound {
        Bound::Included(value) => Bound::Included(parse(value)?),
        Bound::Excluded(value) => Bound::Excluded(parse(value)?),
        Bound::Unbounded => Bound::Unbounded,
    })
}

const KINDS: [PayloadKind; 6] = [
    PayloadKind::Keyword,
    PayloadKind::Integer,
    PayloadKind::Float,
    PayloadKind::Bool,
    PayloadKind::Datetime,
    PayloadKind::Text,
];

/// The kind's number on disk; never reassigned.
fn kind_tag(kind: PayloadKind) -> u8 {
    match kind {
        PayloadKind::Keyword => 1,
        PayloadKind::Integer => 2,
        PayloadKind::Float => 3,
        PayloadKind::Bool => 4,
        PayloadKind::Datetime => 5,
        PayloadKind::Text => 6,
        PayloadKind::Json => 7,
    }
}

/// Bytes of a section that do not hold a payload index.
fn damaged(what: impl ToString) -> Error {
    Error::Section { section: "payload".into(), what: what.to_string() }
}

#[cfg(test)]
mod tests;
