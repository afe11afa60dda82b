//! What cells are built over: the vectors of a field along the axes that cells see.
//!
//! Where memory has room, they are projected once and kept: `4 x coded dims` bytes a vector. Else whoever
//! works on them, a block at a time, projects them again from the vectors, which are then read from disk:
//! about as much arithmetic as finding the nearest cells of a vector takes.

use std::ops::Range;

use super::space::{Rows, Space};
use crate::matrix::Matrix;
use crate::parallel::for_parts;
use crate::simd::{self, Kernels};

/// Rows that are placed at once.
pub(super) const PART_ROWS: usize = 128;
/// Rows between two wanted ones that are worked on along with them.
const GAP_MAX: usize = 4;

/// Vectors of one dimension, by their numbers.
pub(super) trait Points: Sync {
    fn dim(&self) -> usize;

    fn count(&self) -> usize;

    /// Consecutive ones, where they lie or in `buffer`.
    fn block<'b>(&'b self, range: Range<usize>, buffer: &'b mut Buffer) -> Matrix<'b, f32>;

    /// Those of ascending numbers.
    fn gather(&self, numbers: &[usize], threads: usize) -> Vec<f32> {
        let dim = self.dim();
        let mut out = vec![0.0; numbers.len() * dim];
        for_parts(threads, &mut out, PART_ROWS * dim, |part, out| {
            let (mut buffer, mut out) = (Buffer::default(), out.chunks_exact_mut(dim));
            let wanted = &numbers[part * PART_ROWS..][..out.len()];
            for run in wanted.chunk_by(|a, b| b - a <= GAP_MAX) {
                let block = self.block(run[0]..run[run.len() - 1] + 1, &mut buffer);
                for (number, out) in run.iter().zip(&mut out) {
                    out.copy_from_slice(block.row(number - run[0]));
                }
            }
        });
        out
    }
}

/// What a block is computed in.
#[derive(Default)]
pub(super) struct Buffer {
    rows: Vec<f32>,
    placed: Vec<f32>,
    values: Vec<f32>,
}

impl Points for Matrix<'_, f32> {
    fn dim(&self) -> usize {
        Matrix::dim(self)
    }

    fn count(&self) -> usize {
        self.rows()
    }

    fn block<'b>(&'b self, range: Range<usize>, _: &'b mut Buffer) -> Matrix<'b, f32> {
        self.slice(range)
    }
}

/// A range of points.
pub(super) struct Part<'a> {
    pub(super) points: &'a dyn Points,
    pub(super) range: Range<usize>,
}

impl Points for Part<'_> {
    fn dim(&self) -> usize {
        self.points.dim()
    }

    fn count(&self) -> usize {
        self.range.len()
    }

    fn block<'b>(&'b self, range: Range<usize>, buffer: &'b mut Buffer) -> Matrix<'b, f32> {
        let first = self.range.start;
        self.points.block(first + range.start..first + range.end, buffer)
    }
}

/// The rows of `numbers` as if there were no others.
pub(super) fn picked(rows: Rows<'_>, numbers: &[u32], dim: usize) -> impl Fn(usize, &mut [f32]) + Sync {
    move |first, mut out| {
        let wanted = &numbers[first..first + out.len() / dim];
        for run in wanted.chunk_by(|a, b| a + 1 == *b) {
            let here;
            (here, out) = out.split_at_mut(run.len() * dim);
            rows(run[0] as usize, here);
        }
    }
}

/// The vectors of a field in the projected space.
pub(super) struct Projected<'a> {
    space: &'a Space,
    rows: Rows<'a>,
    /// `coded dims x dims`.
    pub(super) axes: Vec<f32>,
    /// `vectors x coded dims`, where they are kept.
    kept: Option<Vec<f32>>,
    /// Squared norm of what the projection leaves out of each vector.
    pub(super) rests: Vec<f32>,
    /// The numbers that `rows` has for vectors, where they are in another order.
    numbers: Option<Vec<u32>>,
}

impl<'a> Projected<'a> {
    /// Projects all `count` vectors, and keeps what that gives or does not.
    pub(super) fn new(
        space: &'a Space,
        rows: Rows<'a>,
        count: usize,
        axes: Vec<f32>,
        keep: bool,
        threads: usize,
    ) -> Self {
        let (dims, coded) = (space.dims(), axes.len() / space.dims());
        let mut rests = vec![0.0; count];
        let mut values = vec![0.0; if keep { count * coded } else { 0 }];
        let mut own = values.chunks_mut(PART_ROWS * coded);
        let mut parts: Vec<_> = rests.chunks_mut(PART_ROWS).map(|rests| (rests, own.next())).collect();
        for_parts(threads, &mut parts, 1, |part, slices| {
            let mut buffer = Buffer::default();
            for (rests, kept) in slices {
                let first = part * PART_ROWS;
                let Buffer { placed, values, .. } = &mut buffer;
                let range = first..first + rests.len();
                let placed = place(space, (rows, None), range, &mut Vec::new(), placed);
                values.resize(rests.len() * coded, 0.0);
                let values = match kept {
                    Some(kept) => &mut **kept,
                    None => &mut values[..],
                };
                Kernels::best().dot_tile(placed, Matrix::new(&axes, dims), values);
                for ((rest, placed), value) in
                    rests.iter_mut().zip(placed.iter()).zip(values.chunks_exact(coded))
                {
                    *rest = (simd::norm_squared(placed) - simd::norm_squared(value)).max(0.0) as f32;
                }
            }
        });
        drop(parts);
        Self { space, rows, axes, kept: keep.then_some(values), rests, numbers: None }
    }

    /// Puts the vectors into another order, given by the numbers that they have.
    pub(super) fn permute(&mut self, order: &[u32]) {
        let dim = self.dim();
        self.rests = order.iter().map(|vector| self.rests[*vector as usize]).collect();
        if let Some(kept) = &mut self.kept {
            *kept = order.iter().flat_map(|vector| &kept[*vector as usize * dim..][..dim]).copied().collect();
        }
        let number = |vector: &u32| match &self.numbers {
            Some(numbers) => numbers[*vector as usize],
            None => *vector,
        };
        self.numbers = Some(order.iter().map(number).collect());
    }

    fn given(&self) -> (Rows<'a>, Option<&[u32]>) {
        (self.rows, self.numbers.as_deref())
    }

    /// The vectors' places along all dimensions.
    pub(super) fn placed<'b>(&self, range: Range<usize>, buffer: &'b mut Buffer) -> Matrix<'b, f32> {
        place(self.space, self.given(), range, &mut buffer.rows, &mut buffer.placed)
    }

    /// Reorders the axes, and what is along them.
    pub(super) fn reorder(&mut self, order: &[usize]) {
        let dims = self.space.dims();
        self.axes =
            order.iter().flat_map(|from| &self.axes[from * dims..(from + 1) * dims]).copied().collect();
        if let Some(values) = &mut self.kept {
            reorder(values, order);
        }
    }
}

impl Points for Projected<'_> {
    fn dim(&self) -> usize {
        self.axes.len() / self.space.dims()
    }

    fn count(&self) -> usize {
        self.rests.len()
    }

    fn block<'b>(&'b self, range: Range<usize>, buffer: &'b mut Buffer) -> Matrix<'b, f32> {
        let dim = self.dim();
        if let Some(kept) = &self.kept {
            return Matrix::new(&kept[range.start * dim..range.end * dim], dim);
        }
        let Buffer { rows, placed, values } = buffer;
        let placed = place(self.space, self.given(), range, rows, placed);
        values.resize(placed.rows() * dim, 0.0);
        Kernels::best().dot_tile(placed, Matrix::new(&self.axes, self.space.dims()), values);
        Matrix::new(values, dim)
    }
}

/// Places vectors.
fn place<'b>(
    space: &Space,
    (rows, numbers): (Rows<'_>, Option<&[u32]>),
    range: Range<usize>,
    buffer: &mut Vec<f32>,
    placed: &'b mut Vec<f32>,
) -> Matrix<'b, f32> {
    let (dim, dims) = (space.field_dim(), space.dims());
    buffer.resize(range.len() * dim, 0.0);
    placed.resize(range.len() * dims, 0.0);
    match numbers {
        Some(numbers) => picked(rows, numbers, dim)(range.start, buffer),
        None => rows(range.start, buffer),
    }
    buffer.chunks_exact(dim).zip(placed.chunks_exact_mut(dims)).for_each(|(row, out)| space.place(row, out));
    Matrix::new(placed, dims)
}

/// Puts the values of each row of `order.len()` in that order.
pub(super) fn reorder(values: &mut [f32], order: &[usize]) {
    let mut moved = vec![0.0; order.len()];
    for row in values.chunks_exact_mut(order.len()) {
        moved.iter_mut().zip(order).for_each(|(to, from)| *to = row[*from]);
        row.copy_from_slice(&moved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use spandrel_storage::Metric;

    #[test]
    fn what_is_kept_and_what_is_computed_again_are_the_same() {
        let (count, dim, coded) = (1000, 20, 8);
        let mut random = Random(3);
        let mut float = || (random.next() >> 40) as f32 / (1 << 24) as f32 - 0.5;
        let values: Vec<f32> = (0..count * dim).map(|_| float()).collect();
        let rows = |first: usize, out: &mut [f32]| out.copy_from_slice(&values[first * dim..][..out.len()]);
        for metric in [Metric::L2, Metric::Ip] {
            let space = Space::fit(metric, &rows, count, dim, (1, 500));
            let axes: Vec<f32> = (0..coded * space.dims()).map(|_| float()).collect();
            let mut kept = Projected::new(&space, &rows, count, axes.clone(), true, 2);
            let mut again = Projected::new(&space, &rows, count, axes, false, 2);
            assert_eq!(kept.rests, again.rests);
            let order: Vec<usize> = (0..coded).rev().collect();
            for _ in 0..2 {
                let (mut a, mut b) = (Buffer::default(), Buffer::default());
                for range in [0..1, 5..133, 990..1000, 7..7] {
                    assert_eq!(kept.block(range.clone(), &mut a), again.block(range, &mut b));
                }
                let numbers = [0, 1, 5, 6, 300, 304, 309, 999];
                let gathered = again.gather(&numbers, 2);
                assert_eq!(gathered, kept.gather(&numbers, 1));
                let mut buffer = Buffer::default();
                for (number, row) in numbers.into_iter().zip(gathered.chunks_exact(coded)) {
                    assert_eq!(again.block(number..number + 1, &mut buffer).values(), row, "{number}");
                }
                kept.reorder(&order);
                again.reorder(&order);
                let turned: Vec<u32> = (0..count as u32).rev().collect();
                kept.permute(&turned);
                again.permute(&turned);
                assert_eq!(kept.rests, again.rests);
            }
        }
    }
}
