//! Merges vectors into cells that most of them are in already.
//!
//! The idea of SPFresh (Xu et al., "SPFresh: Incremental in-place update for billion-scale vector search",
//! 2023): cells that have outgrown the others are split in two, the vectors of those that have shrunk go to
//! others, vectors around a split are placed anew, and every other vector keeps its cells and its codes,
//! which are copied. Here segments never change, so that the result is a new section; and what is split
//! follows from the cells as they are before new vectors come, so that those are placed once.
//!
//! Centroids stay where they are. Where the vectors have moved away from them, all are placed anew
//! ([`build`](super::build)).
//!
//! Cost: the new vectors and those around splits as in any build, without k-means; a pass over the bytes of
//! the others.

use std::path::Path;

use super::build::{CELL_VECTORS, Continued, Made, Trained, Vectors};
use super::closure::{NONE as NO_CELL, Placement};
use super::cluster::{Centroids, Work, k_means};
use super::encode::Given;
use super::halves;
use super::layout;
use super::partition::{self, Partition, Placed, Wanted, arrange, cluster};
use super::patched::{COPY_ROWS, OldPostings, Patched, entries};
use super::points::{Part, Points, Projected, picked};
use crate::error::Result;
use crate::matrix::Matrix;
use crate::pace;
use crate::random::Random;

/// No vector.
pub const NONE: u32 = u32::MAX;
/// With more new vectors than this share of all, all are placed anew: k-means is then worth it.
const NEW_SHARE_MAX: f64 = 0.4;
/// So many times the vectors of the average cell are too many, and such a share of them too few.
/// (K-means leaves cells of few vectors and of many, and searches do well by both.)
const OUTGROWN: f64 = 5.0;
const SHRUNK: f64 = 50.0;
/// Fewer vectors than this are not split.
const SPLIT_MIN: f64 = 16.0;
/// With so many times more or fewer cells than there are to be all vectors are placed anew: on real vectors
/// k-means over all finds better cells than splits of the largest do.
const CELLS_OFF: f64 = 1.3;
/// Cells around one that is split whose vectors are placed anew.
const NEIGHBOURS: usize = 2;

/// Cells of vectors of which `kept` has the position in what was trained, or [`NONE`]. None when all are
/// better placed anew.
///
/// # Errors
/// What was trained cannot be read, or is damaged; a file cannot be written or read.
pub(super) fn merge(
    (vectors, kept): (Vectors<'_>, &[u32]),
    wanted: &[Wanted],
    (work, folder): (Work, Option<&Path>),
    trained: &Trained<'_>,
) -> Result<Option<Made>> {
    let (rows, parts, space) = (vectors.rows, &trained.parts, trained.space());
    // Those of a tenant that had no cells are placed anew, too.
    let mut before = vec![None; kept.len()];
    for wanted in wanted {
        before[wanted.vectors.start as usize..wanted.vectors.end as usize].fill(Some(wanted.before));
    }
    let moved = |number: usize, old: u32| {
        let was = partition::of_vector(&parts.partitions, old).map(|at| at as u32);
        match before[number] {
            None => was.is_some(),
            Some(before) => was.is_none() || was != before,
        }
    };
    let new = numbers(kept, |_, old| old == NONE);
    let placed_anew = numbers(kept, |number, old| old == NONE || moved(number, old)).len();
    let few = placed_anew as f64 <= NEW_SHARE_MAX * kept.len() as f64;
    if !few || !space.holds(&picked(rows, &new, space.field_dim()), new.len()) {
        return Ok(None);
    }
    let old = Old::read(trained)?;
    let stays = |at: usize| wanted.iter().any(|wanted| wanted.before == Some(at as u32));
    let stays: Vec<bool> = (0..parts.partitions.len()).map(stays).collect();
    let lasting = |cell: u32| stays[parts.partitions.partition_point(|of| of.cells.end <= cell)];
    let lasts: Vec<bool> = (0..trained.layout.cells).map(lasting).collect();
    let to_be: usize = wanted.iter().filter(|of| of.before.is_some()).map(|of| of.vectors.len()).sum();
    let Some(fates) = Fates::choose(&old.sizes(kept), &lasts, to_be) else { return Ok(None) };
    let moves = old.moves(&fates, trained, work);
    let touched = numbers(kept, |number, old| old == NONE || moved(number, old) || moves[old as usize]);
    let touched_rows = picked(rows, &touched, space.field_dim());
    let keep = folder.is_none();
    let mut projected =
        Projected::new(&space, &touched_rows, touched.len(), parts.axes.clone(), keep, work.threads);
    let first_of = |number: u32| old.first.get(kept[number as usize] as usize);
    let halves_of = |cell: u32| {
        let members: Vec<usize> =
            (0..touched.len()).filter(|at| first_of(touched[*at]) == Some(&cell)).collect();
        let members = projected.gather(&members, work.threads);
        k_means(Matrix::new(&members, projected.dim()), 2, None, &mut Random(work.seed), work)
    };
    let (mut placed, mut origin) = (Placed::none(projected.dim(), touched.len()), Vec::new());
    for wanted in wanted {
        let at = |vector: u32| touched.partition_point(|touched| *touched < vector);
        let range = at(wanted.vectors.start)..at(wanted.vectors.end);
        let points = Part { points: &projected, range: range.clone() };
        let (placement, groups) = match wanted.before.map(|at| &parts.partitions[at as usize]) {
            None => {
                let (placement, groups) = cluster(&points, None, work);
                origin.extend(vec![NO_CELL; placement.cells()]);
                (placement, groups)
            }
            Some(before) => {
                let (cells, centroids) = Cells::after(&fates, (trained, before), halves_of);
                let centroids = Centroids::known(projected.dim(), centroids, &cells.groups);
                let mut placement = Placement::onto(&points, centroids, work);
                let (mut from, mut groups) = (cells.origin, cells.groups);
                if !fates.is_none() {
                    let (order, arranged) = arrange(&mut placement, work);
                    from = order.iter().map(|cell| from[*cell as usize]).collect();
                    groups = arranged;
                }
                origin.extend(from);
                (placement, groups)
            }
        };
        placed.take_in(range.start, &placement, &groups);
        placed.close(wanted.vectors.clone());
    }
    let (all, mut now) = old.merged(kept, &origin, (&touched, &placed.placement));
    let Placed { placement: mut own, partitions, groups } = placed;
    let mut placed = Placed { placement: all, partitions, groups };
    let order = placed.order(vectors.ordered);
    let (mut kept, mut touched) = (kept.to_vec(), touched.clone());
    if let Some(order) = &order {
        placed.placement.permute(order);
        kept = order.iter().map(|number| kept[*number as usize]).collect();
        let mut numbers = vec![0; order.len()];
        order.iter().zip(0..).for_each(|(before, number)| numbers[*before as usize] = number);
        now.iter_mut().filter(|number| **number != NONE).for_each(|n| *n = numbers[*n as usize]);
        touched.iter_mut().for_each(|number| *number = numbers[*number as usize]);
        let mut among: Vec<u32> = (0..touched.len() as u32).collect();
        among.sort_unstable_by_key(|at| touched[*at as usize]);
        touched.sort_unstable();
        own.permute(&among);
        projected.permute(&among);
    }
    let given = Given { space: &space, projected: &projected, placement: &own, work };
    let all = &placed.placement;
    let patched = Patched { given, touched: &touched, all, trained, kept: &kept, now, origin: &origin };
    let continued = Continued { trained, radius: space.radius, placed: &placed, order };
    continued.remake(&patched, vectors, (work, folder))
}

/// The numbers of those for which, with the position that was kept of each, `wanted` holds.
fn numbers(kept: &[u32], wanted: impl Fn(usize, u32) -> bool) -> Vec<u32> {
    let each = (0..).zip(kept).filter(|(number, old)| wanted(*number as usize, **old));
    each.map(|(number, _)| number).collect()
}

/// Where the vectors are so far.
struct Old {
    /// First cell of each.
    first: Vec<u32>,
    /// Second cell, or none.
    second: Vec<u32>,
    cells: usize,
}

impl Old {
    fn read(trained: &Trained<'_>) -> Result<Self> {
        let layout = &trained.layout;
        let mut old = Self {
            first: vec![NO_CELL; layout.vectors as usize],
            second: vec![NO_CELL; layout.vectors as usize],
            cells: layout.cells as usize,
        };
        let (lookups, vectors, mut postings) =
            (layout.lookups as usize, layout.vectors, OldPostings::of(trained));
        for cell in 0..layout.cells {
            for (factors, _, _) in entries(postings.of_cell(cell as usize)?, lookups) {
                let id = factors.id as usize;
                let places = (old.first.get_mut(id), old.second.get_mut(id));
                let (Some(first), Some(second)) = places else {
                    return Err(trained.damaged(format!("a posting names vector {id} of {vectors}")));
                };
                match (*first, *second) {
                    (NO_CELL, _) => *first = cell,
                    (before, NO_CELL) if before != cell => *second = cell,
                    _ => {
                        return Err(
                            trained.damaged(format!("vector {id} is in three cells, or in one twice"))
                        );
                    }
                }
            }
        }
        for partition in &trained.parts.partitions {
            let mut vectors = partition.vectors.clone();
            if let Some(id) = vectors.find(|vector| old.first[*vector as usize] == NO_CELL) {
                return Err(trained.damaged(format!("vector {id} is in no cell")));
            }
        }
        old.by_place(trained)?;
        if layout.halves > 0 {
            old.order(trained)?;
        }
        Ok(old)
    }

    /// Where a vector lies tells which of two cells is the first, where they lie in the order of cells.
    fn by_place(&mut self, trained: &Trained<'_>) -> Result<()> {
        let firsts = &trained.parts.firsts;
        for partition in trained.parts.partitions.iter().filter(|_| trained.layout.ordered) {
            for cell in partition.cells.clone() {
                let end = firsts[cell as usize + 1].min(partition.vectors.end);
                for id in firsts[cell as usize]..end {
                    let (first, second) = (&mut self.first[id as usize], &mut self.second[id as usize]);
                    if *second == cell {
                        std::mem::swap(first, second);
                    }
                    if *first != cell {
                        return Err(
                            trained.damaged(format!("vector {id} is not in cell {cell}, where it lies"))
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// Rows of half bytes tell which of two cells is the first.
    fn order(&mut self, trained: &Trained<'_>) -> Result<()> {
        let stride = halves::stride(trained.layout.halves as usize);
        for start in (0..self.first.len()).step_by(COPY_ROWS) {
            pace::breathe();
            let end = self.first.len().min(start + COPY_ROWS);
            let rows = trained.rows(layout::Part::Halves, stride, start..end)?;
            for (at, row) in (start..).zip(rows.chunks_exact(stride)) {
                let (cell, first, second) = (halves::cell(row), &mut self.first[at], &mut self.second[at]);
                if *second == cell {
                    std::mem::swap(first, second);
                }
                let named = if *first == NO_CELL { trained.layout.cells } else { *first };
                if named != cell {
                    return Err(
                        trained.damaged(format!("vector {at} is not in cell {cell}, which its row names"))
                    );
                }
            }
        }
        Ok(())
    }

    /// How many vectors that are kept each cell is the first of.
    fn sizes(&self, kept: &[u32]) -> Vec<u32> {
        let mut sizes = vec![0; self.cells];
        let kept = kept.iter().filter(|old| **old != NONE).map(|old| self.first[*old as usize]);
        kept.filter(|cell| *cell != NO_CELL).for_each(|cell| sizes[cell as usize] += 1);
        sizes
    }

    /// Which vectors are placed anew.
    fn moves(&self, fates: &Fates, trained: &Trained<'_>, work: Work) -> Vec<bool> {
        if fates.is_none() {
            return vec![false; self.first.len()];
        }
        let (dim, centroids) = (trained.layout.coded(), &trained.parts.centroids);
        let mut changes = vec![false; self.cells];
        fates.split.iter().chain(&fates.dissolved).for_each(|cell| changes[*cell as usize] = true);
        let mut around = changes.clone();
        let split: Vec<f32> =
            fates.split.iter().flat_map(|cell| &centroids[*cell as usize * dim..][..dim]).copied().collect();
        if !split.is_empty() {
            let known = Centroids::known(dim, centroids.clone(), &trained.parts.groups);
            let near = known.nearest(&Matrix::new(&split, dim), NEIGHBOURS + 1, work);
            near.iter().for_each(|cell| around[*cell as usize] = true);
        }
        let both = self.first.iter().zip(&self.second);
        both.map(|(first, second)| {
            *first != NO_CELL && around[*first as usize] || (*second != NO_CELL && changes[*second as usize])
        })
        .collect()
    }

    /// Where all vectors are now: those that were touched as placed, the others in cells that stay. Also the
    /// number of each of the others, by its old one.
    fn merged(
        &self,
        kept: &[u32],
        origin: &[u32],
        (touched, placement): (&[u32], &Placement),
    ) -> (Placement, Vec<u32>) {
        let mut names = vec![NO_CELL; self.cells];
        let stay = (0..).zip(origin).filter(|(_, old)| **old != NO_CELL);
        stay.for_each(|(new, old)| names[*old as usize] = new);
        let name = |cell: u32| if cell == NO_CELL { NO_CELL } else { names[cell as usize] };
        let (mut primary, mut secondary) = (Vec::with_capacity(kept.len()), Vec::with_capacity(kept.len()));
        let mut now = vec![NONE; self.first.len()];
        let mut touched = touched.iter().zip(placement.primary.iter().zip(&placement.secondary)).peekable();
        for (number, old) in (0..).zip(kept) {
            if let Some((_, (first, second))) = touched.next_if(|(touched, _)| **touched == number) {
                primary.push(*first);
                secondary.push(*second);
            } else {
                now[*old as usize] = number;
                primary.push(name(self.first[*old as usize]));
                secondary.push(name(self.second[*old as usize]));
            }
        }
        (Placement { primary, secondary, ..placement.clone() }, now)
    }
}

/// What becomes of the cells; those not named stay.
#[derive(Debug, PartialEq)]
struct Fates {
    /// Ascending, as are the others.
    split: Vec<u32>,
    dissolved: Vec<u32>,
}

impl Fates {
    /// Chooses for cells of which so many vectors are left, those that last to be cells of `count` vectors.
    /// None when there would be far too many or too few.
    fn choose(sizes: &[u32], lasts: &[bool], count: usize) -> Option<Self> {
        let lasting = |cell: &u32| lasts[*cell as usize];
        let total: u64 = (0..).zip(sizes).filter(|(cell, _)| lasting(cell)).map(|(_, n)| u64::from(*n)).sum();
        let many = lasts.iter().filter(|lasts| **lasts).count();
        let usual = total as f64 / many.max(1) as f64;
        let those = |wanted: &dyn Fn(f64) -> bool| -> Vec<u32> {
            let chosen = |(cell, size): &(u32, &u32)| lasting(cell) && wanted(f64::from(**size));
            (0..).zip(sizes).filter(chosen).map(|(cell, _)| cell).collect()
        };
        let split = those(&|size| size > OUTGROWN * usual && size >= SPLIT_MIN);
        let dissolved = those(&|size| size == 0.0 || size * SHRUNK < usual);
        let cells = (many - dissolved.len() + split.len()) as f64;
        let wanted = count.div_ceil(CELL_VECTORS) as f64;
        let fits = cells * CELLS_OFF >= wanted && cells <= wanted * CELLS_OFF && (cells >= 1.0 || count == 0);
        fits.then_some(Self { split, dissolved })
    }

    fn is_none(&self) -> bool {
        self.split.is_empty() && self.dissolved.is_empty()
    }
}

/// The cells that there will be.
struct Cells {
    /// The old cell that each is, or none.
    origin: Vec<u32>,
    /// First cell of each group, and the end.
    groups: Vec<u32>,
}

impl Cells {
    /// The cells of a partition after what becomes of them, and their centroids; `halves_of` gives those of a
    /// cell that is split, fewer than two when its vectors are all alike.
    fn after(
        fates: &Fates,
        (trained, partition): (&Trained<'_>, &Partition),
        halves_of: impl Fn(u32) -> Vec<f32>,
    ) -> (Self, Vec<f32>) {
        let (dim, old) = (trained.layout.coded(), &trained.parts.centroids);
        let (mut origin, mut groups, mut centroids) = (Vec::new(), vec![0], Vec::new());
        let of = partition.groups.start as usize..=partition.groups.end as usize;
        for group in trained.parts.groups[of].windows(2) {
            for cell in group[0]..group[1] {
                if fates.dissolved.binary_search(&cell).is_ok() {
                    continue;
                }
                let split = fates.split.binary_search(&cell).is_ok().then(|| halves_of(cell));
                match split.filter(|halves| halves.len() == 2 * dim) {
                    Some(halves) => {
                        centroids.extend(halves);
                        origin.extend([NO_CELL; 2]);
                    }
                    None => {
                        centroids.extend_from_slice(&old[cell as usize * dim..][..dim]);
                        origin.push(cell);
                    }
                }
            }
            if groups.last() != Some(&(origin.len() as u32)) {
                groups.push(origin.len() as u32);
            }
        }
        (Self { origin, groups }, centroids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_that_are_far_too_large_are_split_and_those_that_are_all_but_empty_go() {
        let fates = |split: &[u32], dissolved: &[u32]| {
            Some(Fates { split: split.to_vec(), dissolved: dissolved.to_vec() })
        };
        assert_eq!(Fates::choose(&[98; 40], &[true; 40], 98 * 40), fates(&[], &[]));
        let sizes = [98, 98, 0, 98, 98, 98, 98, 1, 98, 1100, 98];
        assert_eq!(Fates::choose(&sizes, &[true; 11], 98 * 12), fates(&[9], &[2, 7]));
        // Those that do not last count for nothing.
        let sizes = [0, 5000, 98, 98];
        assert_eq!(Fates::choose(&sizes, &[false, false, true, true], 98 * 2), fates(&[], &[]));
        assert_eq!(Fates::choose(&sizes, &[false; 4], 0), fates(&[], &[]));
        // As many as there are to be, about.
        assert_eq!(Fates::choose(&[98; 40], &[true; 40], 98 * 48), fates(&[], &[]));
        assert_eq!(Fates::choose(&[98; 40], &[true; 40], 98 * 60), None);
        assert_eq!(Fates::choose(&[98; 40], &[true; 40], 98 * 28), None);
        // Nothing is left of any, or too little to split.
        assert_eq!(Fates::choose(&[0, 0], &[true; 2], 10), None);
        assert_eq!(
            Fates::choose(&[1, 15, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1], &[true; 12], 1_000),
            fates(&[], &[2])
        );
    }
}
