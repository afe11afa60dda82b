//! Questions put to a collection: how long each took and what it found, judged once the memory was read.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};
use spandrel::{Collection, SearchRequest};

use super::class::{ALL, Class};
use super::workload::Workload;
use super::{Args, dump};
use crate::Result;
use crate::dataset::Matrix;
use crate::engine::row_of;
use crate::exact::Exact;
use crate::report::{self, Row};
use crate::tenants::search_for;

/// Relative slack on the last true score.
const SLACK: f64 = 1e-6;
/// Of so many questions one is explained.
const EXPLAINED_EVERY: usize = 16;
/// Stands for a hit that was not found.
const NONE: u32 = u32::MAX;

/// The questions of a workload and their answers. Its memory is taken when it is made: what the process
/// grows by later is the engine's.
pub struct Asked {
    requests: Vec<SearchRequest>,
    /// Rows found, k a question.
    found: Vec<u32>,
    times_us: Vec<f64>,
    /// Of those that were explained: bytes read, codes and vectors scored, and the time that was expected by
    /// the time that the plans took.
    work: Vec<(u64, u64, Option<f64>)>,
}

impl Asked {
    /// The questions, not asked yet.
    pub fn new(args: &Args, workload: &Workload, queries: &Matrix) -> Self {
        let request = |(query, scope): &(u32, u32)| {
            let scope = &workload.scopes[*scope as usize];
            SearchRequest {
                tenant: scope.tenant.clone(),
                filter: scope.filter.clone(),
                labels: scope.labels.clone(),
                rescore: !args.no_rescore,
                ..search_for(queries.row(*query as usize), (args.k, args.recall))
            }
        };
        let requests: Vec<SearchRequest> = workload.asks.iter().map(request).collect();
        // Written to, not only reserved.
        let (found, times_us) = (vec![NONE; requests.len() * args.k], vec![f64::NAN; requests.len()]);
        Self { requests, found, times_us, work: Vec::new() }
    }

    /// Asks them all, one after the other: once before the clock starts, as peers were asked when they were
    /// tuned, and once more.
    ///
    /// # Errors
    /// The engine's; it answers with a row that was not written.
    pub fn ask(&mut self, collection: &Collection) -> Result<()> {
        for request in &self.requests {
            collection.search(request)?;
        }
        for (at, request) in self.requests.iter().enumerate() {
            // A caller has just made it: it does not wait in memory for its turn.
            let request = &request.clone();
            let begin = Instant::now();
            let answer = collection.search(request)?;
            self.times_us[at] = begin.elapsed().as_secs_f64() * 1e6;
            for (to, hit) in self.found[at * request.k..].iter_mut().zip(&answer.hits) {
                *to = row_of(&hit.row.key)?;
            }
        }
        Ok(())
    }

    /// Has every sixteenth of them explained.
    ///
    /// # Errors
    /// The engine's.
    pub fn explain(&mut self, collection: &Collection, workload: &Workload, print: bool) -> Result<()> {
        let mut printed = std::collections::BTreeSet::new();
        for (at, request) in self.requests.iter().enumerate().step_by(EXPLAINED_EVERY) {
            let explained = collection.search(&SearchRequest { explain: true, ..request.clone() })?.explain;
            let stages = explained.map(|explain| explain.stages).unwrap_or_default();
            let sum = |of: fn(&spandrel::Stage) -> u64| stages.iter().map(of).sum();
            let plans = || stages.iter().flat_map(|stage| &stage.plans);
            let estimate: Option<f32> = plans().map(|plan| plan.estimate_us).sum();
            let took: f32 = plans().map(|plan| plan.time_us).sum();
            let ratio = estimate
                .filter(|estimate| *estimate > 0.0 && took > 0.0)
                .map(|estimate| f64::from(estimate / took));
            self.work.push((sum(|stage| stage.read_bytes), sum(|stage| stage.scored), ratio));
            let class = &workload.scopes[workload.asks[at].1 as usize].class;
            if print && printed.insert(class) {
                println!("{} {class}: {stages:?}", workload.name);
            }
        }
        Ok(())
    }

    /// A row of figures for each class, by the rows of its scopes, and for all questions; `shared` figures
    /// are in each.
    ///
    /// # Errors
    /// A row was found that is not of the scope asked; the truth that is named is of other questions.
    pub fn judge(
        self,
        args: &Args,
        workload: &Workload,
        base: &Matrix,
        queries: &Matrix,
        shared: &Value,
    ) -> Result<Vec<Row>> {
        let truth = match &args.truth {
            Some(folder) => dump::truth(folder, workload, args.k)?,
            None => workload.truth(base, queries, args.metric, args.k),
        };
        let mut classes: BTreeMap<&str, Class> = BTreeMap::new();
        for (at, (query, scope)) in workload.asks.iter().enumerate() {
            let (scope, truth) = (&workload.scopes[*scope as usize], &truth[at]);
            let query = Exact::new(queries.row(*query as usize));
            let floor = truth.last().map_or(f64::NEG_INFINITY, |last| last - SLACK * last.abs());
            let mut found = self.found[at * args.k..][..args.k].to_vec();
            found.sort_unstable();
            found.dedup();
            let (mut hits, mut good) = (0, 0);
            for row in found.iter().filter(|row| **row != NONE) {
                if scope.rows.binary_search(row).is_err() {
                    let what = format!("row {row} was found that is not of {}", scope.class);
                    return Err(format!("{}: {what}", workload.name).into());
                }
                let score = query.score(&Exact::new(base.row(*row as usize)), args.metric);
                (hits, good) = (hits + 1, good + usize::from(score >= floor));
            }
            let work =
                at.is_multiple_of(EXPLAINED_EVERY).then(|| self.work.get(at / EXPLAINED_EVERY)).flatten();
            for name in [scope.class.as_str(), ALL] {
                if !classes.contains_key(name) {
                    classes.insert(name, Class::new()?);
                }
                let Some(class) = classes.get_mut(name) else { continue };
                class.add(scope.rows.len(), self.times_us[at], hits, good.min(truth.len()), truth.len());
                if let Some((read_bytes, scored, ratio)) = work {
                    class.add_work(*read_bytes, *scored, *ratio);
                }
            }
        }
        let mut classes: Vec<(&str, Class)> = classes.into_iter().collect();
        classes.sort_by(|(name, class), (other_name, other)| {
            let key = |name: &str, class: &Class| (name == ALL, class.rows_mean());
            let ((last, rows), (other_last, other_rows)) = (key(name, class), key(other_name, other));
            last.cmp(&other_last).then(rows.total_cmp(&other_rows))
        });
        let row = |(name, class): (&str, Class)| {
            let mut row = report::row(json!({"workload": workload.name, "class": name}))?;
            row.extend(class.figures());
            row.extend(report::row(shared)?);
            Ok(row)
        };
        classes.into_iter().map(row).collect()
    }
}
