//! Queries made ready for a scan: checked, normalised under cosine, and as integers where the integer kernels
//! apply.
//!
//! On i8 fields a query whose values are all integers in -127..=127 is scored by the integer kernels,
//! exactly; any other query is scored in f32 against the i8 values. Which of the two depends on the query
//! alone, so a batch scores each of its queries as a single search would.

use spandrel_storage::{Element, Metric};

use crate::error::{Error, Result};
use crate::matrix::Matrix;
use crate::simd::{self, Kernels};

/// The queries of one call. Both groups keep the order of the call.
#[derive(Debug, Default)]
pub(super) struct Queries {
    /// Queries scored in f32: `floats.of.len() x dim`.
    pub(super) floats: Group<f32>,
    /// Queries scored in integers: `ints.of.len() x dim`.
    pub(super) ints: Group<i8>,
}

/// Queries of one kind of number.
#[derive(Debug, Default)]
pub(super) struct Group<T> {
    /// Row-major.
    pub(super) values: Vec<T>,
    /// Position of each in the caller's batch.
    pub(super) of: Vec<usize>,
    /// Squared norm of each as it is scored, f64.
    pub(super) norms_squared: Vec<f64>,
}

impl<T> Group<T> {
    fn clear(&mut self) {
        self.values.clear();
        self.of.clear();
        self.norms_squared.clear();
    }
}

/// Whether the integer kernels score this query on an i8 field.
fn is_integer(query: &[f32]) -> bool {
    query.iter().all(|value| value.trunc() == *value && value.abs() <= 127.0)
}

/// Whether a query can be asked of a field.
///
/// # Errors
/// [`Error::Invalid`] for another dimension than `dim`, a value that is not finite, or a zero query under
/// cosine.
pub(super) fn check_query(query: &[f32], dim: usize, metric: Metric) -> Result<()> {
    if query.len() != dim {
        return Err(Error::Invalid(format!("the query has {} dimensions, the field has {dim}", query.len())));
    }
    // All first, without an exit, which vectorizes: this is done for every query.
    if !query.iter().fold(true, |finite, value| finite & value.is_finite()) {
        let bad = query.iter().position(|value| !value.is_finite()).unwrap_or_default();
        return Err(Error::Invalid(format!("value {bad} of the query is {}, not finite", query[bad])));
    }
    if metric == Metric::Cosine && query.iter().all(|value| *value == 0.0) {
        return Err(Error::Invalid("a query of zeros has no direction to compare by cosine".into()));
    }
    Ok(())
}

impl Queries {
    /// Fills both groups.
    ///
    /// # Errors
    /// As [`check_query`].
    pub(super) fn prepare(
        &mut self,
        kernels: &Kernels,
        queries: Matrix<'_, f32>,
        dim: usize,
        element: Element,
        metric: Metric,
    ) -> Result<()> {
        self.floats.clear();
        self.ints.clear();
        for (at, query) in queries.iter().enumerate() {
            check_query(query, dim, metric)?;
            let norm_squared = |values: &[f32]| {
                kernels.vectorized(
                    #[inline(always)]
                    || simd::norm_squared(values),
                )
            };
            if element == Element::I8 && is_integer(query) {
                self.ints.values.extend(query.iter().map(|value| *value as i8));
                self.ints.of.push(at);
                self.ints.norms_squared.push(norm_squared(query));
                continue;
            }
            let start = self.floats.values.len();
            self.floats.values.extend_from_slice(query);
            self.floats.of.push(at);
            if metric == Metric::Cosine {
                simd::normalize(&mut self.floats.values[start..]);
            }
            self.floats.norms_squared.push(norm_squared(&self.floats.values[start..]));
        }
        Ok(())
    }
}
