//! Ordered values of a field: integers, instants, booleans (0 and 1) and floats, each with its documents.
//!
//! Distinct values lie sorted in one array, 8 bytes each; equality and ranges are binary searches that
//! compare the stored number with the asked one exactly, whatever their types: no integer is rounded to a
//! float on the way. Build is one sort of `(value, document)` pairs.
//!
//! On disk: u64 n, n values of 8 bytes in ascending order (two's complement, or IEEE 754), then the lists.

use std::cmp::Ordering;
use std::ops::{Bound, Range};

use spandrel_storage::DocId;
use spandrel_storage::codec::{Decoder, Encoder};

use super::damaged;
use super::lists::DocLists;
use crate::error::Result;

/// A number that is asked for; never NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    /// An integer, an instant, or a boolean as 0 or 1.
    Integer(i64),
    /// A float, possibly infinite.
    Float(f64),
}

/// A stored number: `i64`, or finite `f64` without negative zero.
pub(super) trait Stored: Copy {
    /// A key whose order is that of the numbers.
    fn key(self) -> u64;
    /// The number of a key; none for keys that no stored number has.
    fn from_key(key: u64) -> Option<Self>;
    /// The number's eight bytes on disk.
    fn encode(self) -> u64;
    /// The number of eight bytes on disk; none for NaN, infinities and negative zero.
    fn decode(bits: u64) -> Option<Self>;
    /// Exact order of a stored and an asked number.
    fn compare(self, asked: Number) -> Ordering;
}

/// Turns the sign bit so that keys of integers order as unsigned.
const SIGN: u64 = 1 << 63;

impl Stored for i64 {
    fn key(self) -> u64 {
        self as u64 ^ SIGN
    }

    fn from_key(key: u64) -> Option<Self> {
        Some((key ^ SIGN) as i64)
    }

    fn encode(self) -> u64 {
        self as u64
    }

    fn decode(bits: u64) -> Option<Self> {
        Some(bits as i64)
    }

    fn compare(self, asked: Number) -> Ordering {
        match asked {
            Number::Integer(asked) => self.cmp(&asked),
            Number::Float(asked) => compare_exactly(self, asked),
        }
    }
}

impl Stored for f64 {
    fn key(self) -> u64 {
        let bits = self.to_bits();
        if bits & SIGN == 0 { bits | SIGN } else { !bits }
    }

    fn from_key(key: u64) -> Option<Self> {
        Self::decode(if key & SIGN == 0 { !key } else { key ^ SIGN })
    }

    fn encode(self) -> u64 {
        self.to_bits()
    }

    fn decode(bits: u64) -> Option<Self> {
        let number = f64::from_bits(bits);
        (number.is_finite() && bits != SIGN).then_some(number)
    }

    fn compare(self, asked: Number) -> Ordering {
        match asked {
            Number::Integer(asked) => compare_exactly(asked, self).reverse(),
            Number::Float(asked) => self.partial_cmp(&asked).expect("neither is NaN"),
        }
    }
}

/// Order of an integer and a float that is not NaN, with no rounding.
fn compare_exactly(integer: i64, float: f64) -> Ordering {
    // Both ends are powers of two and so exact: 2^63 is one more than the largest integer, -2^63 the
    // smallest.
    if float >= 9_223_372_036_854_775_808.0 {
        return Ordering::Less;
    }
    if float < -9_223_372_036_854_775_808.0 {
        return Ordering::Greater;
    }
    let whole = float.trunc();
    // The fraction of a negative float is negative: -2.5 is -2 and -0.5.
    integer.cmp(&(whole as i64)).then_with(|| 0.0.partial_cmp(&(float - whole)).expect("finite"))
}

/// Sorted distinct numbers and their documents.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Numbers<T> {
    values: Vec<T>,
    lists: DocLists,
}

impl<T: Stored> Numbers<T> {
    /// From `(key, document)` pairs in any order, distinct, fewer than 2^32; documents are smaller than
    /// `doc_count`.
    pub(super) fn build(mut pairs: Vec<(u64, DocId)>, doc_count: u32) -> Self {
        pairs.sort_unstable();
        let (mut values, mut starts) = (Vec::new(), Vec::new());
        let mut docs = Vec::with_capacity(pairs.len());
        let mut last = None;
        for (key, doc) in pairs {
            if last != Some(key) {
                last = Some(key);
                values.push(T::from_key(key).expect("keys are made from numbers"));
                starts.push(docs.len() as u32);
            }
            docs.push(doc);
        }
        starts.push(docs.len() as u32);
        Self { values, lists: DocLists::from_runs(starts, docs, doc_count) }
    }

    /// Documents by value.
    pub(super) fn lists(&self) -> &DocLists {
        &self.lists
    }

    /// The ordinals of the values within the bounds.
    pub(super) fn range(&self, lower: Bound<Number>, upper: Bound<Number>) -> Range<usize> {
        let before = |asked| self.values.partition_point(|value| value.compare(asked).is_lt());
        let through = |asked| self.values.partition_point(|value| value.compare(asked).is_le());
        let start = match lower {
            Bound::Included(asked) => before(asked),
            Bound::Excluded(asked) => through(asked),
            Bound::Unbounded => 0,
        };
        let end = match upper {
            Bound::Included(asked) => through(asked),
            Bound::Excluded(asked) => before(asked),
            Bound::Unbounded => self.values.len(),
        };
        start..end.max(start)
    }

    /// The ordinal of a value, as a range of at most one.
    pub(super) fn equal(&self, asked: Number) -> Range<usize> {
        self.range(Bound::Included(asked), Bound::Included(asked))
    }

    /// Bytes of memory in use.
    pub(super) fn memory_bytes(&self) -> usize {
        self.values.capacity() * 8 + self.lists.memory_bytes()
    }

    /// Appends the layout in the module's head.
    pub(super) fn write(&self, out: &mut Encoder) {
        out.u64(self.values.len() as u64);
        for value in &self.values {
            out.u64(value.encode());
        }
        self.lists.write(out);
    }

    /// Reads what [`Self::write`] wrote.
    ///
    /// # Errors
    /// [`Error::Section`](crate::Error::Section) for values that do not ascend and for damaged lists.
    pub(super) fn read(bytes: &mut Decoder<'_>) -> Result<Self> {
        let count = bytes.u64("value count").map_err(damaged)?;
        let len = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(8);
        let raw = bytes.take(len, "values").map_err(damaged)?;
        let values: Option<Vec<T>> =
            raw.as_chunks::<8>().0.iter().map(|bits| T::decode(u64::from_le_bytes(*bits))).collect();
        let values = values.ok_or_else(|| damaged("a stored number is not finite"))?;
        let lists = DocLists::read(bytes)?;
        if lists.len() != values.len() || !values.is_sorted_by(|a, b| a.key() < b.key()) {
            return Err(damaged("stored numbers do not ascend, one a document list"));
        }
        Ok(Self { values, lists })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_floats_compare_exactly() {
        let limit = 1i64 << 53;
        let cases = [
            (limit + 1, limit as f64, Ordering::Greater),
            (limit, limit as f64, Ordering::Equal),
            (limit - 1, limit as f64, Ordering::Less),
            (i64::MAX, i64::MAX as f64, Ordering::Less),
            (i64::MIN, i64::MIN as f64, Ordering::Equal),
            (i64::MIN, -1e300, Ordering::Greater),
            (i64::MAX, f64::INFINITY, Ordering::Less),
            (i64::MIN, f64::NEG_INFINITY, Ordering::Greater),
            (2, 2.5, Ordering::Less),
            (3, 2.5, Ordering::Greater),
            (-2, -2.5, Ordering::Greater),
            (-3, -2.5, Ordering::Less),
            (0, -0.0, Ordering::Equal),
            (0, f64::MIN_POSITIVE, Ordering::Less),
            (0, -f64::MIN_POSITIVE, Ordering::Greater),
        ];
        for (integer, float, expected) in cases {
            assert_eq!(compare_exactly(integer, float), expected, "{integer} {float}");
            assert_eq!(integer.compare(Number::Float(float)), expected);
            assert_eq!(float.compare(Number::Integer(integer)), expected.reverse());
        }
    }

    #[test]
    fn keys_order_as_numbers_do() {
        let integers = [i64::MIN, -5, -1, 0, 1, 5, i64::MAX];
        assert!(integers.is_sorted_by(|a, b| a.key() < b.key()));
        assert!(integers.iter().all(|n| i64::from_key(n.key()) == Some(*n)));
        let floats = [f64::MIN, -1.5, -f64::MIN_POSITIVE, -5e-324, 0.0, 5e-324, 1.5, f64::MAX];
        assert!(floats.is_sorted_by(|a, b| a.key() < b.key()));
        assert!(floats.iter().all(|n| f64::from_key(n.key()) == Some(*n)));
        assert_eq!(<f64 as Stored>::decode((-0.0f64).to_bits()), None);
        assert_eq!(<f64 as Stored>::decode(f64::NAN.to_bits()), None);
    }
}
