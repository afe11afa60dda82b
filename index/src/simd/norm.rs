//! Norms and normalising: once a vector at build time and once a query, never in a scan.
//!
//! Sums are in f64 over fixed lanes, whatever the CPU has, so that the same vector is stored as the same
//! bytes everywhere, and no finite f32 vector overflows or vanishes.

use super::element::Element;

const LANES: usize = 8;

/// The squared Euclidean norm.
#[inline(always)]
pub fn norm_squared<T: Element>(vector: &[T]) -> f64 {
    let (chunks, tail) = vector.as_chunks::<LANES>();
    let mut sums = [0.0f64; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            let value = f64::from(chunk[lane].to_f32());
            sums[lane] += value * value;
        }
    }
    sums.iter().sum::<f64>() + tail.iter().map(|value| f64::from(value.to_f32()).powi(2)).sum::<f64>()
}

/// The Euclidean norm; 0 only for a vector of zeros.
#[inline(always)]
pub fn norm(vector: &[f32]) -> f64 {
    norm_squared(vector).sqrt()
}

/// Divides the vector by its norm and returns the norm it had. A vector of zeros, or with a value that is not
/// finite, stays as it is and gives `None`.
pub fn normalize(vector: &mut [f32]) -> Option<f64> {
    let norm = norm(vector);
    if norm == 0.0 || !norm.is_finite() {
        return None;
    }
    for value in vector {
        *value = (f64::from(*value) / norm) as f32;
    }
    Some(norm)
}
