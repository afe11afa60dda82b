//! What the elements of stored vectors can be: f32, f16 or i8.

use half::f16;

use super::dispatch::{FloatKernels, Kernels};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for i8 {}
}

/// An element of stored vectors. Queries are f32 whatever the element.
pub trait Element:
    sealed::Sealed + Copy + Default + PartialEq + std::fmt::Debug + Send + Sync + 'static
{
    /// Bytes of an element, in memory and on disk.
    const BYTES: usize;

    /// The value as f32, exact.
    fn to_f32(self) -> f32;

    /// The nearest element: rounds to nearest even (f16), truncates and saturates (i8). The caller checks the
    /// range.
    fn from_f32(value: f32) -> Self;

    /// Appends the elements that little-endian `bytes` hold; bytes past the last whole element are left out.
    fn decode(bytes: &[u8], elements: &mut Vec<Self>);

    /// Fills `elements` from as many little-endian bytes as they need.
    ///
    /// # Panics
    /// When there are more or fewer bytes.
    fn decode_into(bytes: &[u8], elements: &mut [Self]);

    /// Appends the elements as little-endian bytes.
    fn encode(elements: &[Self], bytes: &mut Vec<u8>);

    /// The float kernels for rows of this element.
    #[doc(hidden)]
    fn kernels(kernels: &Kernels) -> &FloatKernels<Self>;
}

impl Element for f32 {
    const BYTES: usize = 4;

    fn to_f32(self) -> f32 {
        self
    }

    fn from_f32(value: f32) -> Self {
        value
    }

    fn decode(bytes: &[u8], elements: &mut Vec<Self>) {
        elements.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
    }

    fn decode_into(bytes: &[u8], elements: &mut [Self]) {
        let (values, rest) = bytes.as_chunks::<4>();
        assert!(values.len() == elements.len() && rest.is_empty(), "four bytes an element");
        elements.iter_mut().zip(values).for_each(|(element, b)| *element = f32::from_le_bytes(*b));
    }

    fn encode(elements: &[Self], bytes: &mut Vec<u8>) {
        bytes.extend(elements.iter().flat_map(|value| value.to_le_bytes()));
    }

    fn kernels(kernels: &Kernels) -> &FloatKernels<Self> {
        &kernels.f32
    }
}

impl Element for f16 {
    const BYTES: usize = 2;

    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }

    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }

    fn decode(bytes: &[u8], elements: &mut Vec<Self>) {
        elements.extend(bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b)));
    }

    fn decode_into(bytes: &[u8], elements: &mut [Self]) {
        let (values, rest) = bytes.as_chunks::<2>();
        assert!(values.len() == elements.len() && rest.is_empty(), "two bytes an element");
        elements.iter_mut().zip(values).for_each(|(element, b)| *element = f16::from_le_bytes(*b));
    }

    fn encode(elements: &[Self], bytes: &mut Vec<u8>) {
        bytes.extend(elements.iter().flat_map(|value| value.to_le_bytes()));
    }

    fn kernels(kernels: &Kernels) -> &FloatKernels<Self> {
        &kernels.f16
    }
}

impl Element for i8 {
    const BYTES: usize = 1;

    fn to_f32(self) -> f32 {
        f32::from(self)
    }

    fn from_f32(value: f32) -> Self {
        value as i8
    }

    fn decode(bytes: &[u8], elements: &mut Vec<Self>) {
        elements.extend(bytes.iter().map(|b| i8::from_le_bytes([*b])));
    }

    fn decode_into(bytes: &[u8], elements: &mut [Self]) {
        assert_eq!(bytes.len(), elements.len(), "a byte an element");
        elements.iter_mut().zip(bytes).for_each(|(element, b)| *element = i8::from_le_bytes([*b]));
    }

    fn encode(elements: &[Self], bytes: &mut Vec<u8>) {
        bytes.extend(elements.iter().map(|value| value.to_le_bytes()[0]));
    }

    fn kernels(kernels: &Kernels) -> &FloatKernels<Self> {
        &kernels.i8
    }
}
