//! The two steps that every hash of de-duplication is made of: the same numbers on every machine and in every
//! version, because what they give lies on disk.
//!
//! [`fold`] is the product of wyhash (Wang Yi, 2019): 128 bits of a product, folded to 64; about 1 ns.
//! [`mix`] is the finaliser of SplitMix64. Neither keeps a secret: who knows the constants can make two texts
//! that collide.

pub(crate) use crate::random::mix;

/// The first numbers of SplitMix64 seeded with 0, 1, 2 and 3, made odd.
pub(crate) const K: [u64; 4] =
    [0xe220_a839_7b1d_cdaf, 0x910a_2dec_8902_5cc1, 0x9758_35de_1c97_56cf, 0x1d0b_14e4_db01_8fed];

/// The 128 bits of the product, the high half folded onto the low one.
#[inline(always)]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_values() {
        assert_eq!(mix(0), 0);
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), K[0], "the first number of SplitMix64 seeded with 0");
        assert_eq!(fold(u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(fold(1 << 63, 6), 3);
        assert!(K.iter().all(|k| k % 2 == 1 && (24..=40).contains(&k.count_ones())));
    }

    #[test]
    fn a_flipped_bit_flips_half_of_the_bits() {
        for bit in 0..64 {
            let flips: u32 = (0..1_000_u64).map(|at| (mix(at) ^ mix(at ^ (1 << bit))).count_ones()).sum();
            assert!((31_000..33_000).contains(&flips), "bit {bit}: {flips} of 64,000");
        }
    }
}
