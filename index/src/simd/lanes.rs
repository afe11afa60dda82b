//! Passes over values that the compiler turns into vector instructions, when they are inlined into
//! [`Kernels::vectorized`](crate::simd::Kernels::vectorized).

/// Partial results of a pass, so that none waits for the one before.
const LANES: usize = 16;

/// The larger of two, as one instruction; the second, when one is no number.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The smaller of two, in the same way.
#[inline(always)]
pub(crate) fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// Folds what `of` makes of the values, lane by lane, and then the lanes. What is no number is passed over by
/// [`larger`] and [`smaller`].
#[inline(always)]
pub(crate) fn fold(
    values: &[f32],
    start: f32,
    of: impl Fn(f32) -> f32,
    with: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut lanes = [start; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane = with(of(*value), *lane));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, value)| *lane = with(of(*value), *lane));
    lanes.into_iter().fold(start, with)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_take_every_value_once_at_every_length() {
        for len in [0, 1, 15, 16, 17, 33, 100] {
            let values: Vec<f32> = (0..len).map(|at| (at as f32 * 7.0) % 31.0 - 9.0).collect();
            let sum: f32 = values.iter().map(|value| value.abs()).sum();
            assert_eq!(fold(&values, 0.0, f32::abs, |a, b| a + b), sum);
            let least = values.iter().copied().fold(f32::INFINITY, f32::min);
            assert_eq!(fold(&values, f32::INFINITY, |value| value, smaller), least);
            let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(fold(&values, f32::NEG_INFINITY, |value| value, larger), most);
            let with_nan: Vec<f32> = values.iter().copied().chain([f32::NAN]).collect();
            assert_eq!(fold(&with_nan, f32::NEG_INFINITY, |value| value, larger), most);
        }
    }
}
