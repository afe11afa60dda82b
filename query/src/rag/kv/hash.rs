//! SHA-256, of which descriptors and files keep the first 128 bits.
//!
//! A hash that can be forged lets one document stand for another's cache, so a fast hash will not do; and any
//! LLM server has this one at hand to compute the same names.

use sha2::{Digest, Sha256};

/// The first 128 bits of the SHA-256 of `bytes`.
pub(crate) fn hash_bytes(bytes: &[u8]) -> [u8; 16] {
    let mut first = [0; 16];
    first.copy_from_slice(&Sha256::digest(bytes)[..16]);
    first
}

#[cfg(test)]
mod tests;
