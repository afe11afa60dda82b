//! Which vectors have cells of their own, and how vectors lie.
//!
//! The vectors of a field come tenant by tenant. A tenant with many has cells that are found among its own
//! vectors: a partition, which its searches do not leave. The vectors of all others have no cells and are
//! scanned: they are few, and lie side by side. What codes are made with (space, axes, words) is learned from
//! all.
//!
//! In a partition the vectors of a cell lie side by side as well, cell after cell, so that a cell is a range
//! of them: a filter over vectors is cut to a cell by two look-ups. Curator (Jin et al., "Curator: Efficient
//! indexing for multi-tenant vector databases", 2024) has one tree for all tenants and lists of vectors at
//! its nodes for each; where a vector has one tenant, cells of the tenant's own fit its vectors better and
//! take no more memory.

use std::ops::Range;

use super::build::CELL_VECTORS;
use super::closure::Placement;
use super::cluster::{Centroids, Work};
use super::groups;
use super::points::{Part, Points, Projected};
use crate::matrix::Matrix;

/// Tenants with fewer vectors get no cells, and lose those that they have below half of it.
pub(super) const VECTORS_MIN: u32 = 2048;

/// Vectors with cells of their own.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Partition {
    pub(super) vectors: Range<u32>,
    pub(super) cells: Range<u32>,
    pub(super) groups: Range<u32>,
}

/// Vectors that are to have cells of their own.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) vectors: Range<u32>,
    /// The number of the partition that they were before.
    pub(super) before: Option<u32>,
}

/// The partitions of `count` vectors, of tenants that begin at `tenants`; `before` says which partition the
/// vectors of a range were. A single tenant has cells however few its vectors are.
pub(super) fn choose(tenants: &[u32], count: u32, before: impl Fn(Range<u32>) -> Option<u32>) -> Vec<Wanted> {
    let ends = tenants.iter().skip(1).copied().chain([count]);
    let ranges = tenants.iter().zip(ends).map(|(start, end)| *start..end);
    let wanted = ranges.filter(|vectors| !vectors.is_empty()).filter_map(|vectors| {
        let (few, before) = (vectors.len() as u32 * 2 < VECTORS_MIN, before(vectors.clone()));
        let many = vectors.len() as u32 >= VECTORS_MIN || (before.is_some() && !few);
        (many || tenants.len() == 1).then_some(Wanted { vectors, before })
    });
    wanted.collect()
}

/// Where vectors are, and in which partitions.
pub(super) struct Placed {
    pub(super) placement: Placement,
    pub(super) partitions: Vec<Partition>,
    /// First cell of each group, and the end.
    pub(super) groups: Vec<u32>,
}

impl Placed {
    /// So many vectors without a cell.
    pub(super) fn none(dim: usize, count: usize) -> Self {
        Self { placement: Placement::none(dim, count), partitions: Vec::new(), groups: vec![0] }
    }

    /// Places the vectors of each partition into cells of its own: k-means goes on from the centroids that
    /// are `known`.
    pub(super) fn of<'k>(
        points: &dyn Points,
        wanted: &[Wanted],
        known: impl Fn(&Wanted) -> Option<&'k [f32]>,
        work: Work,
    ) -> Self {
        let mut placed = Self::none(points.dim(), points.count());
        for wanted in wanted {
            let range = wanted.vectors.start as usize..wanted.vectors.end as usize;
            let (placement, groups) = cluster(&Part { points, range }, known(wanted), work);
            placed.take_in(wanted.vectors.start as usize, &placement, &groups);
            placed.close(wanted.vectors.clone());
        }
        placed
    }

    /// Takes in a part of the vectors with cells and groups of their own.
    pub(super) fn take_in(&mut self, first: usize, part: &Placement, groups: &[u32]) {
        let before = self.placement.cells() as u32;
        self.placement.take_in(first, part);
        self.groups.extend(groups.iter().skip(1).map(|cell| before + cell));
    }

    /// What was taken in since the last one is a partition.
    pub(super) fn close(&mut self, vectors: Range<u32>) {
        let (cell, group) = self.partitions.last().map_or((0, 0), |last| (last.cells.end, last.groups.end));
        let (cells, groups) = (cell..self.placement.cells() as u32, group..self.groups.len() as u32 - 1);
        self.partitions.push(Partition { vectors, cells, groups });
    }

    /// Puts vectors into the order of their cells, if they may be; returns the numbers that they had, unless
    /// they stay as they are.
    pub(super) fn put_in_order(&mut self, ordered: bool, projected: &mut Projected<'_>) -> Option<Vec<u32>> {
        let order = self.order(ordered)?;
        self.placement.permute(&order);
        projected.permute(&order);
        Some(order)
    }

    /// The order of cells, where that is another one and vectors may be put into it.
    pub(super) fn order(&self, ordered: bool) -> Option<Vec<u32>> {
        let order = ordered.then(|| order(&self.partitions, &self.placement))?;
        (!order.is_sorted()).then_some(order)
    }
}

/// Cells of all points, in groups.
pub(super) fn cluster(points: &dyn Points, known: Option<&[f32]>, work: Work) -> (Placement, Vec<u32>) {
    let cells = points.count().div_ceil(CELL_VECTORS);
    let mut placement = Placement::of(points, Centroids::fit(points, cells, known, work), work);
    let groups = arrange(&mut placement, work).1;
    (placement, groups)
}

/// Numbers the cells group after group; the numbers that they had, and the first cell of each group, and the
/// end.
pub(super) fn arrange(placement: &mut Placement, work: Work) -> (Vec<u32>, Vec<u32>) {
    let (order, groups) = groups::arrange(Matrix::new(&placement.centroids, placement.dim), work);
    placement.reorder(&order);
    (order, groups)
}

/// The numbers that vectors have so far, in the order in which they are to lie.
pub(super) fn order(partitions: &[Partition], placement: &Placement) -> Vec<u32> {
    let mut order: Vec<u32> = (0..placement.primary.len() as u32).collect();
    for Partition { vectors, .. } in partitions {
        let here = &mut order[vectors.start as usize..vectors.end as usize];
        here.sort_by_key(|vector| placement.primary[*vector as usize]);
    }
    order
}

/// The first vector of each cell, and the end of the last, where vectors lie in order.
pub(super) fn firsts(partitions: &[Partition], placement: &Placement) -> Vec<u32> {
    let mut firsts = Vec::with_capacity(placement.cells() + 1);
    let mut end = 0;
    for Partition { vectors, cells, .. } in partitions {
        let of = &placement.primary[vectors.start as usize..vectors.end as usize];
        firsts.extend(cells.clone().map(|cell| vectors.start + of.partition_point(|c| *c < cell) as u32));
        end = vectors.end;
    }
    firsts.push(end);
    firsts
}

/// The partition of a vector.
pub(super) fn of_vector(partitions: &[Partition], vector: u32) -> Option<usize> {
    let at = partitions.partition_point(|partition| partition.vectors.end <= vector);
    partitions.get(at)?.vectors.contains(&vector).then_some(at)
}

/// Where vectors are that lie side by side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Among {
    /// In one partition.
    Partition(usize),
    /// In none.
    None,
    /// In more than one, or in one and outside.
    Several,
}

/// Where the vectors of a range are.
pub(super) fn among(partitions: &[Partition], vectors: &Range<u32>) -> Among {
    let at = partitions.partition_point(|partition| partition.vectors.end <= vectors.start);
    match partitions.get(at).map(|partition| &partition.vectors) {
        Some(of) if of.start <= vectors.start && vectors.end <= of.end => Among::Partition(at),
        Some(of) if of.start < vectors.end => Among::Several,
        _ => Among::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_keeps_its_cells_until_half_of_its_vectors_are_gone() {
        let had = |vectors: Range<u32>| (vectors.start == 100).then_some(7);
        let new = |vectors: Range<u32>| Wanted { vectors, before: None };
        let (few, many) = (100 + VECTORS_MIN - 1, 100 + VECTORS_MIN);
        assert_eq!(choose(&[0, 100, many], many + 50, |_| None), [new(100..many)]);
        assert_eq!(choose(&[0, 100, few], few + 50, |_| None), []);
        let kept = Wanted { vectors: 100..few, before: Some(7) };
        assert_eq!(choose(&[0, 100, few], few + 50, had), [kept]);
        let half = 100 + VECTORS_MIN / 2;
        assert_eq!(choose(&[0, 100, half - 1], half + 50, had), []);
        assert_eq!(choose(&[0], 5, |_| None), [new(0..5)]);
    }

    #[test]
    fn vectors_lie_cell_after_cell_within_their_partition() {
        let none = super::super::closure::NONE;
        let placement = Placement {
            dim: 1,
            centroids: vec![0.0; 5],
            origin: vec![0.0],
            primary: vec![none, 1, 0, 1, 0, none, 4, 2, 2, 4],
            secondary: vec![none; 10],
        };
        let partitions = [
            Partition { vectors: 1..5, cells: 0..2, groups: 0..1 },
            Partition { vectors: 6..10, cells: 2..5, groups: 1..2 },
        ];
        let order = order(&partitions, &placement);
        assert_eq!(order, [0, 2, 4, 1, 3, 5, 7, 8, 6, 9]);
        let mut placement = placement;
        placement.permute(&order);
        assert_eq!(firsts(&partitions, &placement), [1, 3, 6, 8, 8, 10]);
        let of: Vec<Option<usize>> = (0..11).map(|vector| of_vector(&partitions, vector)).collect();
        let (first, second) = (Some(0), Some(1));
        assert_eq!(of[..6], [None, first, first, first, first, None]);
        assert_eq!(of[6..], [second, second, second, second, None]);
        let among = |range: Range<u32>| among(&partitions, &range);
        assert_eq!([1..5, 2..3, 6..10].map(among), [0, 0, 1].map(Among::Partition));
        assert_eq!([0..1, 5..6, 10..20].map(among), [Among::None; 3]);
        assert_eq!([0..2, 4..6, 3..7, 0..20].map(among), [Among::Several; 4]);
    }
}
