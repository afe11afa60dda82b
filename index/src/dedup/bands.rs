//! Which signatures are compared at all: those that agree in all rows of one of their bands (Broder, 1997;
//! Leskovec et al., Mining of Massive Datasets, chapter 3).
//!
//! Of b bands of r lanes, two sets of Jaccard similarity J share one with a chance of `1 - (1 - J^r)^b`,
//! which rises steeply around `(1/b)^(1/r)`. For a threshold, b and r are those with the least
//! `(wrong + missed) / 2`, where *wrong* is the area under that curve below the threshold and *missed* the
//! area over it above: what datasketch's MinHashLSH takes, so that the same threshold means the same. Both
//! are found by Gauss-Legendre quadrature, to 1e-12 or so; the best two choices differ by 2e-7 to 8e-4 for
//! usual thresholds. A collection keeps its b and r, as thresholds where two choices are as good could fall
//! differently on another machine.
//!
//! A band's key is 64 bits over its rows and its number. Departure from LSHBloom (Khan et al., 2024), which
//! sums the rows modulo a prime: sums depend on no order, and equal sums of different rows are likelier.
//! Cost: 4 ms to find b and r of 256 lanes, 1 ms of 128; 0.06 us for the keys of 128 lanes.

use super::hash::{K, fold, mix};
use crate::dedup::minhash::{PERMUTATIONS_MAX, PERMUTATIONS_MIN};
use crate::error::{Error, Result};

/// Parts that an integral is cut into, and the places and weights of 5 points in each.
const PANELS: u32 = 32;
const POINTS: [(f64, f64); 5] = [
    (-0.906_179_845_938_664, 0.236_926_885_056_189_1),
    (-0.538_469_310_105_683, 0.478_628_670_499_366_5),
    (0.0, 0.568_888_888_888_888_9),
    (0.538_469_310_105_683, 0.478_628_670_499_366_5),
    (0.906_179_845_938_664, 0.236_926_885_056_189_1),
];

/// How signatures are cut into bands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bands {
    bands: u16,
    rows: u16,
}

impl Bands {
    /// So many bands of so many rows, each at least 1, with at most [`PERMUTATIONS_MAX`] lanes in all.
    ///
    /// # Errors
    /// [`Error::Invalid`] for other numbers.
    pub fn new(bands: usize, rows: usize) -> Result<Self> {
        let lanes = bands.checked_mul(rows).filter(|lanes| (1..=PERMUTATIONS_MAX).contains(lanes));
        match (lanes, u16::try_from(bands), u16::try_from(rows)) {
            (Some(_), Ok(bands), Ok(rows)) => Ok(Self { bands, rows }),
            _ => Err(Error::Invalid(format!(
                "{bands} bands of {rows} rows do not have 1 to {PERMUTATIONS_MAX} lanes"
            ))),
        }
    }

    /// The best for signatures of so many lanes, where sets of a Jaccard similarity of `threshold` or more
    /// are to be found. It is between 0 and 1.
    ///
    /// # Errors
    /// [`Error::Invalid`] for thresholds of 0 or less, or 1 or more, and numbers of lanes below
    /// [`PERMUTATIONS_MIN`] or above [`PERMUTATIONS_MAX`].
    pub fn for_threshold(threshold: f64, permutations: usize) -> Result<Self> {
        if !(threshold > 0.0 && threshold < 1.0) {
            return Err(Error::Invalid(format!("a threshold is between 0 and 1, not {threshold}")));
        }
        if !(PERMUTATIONS_MIN..=PERMUTATIONS_MAX).contains(&permutations) {
            let what =
                format!("{PERMUTATIONS_MIN} to {PERMUTATIONS_MAX} lanes have bands, not {permutations}");
            return Err(Error::Invalid(what));
        }
        let (mut best, mut least) = (Self { bands: 1, rows: 1 }, f64::INFINITY);
        for bands in 1..=permutations {
            for rows in 1..=permutations / bands {
                let bands = Self::new(bands, rows)?;
                let error = bands.error(threshold);
                if error < least {
                    (best, least) = (bands, error);
                }
            }
        }
        Ok(best)
    }

    /// Half of what is wrongly found and wrongly missed, over all similarities alike.
    fn error(&self, threshold: f64) -> f64 {
        let wrong = integral(0.0, threshold, |jaccard| self.chance(jaccard));
        let missed = integral(threshold, 1.0, |jaccard| 1.0 - self.chance(jaccard));
        (wrong + missed) / 2.0
    }

    /// The chance that two sets of this Jaccard similarity, 0 to 1, share a band.
    pub fn chance(&self, jaccard: f64) -> f64 {
        1.0 - (1.0 - jaccard.powi(i32::from(self.rows))).powi(i32::from(self.bands))
    }

    /// Bands of a signature.
    pub fn bands(&self) -> usize {
        usize::from(self.bands)
    }

    /// Lanes of a band.
    pub fn rows(&self) -> usize {
        usize::from(self.rows)
    }

    /// Lanes that count; signatures may have more.
    pub fn lanes(&self) -> usize {
        self.bands() * self.rows()
    }

    /// The keys of the bands of a signature. They replace what `keys` held.
    ///
    /// # Panics
    /// When the signature has fewer than [`lanes`](Self::lanes).
    pub fn keys(&self, signature: &[u32], keys: &mut Vec<u64>) {
        assert!(signature.len() >= self.lanes(), "a signature has all lanes of the bands");
        keys.clear();
        let rows = signature.chunks_exact(self.rows()).take(self.bands());
        keys.extend(rows.zip(0..).map(|(rows, band)| key(rows, band)));
    }
}

/// The hash of a band's rows.
fn key(rows: &[u32], band: u64) -> u64 {
    let (pairs, rest) = rows.as_chunks::<2>();
    let pair = |[a, b]: [u32; 2]| u64::from(a) | u64::from(b) << 32;
    let start = K[0] ^ band.wrapping_mul(K[1]);
    let state = pairs.iter().fold(start, |state, rows| fold(state ^ pair(*rows), K[3]));
    let last = rest.first().map_or(0, |row| u64::from(*row));
    mix(fold(state ^ last, K[2] ^ rows.len() as u64))
}

/// The integral of a smooth function.
fn integral(from: f64, to: f64, value: impl Fn(f64) -> f64) -> f64 {
    let half = (to - from) / f64::from(PANELS) / 2.0;
    let panel = |at| {
        let middle = from + half * f64::from(2 * at + 1);
        POINTS.iter().map(|(place, weight)| weight * value(middle + half * place)).sum::<f64>()
    };
    (0..PANELS).map(panel).sum::<f64>() * half
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::random::Random;

    /// What datasketch 2.0.0 takes: lanes, threshold, bands, rows.
    #[rustfmt::skip]
    const TAKEN: [(usize, f64, usize, usize); 49] = [
        (16, 0.3, 8, 2), (16, 0.5, 5, 3), (16, 0.7, 3, 5), (16, 0.8, 2, 8), (16, 0.9, 1, 15),
        (16, 0.95, 1, 16), (32, 0.3, 12, 2), (32, 0.5, 8, 4), (32, 0.7, 5, 6), (32, 0.8, 3, 10),
        (32, 0.9, 2, 16), (32, 0.95, 1, 32), (64, 0.05, 32, 1), (64, 0.1, 15, 1), (64, 0.2, 28, 2),
        (64, 0.3, 21, 3), (64, 0.4, 16, 4), (64, 0.5, 14, 4), (64, 0.55, 12, 5), (64, 0.6, 10, 6),
        (64, 0.65, 9, 7), (64, 0.7, 8, 8), (64, 0.75, 7, 9), (64, 0.8, 5, 11), (64, 0.85, 4, 15),
        (64, 0.9, 3, 21), (64, 0.95, 2, 32), (64, 0.98, 1, 64), (64, 0.99, 1, 64), (128, 0.05, 32, 1),
        (128, 0.1, 64, 2), (128, 0.2, 28, 2), (128, 0.3, 37, 3), (128, 0.4, 32, 4), (128, 0.5, 25, 5),
        (128, 0.55, 21, 6), (128, 0.6, 18, 7), (128, 0.65, 16, 8), (128, 0.7, 14, 9), (128, 0.75, 11, 11),
        (128, 0.8, 9, 13), (128, 0.85, 8, 16), (128, 0.9, 5, 25), (128, 0.95, 3, 42), (128, 0.98, 2, 64),
        (128, 0.99, 1, 128), (256, 0.5, 42, 6), (256, 0.8, 17, 15), (256, 0.9, 9, 28),
    ];

    #[test]
    fn thresholds_mean_what_they_mean_to_datasketch() {
        for (permutations, threshold, bands, rows) in TAKEN {
            let found = Bands::for_threshold(threshold, permutations).unwrap();
            assert_eq!((found.bands(), found.rows()), (bands, rows), "{permutations} lanes, {threshold}");
        }
    }

    #[test]
    fn integrals_are_exact() {
        for power in 0..60 {
            let found = integral(0.25, 1.0, |x| x.powi(power));
            let exact = (1.0 - 0.25_f64.powi(power + 1)) / f64::from(power + 1);
            assert!((found - exact).abs() < 1e-13, "power {power}: {found} is not {exact}");
        }
        // 1 - (1 - s^r)^1 is s^r: a curve whose areas are known.
        let bands = Bands::new(1, 3).unwrap();
        let exact = (0.8_f64.powi(4) / 4.0 + 0.2 - (1.0 - 0.8_f64.powi(4)) / 4.0) / 2.0;
        assert!((bands.error(0.8) - exact).abs() < 1e-13);
    }

    #[test]
    fn keys_depend_on_every_row_on_order_and_on_the_band() {
        let seed = 0x5eed_0005;
        println!("seed {seed:#x}");
        let mut random = Random(seed);
        for (bands, rows) in [(9, 13), (25, 5), (128, 1), (1, 256), (64, 2)] {
            let layout = Bands::new(bands, rows).unwrap();
            let signature: Vec<u32> = (0..256).map(|_| random.next() as u32).collect();
            let (mut keys, mut others) = (Vec::new(), Vec::new());
            layout.keys(&signature, &mut keys);
            assert_eq!(keys.len(), bands);
            for lane in 0..256 {
                let mut other = signature.clone();
                other[lane] ^= 1 << random.below(32);
                layout.keys(&other, &mut others);
                for (band, (a, b)) in keys.iter().zip(&others).enumerate() {
                    assert_eq!(a == b, lane / rows != band, "lane {lane}, band {band}");
                }
            }
            // The same rows in every band, or in another order, are other keys.
            layout.keys(&[7; 256], &mut others);
            assert_eq!(others.iter().collect::<HashSet<_>>().len(), bands);
            let mut turned = signature.clone();
            turned[..rows].reverse();
            layout.keys(&turned, &mut others);
            assert_eq!(others[0] == keys[0], rows == 1);
        }
    }

    #[test]
    fn ranges_are_checked() {
        for (bands, rows) in [(0, 1), (1, 0), (257, 1), (16, 17), (usize::MAX, 2)] {
            assert!(Bands::new(bands, rows).is_err(), "{bands} x {rows}");
        }
        for threshold in [0.0, 1.0, -0.1, f64::NAN, f64::INFINITY] {
            assert!(Bands::for_threshold(threshold, 128).is_err(), "{threshold}");
        }
        assert!(Bands::for_threshold(0.5, 15).is_err() && Bands::for_threshold(0.5, 257).is_err());
    }

    /// These are on disk: they never change.
    #[test]
    fn golden_values() {
        let mut random = Random(1);
        let signature: Vec<u32> = (0..128).map(|_| random.next() as u32).collect();
        let mut keys = Vec::new();
        Bands::new(9, 13).unwrap().keys(&signature, &mut keys);
        assert_eq!(
            (keys[0], keys[8]),
            (0x86be_cffd_59c1_37c0, 0x4cd9_3dba_0b6e_c8c0),
            "{:#x} {:#x}",
            keys[0],
            keys[8]
        );
        Bands::new(64, 2).unwrap().keys(&signature, &mut keys);
        assert_eq!(keys[1], 0x1a44_e91a_d1eb_5c16, "{:#x}", keys[1]);
    }
}
