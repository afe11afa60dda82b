//! The dictionary of a collection's access labels: names to ids. Ids are never reused; a label that is
//! dropped loses its name, so that no request can mean it, and merges forget which rows had it.
//!
//! A name is durable before any row refers to its id: it has a commit of its own, with the rows' commit
//! after it.

use std::collections::HashMap;

use parking_lot::{Mutex, RwLock};
use spandrel_storage::id::LABEL_BYTES_MAX;
use spandrel_storage::store::Commit;
use spandrel_storage::{LabelId, RowId, TenantId};

use crate::error::{Error, Result};
use crate::shared::Shared;
use crate::snapshot::{View, locate};

/// Most labels that a row is written with, or a call names.
pub const LABELS_MAX: usize = 4_096;

/// Names to ids, shared by writers and readers.
pub struct Labels {
    names: RwLock<Names>,
    /// Held by who gives names out or takes them away.
    defining: Mutex<()>,
}

#[derive(Default)]
struct Names {
    ids: HashMap<Box<str>, LabelId>,
    /// By id; none where it was dropped.
    names: Vec<Option<Box<str>>>,
}

impl Labels {
    /// From what the row store holds.
    pub fn new(entries: Vec<(LabelId, String)>) -> Self {
        let labels = Self { names: RwLock::default(), defining: Mutex::new(()) };
        labels.note(entries);
        labels
    }

    /// The ids of those of the names that there are, ascending.
    pub fn known(&self, names: &[String]) -> Vec<LabelId> {
        let known = self.names.read();
        let mut ids: Vec<LabelId> = names.iter().filter_map(|name| known.ids.get(&**name).copied()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Whether a label has not been dropped.
    pub fn contains(&self, label: LabelId) -> bool {
        self.names.read().names.get(label.0 as usize).is_some_and(Option::is_some)
    }

    /// The name of a label that was not dropped.
    pub fn name(&self, label: LabelId) -> Option<String> {
        self.names.read().names.get(label.0 as usize)?.as_deref().map(str::to_owned)
    }

    /// All names, sorted.
    pub fn all(&self) -> Vec<String> {
        let mut names: Vec<String> = self.names.read().ids.keys().map(|name| name.to_string()).collect();
        names.sort_unstable();
        names
    }

    /// Takes in what is durable; an empty name is a label's that was dropped.
    fn note(&self, entries: Vec<(LabelId, String)>) {
        let mut known = self.names.write();
        for (id, name) in entries {
            let at = id.0 as usize;
            if known.names.len() <= at {
                known.names.resize(at + 1, None);
            }
            let name: Option<Box<str>> = (!name.is_empty()).then(|| name.into_boxed_str());
            if let Some(before) = std::mem::replace(&mut known.names[at], name.clone()) {
                known.ids.remove(&before);
            }
            if let Some(name) = name {
                known.ids.insert(name, id);
            }
        }
    }
}

/// The ids of names, of which those that are new get one; ascending.
///
/// # Errors
/// A name is too long or empty, or cannot be made durable.
pub fn define(shared: &Shared, names: &[String]) -> Result<Vec<LabelId>> {
    names.iter().try_for_each(|name| check_label(name))?;
    let labels = &shared.labels;
    let missing = |names: &[String]| -> Vec<String> {
        let known = labels.names.read();
        let mut missing: Vec<String> =
            names.iter().filter(|name| !known.ids.contains_key(&***name)).cloned().collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    };
    if !missing(names).is_empty() {
        let _defining = labels.defining.lock();
        let first = labels.names.read().names.len() as u32;
        let new: Vec<(LabelId, String)> = (first..).map(LabelId).zip(missing(names)).collect();
        let commit = Commit { collection: shared.id, labels: new.clone(), ..Commit::default() };
        shared.store.commit(&commit, shared.durability())?;
        labels.note(new);
    }
    Ok(labels.known(names))
}

/// Drops a label: no row has it any more. Says whether there was one.
///
/// # Errors
/// It cannot be made durable.
pub fn drop_label(shared: &Shared, name: &str) -> Result<bool> {
    shared.writable()?;
    let labels = &shared.labels;
    let _defining = labels.defining.lock();
    let Some(id) = labels.names.read().ids.get(name).copied() else { return Ok(false) };
    let gone = vec![(id, String::new())];
    let commit = Commit { collection: shared.id, labels: gone.clone(), ..Commit::default() };
    shared.store.commit(&commit, shared.durability())?;
    labels.note(gone);
    // Searches under way look again.
    let _writer = shared.writer.lock();
    let snapshot = shared.snapshot();
    shared.labels_changed();
    shared.publish(snapshot.views.clone(), snapshot.last_row);
    Ok(true)
}

/// Checks the name of a label.
pub fn check_label(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > LABEL_BYTES_MAX {
        return Err(Error::invalid(format!(
            "a label has 1 to {LABEL_BYTES_MAX} bytes, this one has {}",
            name.len()
        )));
    }
    Ok(())
}

/// Checks how many labels a row or a call names.
pub fn check_count(count: usize) -> Result<()> {
    match count <= LABELS_MAX {
        true => Ok(()),
        false => Err(Error::invalid(format!("at most {LABELS_MAX} labels at once, got {count}"))),
    }
}

/// Rows that get a label or lose it.
#[derive(Clone, Debug)]
pub struct LabelChange {
    pub tenant: TenantId,
    pub label: LabelId,
    pub granted: bool,
    pub rows: Vec<RowId>,
}

/// Notes what has changed beside the segments that the rows are in.
pub fn mark(views: &mut [View], changes: &[LabelChange]) {
    for LabelChange { tenant, label, granted, rows } in changes {
        for row in rows {
            if let Some((at, doc)) = locate(views, *tenant, *row) {
                std::sync::Arc::make_mut(&mut views[at].labels).set(*label, doc, *granted);
            }
        }
    }
}
