//! Cells in groups of neighbours, so that a query meets the cells of a few groups instead of all.
//!
//! A group is the cells around one of a few centroids of centroids, and stands for them as one large cell:
//! what [`odds`](super::odds) say of a cell by its centroid and radius they say of a group by the mean of its
//! vectors and their distance from that. Cells are numbered group after group.
//!
//! Cost: with about as many groups as a group has cells, a query meets `O(sqrt(cells))` groups and the cells
//! of some of them.

use super::bytes::ByteRows;
use super::cluster::{Centroids, Work, norms_squared};
use crate::matrix::Matrix;

/// Fewer cells than this are one group.
const CELLS_MIN: usize = 256;
/// Groups, in square roots of the number of cells.
const GROUPS_PER_ROOT: f64 = 3.0;

/// The cells with these centroids group after group, and the first cell of each group, and the end, in that
/// order.
pub(super) fn arrange(centroids: Matrix<'_, f32>, work: Work) -> (Vec<u32>, Vec<u32>) {
    let cells = centroids.rows();
    let mut order: Vec<u32> = (0..cells as u32).collect();
    if cells < CELLS_MIN {
        return (order, vec![0, cells as u32]);
    }
    let wanted = ((cells as f64).sqrt() * GROUPS_PER_ROOT) as usize;
    let near = Centroids::fit(&centroids, wanted, None, work).nearest(&centroids, 1, work);
    let group = |cell: &u32| near[*cell as usize];
    order.sort_by_key(group);
    let mut starts = vec![0];
    starts.extend(order.chunk_by(|a, b| group(a) == group(b)).scan(0, |end, cells| {
        *end += cells.len() as u32;
        Some(*end)
    }));
    (order, starts)
}

/// The groups of a field's cells, in memory.
pub(super) struct Groups {
    /// First cell of each group, and the end.
    pub(super) starts: Vec<u32>,
    pub(super) centroids: ByteRows,
    pub(super) norms: Vec<f32>,
    /// Root mean squared distance of a group's vectors from its centroid.
    pub(super) radii: Vec<f32>,
}

impl Groups {
    /// Groups of cells with these `centroids` and `radii`, whose vectors take `blocks`, given by the first of
    /// each cell and the end.
    pub(super) fn of(starts: Vec<u32>, centroids: Matrix<'_, f32>, radii: &[f32], blocks: &[u32]) -> Self {
        let dim = centroids.dim();
        let weight = |cell: usize| f64::from(blocks[cell + 1] - blocks[cell]).max(0.5);
        let mut means = Vec::with_capacity((starts.len() - 1) * dim);
        let mut group_radii = Vec::with_capacity(starts.len() - 1);
        for cells in starts.windows(2).map(|pair| pair[0] as usize..pair[1] as usize) {
            let total: f64 = cells.clone().map(weight).sum();
            let mut mean = vec![0.0_f64; dim];
            for cell in cells.clone() {
                let share = weight(cell) / total;
                mean.iter_mut().zip(centroids.row(cell)).for_each(|(m, v)| *m += share * f64::from(*v));
            }
            let mean: Vec<f32> = mean.iter().map(|value| *value as f32).collect();
            let spread: f64 = cells
                .map(|cell| {
                    let own = f64::from(radii[cell]).powi(2);
                    weight(cell) * (crate::simd::l2_f64(centroids.row(cell), &mean) + own)
                })
                .sum();
            means.extend(mean);
            group_radii.push((spread / total.max(f64::MIN_POSITIVE)).sqrt() as f32);
        }
        let means = Matrix::new(&means, dim);
        Self { starts, centroids: ByteRows::of(means), norms: norms_squared(means), radii: group_radii }
    }

    /// Bytes of memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.centroids.memory_bytes() + 4 * (self.starts.len() + self.norms.len() + self.radii.len())
    }
}
