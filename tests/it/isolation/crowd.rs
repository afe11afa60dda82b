//! The tenants of the test of isolation: what each wrote and deleted, by when, and what its rows look like.
//!
//! A tenant's rows are numbered, written in order and deleted in order, so that four counters say which rows
//! a search may have seen and which it must have seen. What a row holds follows from its tenant and number.
//! Every third vector, every second text and key are those of all tenants; the other vectors are near.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use spandrel::{Collection, FieldValue, Filter, Metric, PayloadKind, Row, Schema, SparseVector, Value};

use crate::rng::Rng;

pub const DIM: usize = 16;
const POINTS: usize = 256;
/// What keys begin with: other tenants' names, and what could be taken for ids or separators.
const PREFIXES: [&str; 12] = ["", "a", "aa", "\0", "a\0", "0", "t1", "\u{1}\0\0\0", "ä", "日本", "/", "s/1"];

pub fn schema() -> Schema {
    Schema::new()
        .text("body")
        .dense("v", DIM as u32, Metric::L2)
        .sparse("terms")
        .payload("owner", PayloadKind::Keyword)
        .payload("n", PayloadKind::Integer)
        .payload("class", PayloadKind::Integer)
}

/// Names that are prefixes of each other, look like ids, hold NULs, differ in case or in normal form only.
fn names(count: usize) -> Vec<String> {
    let mut names: Vec<String> = [
        "",
        "\0",
        "\0\0",
        "a",
        "aa",
        "aaa",
        "a\0",
        "a\0a",
        "A",
        "a ",
        " a",
        "0",
        "00",
        "1",
        "01",
        "-1",
        "t",
        "t1/",
        "/",
        "//",
        "..",
        "*",
        "%",
        "a/s/2",
        "ä",
        "a\u{308}",
        "Ä",
        "日本",
        "日本語",
        "\u{10FFFF}",
        "\u{1}\0\0\0",
        "\0\0\0\u{1}",
        "null",
        "default",
        "owner",
    ]
    .map(str::to_owned)
    .to_vec();
    names.extend([255, 256].map(|length| "x".repeat(length)));
    names.extend((0..).map(|at| format!("t{at}")).take(count.saturating_sub(names.len())));
    names
}

/// What a search may find and has to find.
pub struct Bounds {
    /// Rows that were there at some moment of the search.
    pub maybe: Range<u64>,
    /// Rows that were there all the time.
    pub sure: Range<u64>,
    /// Rows that may have had the label `pass` at its end.
    pub pass: Range<u64>,
}

/// What was acknowledged before a search began.
#[derive(Clone, Copy)]
pub struct Before {
    lost: u64,
    written: u64,
    revoked: u64,
}

/// A tenant. One thread writes, any number reads.
pub struct Member {
    pub id: usize,
    pub name: String,
    /// How many rows it has when it is left alone.
    pub size: u64,
    lost: AtomicU64,
    losing: AtomicU64,
    written: AtomicU64,
    writing: AtomicU64,
    revoked: AtomicU64,
    granting: AtomicU64,
}

impl Member {
    fn new(id: usize, name: String, size: u64) -> Self {
        // Rows that tenants hold have different numbers, and many in common.
        let first = id as u64 % 10 * 100;
        let at = || AtomicU64::new(first);
        let [lost, losing, written, writing, revoked, granting] = [at(), at(), at(), at(), at(), at()];
        Self { id, name, size, lost, losing, written, writing, revoked, granting }
    }

    pub fn rows(&self) -> u64 {
        self.written.load(SeqCst) - self.lost.load(SeqCst)
    }

    /// To be called before a search.
    pub fn before(&self) -> Before {
        let [lost, written, revoked] = [&self.lost, &self.written, &self.revoked].map(|at| at.load(SeqCst));
        Before { lost, written, revoked }
    }

    /// To be called after it.
    pub fn bounds(&self, before: Before) -> Bounds {
        let [losing, writing, granting] =
            [&self.losing, &self.writing, &self.granting].map(|at| at.load(SeqCst));
        Bounds {
            maybe: before.lost..writing,
            sure: losing..before.written.max(losing),
            pass: before.revoked..granting,
        }
    }

    /// A key of this tenant, or, for an even number, of every tenant.
    pub fn key(&self, n: u64) -> String {
        let prefix = PREFIXES[n as usize % PREFIXES.len()];
        if n.is_multiple_of(2) { format!("{prefix}/s/{n}") } else { format!("{prefix}/{}/{n}", self.id) }
    }

    fn keys(&self, rows: Range<u64>) -> Vec<String> {
        rows.map(|n| self.key(n)).collect()
    }

    /// The next rows, for an upsert by the caller, which then calls [`Member::wrote`].
    pub fn next_rows(&self, crowd: &Crowd, count: u64) -> Vec<Row> {
        let from = self.written.load(SeqCst);
        self.writing.store(from + count, SeqCst);
        (from..from + count).map(|n| crowd.row(self, n)).collect()
    }

    pub fn wrote(&self) {
        self.written.store(self.writing.load(SeqCst), SeqCst);
    }

    /// Deletes its first rows, by key or by filter.
    pub fn shrink(&self, collection: &Collection, count: u64, by_filter: bool) {
        let from = self.lost.load(SeqCst);
        let to = (from + count).min(self.written.load(SeqCst));
        self.losing.store(to, SeqCst);
        let deleted = match by_filter {
            true => {
                let [gt, gte, lte] = [None, None, None];
                let below =
                    spandrel::Filter::Range { field: "n".into(), gt, gte, lt: Some((to as i64).into()), lte };
                collection.delete_by_filter(&self.name, &below).unwrap()
            }
            false => collection.delete(&self.name, &self.keys(from..to)).unwrap(),
        };
        assert_eq!(deleted.rows, to - from, "rows deleted of '{}'", self.name);
        self.lost.store(to, SeqCst);
    }

    /// Drops the tenant.
    pub fn drop_all(&self, collection: &Collection) {
        let to = self.written.load(SeqCst);
        self.losing.store(to, SeqCst);
        assert_eq!(collection.drop_tenant(&self.name).unwrap().rows, to - self.lost.load(SeqCst));
        self.lost.store(to, SeqCst);
    }

    /// Writes some of its rows again, as they are.
    pub fn replace(&self, crowd: &Crowd, collection: &Collection, rng: &mut Rng) {
        let (lost, rows) = (self.lost.load(SeqCst), self.rows());
        let count = rows.min(1 + rng.below(30) as u64);
        let from = lost + rng.below((rows - count + 1) as usize) as u64;
        collection.upsert((from..from + count).map(|n| crowd.row(self, n)).collect()).unwrap();
    }

    /// Names another tenant's rows, which none of this tenant's calls may touch.
    pub fn meddle(&self, collection: &Collection, other: &Member) {
        if self.id == other.id {
            return;
        }
        let (lost, rows) = (other.lost.load(SeqCst), other.rows().min(60));
        let keys: Vec<String> =
            (lost..lost + rows).filter(|n| !n.is_multiple_of(2)).map(|n| other.key(n)).collect();
        let (own, foreign) = (format!("only {}", self.id), format!("only {}", other.id));
        let all = Filter::Equals { field: "owner".into(), value: (*other.name).into() };
        let touched = [
            collection.grant(&self.name, &keys, &[own]),
            collection.revoke(&self.name, &keys, std::slice::from_ref(&foreign)),
            collection.delete(&self.name, &keys),
            collection.delete_by_filter(&self.name, &Filter::Keys(keys)),
            collection.delete_by_filter(&self.name, &Filter::Labels(vec![foreign])),
            collection.delete_by_filter(&self.name, &all),
        ];
        let touched = touched.map(|written| written.unwrap().rows);
        assert_eq!(touched, [0; 6], "'{}' changed rows of '{}'", self.name, other.name);
    }

    /// Gives the label `pass` to the next rows.
    pub fn grant(&self, collection: &Collection, count: u64) {
        let from = self.granting.load(SeqCst).max(self.lost.load(SeqCst));
        let to = (from + count).min(self.written.load(SeqCst)).max(from);
        self.granting.store(to, SeqCst);
        collection.grant(&self.name, &self.keys(from..to), &["pass".to_owned()]).unwrap();
    }

    /// Takes it from the first that have it.
    pub fn revoke(&self, collection: &Collection, count: u64) {
        let from = self.revoked.load(SeqCst);
        let to = (from + count).min(self.granting.load(SeqCst));
        collection.revoke(&self.name, &self.keys(from..to), &["pass".to_owned()]).unwrap();
        self.revoked.store(to, SeqCst);
    }
}

/// All tenants.
pub struct Crowd {
    pub members: Vec<Member>,
    points: Vec<Vec<f32>>,
}

impl Crowd {
    /// So many tenants: the last few without rows, the ones before with the sizes given, others small.
    pub fn new(rng: &mut Rng, count: usize, sizes: &[u64]) -> Self {
        let mut names = names(count);
        // Which names are large ones', and in which order tenants get their ids.
        for at in (1..names.len()).rev() {
            names.swap(at, rng.below(at + 1));
        }
        let size = |at: usize| match count - 1 - at {
            0..4 => 0,
            from_end => sizes.get(from_end - 4).copied().unwrap_or(1 + (at as u64 * at as u64) % 37),
        };
        let members = names.into_iter().enumerate().map(|(at, name)| Member::new(at, name, size(at)));
        Self { members: members.collect(), points: (0..POINTS).map(|_| rng.vector(DIM)).collect() }
    }

    /// The vector of a row.
    pub fn vector(&self, member: &Member, n: u64) -> Vec<f32> {
        let point = &self.points[n as usize % POINTS];
        if n.is_multiple_of(3) {
            return point.clone();
        }
        let mut rng = Rng::new((member.id as u64) << 32 ^ n);
        point.iter().map(|element| element + 0.05 * rng.unit()).collect()
    }

    /// Something to look for: near the rows with some number, of all tenants, or right on them.
    pub fn query(&self, rng: &mut Rng) -> Vec<f32> {
        let (point, noise) = (rng.pick(&self.points), *rng.pick(&[0.0, 0.02, 0.5]));
        point.iter().map(|element| element + noise * rng.unit()).collect()
    }

    /// A row: a function of tenant and number.
    pub fn row(&self, member: &Member, n: u64) -> Row {
        Row::new(member.key(n))
            .tenant(&*member.name)
            .text("body", body(member, n))
            .dense("v", self.vector(member, n))
            .sparse("terms", sparse(n))
            .payload("owner", &*member.name)
            .payload("n", n as i64)
            .payload("class", (n % 7) as i64)
            .label(format!("team {}", n % 4))
            .label(format!("only {}", member.id))
    }
}

/// Words of a row; an odd one has a word that no other tenant has.
pub fn body(member: &Member, n: u64) -> String {
    let (a, b) = (n % 13, n % 29);
    if n.is_multiple_of(2) {
        format!("common w{a} w{b}")
    } else {
        format!("common w{a} w{b} own{}", member.id)
    }
}

pub fn has_word(n: u64, word: u64) -> bool {
    n % 13 == word || n % 29 == word
}

/// The same for all tenants.
pub fn sparse(n: u64) -> SparseVector {
    SparseVector { dims: vec![(n % 31) as u32, 40 + (n % 23) as u32], weights: vec![1.0, 0.5] }
}

/// The number in a key.
pub fn number(key: &str) -> u64 {
    key.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("'{key}' is no key"))
}

/// A payload value of a row.
pub fn payload<'a>(row: &'a Row, field: &str) -> &'a Value {
    match &row.fields[field] {
        FieldValue::Payload(value) => value,
        other => panic!("{other:?}"),
    }
}
