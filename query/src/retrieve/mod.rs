//! `retrieve`: the set of chunks worth most within a token budget, as one context.
//!
//! ```text
//! search (several routes and needs) -> as-if sample -> funnel -> post stages -> pool -> select -> assemble
//! ```
//!
//! Everything runs on one snapshot; where stages leave too few, the search is asked for more of the same.
//! Same request, snapshot and seed: same bytes, unless a cap on time ended the selection. What loses its
//! access labels while this runs is not in the answer: it is asked again of the newest snapshot when the
//! context is put together.

pub mod assemble;
pub mod candidate;
mod check;
pub mod configure;
mod estimate;
mod funnel;
pub mod kv;
mod neighbours;
pub mod pool;
pub mod post;
pub mod request;
pub mod response;
pub mod results;
pub mod shingles;
pub mod terms;

use std::sync::Arc;
use std::time::Instant;

use spandrel_index::stop::Stop;
use spandrel_storage::{FieldValue, Value};

use crate::error::Result;
use crate::rag::rerank::ContextScorer;
use crate::random::hashed_unit;
use crate::request::{K_MAX, SearchRequest};
use crate::response::{Explain, Hit, Short, Stage};
use crate::search::{Prepared, has_label, known_labels};
use crate::select::meter::Meter;
use crate::select::pool::{POOL_MAX, Pool};
use crate::select::reward::Reward;
use crate::select::{self, Ask, Method, Selection};
use crate::shared::Shared;
use crate::snapshot::Snapshot;

use assemble::{Block, Built};
use candidate::{Candidate, Ledger, Reason};
use check::Task;
pub use check::text_field_name;
use post::Surroundings;
use request::{PostStage, RetrieveRequest};
use response::{PackedChunk, RetrieveResponse, SelectionReport};
use results::Asked;

/// Largest token budget.
pub const BUDGET_TOKENS_MAX: usize = 1 << 20;
/// Longest separator in bytes.
pub const SEPARATOR_BYTES_MAX: usize = 1_024;
/// A retrieval is begun anew so often when rows that it found lose their labels while it runs.
const ACCESS_TRIES: usize = 3;

/// Searches, chooses and packs.
pub(crate) fn retrieve(shared: &Shared, request: &RetrieveRequest, stop: &Stop) -> Result<RetrieveResponse> {
    let called = Instant::now();
    let stop = &stop.by(request.search.timeout.and_then(|timeout| called.checked_add(timeout)));
    let task = Task::new(shared, request)?;
    if request.dry_run {
        return estimate::estimate(&task, stop);
    }
    let seen = || {
        let snapshot = shared.snapshot();
        (shared.id.0, snapshot.last_row.0, snapshot.label_changes)
    };
    let before = seen();
    let asked = shared.results.is_on().then(|| Asked::new(before, request)).flatten();
    if let Some(answer) = asked.as_ref().and_then(|asked| shared.results.find(asked)) {
        return Ok(RetrieveResponse::clone(&answer));
    }
    let prepared = Prepared::new(shared, &task.search, stop)?;
    let mut response = task.run(&prepared, (called, stop))?;
    for _ in 1..ACCESS_TRIES {
        if response.short != Some(Short::AccessLost) {
            break;
        }
        response = task.run(&prepared, (called, stop))?;
    }
    // Nothing was written meanwhile: it is the answer of the snapshot that it is kept under.
    if let Some(asked) = asked.filter(|_| seen() == before) {
        shared.results.keep(asked, &response, called.elapsed().as_secs_f64() * 1e6);
    }
    Ok(response)
}

/// What the search and the stages after it have found.
struct Found {
    candidates: Vec<Candidate>,
    short: Option<Short>,
    explain: Option<Explain>,
    rounds: u32,
}

impl Task<'_> {
    fn run(&self, prepared: &Prepared<'_>, (called, stop): (Instant, &Stop)) -> Result<RetrieveResponse> {
        let snapshot = self.shared.snapshot();
        let mut ledger = Ledger::default();
        let found = self.find(prepared, &snapshot, &mut ledger, stop)?;
        let Found { mut candidates, short, explain, rounds } = found;
        let mut clock = Clock { explain, last: Instant::now() };
        let considered = candidates.len();
        let pool = self.pool(&mut candidates, &mut ledger, stop)?;
        // Those without a text are gone; neighbours come behind the rest.
        let with_text = candidates.len();
        clock.stage("pool", (considered, pool.len()));
        let (selection, ask) = self.select(&pool, &candidates, stop)?;
        clock.stage(&format!("select ({})", ask.method.name()), (pool.len(), selection.items.len()));
        let mut chosen: Vec<usize> = selection.items.iter().map(|&at| usize::from(at)).collect();
        self.drop_lost(&snapshot, &candidates, &mut chosen, &mut ledger)?;
        let frame = self.frame(stop);
        let mut built = frame.build(&candidates, &mut chosen)?;
        if self.request.assemble.neighbours > 0 {
            built = neighbours::add(
                self,
                (&snapshot, prepared.tenant()),
                &frame,
                &mut candidates,
                chosen.clone(),
                built,
            )?;
        }
        let kv = kv::place(self, &frame, &candidates, &mut built)?;
        clock.stage(
            &format!("pack ({} tokens)", self.request.budget_tokens),
            (chosen.len(), built.blocks.len()),
        );
        self.explain_rest(&candidates[..with_text], &chosen, &built, &mut ledger);
        let report = self.report(&pool, &selection, &ask, &built);
        let explain =
            clock.explain.map(|explain| Explain { total_us: called.elapsed().as_micros() as u64, ..explain });
        Ok(self.respond(
            (candidates, with_text),
            built,
            ledger,
            RetrieveResponse {
                skipped: considered as u64,
                candidates: considered as u64,
                short,
                selection: report,
                rounds,
                kv,
                explain,
                ..RetrieveResponse::default()
            },
        ))
    }

    /// Candidates after all stages, from as many searches as it takes.
    fn find(
        &self,
        prepared: &Prepared<'_>,
        snapshot: &Arc<Snapshot>,
        ledger: &mut Ledger,
        stop: &Stop,
    ) -> Result<Found> {
        let k = self.request.search.k;
        let share = self.request.as_if.as_ref().map_or(1.0, |as_if| as_if.share);
        let (mut wanted, mut rounds) = (k, 0);
        // With some to spare, so that one search is mostly enough.
        let mut depth = if share < 1.0 { ((k as f64 / share * 1.2) as usize).saturating_add(8) } else { k };
        let most = self.request.depth_max.max(k).min(K_MAX - self.request.search.offset.min(K_MAX));
        loop {
            rounds += 1;
            depth = depth.clamp(1, most);
            *ledger = Ledger::default();
            let found =
                prepared.search(&SearchRequest { k: depth, ..self.search.clone() }, snapshot, stop)?;
            let exhausted = found.short.is_some() || depth == most;
            let mut candidates = self.candidates(found.hits);
            if let Some(as_if) = self.request.as_if.as_ref().filter(|as_if| as_if.share < 1.0) {
                let outside = |one: &Candidate| hashed_unit(as_if.seed, one.key().as_bytes()) >= as_if.share;
                candidates =
                    ledger.retain("as_if", candidates, |one| outside(one).then_some(Reason::NotSampled));
                if candidates.len() < wanted && !exhausted {
                    depth *= 2;
                    continue;
                }
                candidates.truncate(wanted);
            }
            let entered = candidates.len();
            candidates = self.stages(candidates, snapshot, (ledger, false), stop)?;
            if candidates.len() < self.request.survivors && !exhausted {
                wanted *= 2;
                depth *= 2;
                continue;
            }
            // What the caller asked for is there, unless the search said why not.
            let short = if entered >= k { None } else { found.short };
            return Ok(Found { candidates, short, explain: found.explain, rounds });
        }
    }

    /// Hits with their texts apart.
    fn candidates(&self, hits: Vec<Hit>) -> Vec<Candidate> {
        let candidate = |(at, mut hit): (usize, Hit)| {
            let mut take = |name: &str| {
                if self.fetched_only.iter().any(|only| only == name) {
                    hit.row.fields.remove(name)
                } else {
                    hit.row.fields.get(name).cloned()
                }
            };
            let values = self.values.iter().map(|name| take(name).as_ref().and_then(shown)).collect();
            let vector = self.vector_field.as_ref().and_then(|name| match take(name) {
                Some(FieldValue::Dense(vector)) => Some(vector),
                _ => None,
            });
            let text = match take(&self.text_field) {
                Some(FieldValue::Text(text)) => text,
                _ => String::new(),
            };
            let mut one = Candidate::new(hit, text, at + 1);
            (one.values, one.vector) = (values, vector);
            one
        };
        hits.into_iter().enumerate().map(candidate).collect()
    }

    fn stages(
        &self,
        mut candidates: Vec<Candidate>,
        snapshot: &Arc<Snapshot>,
        (ledger, alone): (&mut Ledger, bool),
        stop: &Stop,
    ) -> Result<Vec<Candidate>> {
        for level in self.request.funnel.iter().filter(|_| !alone) {
            candidates = funnel::narrow(level, candidates, &self.values, ledger);
        }
        let around = Surroundings {
            question: self.question,
            reranker: self.shared.components.reranker.as_deref(),
            fields: &self.values,
            lost: &|keys| self.lost(snapshot, keys),
            stop,
        };
        // A neighbour passes what looks at one candidate by itself.
        let stages = self.request.post.iter().filter(|stage| !alone || stage.looks_at_one());
        for stage in stages {
            candidates = stage.run(candidates, &around, ledger)?;
        }
        Ok(candidates)
    }

    /// Which candidates have lost the labels the search was made on behalf of, by now.
    fn lost(&self, snapshot: &Snapshot, keys: &[&str]) -> Vec<bool> {
        let none = vec![false; keys.len()];
        let (Some(names), Some(tenant)) = (&self.search.labels, self.shared.tenants.get(&self.search.tenant))
        else {
            return none;
        };
        let newest = self.shared.snapshot();
        if newest.label_changes == snapshot.label_changes {
            return none;
        }
        let labels = known_labels(self.shared, &self.shared.labels.known(names));
        let named: Vec<_> = keys.iter().map(|key| (tenant, *key)).collect();
        // What cannot be read cannot be shown either.
        let Ok(rows) = snapshot.store.lookup(self.shared.id, &named) else { return vec![true; keys.len()] };
        let lost = |row: Option<_>| !row.is_some_and(|row| has_label(&newest, &labels, (tenant, row)));
        rows.into_iter().map(lost).collect()
    }

    /// Leaves out of the chosen ones what has lost its labels.
    fn drop_lost(
        &self,
        snapshot: &Snapshot,
        candidates: &[Candidate],
        chosen: &mut Vec<usize>,
        ledger: &mut Ledger,
    ) -> Result<()> {
        let keys: Vec<&str> = chosen.iter().map(|&at| candidates[at].key()).collect();
        let mut lost = self.lost(snapshot, &keys).into_iter();
        let before = chosen.len();
        chosen.retain(|&at| {
            let lost = lost.next().unwrap_or(true);
            if lost {
                ledger.reject(&candidates[at], Reason::AccessLost);
            }
            !lost
        });
        if chosen.len() < before {
            ledger.note(PostStage::AccessRecheck.name(), before as u64, chosen.len());
        }
        Ok(())
    }

    /// The pool of what has a text; the rest is left out.
    fn pool(&self, candidates: &mut Vec<Candidate>, ledger: &mut Ledger, stop: &Stop) -> Result<Pool> {
        let entered = candidates.len();
        let mut kept = std::mem::take(candidates);
        kept.retain(|one| {
            if one.text.is_empty() {
                ledger.reject(one, Reason::NoText);
            }
            !one.text.is_empty()
        });
        if kept.len() < entered {
            ledger.note("text", entered as u64, kept.len());
        }
        *candidates = kept;
        let around = self.separator_tokens + self.request.select.overhead_tokens;
        let mut tokens = Vec::with_capacity(candidates.len().min(POOL_MAX));
        for one in candidates.iter().take(POOL_MAX) {
            stop.check()?;
            tokens.push((self.tokens_of(one) + around).min(u32::MAX as usize) as u32);
        }
        let parts = pool::Parts {
            tokens: &tokens,
            question: self.question.filter(|_| self.looks_at_words()),
            needs: (self.request.search.routes.len(), &self.request.needs),
            words: self.looks_at_words(),
            similarity: self.vector_field.is_some(),
        };
        Ok(pool::pool(candidates, &parts))
    }

    fn select(&self, pool: &Pool, candidates: &[Candidate], stop: &Stop) -> Result<(Selection, Ask)> {
        let ask = self.ask(pool, candidates)?;
        let select = &self.request.select;
        let time_out = select.time_max.and_then(|time| Instant::now().checked_add(time));
        let mut meter = Meter::new(select.evaluations_max, time_out, stop);
        let scorer = self.shared.components.context_scorer.as_deref();
        let reward = scorer.filter(|_| select.context_scorer).map(|scorer| Contexts {
            scorer,
            question: self.question.unwrap_or_default(),
            texts: candidates.iter().map(|one| &*one.text).collect(),
            stop,
        });
        let reward = reward.as_ref().map(|reward| reward as &dyn Reward);
        Ok((select::choose(pool, &ask, reward, &mut meter)?, ask))
    }

    /// Says of the best ranked that are not in the context why.
    fn explain_rest(&self, candidates: &[Candidate], chosen: &[usize], built: &Built, ledger: &mut Ledger) {
        let around = self.separator_tokens + self.request.select.overhead_tokens;
        let left = self.budget().saturating_sub(built.tokens + built.blocks.len() * around);
        for (at, one) in candidates.iter().enumerate() {
            let full = ledger.rejected.len() >= candidate::REJECTED_MAX;
            if full {
                break;
            }
            let in_context =
                chosen.contains(&at) || built.blocks.iter().any(|block| block.members.contains(&at));
            let named = ledger.rejected.iter().any(|rejected| rejected.key == one.key());
            if !in_context && !named {
                let excluded = self.request.select.exclude.iter().any(|key| key == one.key());
                let fits = || self.tokens_of(one) + around <= left;
                let reason = match excluded {
                    true => Reason::Excluded,
                    false if fits() => Reason::LowGain,
                    false => Reason::Budget,
                };
                ledger.reject(one, reason);
            }
        }
    }

    fn report(&self, pool: &Pool, selection: &Selection, ask: &Ask, built: &Built) -> SelectionReport {
        let diversity = pool::diversity(pool, &selection.items);
        SelectionReport {
            method: ask.method.name().to_owned(),
            value: selection.value,
            greedy_value: selection.greedy_value,
            bound: selection.bound,
            evaluations: selection.evaluations,
            stopped_by: Some(selection.stopped_by),
            redundancy: diversity.map(|(mean, _)| mean),
            vendi: diversity.map(|(_, vendi)| vendi),
            order: self.request.assemble.order,
            unused_tokens: self.budget().saturating_sub(built.tokens),
            seed: self.request.select.seed,
        }
    }

    fn respond(
        &self,
        (candidates, count): (Vec<Candidate>, usize),
        built: Built,
        ledger: Ledger,
        base: RetrieveResponse,
    ) -> RetrieveResponse {
        let key = |at: &usize| candidates[*at].key().to_owned();
        let merged = |block: &Block| match block.members.len() {
            1 => Vec::new(),
            _ => block.members.iter().map(key).collect::<Vec<String>>(),
        };
        let merged: Vec<Vec<String>> = built.blocks.iter().map(merged).collect();
        let mut hits: Vec<Option<Hit>> = candidates.into_iter().map(|one| Some(one.hit)).collect();
        let mut packed = 0;
        let mut chunks = Vec::with_capacity(built.blocks.len());
        for (block, merged_from) in built.blocks.into_iter().zip(merged) {
            packed += block.members.iter().filter(|at| **at < count).count() as u64;
            let Some(hit) = hits.get_mut(block.best).and_then(Option::take) else { continue };
            chunks.push(PackedChunk {
                hit,
                tokens: self.tokenizer.count(&block.text),
                context_span: block.span,
                rank: if block.best < count { block.best + 1 } else { 0 },
                merged_from,
                source_span: block.source,
            });
        }
        RetrieveResponse {
            context: built.context,
            tokens: built.tokens,
            chunks,
            skipped: base.candidates.saturating_sub(packed),
            rejected: ledger.rejected,
            stages: ledger.stages,
            ..base
        }
    }
}

/// A caller's scorer of contexts as a reward of sets.
struct Contexts<'a> {
    scorer: &'a dyn ContextScorer,
    question: &'a str,
    texts: Vec<&'a str>,
    stop: &'a Stop,
}

impl Reward for Contexts<'_> {
    fn score(&self, lists: &[&[u16]]) -> Result<Vec<f64>> {
        let texts = |list: &&[u16]| list.iter().map(|&at| self.texts[usize::from(at)]).collect();
        let contexts: Vec<Vec<&str>> = lists.iter().map(texts).collect();
        self.stop.check()?;
        self.scorer.score(self.question, &contexts, self.stop.deadline())
    }
}

/// A payload value as groups are named by.
fn shown(value: &FieldValue) -> Option<String> {
    match value {
        FieldValue::Payload(Value::String(text)) => Some(text.clone()),
        FieldValue::Payload(value) => serde_json::to_string(value).ok(),
        FieldValue::Text(text) => Some(text.clone()),
        _ => None,
    }
}

/// Notes how long stages take, where that was asked for.
struct Clock {
    explain: Option<Explain>,
    last: Instant,
}

impl Clock {
    fn stage(&mut self, name: &str, (rows_in, rows_out): (usize, usize)) {
        let Some(explain) = &mut self.explain else { return };
        let now = Instant::now();
        let time_us = now.duration_since(self.last).as_micros() as u64;
        self.last = now;
        let (rows_in, rows_out) = (rows_in as u64, rows_out as u64);
        explain.stages.push(Stage { name: name.to_owned(), rows_in, rows_out, time_us, ..Stage::default() });
    }
}

/// Whether a method looks at what candidates say.
fn looks_at_words(method: &Method) -> bool {
    matches!(method, Method::Submodular { .. } | Method::Mcts(_) | Method::Exact { .. })
}
