//! What queries teach: how far searches of a segment have to go for the recall that is asked for.
//!
//! When a segment is built that is measured on its own vectors. Queries can be of another kind (questions
//! where the vectors are passages), so a sample of those that are asked is kept in memory, and when there are
//! enough of them the maintainer measures each large segment again, by them. What comes of it is part of the
//! [view](crate::snapshot::View) and of the manifest; the queries themselves are never written anywhere.
//!
//! Cost: a search adds to one counter; every sixteenth copies its vector. Memory: [`KEPT`] vectors a field.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use spandrel_index::Matrix;
use spandrel_index::dense::Learned;
use spandrel_storage::codec::{Decoder, Encoder, Truncated};
use spandrel_storage::{Field, FieldId, FieldKind, Schema};

use crate::error::Result;
use crate::publish;
use crate::shared::Shared;
use crate::snapshot::View;

/// Queries that are kept of a field: the newest.
const KEPT: usize = 512;
/// One in so many is kept, once there are enough.
const SAMPLED: u64 = 16;
/// Fewer are not enough to measure by.
const KEPT_MIN: usize = 256;
/// A segment is measured when so many queries were seen, and again when there were times as many.
const SEEN_MIN: u64 = 512;
const SEEN_GROWTH: u64 = 8;

/// A sample of the queries on each dense field.
pub(crate) struct Asked {
    fields: Vec<Option<Queries>>,
}

struct Queries {
    seen: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// `count x dim`.
    values: Vec<f32>,
    count: usize,
    /// Where the next one goes, when there are enough.
    next: usize,
}

impl Asked {
    /// Nothing was asked yet; nothing will be kept unless it `is_wanted`.
    pub fn new(schema: &Schema, is_wanted: bool) -> Self {
        let queries = || Queries { seen: AtomicU64::new(0), kept: Mutex::default() };
        let dense = |kind: &FieldKind| is_wanted && matches!(kind, FieldKind::Dense(_));
        Self { fields: schema.fields.iter().map(|field| dense(&field.kind).then(queries)).collect() }
    }

    /// Notes a query on a field.
    #[inline]
    pub fn note(&self, field: FieldId, query: &[f32]) {
        if let Some(Some(queries)) = self.fields.get(usize::from(field.0)) {
            let seen = queries.seen.fetch_add(1, Ordering::Relaxed);
            if seen < KEPT as u64 || seen.is_multiple_of(SAMPLED) {
                queries.keep(query);
            }
        }
    }

    /// How many were seen on a field.
    fn seen(&self, field: FieldId) -> u64 {
        let queries = self.fields.get(usize::from(field.0)).and_then(Option::as_ref);
        queries.map_or(0, |queries| queries.seen.load(Ordering::Relaxed))
    }

    /// How many are kept.
    fn kept(&self, field: FieldId) -> usize {
        let queries = self.fields.get(usize::from(field.0)).and_then(Option::as_ref);
        queries.map_or(0, |queries| queries.kept.lock().count)
    }

    /// Those that are kept, one after the other.
    fn queries(&self, field: FieldId) -> Vec<f32> {
        let queries = self.fields.get(usize::from(field.0)).and_then(Option::as_ref);
        queries.map_or(Vec::new(), |queries| queries.kept.lock().values.clone())
    }
}

impl Queries {
    fn keep(&self, query: &[f32]) {
        // No search waits for another.
        let Some(mut kept) = self.kept.try_lock() else { return };
        if kept.count < KEPT {
            kept.values.extend_from_slice(query);
            kept.count += 1;
        } else {
            let next = kept.next;
            kept.values[next * query.len()..][..query.len()].copy_from_slice(query);
            kept.next = (next + 1) % KEPT;
        }
    }
}

/// What was learned about one segment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lessons {
    /// By field, and how many queries had been seen then.
    fields: Vec<(FieldId, u64, Learned)>,
}

impl Lessons {
    /// What was learned about a field.
    pub fn of(&self, field: FieldId) -> Option<&Learned> {
        self.fields.iter().find(|(id, ..)| *id == field).map(|(.., learned)| learned)
    }

    fn seen(&self, field: FieldId) -> u64 {
        self.fields.iter().find(|(id, ..)| *id == field).map_or(0, |(_, seen, _)| *seen)
    }

    fn set(&mut self, field: FieldId, seen: u64, learned: Learned) {
        self.fields.retain(|(id, ..)| *id != field);
        self.fields.push((field, seen, learned));
    }

    /// The bytes for the manifest. How many queries were seen is not among them: those of another process are
    /// not counted.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Encoder::default();
        bytes.u32(self.fields.len() as u32);
        for (field, _, learned) in &self.fields {
            bytes.u16(field.0).bytes(&learned.encode());
        }
        bytes.finish()
    }

    /// Reads those bytes; nothing was learned where they are of another build.
    pub fn decode(bytes: &[u8]) -> Self {
        let read = |mut bytes: Decoder<'_>| -> std::result::Result<Self, Truncated> {
            let mut lessons = Self::default();
            for _ in 0..bytes.u32("lessons")? {
                let field = FieldId(bytes.u16("field")?);
                if let Some(learned) = Learned::decode(bytes.bytes("lesson")?) {
                    lessons.set(field, 0, learned);
                }
            }
            Ok(lessons)
        };
        read(Decoder::new(bytes)).unwrap_or_default()
    }
}

/// A segment to be measured.
struct Due<'a> {
    view: &'a View,
    field: FieldId,
    dim: usize,
    seen: u64,
}

/// The next segment that is to be measured by the queries there are, and on which field.
fn due<'a>(shared: &Shared, views: &'a [View]) -> Option<Due<'a>> {
    let dense = |(at, field): (usize, &Field)| match &field.kind {
        FieldKind::Dense(spec) => Some((FieldId(at as u16), spec.dim as usize)),
        _ => None,
    };
    shared.schema.fields.iter().enumerate().filter_map(dense).find_map(|(field, dim)| {
        let seen = shared.asked.seen(field);
        if seen < SEEN_MIN || shared.asked.kept(field) < KEPT_MIN {
            return None;
        }
        let is_due = |view: &&View| {
            let cells = view.segment.dense(field).is_some_and(|index| index.kind() == "cells");
            view.segment.on_disk() && cells && seen >= SEEN_GROWTH * view.lessons.seen(field)
        };
        views.iter().find(is_due).map(|view| Due { view, field, dim, seen })
    })
}

/// Whether there is something to learn.
pub(crate) fn is_due(shared: &Shared) -> bool {
    due(shared, &shared.snapshot().views).is_some()
}

/// Learns from the queries there are about one segment, if that is due; says whether it was.
pub(crate) fn learn(shared: &Shared, threads: usize) -> Result<bool> {
    let snapshot = shared.snapshot();
    let Some(Due { view, field, dim, seen }) = due(shared, &snapshot.views) else { return Ok(false) };
    let queries = shared.asked.queries(field);
    let queries = Matrix::new(&queries, dim);
    let index = view.segment.dense(field);
    let Some(learned) = index.map(|index| index.learn(queries, threads)).transpose()?.flatten() else {
        return Ok(false);
    };
    let mut lessons = (*view.lessons).clone();
    lessons.set(field, seen, learned);
    publish::lessons(shared, view, lessons)?;
    tracing::info!(
        collection = %shared.name, segment = view.segment.id(), queries = queries.rows(),
        "a segment was measured by queries"
    );
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_queries_are_kept_and_no_more() {
        let asked =
            Asked::new(&Schema::new().text("body").dense("vec", 2, spandrel_storage::Metric::L2), true);
        let field = FieldId(1);
        asked.note(FieldId(0), &[1.0]);
        asked.note(FieldId(7), &[1.0]);
        for at in 0..KEPT as u64 {
            asked.note(field, &[at as f32, 0.5]);
        }
        assert_eq!((asked.seen(field), asked.kept(field)), (KEPT as u64, KEPT));
        for at in 0..SAMPLED * 3 {
            asked.note(field, &[-1.0 - at as f32, 0.5]);
        }
        let kept = asked.queries(field);
        assert_eq!(kept.len(), KEPT * 2);
        assert_eq!(kept.chunks_exact(2).filter(|query| query[0] < 0.0).count(), 3);
        assert_eq!(kept[6], 3.0, "the oldest are replaced");
        let none = Asked::new(&Schema::new().dense("vec", 2, spandrel_storage::Metric::L2), false);
        none.note(FieldId(0), &[1.0, 2.0]);
        assert_eq!((none.seen(FieldId(0)), none.kept(FieldId(0))), (0, 0));
    }

    #[test]
    fn lessons_of_other_builds_are_none() {
        assert_eq!(Lessons::decode(&[]), Lessons::default());
        assert_eq!(Lessons::decode(&[1, 0, 0, 0, 9]), Lessons::default());
        assert_eq!(Lessons::decode(&Lessons::default().encode()), Lessons::default());
        let strange = [1, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3];
        assert_eq!(Lessons::decode(&strange), Lessons::default());
    }

    #[test]
    fn a_segment_is_measured_when_there_are_enough_queries_and_a_restart_keeps_it() {
        use crate::{Database, Route, SearchRequest, Settings};
        use spandrel_storage::{Metric, Row};
        let folder = tempfile::tempdir().unwrap();
        let open = || Database::open(folder.path().join("data"), Settings::default()).unwrap();
        let database = open();
        let rows = database.create_collection("rows", Schema::new().dense("vec", 4, Metric::L2)).unwrap();
        let mut state = 1_u32;
        let mut vector = || -> Vec<f32> {
            let mut value = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32
            };
            (0..4).map(|_| value()).collect()
        };
        for first in (0..9_000).step_by(1_000) {
            let row = |at: usize| Row::new(at.to_string()).dense("vec", vector());
            rows.upsert((first..first + 1_000).map(row).collect()).unwrap();
        }
        rows.optimize().unwrap();
        let lessons = |rows: &crate::Collection| {
            let views = &rows.shared.snapshot().views;
            assert_eq!(views.len(), 1);
            views[0].lessons.encode()
        };
        let none = Lessons::default().encode();
        let ask = |vector| rows.search(&SearchRequest::new(Route::dense("vec", vector))).unwrap();
        (0..SEEN_MIN - 1).for_each(|_| drop(ask(vector())));
        rows.settle().unwrap();
        assert_eq!(lessons(&rows), none, "not enough yet");
        ask(vector());
        rows.settle().unwrap();
        let learned = lessons(&rows);
        assert!(learned != none);
        // The same rows in another segment: what was learned goes along.
        let row = Row::new("0").dense("vec", vector());
        rows.upsert(vec![row]).unwrap();
        rows.optimize().unwrap();
        assert!(lessons(&rows) == learned);
        assert_eq!(ask(vector()).hits.len(), 10);
        drop(rows);
        database.close().unwrap();
        drop(database);
        let database = open();
        assert!(lessons(&database.collection("rows").unwrap()) == learned);
    }
}
