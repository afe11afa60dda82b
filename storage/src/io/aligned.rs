//! Bytes whose first one lies at a chosen alignment, in safe code.
//!
//! For O_DIRECT buffers (4096) and for SIMD over raw codes (64). Over-allocates by up to one alignment and
//! keeps the offset of the first aligned byte. Not growable: growth could move the bytes to another address.

use std::ops::{Deref, DerefMut};

/// A fixed number of bytes that start at a multiple of an alignment.
pub struct AlignedBytes {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBytes {
    /// `len` zero bytes, the first at a multiple of `align`.
    ///
    /// # Panics
    /// When `align` is not a power of two.
    pub fn zeroed(len: usize, align: usize) -> Self {
        assert!(align.is_power_of_two(), "an alignment is a power of two, not {align}");
        // Zeroed by the allocator: large blocks come as untouched pages.
        let bytes = vec![0; len + align - 1];
        // By arithmetic: `align_offset` is allowed to give up.
        let start = bytes.as_ptr().addr().wrapping_neg() & (align - 1);
        Self { bytes, start, len }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl std::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_where_asked() {
        for align in [1, 2, 4, 64, 512, 4096] {
            for len in [0, 1, 63, 64, 5000] {
                let mut bytes = AlignedBytes::zeroed(len, align);
                assert_eq!(bytes.len(), len);
                assert_eq!(bytes.as_ptr().addr() % align, 0);
                bytes.fill(7);
                let moved = bytes;
                assert_eq!(moved.as_ptr().addr() % align, 0);
                assert!(moved.iter().all(|byte| *byte == 7));
            }
        }
    }
}
