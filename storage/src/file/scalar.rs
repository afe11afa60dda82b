//! Numbers that fill a section: little-endian bytes to slices of values and back, without unsafe code.
//!
//! The loops compile to block copies on little-endian machines, so that typed reads cost what a copy costs.

/// A fixed-size number as sections hold it: little-endian. Any bit pattern is a value; floats keep NaN
/// payloads.
pub trait Scalar: Copy + Default + sealed::Sealed {
    /// Bytes of one value.
    const BYTES: usize;

    /// Fills `values` from `bytes`.
    ///
    /// # Panics
    /// When `bytes` is not [`Scalar::BYTES`] for each value.
    fn decode(bytes: &[u8], values: &mut [Self]);

    /// Fills `bytes` from `values`.
    ///
    /// # Panics
    /// As [`Scalar::decode`].
    fn encode(values: &[Self], bytes: &mut [u8]);
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! scalar {
    ($($type:ty)*) => {$(
        impl sealed::Sealed for $type {}

        impl Scalar for $type {
            const BYTES: usize = size_of::<$type>();

            fn decode(bytes: &[u8], values: &mut [Self]) {
                let (chunks, rest) = bytes.as_chunks::<{ size_of::<$type>() }>();
                assert!(chunks.len() == values.len() && rest.is_empty());
                for (value, chunk) in values.iter_mut().zip(chunks) {
                    *value = <$type>::from_le_bytes(*chunk);
                }
            }

            fn encode(values: &[Self], bytes: &mut [u8]) {
                let (chunks, rest) = bytes.as_chunks_mut::<{ size_of::<$type>() }>();
                assert!(chunks.len() == values.len() && rest.is_empty());
                for (chunk, value) in chunks.iter_mut().zip(values) {
                    *chunk = value.to_le_bytes();
                }
            }
        }
    )*};
}

scalar!(u8 i8 u16 u32 u64 f32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_it_encoded() {
        let values = [1.5f32, -0.0, f32::INFINITY, f32::MIN_POSITIVE];
        let mut bytes = [0; 16];
        f32::encode(&values, &mut bytes);
        assert_eq!(bytes[..4], 1.5f32.to_le_bytes());
        let mut back = [0.0; 4];
        f32::decode(&bytes, &mut back);
        assert_eq!(back, values);
        let mut words = [0u16; 2];
        u16::decode(&[1, 2, 0xff, 0], &mut words);
        assert_eq!(words, [0x0201, 0x00ff]);
        let mut signed = [0i8; 2];
        i8::decode(&[0xff, 5], &mut signed);
        assert_eq!(signed, [-1, 5]);
    }
}
