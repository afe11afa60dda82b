//! Searches of several queries at a time, cell by cell.
//!
//! All walk in step. In a round each chooses its cells; a posting is read once for all that chose it and
//! scanned for one query after the other while it is in the cache; and what they want to refine is read
//! together, so that a round waits for the device twice and not twice a query. Queries whose walk has ended
//! drop out.
//!
//! Within a round a query meets its cells in the order of the file instead of the most promising first: the
//! threshold falls a little later, and a result that a bound ruled out for a query alone may be found here,
//! or the other way round.
//!
//! Memory: buffers of a search for each of [`TILE`] queries, a bit a vector among them, and the postings of
//! a part of a round.

use spandrel_storage::io::Extent;

use super::cells::Cells;
use super::filter::Filter;
use super::search::{CellsScratch, Query};
use super::walk::{Walk, prefetch};
use crate::counters::Counters;
use crate::error::Result;
use crate::simd::Kernels;

/// Queries that are searched together at most.
pub(super) const TILE: usize = 16;
/// Bytes of postings that are read at once, about.
const READ_BYTES: usize = 4 << 20;

/// Buffers of such searches.
#[derive(Debug, Default)]
pub(crate) struct TogetherScratch {
    each: Vec<CellsScratch>,
    /// A cell, which query visits it, and how many bytes of its posting it scans.
    visits: Vec<(u32, u32, usize)>,
    extents: Vec<Extent>,
    bytes: Vec<u8>,
}

/// As [`Cells::search`] for each of `asked`, at most [`TILE`]: calls `found(i, vectors)` for each, with none
/// for a query that cannot be compared by codes.
pub(super) fn search(
    cells: &Cells,
    kernels: &Kernels,
    asked: &[Query<'_>],
    filter: Option<Filter<'_>>,
    scratch: &mut TogetherScratch,
    counters: &mut Counters,
    mut found: impl FnMut(usize, Option<&[(f32, u32)]>),
) -> Result<()> {
    let mut each = std::mem::take(&mut scratch.each);
    each.resize_with(asked.len().max(each.len()), CellsScratch::default);
    let begun = asked.iter().zip(&mut each);
    let mut walks: Vec<Option<Walk<'_>>> =
        begun.map(|(asked, own)| cells.begin(kernels, *asked, filter, own)).collect();
    let own_squared = |walk: &Option<Walk<'_>>| walk.as_ref().map(|walk| walk.ready.own_squared);
    let known: Vec<Option<f32>> = walks.iter().map(own_squared).collect();
    let walked = walk((cells, kernels), &mut walks, &mut each, scratch, counters);
    let mut vectors = Vec::new();
    for (at, (known, own)) in known.into_iter().zip(&mut each).enumerate() {
        if let Some(own_squared) = known {
            cells.take(asked[at].wanted, own_squared, own, &mut vectors);
        }
        if walked.is_ok() {
            found(at, known.map(|_| &*vectors));
        }
    }
    scratch.each = each;
    walked
}

/// Rounds until every walk has ended.
fn walk(
    (cells, kernels): (&Cells, &Kernels),
    walks: &mut [Option<Walk<'_>>],
    each: &mut [CellsScratch],
    scratch: &mut TogetherScratch,
    counters: &mut Counters,
) -> Result<()> {
    loop {
        scratch.visits.clear();
        let mut waits = false;
        for (at, (walk, own)) in walks.iter_mut().zip(&mut *each).enumerate() {
            let Some(going) = walk else { continue };
            // Without a threshold a second posting would have all of its vectors refined.
            let part = match going.choose(own)? {
                part if going.has_limit() => part,
                part => part.min(1),
            };
            scratch.visits.extend((0..part).map(|place| {
                let cell = own.cell(place);
                (cell as u32, at as u32, going.posting(cell, place).len())
            }));
            going.chosen(part, own);
            if part == 0 {
                // What it still waits for is refined with what the others want.
                waits |= going.settle(own);
                if own.picked().is_empty() {
                    *walk = None;
                }
            }
        }
        if scratch.visits.is_empty() && !waits {
            return Ok(());
        }
        scratch.visits.sort_unstable();
        visit((cells, kernels), walks, each, scratch, counters)?;
        refine(cells, walks, each, scratch, counters)?;
    }
}

/// Scans the postings that were chosen.
fn visit(
    (cells, kernels): (&Cells, &Kernels),
    walks: &mut [Option<Walk<'_>>],
    each: &mut [CellsScratch],
    scratch: &mut TogetherScratch,
    counters: &mut Counters,
) -> Result<()> {
    let TogetherScratch { visits, extents, bytes, .. } = scratch;
    // As much of a cell's posting as any query scans.
    let range = |same: &[(u32, u32, usize)]| {
        let start = cells.posting(same[0].0 as usize).start;
        start..start + same.iter().map(|(_, _, scanned)| *scanned).max().unwrap_or(0)
    };
    let mut left = &visits[..];
    while !left.is_empty() {
        extents.clear();
        let (mut count, mut total) = (0, 0);
        for same in left.chunk_by(|a, b| a.0 == b.0) {
            let posting = range(same);
            if total > 0 && total + posting.len() > READ_BYTES {
                break;
            }
            total += posting.len();
            count += same.len();
            extents.push(Extent { offset: posting.start as u64, len: posting.len() });
        }
        let at_hand = cells.postings.at_hand();
        if at_hand.is_none() {
            cells.postings.read(extents, bytes, counters)?;
        }
        let mut start = 0;
        let mut cells_of = left[..count].chunk_by(|a, b| a.0 == b.0).peekable();
        while let Some(same) = cells_of.next() {
            let cell = same[0].0 as usize;
            if let Some((all, next)) = at_hand.zip(cells_of.peek()) {
                prefetch(kernels, &all[range(next)]);
            }
            let place = range(same);
            let posting = match at_hand {
                Some(all) => &all[place],
                None => &bytes[start..start + place.len()],
            };
            start += posting.len();
            for (_, at, scanned) in same {
                let (walk, own) = (&mut walks[*at as usize], &mut each[*at as usize]);
                let Some(walk) = walk else { continue };
                walk.visit(cell, &posting[..*scanned], own, counters)?;
                if at_hand.is_some() {
                    walk.refine(own, counters)?;
                    walk.rest(own);
                }
            }
        }
        left = &left[count..];
    }
    Ok(())
}

/// Refines what all walks have found in a round.
fn refine(
    cells: &Cells,
    walks: &mut [Option<Walk<'_>>],
    each: &mut [CellsScratch],
    scratch: &mut TogetherScratch,
    counters: &mut Counters,
) -> Result<()> {
    let TogetherScratch { extents, bytes, .. } = scratch;
    extents.clear();
    for (walk, own) in walks.iter_mut().zip(&mut *each) {
        let Some(walk) = walk else { continue };
        walk.settle(own);
        match cells.fine_rows.at_hand() {
            Some(_) => walk.refine(own, counters)?,
            None => cells.fine_extents(own.picked(), extents),
        }
    }
    if extents.is_empty() {
        return Ok(());
    }
    cells.fine_rows.read(extents, bytes, counters)?;
    let mut rest = &bytes[..];
    for (walk, own) in walks.iter_mut().zip(&mut *each) {
        let Some(walk) = walk else { continue };
        let rows = rest.split_off(..own.picked().len() * cells.fine_stride()).unwrap_or_default();
        walk.rank(rows, false, own, counters);
        walk.rest(own);
    }
    Ok(())
}
