//! What is asked of whom: rows that belong to tenants or pass filters, and questions to some of them.

use std::path::Path;

use rayon::prelude::*;
use serde::Deserialize;
use spandrel::{Filter, Metric, Row};

use crate::dataset::{self, Matrix};
use crate::engine::VECTOR;
use crate::exact::Exact;
use crate::random::Random;
use crate::tenants::labels;
use crate::{Error, Result};

/// The payload field that filters test: a list of words a row.
pub const WORDS: &str = "words";
/// The class of what is asked without a filter.
pub const UNFILTERED: &str = "none";
/// Shares of the rows that pass a filter.
const SHARES: [f64; 6] = [0.0001, 0.001, 0.01, 0.1, 0.5, 1.0];
/// Queries around which filters are drawn that have to do with where rows lie.
const ANCHORS: usize = 16;
/// Seeds of what is drawn.
const TENANT_SEED: u64 = 11;
const FILTER_SEED: u64 = 12;

/// Rows, and questions to parts of them.
pub struct Workload {
    /// What it is called.
    pub name: String,
    /// The tenant of each row; empty where all are the default tenant's.
    tenant_of: Vec<u32>,
    /// The words of each row.
    words: Vec<Vec<String>>,
    /// The labels of each row.
    labels: Vec<Vec<String>>,
    /// What can be asked.
    pub scopes: Vec<Scope>,
    /// Questions: the query, and the scope.
    pub asks: Vec<(u32, u32)>,
}

/// A part of the rows that can be asked.
#[derive(Clone, Default)]
pub struct Scope {
    /// Scopes of one class are reported together.
    pub class: String,
    pub tenant: String,
    pub filter: Option<Filter>,
    pub labels: Option<Vec<String>>,
    /// The rows, ascending.
    pub rows: Vec<u32>,
}

impl Workload {
    /// The workload of this name: `uniform:TENANTS`, `zipf:TENANTS`, `groups:FILE`, `labels:FILE`, `filters`
    /// or, with some shares of the rows alone, `filters:SHARE,...`.
    pub fn named(name: &str, base: &Matrix, queries: &Matrix, asks: usize, metric: Metric) -> Result<Self> {
        let (kind, value) = name.split_once(':').unwrap_or((name, ""));
        let count = || -> Result<usize> {
            let count = value.parse().ok().filter(|count| (1..=base.rows()).contains(count));
            count.ok_or_else(|| format!("{name}: a number of 1 to {} tenants", base.rows()).into())
        };
        let rows = base.rows();
        match kind {
            "uniform" => Ok(Self::exclusive(name, uniform(rows, count()?), queries.rows(), asks)),
            "zipf" => Ok(Self::exclusive(name, zipf(rows, count()?), queries.rows(), asks)),
            "groups" => Ok(Self::exclusive("groups", groups(Path::new(value), rows)?, queries.rows(), asks)),
            "labels" => Self::labelled(&labels::read(Path::new(value), rows)?, queries.rows(), asks),
            "filters" => Ok(Self::filters(name, &shares(value)?, base, queries, asks, metric)),
            _ => Err(format!("no workload is called '{name}'").into()),
        }
    }

    /// Every row is one tenant's, and tenants ask as often as they have rows.
    fn exclusive(name: &str, tenant_of: Vec<u32>, queries: usize, asks: usize) -> Self {
        let tenants = tenant_of.iter().max().map_or(0, |last| *last as usize + 1);
        let mut rows_of = vec![Vec::new(); tenants];
        (0..).zip(&tenant_of).for_each(|(row, tenant)| rows_of[*tenant as usize].push(row));
        let scopes = (0..).zip(rows_of).map(|(tenant, rows)| {
            let class = class_of(rows.len());
            Scope { class, tenant: tenant_name(tenant), rows, ..Scope::default() }
        });
        let mut random = Random(TENANT_SEED);
        let draw = |at: usize| ((at % queries) as u32, tenant_of[random.below(tenant_of.len())]);
        let (scopes, asks) = (scopes.collect(), (0..asks).map(draw).collect());
        Self { name: name.to_owned(), tenant_of, words: Vec::new(), labels: Vec::new(), scopes, asks }
    }

    /// Rows have the labels that `labels` says, and are asked on behalf of one, as often as it has rows.
    fn labelled(labels: &[Vec<u32>], queries: usize, asks: usize) -> Result<Self> {
        let count = labels.iter().flatten().max().map_or(0, |last| *last as usize + 1);
        let mut rows_of = vec![Vec::new(); count];
        (0..)
            .zip(labels)
            .for_each(|(row, of)| of.iter().for_each(|label| rows_of[*label as usize].push(row)));
        let all: Vec<u32> = labels.iter().flatten().copied().collect();
        if all.is_empty() {
            return Err("no row has a label".into());
        }
        let scopes = (0..).zip(rows_of).map(|(label, rows)| Scope {
            class: class_of(rows.len()),
            labels: Some(vec![label_name(label)]),
            rows,
            ..Scope::default()
        });
        let mut random = Random(TENANT_SEED);
        let draw = |at: usize| ((at % queries) as u32, all[random.below(all.len())]);
        let (scopes, asks) = (scopes.collect(), (0..asks).map(draw).collect());
        let labels = labels.iter().map(|of| of.iter().map(|label| label_name(*label)).collect()).collect();
        Ok(Self { name: "labels".into(), tenant_of: Vec::new(), words: Vec::new(), labels, scopes, asks })
    }

    /// One tenant, and filters of every share of the rows: drawn at random, or the rows nearest to a query,
    /// asked by those near to that or by those far from it.
    fn filters(
        name: &str,
        shares: &[f64],
        base: &Matrix,
        queries: &Matrix,
        asks: usize,
        metric: Metric,
    ) -> Self {
        let (rows, mut random) = (base.rows(), Random(FILTER_SEED));
        let mut order: Vec<u32> = (0..rows as u32).collect();
        (1..rows).rev().for_each(|at| order.swap(at, random.below(at + 1)));
        let anchors: Vec<usize> = (0..ANCHORS.min(queries.rows())).collect();
        let near = |of: &Matrix, anchor: usize| -> Vec<u32> {
            let anchor = Exact::new(queries.row(anchor));
            let score = |at: u32| anchor.score(&Exact::new(of.row(at as usize)), metric);
            let mut scored: Vec<(f64, u32)> =
                (0..of.rows() as u32).into_par_iter().map(|at| (score(at), at)).collect();
            scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            scored.into_iter().map(|(_, at)| at).collect()
        };
        let rows_near: Vec<Vec<u32>> = anchors.iter().map(|anchor| near(base, *anchor)).collect();
        let queries_near: Vec<Vec<u32>> = anchors.iter().map(|anchor| near(queries, *anchor)).collect();
        let mut made = Filters { words: vec![Vec::new(); rows], scopes: Vec::new(), asks: Vec::new() };
        let each = (asks / (3 * shares.len())).max(1);
        for &share in shares {
            let (count, percent) = (((rows as f64 * share).round() as usize).max(1), share * 100.0);
            let all = (0..each).map(|at| (at % queries.rows()) as u32);
            let filter = made.filter(&format!("any-{percent}"), &order[..count]);
            made.ask(format!("{percent}% independent"), filter, all);
            for (anchor, of) in rows_near.iter().enumerate() {
                let (part, near) = (each.div_ceil(rows_near.len()), &queries_near[anchor]);
                let filter = made.filter(&format!("near{anchor}-{percent}"), &of[..count]);
                made.ask(format!("{percent}% near"), filter.clone(), near.iter().take(part).copied());
                made.ask(format!("{percent}% far"), filter, near.iter().rev().take(part).copied());
            }
        }
        let all = (None, (0..rows as u32).collect());
        made.ask(UNFILTERED.into(), all, (0..each).map(|at| (at % queries.rows()) as u32));
        let Filters { words, scopes, asks: mut questions } = made;
        // In turn, so that none has the caches to itself.
        (1..questions.len()).rev().for_each(|at| questions.swap(at, random.below(at + 1)));
        Self {
            name: name.to_owned(),
            tenant_of: Vec::new(),
            words,
            labels: Vec::new(),
            scopes,
            asks: questions,
        }
    }

    /// A row of the base as it is written.
    pub fn row(&self, at: usize, vector: &[f32]) -> Row {
        let mut row = Row::new(at.to_string()).dense(VECTOR, vector.to_vec());
        if let Some(tenant) = self.tenant_of.get(at) {
            row.tenant = tenant_name(*tenant);
        }
        if let Some(words) = self.words.get(at).filter(|words| !words.is_empty()) {
            let words = words.iter().map(|word| word.as_str().into()).collect();
            row = row.payload(WORDS, spandrel::Value::List(words));
        }
        if let Some(labels) = self.labels.get(at) {
            row.labels = labels.iter().cloned().collect();
        }
        row
    }

    /// How rows and questions belong together: `tenants`, `labels` or `filters`.
    pub fn kind(&self) -> &'static str {
        match (self.tenant_of.is_empty(), self.labels.is_empty()) {
            (false, _) => "tenants",
            (true, false) => "labels",
            (true, true) => "filters",
        }
    }

    /// Its name as that of a folder.
    pub fn folder(&self) -> String {
        self.name.replace(|char: char| !char.is_ascii_alphanumeric() && char != '.', "-")
    }

    /// Whether rows have words.
    pub fn has_words(&self) -> bool {
        !self.words.is_empty()
    }

    /// The exact scores of the `k` best of each question.
    pub fn truth(&self, base: &Matrix, queries: &Matrix, metric: Metric, k: usize) -> Vec<Vec<f64>> {
        let rows: Vec<Exact> = (0..base.rows()).into_par_iter().map(|at| Exact::new(base.row(at))).collect();
        let best = |(query, scope): &(u32, u32)| {
            let query = Exact::new(queries.row(*query as usize));
            let of = &self.scopes[*scope as usize].rows;
            let mut scores: Vec<f64> =
                of.iter().map(|row| query.score(&rows[*row as usize], metric)).collect();
            scores.sort_unstable_by(|a, b| b.total_cmp(a));
            scores.truncate(k);
            scores
        };
        self.asks.par_iter().map(best).collect()
    }
}

/// Filters and questions so far.
struct Filters {
    words: Vec<Vec<String>>,
    scopes: Vec<Scope>,
    asks: Vec<(u32, u32)>,
}

/// A filter, and the rows that pass.
type Passing = (Option<Filter>, Vec<u32>);

impl Filters {
    /// A word for these rows.
    fn filter(&mut self, word: &str, rows: &[u32]) -> Passing {
        let mut rows = rows.to_vec();
        rows.sort_unstable();
        rows.iter().for_each(|row| self.words[*row as usize].push(word.to_owned()));
        (Some(Filter::Equals { field: WORDS.to_owned(), value: word.into() }), rows)
    }

    fn ask(&mut self, class: String, (filter, rows): Passing, queries: impl Iterator<Item = u32>) {
        let scope = self.scopes.len() as u32;
        self.asks.extend(queries.map(|query| (query, scope)));
        self.scopes.push(Scope { class, filter, rows, ..Scope::default() });
    }
}

/// The shares of the rows that are named, or all.
fn shares(named: &str) -> Result<Vec<f64>> {
    if named.is_empty() {
        return Ok(SHARES.to_vec());
    }
    let share = |text: &str| {
        let known = SHARES.into_iter().find(|share| text.parse() == Ok(*share));
        known.ok_or_else(|| Error::from(format!("filters:{text}: known shares are {SHARES:?}")))
    };
    named.split(',').map(share).collect()
}

/// Scopes of so many rows, by powers of four.
fn class_of(rows: usize) -> String {
    format!("{}+ rows", 1_usize << (rows.max(1).ilog2() / 2 * 2))
}

fn label_name(label: u32) -> String {
    format!("label-{label}")
}

fn tenant_name(tenant: u32) -> String {
    format!("tenant-{tenant:06}")
}

/// As many rows for each, in random order.
fn uniform(rows: usize, tenants: usize) -> Vec<u32> {
    let mut random = Random(TENANT_SEED);
    let mut tenant_of: Vec<u32> = (0..rows).map(|row| (row % tenants) as u32).collect();
    (1..rows).rev().for_each(|at| tenant_of.swap(at, random.below(at + 1)));
    tenant_of
}

/// The t-th tenant has a share of the rows that is proportional to 1 / t.
fn zipf(rows: usize, tenants: usize) -> Vec<u32> {
    let mut random = Random(TENANT_SEED);
    let mut sums = Vec::with_capacity(tenants);
    let total = (1..=tenants).fold(0.0, |sum, tenant| {
        sums.push(sum + 1.0 / tenant as f64);
        sum + 1.0 / tenant as f64
    });
    let draw = |_| {
        let at = random.next() as f64 / u64::MAX as f64 * total;
        sums.partition_point(|sum| *sum < at).min(tenants - 1) as u32
    };
    (0..rows).map(draw).collect()
}

/// The rows of a file of JSON lines, by their titles.
fn groups(path: &Path, rows: usize) -> Result<Vec<u32>> {
    #[derive(Deserialize)]
    struct Line {
        title: String,
    }
    let lines: Vec<Line> = dataset::json_lines(path)?;
    if lines.len() != rows {
        return Err(Error::from(format!("{} has {} lines for {rows} rows", path.display(), lines.len())));
    }
    let mut titles = std::collections::HashMap::new();
    let number = |line: Line| {
        let next = titles.len() as u32;
        *titles.entry(line.title).or_insert(next)
    };
    Ok(lines.into_iter().map(number).collect())
}
