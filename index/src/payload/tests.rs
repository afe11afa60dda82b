//! Every predicate over random values against a walk over those values; round trips; damaged bytes.

use std::cmp::Ordering;
use std::ops::{Bound, Range};

use spandrel_storage::DocId;

use super::*;
use crate::text::Analyzer;

/// A small seeded generator (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

const ALL: Range<DocId> = 0..DocId::MAX;

/// The documents that pass, as a list.
fn select(index: &PayloadIndex, predicate: Predicate<'_>) -> Vec<DocId> {
    index.select(&predicate, ALL).unwrap().iter().collect()
}

const KEYWORDS: [&str; 14] =
    ["", "a", "A", "ab", "abc", "abd", "b", "ä", "äb", "日本", "日本語", "z", "zz", "\u{10FFFF}"];
const TEXTS: [&str; 8] = [
    "",
    "... --- ...",
    "The red car",
    "a blue car and a red bike",
    "Red red RED",
    "Straße und Überfahrt",
    "bike",
    "日本 car",
];
const INTEGERS: [i64; 12] =
    [i64::MIN, i64::MIN + 1, -(1 << 53) - 1, -3, -1, 0, 1, 2, 1 << 53, (1 << 53) + 1, i64::MAX - 1, i64::MAX];
const FLOATS: [f64; 14] = [
    f64::MIN,
    -9_223_372_036_854_775_808.0,
    -2.5,
    -1.0,
    -0.0,
    0.0,
    5e-324,
    0.5,
    1.0,
    2.5,
    9_007_199_254_740_992.0,
    9_223_372_036_854_775_808.0,
    1e300,
    f64::MAX,
];

fn value(kind: PayloadKind, asked: bool, random: &mut Random) -> Value {
    match kind {
        PayloadKind::Keyword => Value::from(random.pick(&KEYWORDS)),
        PayloadKind::Text => Value::from(random.pick(&TEXTS)),
        PayloadKind::Bool => Value::Bool(random.below(3) == 0),
        PayloadKind::Datetime if random.below(3) == 0 => {
            Value::from(datetime::format(random.below(5) as i64 * 1_000_000).unwrap())
        }
        PayloadKind::Datetime => Value::Integer(random.below(5) as i64 * 1_000_000),
        PayloadKind::Integer if asked && random.below(3) == 0 => Value::Float(random.pick(&FLOATS)),
        PayloadKind::Float if random.below(3) > 0 => Value::Float(random.pick(&FLOATS)),
        _ if random.below(2) == 0 => Value::Integer(random.below(2000) as i64 - 1000),
        _ => Value::Integer(random.pick(&INTEGERS)),
    }
}

/// Exact order of two values as a reader would define it; numbers through 128-bit and the float's own digits.
fn compare(kind: PayloadKind, stored: &Value, asked: &Value) -> Ordering {
    let instant = |value: &Value| match value {
        Value::String(text) => Value::Integer(datetime::parse_rfc3339(text).unwrap()),
        other => other.clone(),
    };
    match (kind, stored, asked) {
        (PayloadKind::Datetime, stored, asked) => match (instant(stored), instant(asked)) {
            (Value::Integer(stored), Value::Integer(asked)) => stored.cmp(&asked),
            other => panic!("{other:?}"),
        },
        (PayloadKind::Float, Value::Integer(stored), asked) => {
            compare(kind, &Value::Float(*stored as f64), asked)
        }
        (_, Value::String(stored), Value::String(asked)) => stored.as_bytes().cmp(asked.as_bytes()),
        (_, Value::Bool(stored), Value::Bool(asked)) => stored.cmp(asked),
        (_, Value::Integer(stored), Value::Integer(asked)) => stored.cmp(asked),
        (_, Value::Float(stored), Value::Float(asked)) => stored.partial_cmp(asked).unwrap(),
        (_, Value::Integer(stored), Value::Float(asked)) => by_digits(*stored, *asked),
        (_, Value::Float(stored), Value::Integer(asked)) => by_digits(*asked, *stored).reverse(),
        other => panic!("{other:?}"),
    }
}

/// Order of an integer and a float from the float's exact decimal digits.
fn by_digits(integer: i64, float: f64) -> Ordering {
    let digits = format!("{float:.1100}");
    let (whole, fraction) = digits.split_once('.').unwrap();
    let negative = whole.starts_with('-');
    let whole: i128 =
        if whole.len() > 30 { if negative { i128::MIN } else { i128::MAX } } else { whole.parse().unwrap() };
    let fraction = fraction.bytes().any(|digit| digit != b'0');
    i128::from(integer).cmp(&whole).then(match (fraction, negative) {
        (false, _) => Ordering::Equal,
        (true, false) => Ordering::Less,
        (true, true) => Ordering::Greater,
    })
}

fn passes(kind: PayloadKind, stored: &Value, predicate: &Predicate<'_>) -> bool {
    let words = |text: &str| {
        let mut words = Vec::new();
        Analyzer::plain().each(text, |word| words.push(word.to_owned()));
        words
    };
    stored.elements().iter().any(|stored| match predicate {
        Predicate::Exists => true,
        Predicate::Equals(asked) => compare(kind, stored, asked).is_eq(),
        Predicate::AnyOf(asked) => asked.iter().any(|asked| compare(kind, stored, asked).is_eq()),
        Predicate::Range { lower, upper } => {
            let above = match lower {
                Bound::Included(asked) => compare(kind, stored, asked).is_ge(),
                Bound::Excluded(asked) => compare(kind, stored, asked).is_gt(),
                Bound::Unbounded => true,
            };
            let below = match upper {
                Bound::Included(asked) => compare(kind, stored, asked).is_le(),
                Bound::Excluded(asked) => compare(kind, stored, asked).is_lt(),
                Bound::Unbounded => true,
            };
            above && below
        }
        Predicate::Prefix(prefix) => matches!(stored, Value::String(stored) if stored.starts_with(prefix)),
        Predicate::Matches(text) => match stored {
            Value::String(stored) => {
                let (stored, asked) = (words(stored), words(text));
                !asked.is_empty() && asked.iter().all(|word| stored.contains(word))
            }
            other => panic!("{other:?}"),
        },
    })
}

fn bounded<'a>(value: &'a Value, random: &mut Random) -> Bound<&'a Value> {
    match random.below(3) {
        0 => Bound::Included(value),
        1 => Bound::Excluded(value),
        _ => Bound::Unbounded,
    }
}

fn build(kind: PayloadKind, docs: &[Option<Value>]) -> PayloadIndex {
    let mut builder = PayloadIndexBuilder::new(kind).unwrap();
    for (doc, value) in docs.iter().enumerate() {
        if let Some(value) = value {
            builder.push(doc as DocId, value).unwrap();
        }
    }
    builder.finish()
}

fn docs(kind: PayloadKind, count: usize, lists: bool, random: &mut Random) -> Vec<Option<Value>> {
    let mut docs = Vec::new();
    for _ in 0..count {
        docs.push(match random.below(8) {
            0 => None,
            1 if lists => {
                Some(Value::List((0..random.below(4)).map(|_| value(kind, false, random)).collect()))
            }
            _ => Some(value(kind, false, random)),
        });
    }
    docs
}

fn check_against_walk(index: &PayloadIndex, docs: &[Option<Value>], predicate: &Predicate<'_>, lists: bool) {
    let kind = index.kind();
    let expected: RoaringBitmap = docs
        .iter()
        .enumerate()
        .filter(|(_, value)| value.as_ref().is_some_and(|value| passes(kind, value, predicate)))
        .map(|(doc, _)| doc as DocId)
        .collect();
    assert_eq!(index.select(predicate, ALL).unwrap(), expected, "{kind:?} {predicate:?}");
    let count = docs.len() as DocId;
    for part in [0..count, 0..count / 2, count / 3..count / 3 + 9, count..count + 5, 3..3] {
        let mut cut = expected.clone();
        cut.remove_range(..part.start);
        cut.remove_range(part.end..);
        assert_eq!(index.select(predicate, part.clone()).unwrap(), cut, "{kind:?} {predicate:?} in {part:?}");
    }
    let estimate = index.estimate(predicate).unwrap();
    let exact = !lists && !matches!(predicate, Predicate::Matches(_));
    assert!(estimate >= expected.len(), "{kind:?} {predicate:?}: {estimate} < {}", expected.len());
    assert!(!exact || estimate == expected.len(), "{kind:?} {predicate:?}: {estimate} != {}", expected.len());
}

#[test]
fn every_predicate_agrees_with_a_walk_over_the_values() {
    for seed in 0..40 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let kind = KINDS[seed as usize % KINDS.len()];
        let lists = seed % 2 == 0;
        let count = [0, 1, 50, 700, 4000][random.below(5)];
        let docs = docs(kind, count, lists, &mut random);
        let index = build(kind, &docs);
        let bytes = index.encode();
        let read = PayloadIndex::read(&bytes).unwrap();
        assert_eq!(read, index);
        for round in 0..30 {
            let (one, two) = (value(kind, true, &mut random), value(kind, true, &mut random));
            let some: Vec<Value> = (0..random.below(6)).map(|_| value(kind, true, &mut random)).collect();
            let range =
                Predicate::Range { lower: bounded(&one, &mut random), upper: bounded(&two, &mut random) };
            let string = if kind == PayloadKind::Text { random.pick(&TEXTS) } else { random.pick(&KEYWORDS) };
            let predicates = [
                Predicate::Exists,
                Predicate::Equals(&one),
                Predicate::AnyOf(&some),
                range,
                Predicate::Prefix(string),
                Predicate::Matches(string),
            ];
            let index = if round % 2 == 0 { &index } else { &read };
            for predicate in predicates.iter().filter(|predicate| predicate.check(kind).is_ok()) {
                check_against_walk(index, &docs, predicate, lists);
            }
        }
    }
}

#[test]
fn large_integers_are_not_rounded() {
    let exact = (1i64 << 53) + 1;
    let equals = |index: &PayloadIndex, value: Value| select(index, Predicate::Equals(&value));
    let index = build(PayloadKind::Integer, &[Some(exact.into()), Some((exact - 1).into())]);
    assert_eq!(equals(&index, Value::Float((exact - 1) as f64)), [1]);
    let lower = Bound::Excluded(&Value::Float((exact - 1) as f64));
    assert_eq!(select(&index, Predicate::Range { lower, upper: Bound::Unbounded }), [0]);
    // A float field holds the nearest float and says so: the odd integer itself is not in it.
    let index = build(PayloadKind::Float, &[Some(exact.into()), Some(Value::Float(-0.0))]);
    assert!(equals(&index, exact.into()).is_empty());
    assert_eq!(equals(&index, (exact - 1).into()), [0]);
    assert_eq!(equals(&index, 0.into()), [1]);
    assert_eq!(equals(&index, Value::Float(0.0)), [1]);
}

#[test]
fn a_text_list_passes_only_when_one_text_has_all_words() {
    let list = Value::from(vec!["red car", "blue bike"]);
    let index = build(PayloadKind::Text, &[Some(list), Some("blue car".into()), None]);
    let matches = |text| select(&index, Predicate::Matches(text));
    assert_eq!(matches("Car, RED"), [0]);
    assert_eq!(matches("blue"), [0, 1]);
    assert!(matches("red bike").is_empty());
    assert!(matches("?!").is_empty());
    assert_eq!(index.exists(), &RoaringBitmap::from([0, 1]));
}

#[test]
fn values_of_documents_without_the_field_are_damage() {
    for (kind, value) in [(PayloadKind::Integer, Value::from(7)), (PayloadKind::Text, "seven".into())] {
        let mut index = build(kind, &[Some(value.clone()), Some(value)]);
        assert!(PayloadIndex::read(&index.encode()).is_ok());
        index.exists.remove(0);
        let message = PayloadIndex::read(&index.encode()).unwrap_err().to_string();
        assert!(message.contains("do not have the field"), "{message}");
    }
}

#[test]
fn wrong_questions_are_refused_with_what_to_do() {
    let word = Value::from("x");
    let number = Value::from(3);
    let nan = Value::Float(f64::NAN);
    let list = Value::from(vec![3]);
    let cases: [(PayloadKind, Predicate<'_>, &str); 11] = [
        (
            PayloadKind::Keyword,
            Predicate::Equals(&number),
            "a keyword field takes strings, got a value of type",
        ),
        (
            PayloadKind::Keyword,
            Predicate::Matches("x"),
            "a keyword field takes equals, any of, range, prefix",
        ),
        (PayloadKind::Integer, Predicate::Equals(&word), "an integer field takes integers"),
        (PayloadKind::Integer, Predicate::Equals(&list), "got a value of type list"),
        (PayloadKind::Integer, Predicate::Prefix("3"), "not prefix"),
        (PayloadKind::Float, Predicate::Equals(&nan), "got the float NaN"),
        (PayloadKind::Bool, Predicate::Equals(&number), "a bool field takes true and false"),
        (
            PayloadKind::Bool,
            Predicate::Range { lower: Bound::Unbounded, upper: Bound::Unbounded },
            "not range",
        ),
        (PayloadKind::Datetime, Predicate::Equals(&word), "RFC 3339 text such as 2026-02-28T09:30:00Z"),
        (PayloadKind::Text, Predicate::Equals(&word), "a text field takes matches and exists, not equals"),
        (PayloadKind::Json, Predicate::Exists, "never filtered"),
    ];
    for (kind, predicate, part) in cases {
        let message = predicate.check(kind).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
        if let Ok(builder) = PayloadIndexBuilder::new(kind) {
            assert_eq!(builder.finish().select(&predicate, ALL).unwrap_err().to_string(), message);
        }
    }
    assert!(PayloadIndexBuilder::new(PayloadKind::Json).is_err());
}

#[test]
fn wrong_values_are_refused_and_leave_nothing_behind() {
    let cases = [
        (PayloadKind::Keyword, Value::from(1)),
        (PayloadKind::Integer, Value::Float(1.0)),
        (PayloadKind::Float, Value::Float(f64::NAN)),
        (PayloadKind::Float, Value::Float(f64::INFINITY)),
        (PayloadKind::Bool, Value::from(1)),
        (PayloadKind::Datetime, Value::from("yesterday")),
        (PayloadKind::Datetime, Value::Float(1.0)),
        (PayloadKind::Text, Value::Bool(true)),
    ];
    for (kind, wrong) in cases {
        let mut builder = PayloadIndexBuilder::new(kind).unwrap();
        let list = Value::List(vec![value(kind, false, &mut Random(1)), wrong.clone()]);
        assert!(builder.push(0, &wrong).is_err(), "{kind:?} {wrong:?}");
        assert!(builder.push(0, &list).is_err());
        assert!(builder.finish().exists().is_empty());
    }
    let mut builder = PayloadIndexBuilder::new(PayloadKind::Bool).unwrap();
    builder.push(4, &true.into()).unwrap();
    assert!(builder.push(4, &true.into()).is_err());
    assert!(builder.push(u32::MAX, &true.into()).is_err());
}

#[test]
fn damaged_bytes_are_an_error_or_an_index_but_never_a_panic() {
    for kind in KINDS {
        let mut random = Random(9);
        let docs = docs(kind, 1500, true, &mut random);
        let bytes = build(kind, &docs).encode();
        for end in 0..bytes.len().min(300) {
            assert!(PayloadIndex::read(&bytes[..end]).is_err());
        }
        assert!(PayloadIndex::read(&bytes[..bytes.len() - 1]).is_err());
        for round in 0..600 {
            let mut damaged = bytes.clone();
            let at = if round < 200 { round % damaged.len() } else { random.below(damaged.len()) };
            damaged[at] ^= 1 << random.below(8);
            if round % 3 == 0 {
                let at = random.below(damaged.len());
                damaged[at] = 0xFF;
            }
            if let Ok(index) = PayloadIndex::read(&damaged) {
                let (one, two) = (value(kind, true, &mut random), value(kind, true, &mut random));
                let range = Predicate::Range { lower: Bound::Included(&one), upper: Bound::Excluded(&two) };
                for predicate in
                    [Predicate::Equals(&one), range, Predicate::Prefix("a"), Predicate::Matches("car")]
                {
                    let _ = (index.select(&predicate, ALL), index.estimate(&predicate));
                }
            }
        }
    }
}
