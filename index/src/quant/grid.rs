//! The small integers that point the way a vector points: of all vectors with coordinates `code + 1/2`,
//! code in `0..=top`, one of the largest cosine with given magnitudes.
//!
//! The length does not matter, so the best grid vector is the magnitudes times some factor, rounded. The
//! sweep looks at every factor at which a coordinate changes (Gao et al., "Practical and asymptotically
//! optimal quantization of high-dimensional vectors in Euclidean space for approximate nearest neighbor
//! search", 2025): exact, `O(dim * top * log)`, 3 ms for 384 dimensions of 8 bits. The fast search tries a
//! few factors about the one that is best for normal values (Max, "Quantizing for minimum distortion",
//! 1960), and then moves single coordinates by one where that helps (as Li et al., "SAQ", 2025): `O(dim)`,
//! and an error within 2 % of the sweep's.

/// How to look for a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// All factors.
    Sweep,
    /// A few factors, then coordinate by coordinate.
    Fast,
}

/// Steps of the best uniform quantizer of a normal value, for 2 to 8 bits with the sign.
const NORMAL_STEPS: [f64; 7] = [0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308];
/// What is tried, over the factor for normal values.
const ABOUT_NORMAL: [f64; 3] = [0.9, 1.0, 1.1];
/// What is tried, over the factor at which the largest magnitude just fits: with many bits it must.
const ABOUT_LARGEST: [f64; 6] = [0.98, 1.0, 1.02, 1.05, 1.09, 1.15];
/// Sums kept side by side.
const LANES: usize = 8;
/// Rounds of moving coordinates.
const ROUNDS: usize = 2;

/// Fills `code` with values of `0..=top`, where `top + 1` is a power of two of at most 128.
///
/// # Panics
/// When the lengths differ.
pub(super) fn code(magnitudes: &[f32], top: u8, search: Search, code: &mut [u8]) {
    assert_eq!(magnitudes.len(), code.len(), "one value a coordinate");
    code.fill(0);
    if top == 0 {
        return;
    }
    match search {
        Search::Sweep => sweep(magnitudes, top, code),
        Search::Fast => fast(magnitudes, top, code),
    }
}

/// The product of the magnitudes with a grid vector, and its squared norm.
#[derive(Clone, Copy, Default)]
struct Fit {
    product: f64,
    squared: f64,
}

impl Fit {
    fn of(magnitudes: &[f32], code: &[u8]) -> Self {
        let mut fit = Self::default();
        for (magnitude, code) in magnitudes.iter().zip(code) {
            let value = f64::from(*code) + 0.5;
            fit.product += f64::from(*magnitude) * value;
            fit.squared += value * value;
        }
        fit
    }

    /// After a coordinate went from `from` to `from + 1`.
    fn up(self, magnitude: f64, from: u8) -> Self {
        Self { product: self.product + magnitude, squared: self.squared + 2.0 * f64::from(from) + 2.0 }
    }

    /// After a coordinate went from `from` to `from - 1`.
    fn down(self, magnitude: f64, from: u8) -> Self {
        Self { product: self.product - magnitude, squared: self.squared - 2.0 * f64::from(from) }
    }

    /// Whether the cosine is larger; products are positive.
    fn beats(self, other: Self) -> bool {
        self.product * self.product * other.squared > other.product * other.product * self.squared
    }
}

fn sweep(magnitudes: &[f32], top: u8, code: &mut [u8]) {
    let mut changes = Vec::with_capacity(magnitudes.len() * usize::from(top));
    for (at, magnitude) in magnitudes.iter().enumerate().filter(|(_, magnitude)| **magnitude > 0.0) {
        changes.extend((1..=top).map(|value| (f64::from(value) / f64::from(*magnitude), at)));
    }
    changes.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut fit = Fit::of(magnitudes, code);
    let (mut best, mut taken) = (fit, 0);
    for (count, (_, at)) in changes.iter().enumerate() {
        fit = fit.up(f64::from(magnitudes[*at]), code[*at]);
        code[*at] += 1;
        if fit.beats(best) {
            (best, taken) = (fit, count + 1);
        }
    }
    for (_, at) in &changes[taken..] {
        code[*at] -= 1;
    }
}

fn fast(magnitudes: &[f32], top: u8, code: &mut [u8]) {
    let squared: f64 = magnitudes.iter().map(|value| f64::from(*value).powi(2)).sum();
    let (mean, most) =
        ((squared / magnitudes.len() as f64).sqrt(), magnitudes.iter().copied().fold(0.0, f32::max));
    if mean == 0.0 {
        return;
    }
    let normal = 1.0 / (NORMAL_STEPS[top.trailing_ones() as usize - 1] * mean);
    let largest = (f64::from(top) + 1.0) / f64::from(most);
    let tried = ABOUT_NORMAL.map(|by| by * normal).into_iter();
    let (mut best, mut factor) = (Fit { product: 0.0, squared: 1.0 }, 0.0);
    for tried in tried.chain(ABOUT_LARGEST.map(|by| by * largest)) {
        let tried = tried as f32;
        let fit = fit_of(magnitudes, tried, top);
        if fit.beats(best) {
            (best, factor) = (fit, tried);
        }
    }
    for (code, magnitude) in code.iter_mut().zip(magnitudes) {
        *code = cell(magnitude * factor, top) as u8;
    }
    let mut fit = Fit::of(magnitudes, code);
    for _ in 0..ROUNDS {
        for (code, magnitude) in code.iter_mut().zip(magnitudes) {
            let magnitude = f64::from(*magnitude);
            let (up, down) = (fit.up(magnitude, *code), fit.down(magnitude, *code));
            if *code < top && up.beats(fit) {
                (fit, *code) = (up, *code + 1);
            } else if *code > 0 && down.beats(fit) {
                (fit, *code) = (down, *code - 1);
            }
        }
    }
}

/// The fit of the grid vector nearest to the scaled magnitudes; in lanes, as this is all the work there is.
fn fit_of(magnitudes: &[f32], factor: f32, top: u8) -> Fit {
    let (mut products, mut squares) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    let (chunks, rest) = magnitudes.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, magnitude) in chunk.iter().enumerate() {
            let value = cell(magnitude * factor, top) + 0.5;
            products[lane] += magnitude * value;
            squares[lane] += value * value;
        }
    }
    for (lane, magnitude) in rest.iter().enumerate() {
        let value = cell(magnitude * factor, top) + 0.5;
        products[lane] += magnitude * value;
        squares[lane] += value * value;
    }
    Fit { product: f64::from(products.iter().sum::<f32>()), squared: f64::from(squares.iter().sum::<f32>()) }
}

/// The code of a scaled magnitude, as a float.
#[inline(always)]
fn cell(value: f32, top: u8) -> f32 {
    // Adding and taking off 3 * 2^22 rounds to an integer; a conversion would be a call without SSE4.1.
    let nearest = (value - 0.5 + 12_582_912.0) - 12_582_912.0;
    nearest.max(0.0).min(f32::from(top))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Magnitudes of about normal values.
    fn magnitudes(random: &mut Random, dim: usize) -> Vec<f32> {
        let mut unit = || (random.next() >> 40) as f32 / (1 << 24) as f32 - 0.5;
        (0..dim).map(|_| ((0..12).map(|_| unit()).sum::<f32>()).abs()).collect()
    }

    fn cosine(magnitudes: &[f32], code: &[u8]) -> f64 {
        let fit = Fit::of(magnitudes, code);
        let norm: f64 = magnitudes.iter().map(|value| f64::from(*value).powi(2)).sum();
        fit.product / (fit.squared * norm).sqrt()
    }

    #[test]
    fn the_sweep_is_as_good_as_trying_every_grid_vector() {
        for seed in 0..50 {
            let mut random = Random(seed);
            for (dim, top) in [(1, 3_u8), (2, 7), (3, 7), (5, 3), (6, 1)] {
                let magnitudes = magnitudes(&mut random, dim);
                let mut found = vec![0; dim];
                code(&magnitudes, top, Search::Sweep, &mut found);
                let side = usize::from(top) + 1;
                let mut best = 0.0_f64;
                for mut at in 0..side.pow(dim as u32) {
                    let mut tried = vec![0; dim];
                    for value in &mut tried {
                        (*value, at) = ((at % side) as u8, at / side);
                    }
                    best = best.max(cosine(&magnitudes, &tried));
                }
                let cosine = cosine(&magnitudes, &found);
                assert!(cosine >= best - 1e-9, "seed {seed}, {dim}, {top}: {cosine} of {best}");
            }
        }
    }

    #[test]
    fn the_fast_search_is_all_but_as_good() {
        for bits in 1..=7 {
            let top = ((1_u32 << bits) - 1) as u8;
            let (mut exact, mut fast) = (0.0, 0.0);
            for seed in 0..10 {
                let magnitudes = magnitudes(&mut Random(seed), 384);
                for (search, lost) in [(Search::Sweep, &mut exact), (Search::Fast, &mut fast)] {
                    let mut found = vec![0; 384];
                    code(&magnitudes, top, search, &mut found);
                    let cosine = cosine(&magnitudes, &found);
                    *lost += (1.0 / (cosine * cosine) - 1.0).sqrt() / 10.0;
                }
            }
            println!("{} bits: error {exact:.4} by the sweep, {fast:.4} fast", bits + 1);
            assert!(fast >= exact - 1e-9 && fast <= 1.03 * exact, "{bits} bits: {exact}, {fast}");
        }
    }

    #[test]
    fn nothing_is_a_code_too() {
        for search in [Search::Sweep, Search::Fast] {
            let mut found = vec![9; 4];
            code(&[0.0; 4], 7, search, &mut found);
            assert_eq!(found, [0; 4]);
            code(&[0.0, 1.0, 0.0, 1.0], 7, search, &mut found);
            assert!(found[1] > 0 && found[0] == 0, "{found:?}");
            code(&[], 7, search, &mut []);
        }
    }
}
