//! Which docs of a segment carry an access label, and what of that has changed since the segment was built.
//!
//! A doc can have any number of labels; a label is a list of docs ([`lists`](crate::payload::lists)), 4 bytes
//! a doc or a bitmap. Segments never change, so that what is granted and revoked later is kept beside them in
//! an [`Overlay`], which the next merge folds in. Curator keeps lists at the nodes of its tree and Bloom
//! filters that lead to them; here docs lie in the order of cells, so that a list is the lists of all nodes
//! at once, each a range of it found by binary search.
//!
//! Section, little-endian: u8 [`FORMAT`], labels as count u32 and u32 each, then their lists.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use roaring::RoaringBitmap;
use spandrel_storage::codec::{Decoder, Encoder, Truncated};
use spandrel_storage::{DocId, LabelId};

use crate::error::{Error, Result};
use crate::payload::lists::{DocLists, Within};

const FORMAT: u8 = 1;
/// Parts of an overlay, so that a change copies one of them.
const SHARDS: usize = 64;

/// The labels of a segment's docs when it was built.
#[derive(Clone, Debug, PartialEq)]
pub struct Labels {
    /// Ascending.
    ids: Vec<LabelId>,
    lists: DocLists,
}

impl Labels {
    /// From pairs in any order, each once; none without any. Docs are below `docs`.
    pub(crate) fn of(mut pairs: Vec<(LabelId, DocId)>, docs: u32) -> Option<Self> {
        pairs.sort_unstable();
        let mut ids: Vec<LabelId> = pairs.iter().map(|(label, _)| *label).collect();
        ids.dedup();
        let mut at = 0;
        let numbered: Vec<(u32, DocId)> = pairs
            .iter()
            .map(|(label, doc)| {
                at += usize::from(ids[at] != *label);
                (at as u32, *doc)
            })
            .collect();
        (!ids.is_empty()).then(|| Self { lists: DocLists::from_pairs(ids.len(), docs, &numbered), ids })
    }

    /// The docs of a range with a label.
    fn list(&self, label: LabelId, within: &Within) -> RoaringBitmap {
        match self.ids.binary_search(&label) {
            Ok(at) => self.lists.union(at..at + 1, within),
            Err(_) => RoaringBitmap::new(),
        }
    }

    /// Bytes of memory in use.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.ids.capacity() * 4 + self.lists.memory_bytes()
    }

    /// The bytes of a section.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u8(FORMAT).u32s(&self.ids.iter().map(|label| label.0).collect::<Vec<_>>());
        self.lists.write(&mut out);
        out.finish()
    }

    /// Reads what [`encode`](Self::encode) gave for a segment of `docs` docs.
    ///
    /// # Errors
    /// [`Error::Section`] for other bytes.
    pub(crate) fn read(bytes: &[u8], docs: u32) -> Result<Self> {
        let mut bytes = Decoder::new(bytes);
        let damaged = |what: &str| Error::Section { section: "labels".into(), what: what.to_owned() };
        let text = |error: Truncated| damaged(&error.to_string());
        if bytes.u8("format").map_err(text)? != FORMAT {
            return Err(damaged("it is of a format that this build does not read"));
        }
        let ids: Vec<LabelId> = bytes.u32s("labels").map_err(text)?.into_iter().map(LabelId).collect();
        let lists = DocLists::read(&mut bytes)?;
        let fits = lists.len() == ids.len() && lists.doc_count() == docs && bytes.left() == 0;
        if !fits || ids.is_empty() || !ids.is_sorted_by(|a, b| a < b) {
            return Err(damaged("its labels do not ascend, or there are not as many lists"));
        }
        Ok(Self { ids, lists })
    }
}

/// The docs of a range that have one of these labels now.
pub fn select(
    labels: Option<&Labels>,
    overlay: &Overlay,
    wanted: &[LabelId],
    docs: &Range<DocId>,
) -> RoaringBitmap {
    let within = labels.map(|labels| (labels, Within::new(docs.clone(), labels.lists.doc_count())));
    let mut selected = RoaringBitmap::new();
    for label in wanted {
        let list = within.as_ref().map(|(labels, within)| labels.list(*label, within));
        let list = list.unwrap_or_default();
        let list = match overlay.change(*label) {
            None => list,
            Some(change) => change.apply(list, docs),
        };
        if selected.is_empty() {
            selected = list;
        } else {
            selected |= list;
        }
    }
    selected
}

/// Labels that docs of a segment have got and lost since it was built.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlay {
    /// A label is in the shard of its number; empty where there are none at all.
    shards: Vec<Arc<HashMap<LabelId, Arc<Change>>>>,
}

/// Docs that have got a label, and those that have lost it: never both.
#[derive(Clone, Debug, Default, PartialEq)]
struct Change {
    added: RoaringBitmap,
    removed: RoaringBitmap,
}

impl Change {
    /// The docs of a range that have the label, when those of `list` had it.
    fn apply(&self, mut list: RoaringBitmap, docs: &Range<DocId>) -> RoaringBitmap {
        list.extend(self.added.range(docs.clone()));
        list - &self.removed
    }
}

impl Overlay {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// A doc gets a label, or loses it. Copies what others see.
    pub fn set(&mut self, label: LabelId, doc: DocId, granted: bool) {
        if self.shards.is_empty() {
            self.shards.resize_with(SHARDS, Arc::default);
        }
        let shard = Arc::make_mut(&mut self.shards[label.0 as usize % SHARDS]);
        let change = Arc::make_mut(shard.entry(label).or_default());
        let (to, from) = match granted {
            true => (&mut change.added, &mut change.removed),
            false => (&mut change.removed, &mut change.added),
        };
        to.insert(doc);
        from.remove(doc);
    }

    fn change(&self, label: LabelId) -> Option<&Arc<Change>> {
        self.shards.get(label.0 as usize % SHARDS)?.get(&label)
    }

    /// All changes, in no order.
    fn changes(&self) -> impl Iterator<Item = (LabelId, &Arc<Change>)> {
        self.shards.iter().flat_map(|shard| shard.iter().map(|(label, change)| (*label, change)))
    }

    /// What has changed since `before`: label, doc, and whether it has it now.
    pub fn since(&self, before: &Self) -> Vec<(LabelId, DocId, bool)> {
        let mut changes = Vec::new();
        for (label, now) in self.changes() {
            let then = before.change(label);
            if then.is_some_and(|then| Arc::ptr_eq(then, now)) {
                continue;
            }
            let was = then.map(|then| (&then.added, &then.removed));
            let new = |now: &RoaringBitmap, was: Option<&RoaringBitmap>| match was {
                Some(was) => now - was,
                None => now.clone(),
            };
            let added = new(&now.added, was.map(|was| was.0));
            let removed = new(&now.removed, was.map(|was| was.1));
            changes.extend(added.iter().map(|doc| (label, doc, true)));
            changes.extend(removed.iter().map(|doc| (label, doc, false)));
        }
        changes
    }

    /// Bytes of memory in use, about.
    pub fn memory_bytes(&self) -> usize {
        let bytes = |change: &Arc<Change>| {
            size_of::<(LabelId, Change)>() + change.added.serialized_size() + change.removed.serialized_size()
        };
        self.changes().map(|(_, change)| bytes(change)).sum()
    }

    /// The bytes of it, for a manifest; none when nothing has changed.
    pub fn encode(&self) -> Vec<u8> {
        let mut changes: Vec<_> = self.changes().collect();
        if changes.is_empty() {
            return Vec::new();
        }
        changes.sort_unstable_by_key(|(label, _)| *label);
        let mut out = Encoder::default();
        out.u8(FORMAT).u32(changes.len() as u32);
        for (label, change) in changes {
            out.u32(label.0);
            crate::payload::lists::write_bitmap(&change.added, &mut out);
            crate::payload::lists::write_bitmap(&change.removed, &mut out);
        }
        out.finish()
    }

    /// Reads what [`encode`](Self::encode) gave for a segment of `docs` docs.
    ///
    /// # Errors
    /// [`Error::Section`] for other bytes.
    pub fn decode(bytes: &[u8], docs: u32) -> Result<Self> {
        let mut overlay = Self::default();
        if bytes.is_empty() {
            return Ok(overlay);
        }
        let damaged = |what: String| Error::Section { section: "labels of a manifest".into(), what };
        let text = |error: Truncated| damaged(error.to_string());
        let mut bytes = Decoder::new(bytes);
        if bytes.u8("format").map_err(text)? != FORMAT {
            return Err(damaged("they are of a format that this build does not read".into()));
        }
        overlay.shards.resize_with(SHARDS, Arc::default);
        for _ in 0..bytes.u32("labels").map_err(text)? {
            let label = LabelId(bytes.u32("label").map_err(text)?);
            let added = crate::payload::lists::read_bitmap(&mut bytes, docs)?;
            let removed = crate::payload::lists::read_bitmap(&mut bytes, docs)?;
            if !added.is_disjoint(&removed) {
                return Err(damaged(format!("label {label} is got and lost at once")));
            }
            let shard = Arc::make_mut(&mut overlay.shards[label.0 as usize % SHARDS]);
            shard.insert(label, Arc::new(Change { added, removed }));
        }
        match bytes.left() {
            0 => Ok(overlay),
            left => Err(damaged(format!("{left} bytes follow them"))),
        }
    }
}

/// Where labels of a merge come from: those of an input, and what has changed there.
pub(crate) struct Source<'a> {
    pub(crate) labels: Option<&'a Labels>,
    pub(crate) overlay: &'a Overlay,
    /// The new doc of each doc that is kept, [`NONE`] of the others.
    pub(crate) docs: Vec<DocId>,
}

/// No doc.
pub(crate) const NONE: DocId = DocId::MAX;

/// The labels of `docs` merged docs, those that are still there.
pub(crate) fn merged(
    sources: &[Source<'_>],
    is_there: &dyn Fn(LabelId) -> bool,
    docs: u32,
) -> Option<Labels> {
    let mut pairs = Vec::new();
    for Source { labels, overlay, docs } in sources {
        let mut ids: Vec<LabelId> = labels.map_or(Vec::new(), |labels| labels.ids.clone());
        ids.extend(overlay.changes().map(|(label, _)| label));
        ids.sort_unstable();
        ids.dedup();
        for label in ids.into_iter().filter(|label| is_there(*label)) {
            let of = select(*labels, overlay, &[label], &(0..docs.len() as u32));
            pairs.extend(of.iter().map(|doc| (label, docs[doc as usize])).filter(|(_, doc)| *doc != NONE));
        }
    }
    Labels::of(pairs, docs)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::random::Random;

    type Pairs = BTreeSet<(LabelId, DocId)>;

    fn selected(pairs: &Pairs, wanted: &[LabelId], docs: &Range<DocId>) -> RoaringBitmap {
        let passes = |(label, doc): &&(LabelId, DocId)| wanted.contains(label) && docs.contains(doc);
        pairs.iter().filter(passes).map(|(_, doc)| *doc).collect()
    }

    /// Labels, what changes, what is folded into a merge and what is carried over it, against a set of pairs.
    #[test]
    fn labels_and_their_changes_are_a_set_of_pairs() {
        let seed = 31;
        let mut random = Random(seed);
        for round in 0..40 {
            let docs = 1 + random.below(5_000) as u32;
            let count = 1 + random.below(300);
            let mut pairs: Pairs = (0..random.below(20_000))
                .map(|_| (LabelId((random.below(count) * 7) as u32), random.below(docs as usize) as u32))
                .collect();
            let labels = Labels::of(pairs.iter().copied().collect(), docs);
            if let Some(labels) = &labels {
                assert_eq!(&Labels::read(&labels.encode(), docs).unwrap(), labels);
                assert!(Labels::read(&labels.encode(), docs + 1).is_err());
            }
            let change = |overlay: &mut Overlay, pairs: &mut Pairs, random: &mut Random| {
                let pair =
                    (LabelId((random.below(count + 5) * 7) as u32), random.below(docs as usize) as u32);
                let granted = random.below(2) == 0;
                overlay.set(pair.0, pair.1, granted);
                if granted {
                    pairs.insert(pair)
                } else {
                    pairs.remove(&pair)
                };
            };
            let mut overlay = Overlay::default();
            for _ in 0..random.below(2_000) {
                change(&mut overlay, &mut pairs, &mut random);
            }
            assert_eq!(Overlay::decode(&overlay.encode(), docs).unwrap(), overlay);
            for _ in 0..20 {
                let mut wanted: Vec<LabelId> =
                    (0..random.below(4)).map(|_| LabelId((random.below(count + 5) * 7) as u32)).collect();
                wanted.dedup();
                let start = random.below(docs as usize) as u32;
                let range = start..start + random.below((docs - start) as usize + 1) as u32;
                let found = select(labels.as_ref(), &overlay, &wanted, &range);
                assert_eq!(found, selected(&pairs, &wanted, &range), "seed {seed}, round {round}");
            }
            // A merge of these and of nothing else, some docs of which are gone, in another order.
            let before = overlay.clone();
            let mut kept: Vec<DocId> = (0..docs).filter(|_| random.below(5) > 0).collect();
            kept.reverse();
            let mut new_of = vec![NONE; docs as usize];
            kept.iter().zip(0..).for_each(|(doc, new)| new_of[*doc as usize] = new);
            let gone = LabelId((random.below(count) * 7) as u32);
            let source = Source { labels: labels.as_ref(), overlay: &before, docs: new_of.clone() };
            let folded = merged(&[source], &|label| label != gone, kept.len() as u32);
            let moved = |pairs: &Pairs| -> Pairs {
                let new = pairs.iter().map(|(label, doc)| (*label, new_of[*doc as usize]));
                new.filter(|(label, doc)| *label != gone && *doc != NONE).collect()
            };
            let all: Vec<LabelId> = (0..count as u32 + 5).map(|label| LabelId(label * 7)).collect();
            for label in &all {
                let whole = 0..kept.len() as u32;
                let found = select(folded.as_ref(), &Overlay::default(), &[*label], &whole);
                assert_eq!(found, selected(&moved(&pairs), &[*label], &whole), "seed {seed}, round {round}");
            }
            // Meanwhile more has changed, which is carried over.
            for _ in 0..random.below(500) {
                change(&mut overlay, &mut pairs, &mut random);
            }
            let mut carried = Overlay::default();
            for (label, doc, granted) in overlay.since(&before) {
                if new_of[doc as usize] != NONE {
                    carried.set(label, new_of[doc as usize], granted);
                }
            }
            for label in all.iter().filter(|label| **label != gone) {
                let whole = 0..kept.len() as u32;
                let found = select(folded.as_ref(), &carried, &[*label], &whole);
                assert_eq!(found, selected(&moved(&pairs), &[*label], &whole), "seed {seed}, round {round}");
            }
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        let mut overlay = Overlay::default();
        overlay.set(LabelId(5), 7, true);
        overlay.set(LabelId(6), 3, false);
        let labels = Labels::of(vec![(LabelId(1), 2), (LabelId(9), 2), (LabelId(1), 0)], 10).unwrap();
        for (bytes, read) in [
            (
                overlay.encode(),
                &(|bytes: &[u8]| Overlay::decode(bytes, 10).is_ok()) as &dyn Fn(&[u8]) -> bool,
            ),
            (labels.encode(), &|bytes: &[u8]| Labels::read(bytes, 10).is_ok()),
        ] {
            assert!(read(&bytes));
            assert!((1..bytes.len()).all(|len| !read(&bytes[..len])));
            for at in 0..bytes.len() {
                let mut other = bytes.clone();
                other[at] ^= 0xff;
                read(&other);
            }
        }
        assert!(Overlay::decode(&overlay.encode(), 7).is_err(), "a doc that is not there");
    }
}
