//! Which cells the vectors of a field fall into: k-means, and the nearest cells of every vector.
//!
//! Assignment is a matrix product: `argmin |x - c|^2 = argmin |c|^2 - 2 <x, c>`, by tiles of the float
//! kernels. Beyond [`FLAT_MAX`] cells the centroids are found and searched in two levels: about the square
//! root of their number of groups, each divided by k-means of its own; a vector then meets the cells of the
//! [`GROUPS_TRIED`] nearest groups. Time `O(rows x cells x dim)` in one level, `O(rows x sqrt(cells) x dim)`
//! in two.

use crate::matrix::Matrix;
use crate::parallel::for_parts;
use crate::random::Random;
use crate::simd::Kernels;

use super::points::{Buffer, Points};

/// Most cells that are found and searched in one level.
const FLAT_MAX: usize = 4096;
/// Groups whose cells a vector meets, for as many groups as the square root of the cells.
const GROUPS_TRIED: usize = 8;
/// Rows a cell that k-means learns from.
const SAMPLE_PER_CELL: usize = 48;
/// Rounds of k-means: more move centroids by less than what a search sees.
const ROUNDS: usize = 8;
/// Rounds where most centroids are known.
const ROUNDS_KNOWN: usize = 2;
/// Rows whose products with all centroids are computed at once, and those that a thread takes at a time.
const TILE_ROWS: usize = 32;
const PART_ROWS: usize = 1024;

/// What clustering needs besides the rows.
#[derive(Clone, Copy)]
pub(super) struct Work {
    pub(super) kernels: &'static Kernels,
    pub(super) threads: usize,
    pub(super) seed: u64,
    /// Bytes of rows that are kept at once, where there is a choice.
    pub(super) bytes_max: usize,
}

/// A cell and the squared distance to its centroid.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Near {
    pub(super) cell: u32,
    pub(super) distance: f32,
}

/// Centroids, in one level or two.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Centroids {
    dim: usize,
    /// `cells x dim`.
    pub(super) values: Vec<f32>,
    /// `groups x dim`, and the first cell of each and the end; none in one level.
    groups: Vec<f32>,
    starts: Vec<u32>,
    /// Groups whose cells a vector meets.
    tried: usize,
}

impl Centroids {
    /// At most `cells` centroids of `points`, in two levels at most one more a group; none of them twice.
    /// K-means goes on from those `known`.
    pub(super) fn fit(points: &dyn Points, cells: usize, known: Option<&[f32]>, work: Work) -> Self {
        let dim = points.dim();
        let mut random = Random(work.seed);
        let flat = |cells: usize, known: Option<&[f32]>, random: &mut Random| {
            let values = points.gather(&random.sample(points.count(), cells * SAMPLE_PER_CELL), work.threads);
            k_means(Matrix::new(&values, dim), cells, known, random, work)
        };
        if cells <= FLAT_MAX {
            let values = flat(cells, known, &mut random);
            return Self::flat(dim, values);
        }
        let groups = flat((cells as f64).sqrt().ceil() as usize, None, &mut random);
        let count = groups.len() / dim;
        let sample = random.sample(points.count(), cells * SAMPLE_PER_CELL);
        let group_of = nearest_of(points, &sample, Matrix::new(&groups, dim), work);
        let mut sizes = vec![0; count];
        group_of.iter().for_each(|group| sizes[*group as usize] += 1);
        // What is known goes to the group that it is nearest to.
        let mut known_of = vec![Vec::new(); count];
        if let Some(known) = known.map(|known| Matrix::new(known, dim)) {
            let near = nearest_flat(known, Matrix::new(&groups, dim), 1, work);
            for (near, centroid) in near.iter().zip(known.iter()) {
                known_of[near.cell as usize].extend_from_slice(centroid);
            }
        }
        let (mut cells_of, mut starts) = (Vec::new(), vec![0]);
        let mut first = 0;
        while first < count {
            // As many groups at a time as have room.
            let mut left = (work.bytes_max / (4 * dim)).saturating_sub(sizes[first]);
            let end = first
                + 1
                + sizes[first + 1..]
                    .iter()
                    .take_while(|size| {
                        let fits = left >= **size;
                        left = left.saturating_sub(**size);
                        fits
                    })
                    .count();
            let batch = first as u32..end as u32;
            let numbers = sample.iter().zip(&group_of).filter(|(_, group)| batch.contains(group));
            let (numbers, of): (Vec<usize>, Vec<u32>) = numbers.unzip();
            let values = points.gather(&numbers, work.threads);
            let mut members = vec![Vec::new(); batch.len()];
            for (group, row) in of.iter().zip(values.chunks_exact(dim)) {
                members[*group as usize - first].extend_from_slice(row);
            }
            drop(values);
            for (members, known) in members.iter().zip(&known_of[first..end]) {
                let members = Matrix::new(members, dim);
                let share = (cells * members.rows()).div_ceil(sample.len().max(1)).min(members.rows());
                let known = (!known.is_empty()).then_some(&known[..]);
                let taken = random.sample(members.rows(), share * SAMPLE_PER_CELL);
                let values = members.gather(&taken, work.threads);
                cells_of.extend(k_means(Matrix::new(&values, dim), share, known, &mut random, work));
                starts.push((cells_of.len() / dim) as u32);
            }
            first = end;
        }
        Self { dim, values: cells_of, groups, starts, tried: GROUPS_TRIED }
    }

    fn flat(dim: usize, values: Vec<f32>) -> Self {
        Self { dim, values, groups: Vec::new(), starts: Vec::new(), tried: 0 }
    }

    /// Centroids as they are, of which neighbours are in groups that begin at `starts`.
    pub(super) fn known(dim: usize, values: Vec<f32>, starts: &[u32]) -> Self {
        let cells = values.len() / dim;
        if cells <= FLAT_MAX {
            return Self::flat(dim, values);
        }
        let mut groups = Vec::with_capacity((starts.len() - 1) * dim);
        for pair in starts.windows(2) {
            let of = &values[pair[0] as usize * dim..pair[1] as usize * dim];
            let mut mean = vec![0.0; dim];
            for row in of.chunks_exact(dim) {
                mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value);
            }
            let count = (of.len() / dim).max(1) as f32;
            groups.extend(mean.iter().map(|sum| sum / count));
        }
        let per_root = (starts.len() - 1) as f64 / (cells as f64).sqrt();
        let tried = (GROUPS_TRIED as f64 * per_root).ceil() as usize;
        Self { dim, values, groups, starts: starts.to_vec(), tried }
    }

    /// How many cells there are.
    pub(super) fn cells(&self) -> usize {
        self.values.len() / self.dim
    }

    /// The `top` nearest cells of every point, nearest first, the last one repeated when there are fewer:
    /// `points x top`.
    pub(super) fn nearest(&self, points: &dyn Points, top: usize, work: Work) -> Vec<u32> {
        let mut near = vec![0; points.count() * top];
        for_parts(work.threads, &mut near, PART_ROWS * top, |part, near| {
            let first = part * PART_ROWS;
            let mut buffer = Buffer::default();
            let rows = points.block(first..first + near.len() / top, &mut buffer);
            let found = self.nearest_of(rows, top, Work { threads: 1, ..work });
            near.iter_mut().zip(found).for_each(|(cell, found)| *cell = found.cell);
        });
        near
    }

    /// The same of a few rows.
    fn nearest_of(&self, rows: Matrix<'_, f32>, top: usize, work: Work) -> Vec<Near> {
        let cells = Matrix::new(&self.values, self.dim);
        if self.groups.is_empty() {
            return nearest_flat(rows, cells, top, work);
        }
        let groups = nearest_flat(rows, Matrix::new(&self.groups, self.dim), self.tried, work);
        let mut near = vec![Near::default(); rows.rows() * top];
        let mut products = Vec::new();
        for ((row, near), groups) in
            rows.iter().zip(near.chunks_exact_mut(top)).zip(groups.chunks_exact(self.tried))
        {
            let mut best = Best::new(near);
            let mut groups: Vec<u32> = groups.iter().map(|near| near.cell).collect();
            groups.dedup();
            for group in groups {
                let range = self.starts[group as usize] as usize..self.starts[group as usize + 1] as usize;
                let cells = cells.slice(range.clone());
                products.resize(cells.rows(), 0.0);
                work.kernels.l2_rows(row, cells, &mut products);
                for (cell, distance) in range.zip(&products) {
                    best.offer(Near { cell: cell as u32, distance: *distance });
                }
            }
            best.fill_up();
        }
        near
    }
}

/// The nearest centroid of each of these points.
fn nearest_of(points: &dyn Points, numbers: &[usize], centroids: Matrix<'_, f32>, work: Work) -> Vec<u32> {
    let mut near = vec![0; numbers.len()];
    for_parts(work.threads, &mut near, PART_ROWS, |part, near| {
        let values = points.gather(&numbers[part * PART_ROWS..][..near.len()], 1);
        let rows = Matrix::new(&values, points.dim());
        let found = nearest_flat(rows, centroids, 1, Work { threads: 1, ..work });
        near.iter_mut().zip(found).for_each(|(cell, found)| *cell = found.cell);
    });
    near
}

/// Keeps the nearest of what it is offered, in a slice.
struct Best<'a> {
    near: &'a mut [Near],
    len: usize,
}

impl<'a> Best<'a> {
    fn new(near: &'a mut [Near]) -> Self {
        Self { near, len: 0 }
    }

    #[inline]
    fn offer(&mut self, new: Near) {
        if self.len == self.near.len() && new.distance >= self.near[self.len - 1].distance {
            return;
        }
        self.len = (self.len + 1).min(self.near.len());
        let mut at = self.len - 1;
        while at > 0 && self.near[at - 1].distance > new.distance {
            self.near[at] = self.near[at - 1];
            at -= 1;
        }
        self.near[at] = new;
    }

    fn fill_up(&mut self) {
        let last = self.near[self.len.saturating_sub(1)];
        self.near[self.len..].fill(last);
    }
}

/// Squared norm of each row.
pub(super) fn norms_squared(rows: Matrix<'_, f32>) -> Vec<f32> {
    rows.iter().map(|row| crate::simd::norm_squared(row) as f32).collect()
}

/// As [`Centroids::nearest`], by all centroids.
fn nearest_flat(rows: Matrix<'_, f32>, centroids: Matrix<'_, f32>, top: usize, work: Work) -> Vec<Near> {
    let (dim, cells) = (rows.dim(), centroids.rows());
    let centroid_norms = norms_squared(centroids);
    let mut near = vec![Near::default(); rows.rows() * top];
    for_parts(work.threads, &mut near, TILE_ROWS * top, |part, near| {
        let first = part * TILE_ROWS;
        let rows = rows.slice(first..first + near.len() / top);
        let mut products = vec![0.0; rows.rows() * cells];
        work.kernels.dot_tile(rows, centroids, &mut products);
        for ((row, products), near) in
            rows.iter().zip(products.chunks_exact(cells)).zip(near.chunks_exact_mut(top))
        {
            let norm = row.iter().map(|value| value * value).sum::<f32>();
            let mut best = Best::new(near);
            for (cell, (product, centroid)) in products.iter().zip(&centroid_norms).enumerate() {
                best.offer(Near { cell: cell as u32, distance: centroid - 2.0 * product });
            }
            best.fill_up();
            near.iter_mut().for_each(|near| near.distance = (near.distance + norm).max(0.0));
        }
    });
    debug_assert_eq!(dim, centroids.dim(), "one dimension");
    near
}

/// At most `cells` means of `rows`: fewer when there are not as many different rows. Of those that are
/// `known` as many are taken as are wanted, in fewer rounds.
pub(super) fn k_means(
    rows: Matrix<'_, f32>,
    cells: usize,
    known: Option<&[f32]>,
    random: &mut Random,
    work: Work,
) -> Vec<f32> {
    let (dim, cells) = (rows.dim(), cells.max(1));
    let mut centroids = Vec::new();
    if let Some(known) = known.map(|known| Matrix::new(known, dim)) {
        let kept = random.sample(known.rows(), cells);
        centroids.extend(kept.iter().flat_map(|at| known.row(*at)).copied());
    }
    let start = random.sample(rows.rows(), cells - centroids.len() / dim);
    centroids.extend(start.iter().flat_map(|at| rows.row(*at)).copied());
    let rounds = if known.is_some() { ROUNDS_KNOWN } else { ROUNDS };
    for round in 0..rounds {
        let near = nearest_flat(rows, Matrix::new(&centroids, dim), 1, work);
        let mut sums = vec![0.0_f64; centroids.len()];
        let mut counts = vec![0_usize; centroids.len() / dim];
        for (row, near) in rows.iter().zip(&near) {
            counts[near.cell as usize] += 1;
            let sums = &mut sums[near.cell as usize * dim..][..dim];
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        for (cell, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (centroid, sums) = (&mut centroids[cell * dim..][..dim], &sums[cell * dim..][..dim]);
            centroid.iter_mut().zip(sums).for_each(|(value, sum)| *value = (sum / *count as f64) as f32);
        }
        refill(rows, &near, &mut centroids, &mut counts, random);
        if round + 1 == rounds {
            // Cells that are still empty are of rows that are there already.
            let kept = counts.iter().zip(centroids.chunks_exact(dim)).filter(|(count, _)| **count > 0);
            return kept.flat_map(|(_, centroid)| centroid).copied().collect();
        }
    }
    centroids
}

/// Gives every empty cell a row of a large one that is away from its centroid, so that the large one is
/// divided in the next round.
fn refill(
    rows: Matrix<'_, f32>,
    near: &[Near],
    centroids: &mut [f32],
    counts: &mut [usize],
    random: &mut Random,
) {
    let dim = rows.dim();
    for cell in 0..counts.len() {
        if counts[cell] > 0 {
            continue;
        }
        // A row drawn from all is likely of a large cell.
        for _ in 0..8 {
            let at = random.below(rows.rows());
            let of = near[at].cell as usize;
            if near[at].distance > 0.0 && counts[of] > 1 {
                centroids[cell * dim..][..dim].copy_from_slice(rows.row(at));
                counts[of] -= 1;
                counts[cell] = 1;
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(count: usize, dim: usize, seed: u64) -> Vec<f32> {
        let mut random = Random(seed);
        (0..count * dim).map(|_| (random.next() >> 40) as f32 / (1 << 24) as f32 - 0.5).collect()
    }

    /// Two levels find the same centroids however many rows are kept at once, and next to always the cells
    /// that a look at all of them finds.
    #[test]
    fn two_levels_are_as_good_as_one_in_any_memory() {
        let (dim, cells) = (2, FLAT_MAX + 500);
        let values = points(3 * cells, dim, 7);
        let rows = Matrix::new(&values, dim);
        let work = Work { kernels: Kernels::best(), threads: 2, seed: 3, bytes_max: usize::MAX };
        let centroids = Centroids::fit(&rows, cells, None, work);
        let wanted = cells * 9 / 10..cells + centroids.starts.len();
        assert!(wanted.contains(&centroids.cells()), "{} cells", centroids.cells());
        for bytes_max in [0, 4 * dim * rows.rows() / 5] {
            assert!(Centroids::fit(&rows, cells, None, Work { bytes_max, threads: 1, ..work }) == centroids);
        }
        let all = nearest_flat(rows, Matrix::new(&centroids.values, dim), 1, work);
        let agree =
            |found: &[u32]| found.iter().zip(&all).filter(|(found, near)| **found == near.cell).count();
        let found = agree(&centroids.nearest(&rows, 1, work));
        assert!(found * 100 >= rows.rows() * 99, "{found} of {}", rows.rows());
        // The same cells again, in groups that are known.
        let known = Centroids::known(dim, centroids.values.clone(), &centroids.starts);
        let found = agree(&known.nearest(&rows, 1, work));
        assert!(found * 100 >= rows.rows() * 99, "{found} of {} by known groups", rows.rows());
    }
}
