//! Answers that were given before: the same request on the same snapshot has the same answer.
//!
//! An answer is kept under everything that it depends on: collection, tenant, labels and all else of the
//! request, the last write and the last change of labels that its snapshot saw. Nothing is guessed: a
//! question that is merely alike is another question, and one word of another tenant's can never be in an
//! answer. After a write nothing older is found any more, and goes as room is needed.
//!
//! What goes is decided by GreedyDual-Size with frequency ([`gdsf`](crate::rag::kv::gdsf)): the time an
//! answer took counts for it, its bytes against it. What depends on a caller's model, on the clock or on
//! caches is not kept. Cost of a look: the request is written as JSON and hashed, some ten microseconds.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use spandrel_storage::FieldValue;

use super::request::{PostStage, RetrieveRequest};
use super::response::RetrieveResponse;
use crate::rag::kv::gdsf::{Gdsf, TierLimit, Tiers};
use crate::rag::kv::reuse::Load;
use crate::select::meter::StoppedBy;

/// Bytes that an answer takes besides its texts and vectors, for each chunk and at all.
const OVERHEAD_BYTES: u64 = 512;

/// Everything that an answer depends on.
pub struct Asked(Arc<str>);

impl Asked {
    /// What a request is kept under; none where its answer may differ the next time.
    pub fn new(
        (collection, last_row, label_changes): (u32, u64, u64),
        request: &RetrieveRequest,
    ) -> Option<Self> {
        let judged =
            |stage: &PostStage| matches!(stage, PostStage::Rerank { .. } | PostStage::RerankPairs { .. });
        let differs = request.dry_run
            || request.search.explain
            || request.assemble.kv.is_some()
            || request.select.context_scorer
            || request.post.iter().any(judged);
        if differs {
            return None;
        }
        let request = serde_json::to_string(request).ok()?;
        Some(Self(format!("{collection}/{last_row}/{label_changes}/{request}").into()))
    }
}

/// Kept answers, bounded.
pub struct ResultCache {
    budget_bytes: u64,
    kept: Mutex<Kept>,
}

struct Kept {
    ids: HashMap<Arc<str>, u64>,
    answers: HashMap<u64, (Arc<str>, Arc<RetrieveResponse>)>,
    places: Tiers<Gdsf>,
    next: u64,
}

impl ResultCache {
    /// One of so many bytes, about; 0 keeps nothing.
    pub fn new(budget_bytes: u64) -> Self {
        let limit = TierLimit { budget_bytes, load: Load { latency_us: 0.0, bytes_per_us: f64::INFINITY } };
        let kept =
            Kept { ids: HashMap::new(), answers: HashMap::new(), places: Tiers::new(&[limit]), next: 0 };
        Self { budget_bytes, kept: Mutex::new(kept) }
    }

    /// Whether anything is kept at all.
    pub fn is_on(&self) -> bool {
        self.budget_bytes > 0
    }

    /// The answer that was given before.
    pub fn find(&self, asked: &Asked) -> Option<Arc<RetrieveResponse>> {
        let mut kept = self.kept.lock();
        let id = *kept.ids.get(&asked.0)?;
        let cost_us = kept.places.item(id)?.0.cost_us;
        let mut changes = Vec::new();
        let answer = Arc::clone(&kept.answers.get(&id)?.1);
        kept.places.hit(id, cost_us, &mut changes);
        kept.forget(changes.into_iter().map(|change| change.id));
        Some(answer)
    }

    /// Keeps an answer that took so long.
    pub fn keep(&self, asked: Asked, answer: &RetrieveResponse, took_us: f64) {
        // The best by the clock is not the best there is.
        if answer.selection.stopped_by == Some(StoppedBy::Time) {
            return;
        }
        let size_bytes = bytes(&asked, answer);
        let mut kept = self.kept.lock();
        if size_bytes > self.budget_bytes || kept.ids.contains_key(&asked.0) {
            return;
        }
        let id = kept.next;
        kept.next += 1;
        let mut changes = Vec::new();
        if kept.places.insert(id, (size_bytes, took_us, 1), 0, &mut changes) {
            kept.ids.insert(Arc::clone(&asked.0), id);
            kept.answers.insert(id, (asked.0, Arc::new(answer.clone())));
        }
        kept.forget(changes.into_iter().map(|change| change.id));
    }

    /// Bytes and answers kept.
    pub fn size(&self) -> (u64, usize) {
        self.kept.lock().places.size(0).unwrap_or_default()
    }
}

impl Kept {
    fn forget(&mut self, gone: impl Iterator<Item = u64>) {
        for id in gone {
            if self.places.tier(id).is_none()
                && let Some((asked, _)) = self.answers.remove(&id)
            {
                self.ids.remove(&asked);
            }
        }
    }
}

/// What keeping an answer takes, about: its key twice, its texts, and the fields of its rows.
fn bytes(asked: &Asked, answer: &RetrieveResponse) -> u64 {
    let rows = answer.chunks.iter().map(|chunk| {
        let row = &chunk.hit.row;
        let fields: usize = row.fields.values().map(field_bytes).sum();
        (row.key.len() + fields) as u64 + OVERHEAD_BYTES
    });
    let rejected = answer.rejected.iter().map(|one| one.key.len() as u64 + OVERHEAD_BYTES / 8);
    let texts = (2 * asked.0.len() + answer.context.len()) as u64;
    texts + rows.sum::<u64>() + rejected.sum::<u64>() + OVERHEAD_BYTES
}

fn field_bytes(value: &FieldValue) -> usize {
    match value {
        FieldValue::Dense(vector) => 4 * vector.len(),
        FieldValue::Sparse(vector) => 8 * vector.dims.len(),
        FieldValue::Text(text) => text.len(),
        FieldValue::Payload(value) => serde_json::to_string(value).map_or(0, |text| text.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Route, SearchRequest};

    fn request(word: &str) -> RetrieveRequest {
        RetrieveRequest::new(SearchRequest::new(Route::text("body", word)), 10)
    }

    fn answer(context: &str) -> RetrieveResponse {
        RetrieveResponse { context: context.to_owned(), ..RetrieveResponse::default() }
    }

    #[test]
    fn an_answer_is_found_by_all_that_it_depends_on() {
        let cache = ResultCache::new(1 << 20);
        let asked = |at, request: &RetrieveRequest| Asked::new(at, request).unwrap();
        cache.keep(asked((1, 5, 0), &request("a")), &answer("x"), 100.0);
        let found =
            |at, request: &RetrieveRequest| cache.find(&asked(at, request)).map(|one| one.context.clone());
        assert_eq!(found((1, 5, 0), &request("a")).as_deref(), Some("x"));
        for at in [(2, 5, 0), (1, 6, 0), (1, 5, 1)] {
            assert_eq!(found(at, &request("a")), None);
        }
        assert_eq!(found((1, 5, 0), &request("b")), None);
        let mut other = request("a");
        other.search.tenant = "t".into();
        assert_eq!(found((1, 5, 0), &other), None);
        let mut labelled = request("a");
        labelled.search.labels = Some(vec!["l".into()]);
        assert_eq!(found((1, 5, 0), &labelled), None);
        let mut explained = request("a");
        explained.search.explain = true;
        assert!(Asked::new((1, 5, 0), &explained).is_none());
        let judged = request("a").post(PostStage::Rerank { depth: 3 });
        assert!(Asked::new((1, 5, 0), &judged).is_none());
    }

    #[test]
    fn room_is_bounded_and_what_took_long_stays() {
        let cache = ResultCache::new(20_000);
        let asked = |n: usize| Asked::new((1, 1, 1), &request(&format!("w{n}"))).unwrap();
        cache.keep(asked(0), &answer("dear"), 1e6);
        for n in 1..200 {
            cache.keep(asked(n), &answer(&"x".repeat(200)), 1.0);
            assert!(cache.size().0 <= 20_000);
        }
        assert!(cache.find(&asked(0)).is_some() && cache.find(&asked(1)).is_none());
        assert!(cache.size().1 > 3);
        let kept = cache.kept.lock();
        assert_eq!(kept.ids.len(), kept.answers.len());
        assert_eq!(kept.ids.len(), kept.places.len());
        drop(kept);
        let timed = RetrieveResponse {
            selection: super::super::response::SelectionReport {
                stopped_by: Some(StoppedBy::Time),
                ..Default::default()
            },
            ..answer("t")
        };
        cache.keep(asked(500), &timed, 9.0);
        assert!(cache.find(&asked(500)).is_none());
        let off = ResultCache::new(0);
        off.keep(asked(0), &answer("x"), 1.0);
        assert!(!off.is_on() && off.find(&asked(0)).is_none());
    }
}
