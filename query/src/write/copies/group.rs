//! What a group of writes has done so far, as far as copies depend on it: rows that it writes may be what
//! later ones are copies of, and rows that it takes away may not.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use spandrel_index::dedup::table::DOCS_OF_KEY_MAX;
use spandrel_storage::{DedupPolicy, LabelId, RowId, TenantId};

use super::{Asked, Original, Sight, keys_of};
use crate::error::Result;
use crate::write::PreparedRow;

/// A row that a group has written.
struct Earlier {
    row: RowId,
    key: String,
    labels: Vec<LabelId>,
}

/// Keys are hashes: they need no other.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// A key of a row, and the link before it that has the same key.
struct Link {
    key: u64,
    row: u32,
    before: Option<u32>,
    /// How many are before it.
    depth: u32,
}

/// What a group has done so far that copies depend on.
#[derive(Default)]
pub struct Compared {
    rows: Vec<Earlier>,
    links: Vec<Link>,
    /// The last link of each key.
    by_key: HashMap<u64, u32, BuildHasherDefault<AsItIs>>,
    /// Rows that it replaces or deletes.
    gone: HashSet<RowId>,
}

/// The rows of a work that are to be decided.
pub struct Work<'a> {
    pub rows: &'a [PreparedRow],
    /// The tenant of each.
    pub tenants: &'a [TenantId],
    /// Whether the key of each has a row by now.
    pub there: &'a [bool],
    /// The row that the first gets that is written.
    pub next_row: u64,
    /// Rows that the work takes away.
    pub leaving: &'a HashSet<RowId>,
}

impl Compared {
    /// A row is replaced or deleted.
    pub fn gone(&mut self, row: RowId) {
        self.gone.insert(row);
    }

    /// Rows of the group that are remembered.
    pub fn mark(&self) -> usize {
        self.rows.len()
    }

    /// Forgets those after so many: they are not written.
    pub fn forget(&mut self, mark: usize) {
        self.rows.truncate(mark);
        while let Some(Link { key, before, .. }) = self.links.pop_if(|link| link.row as usize >= mark) {
            match before {
                Some(before) => self.by_key.insert(key, before),
                None => self.by_key.remove(&key),
            };
        }
    }

    /// The rows that have a key.
    fn having(&self, key: u64) -> impl Iterator<Item = &Earlier> {
        let link = |at: &u32| &self.links[*at as usize];
        let last = self.by_key.get(&key).copied();
        let links = std::iter::successors(last, move |at| link(at).before);
        links.map(move |at| &self.rows[link(&at).row as usize])
    }

    /// The first of this group that a row is a copy of.
    fn first(&self, asked: Asked<'_>, gone: &dyn Fn(RowId) -> bool) -> Option<Original> {
        let content = asked.keys.len().checked_sub(1)?;
        let each = asked
            .keys
            .iter()
            .enumerate()
            .flat_map(|(at, key)| self.having(*key).map(move |earlier| (at != content, earlier)));
        let may = |earlier: &Earlier| {
            !gone(earlier.row) && asked.labels.iter().all(|label| earlier.labels.contains(label))
        };
        let (near, first) =
            each.filter(|(_, earlier)| may(earlier)).min_by_key(|(near, earlier)| (*near, earlier.row))?;
        Some(Original { row: first.row, key: first.key.clone(), exact: !near })
    }

    /// Remembers a row; of each key the first [`DOCS_OF_KEY_MAX`], as segments do.
    fn add(&mut self, row: RowId, of: &PreparedRow, keys: &[u64]) {
        let at = self.rows.len() as u32;
        for &key in keys {
            let before = self.by_key.get(&key).copied();
            let depth = before.map_or(0, |before| self.links[before as usize].depth + 1);
            if (depth as usize) < DOCS_OF_KEY_MAX {
                self.by_key.insert(key, self.links.len() as u32);
                self.links.push(Link { key, row: at, before, depth });
            }
        }
        self.rows.push(Earlier { row, key: of.key.clone(), labels: of.labels.clone() });
    }

    /// What each row of a work is a copy of.
    ///
    /// # Errors
    /// An index or the row store cannot be read.
    pub fn decide(
        &mut self,
        sight: Sight<'_>,
        policy: DedupPolicy,
        work: &Work<'_>,
    ) -> Result<Vec<Option<Original>>> {
        let mut originals = Vec::with_capacity(work.rows.len());
        let mut next = work.next_row;
        for ((row, tenant), there) in work.rows.iter().zip(work.tenants).zip(work.there) {
            let (tenant, mut original) = (*tenant, None);
            let keys = keys_of(row, tenant);
            let asked = Asked::of(row, tenant, &keys);
            if let Some(looked) = row.looked.clone().filter(|_| !(*there && policy == DedupPolicy::Skip)) {
                let gone = |row: RowId| work.leaving.contains(&row) || self.gone.contains(&row);
                let stored = sight.again(asked, looked, &gone)?;
                original = stored.into_iter().chain(self.first(asked, &gone)).min_by_key(Original::rank);
            }
            if original.is_none() || policy != DedupPolicy::Skip {
                if original.is_none() && !keys.is_empty() {
                    self.add(RowId(next), row, &keys);
                }
                next += 1;
            }
            originals.push(original);
        }
        Ok(originals)
    }
}
