//! Builds the index of one payload field: checks each value against the field's kind, then sorts once.
//!
//! Memory while building: 8 to 16 bytes a value and each distinct string once. `O(n log n)` over `n` values
//! for numbers, `O(n + d log d)` over `d` distinct strings for keywords and words.

use spandrel_storage::{DocId, PayloadKind, Value};

use super::keyword::Keywords;
use super::number::{Number, Numbers, Stored};
use super::predicate::{article, keyword, number, wrong_value};
use super::words::WordsBuilder;
use super::{PayloadIndex, Values, lists};
use crate::error::{Error, Result};
use crate::intern::{Interner, hash};

/// Most values of one field in one segment, all lists together.
const VALUES_MAX: usize = u32::MAX as usize;

/// Collects the values of one payload field in document order.
#[derive(Debug)]
pub struct PayloadIndexBuilder {
    kind: PayloadKind,
    exists: Vec<DocId>,
    values: Collected,
}

#[derive(Debug)]
enum Collected {
    Keyword {
        strings: Interner,
        pairs: Vec<(u32, DocId)>,
    },
    /// Pairs of a number's key and a document.
    Number(Vec<(u64, DocId)>),
    Text(WordsBuilder),
}

impl PayloadIndexBuilder {
    /// An empty builder.
    ///
    /// # Errors
    /// [`Error::Invalid`] for json, which has no index.
    pub fn new(kind: PayloadKind) -> Result<Self> {
        let values = match kind {
            PayloadKind::Keyword => Collected::Keyword { strings: Interner::default(), pairs: Vec::new() },
            PayloadKind::Text => Collected::Text(WordsBuilder::new()),
            PayloadKind::Json => return Err(Error::Invalid("a json field has no index".into())),
            _ => Collected::Number(Vec::new()),
        };
        Ok(Self { kind, exists: Vec::new(), values })
    }

    /// Adds the value of `doc`, one value or a list; documents ascend, those without the field are left out.
    ///
    /// An integer in a float field is stored as the nearest float; negative zero as zero. An empty list is no
    /// value.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the value does not fit the kind, when documents do not ascend, or when the
    /// field has more than 2^32 - 1 values; nothing of the value is kept then.
    pub fn push(&mut self, doc: DocId, value: &Value) -> Result<()> {
        let elements = value.elements();
        for element in elements {
            self.check(element)?;
        }
        if elements.is_empty() {
            return Ok(());
        }
        if self.exists.last().is_some_and(|last| *last >= doc) || doc == u32::MAX {
            return Err(Error::Invalid(format!("document {doc} does not follow the one before it")));
        }
        match &mut self.values {
            Collected::Keyword { strings, pairs } => {
                let from = pairs.len();
                for element in elements {
                    let string = keyword(element)?.as_bytes();
                    pairs.push((strings.intern(hash(string), string), doc));
                }
                dedup_from(pairs, from);
            }
            Collected::Number(pairs) => {
                let from = pairs.len();
                for element in elements {
                    pairs.push((key(self.kind, number(self.kind, element)?), doc));
                }
                dedup_from(pairs, from);
            }
            Collected::Text(words) => {
                for element in elements {
                    words.push(doc, keyword(element)?);
                }
            }
        }
        self.exists.push(doc);
        Ok(())
    }

    fn check(&self, element: &Value) -> Result<()> {
        let len = match &self.values {
            Collected::Keyword { pairs, .. } => pairs.len(),
            Collected::Number(pairs) => pairs.len(),
            Collected::Text(words) => words.len(),
        };
        if len >= VALUES_MAX {
            let message = format!("{} field has more than {VALUES_MAX} values a segment", article(self.kind));
            return Err(Error::Invalid(message));
        }
        let fits = match (self.kind, element) {
            (PayloadKind::Keyword | PayloadKind::Text, Value::String(_)) => true,
            (PayloadKind::Integer, Value::Integer(_)) => true,
            (PayloadKind::Float, Value::Float(float)) => float.is_finite(),
            (PayloadKind::Float, Value::Integer(_)) => true,
            (PayloadKind::Bool | PayloadKind::Datetime, value) => {
                return number(self.kind, value).map(|_| ());
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(wrong_value(self.kind, element)) }
    }

    /// The index of what was pushed.
    pub fn finish(self) -> PayloadIndex {
        let doc_count = self.exists.last().map_or(0, |last| last + 1);
        let values = match (self.values, self.kind) {
            (Collected::Keyword { strings, pairs }, _) => {
                Values::Keyword(Keywords::build(&strings, pairs, doc_count))
            }
            (Collected::Number(pairs), PayloadKind::Float) => Values::Float(Numbers::build(pairs, doc_count)),
            (Collected::Number(pairs), _) => Values::Integer(Numbers::build(pairs, doc_count)),
            (Collected::Text(words), _) => Values::Text(words.finish(doc_count)),
        };
        PayloadIndex { kind: self.kind, doc_count, exists: lists::sorted_bitmap(&self.exists), values }
    }
}

/// The sort key under which a number of a field of this kind is stored.
fn key(kind: PayloadKind, value: Number) -> u64 {
    match (kind, value) {
        // Adding zero turns negative zero into zero.
        (PayloadKind::Float, Number::Float(float)) => (float + 0.0).key(),
        (PayloadKind::Float, Number::Integer(integer)) => (integer as f64).key(),
        (_, Number::Integer(integer)) => integer.key(),
        (_, Number::Float(_)) => unreachable!("checked: only float fields hold floats"),
    }
}

/// Removes repeated pairs of one document, those from `from` on.
pub(super) fn dedup_from<T: Ord + Copy>(pairs: &mut Vec<T>, from: usize) {
    if pairs.len() - from < 2 {
        return;
    }
    pairs[from..].sort_unstable();
    let mut kept = from + 1;
    for at in from + 1..pairs.len() {
        if pairs[at] != pairs[kept - 1] {
            pairs[kept] = pairs[at];
            kept += 1;
        }
    }
    pairs.truncate(kept);
}
