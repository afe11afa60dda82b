//! Little-endian encoding of everything on disk, and a reader that never trusts a length.
//!
//! A [`Decoder`] returns [`Truncated`] instead of panicking on any input; callers add the file and the
//! offset.

/// The bytes ended, or hold a value outside its type's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} does not fit in the {left} bytes left")]
pub struct Truncated {
    /// What was being read.
    pub what: &'static str,
    /// Bytes that were left.
    pub left: usize,
}

/// Appends values to a byte vector.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// An empty encoder with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Eight bytes, two's complement.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Four bytes, IEEE 754.
    pub fn f32(&mut self, value: f32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Eight bytes, IEEE 754.
    pub fn f64(&mut self, value: f64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// The bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A `u32` length, then the bytes.
    ///
    /// # Panics
    /// When `bytes` is longer than `u32::MAX`.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let len = u32::try_from(bytes.len()).expect("checked at the door: shorter than 4 GiB");
        self.u32(len).raw(bytes)
    }

    /// A string as length and UTF-8.
    pub fn str(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// A `u32` count, then the values.
    pub fn f32s(&mut self, values: &[f32]) -> &mut Self {
        self.u32(u32::try_from(values.len()).expect("checked at the door: fewer than 2^32 values"));
        self.bytes.reserve(values.len() * 4);
        for value in values {
            self.bytes.extend_from_slice(&value.to_le_bytes());
        }
        self
    }

    /// A `u32` count, then the values.
    pub fn u32s(&mut self, values: &[u32]) -> &mut Self {
        self.u32(u32::try_from(values.len()).expect("checked at the door: fewer than 2^32 values"));
        self.bytes.reserve(values.len() * 4);
        for value in values {
            self.bytes.extend_from_slice(&value.to_le_bytes());
        }
        self
    }
}

/// Reads values from bytes, checking every length.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    start: usize,
}

impl<'a> Decoder<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, start: bytes.len() }
    }

    /// Bytes not read yet.
    pub fn left(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.start - self.bytes.len()
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Truncated> {
        if len > self.bytes.len() {
            return Err(Truncated { what, left: self.bytes.len() });
        }
        let (head, tail) = self.bytes.split_at(len);
        self.bytes = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Truncated> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Truncated> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Truncated> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// Four bytes.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Truncated> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Truncated> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes, two's complement.
    pub fn i64(&mut self, what: &'static str) -> Result<i64, Truncated> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }

    /// Four bytes, IEEE 754; any bit pattern.
    pub fn f32(&mut self, what: &'static str) -> Result<f32, Truncated> {
        Ok(f32::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes, IEEE 754; any bit pattern.
    pub fn f64(&mut self, what: &'static str) -> Result<f64, Truncated> {
        Ok(f64::from_le_bytes(self.array(what)?))
    }

    /// What [`Encoder::bytes`] wrote.
    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], Truncated> {
        let len = self.u32(what)? as usize;
        self.take(len, what)
    }

    /// What [`Encoder::str`] wrote; bytes that are not UTF-8 are an error.
    pub fn str(&mut self, what: &'static str) -> Result<&'a str, Truncated> {
        let left = self.left();
        std::str::from_utf8(self.bytes(what)?).map_err(|_| Truncated { what, left })
    }

    /// What [`Encoder::f32s`] wrote.
    pub fn f32s(&mut self, what: &'static str) -> Result<Vec<f32>, Truncated> {
        let len = self.u32(what)? as usize;
        let bytes = self.take(len.saturating_mul(4), what)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// What [`Encoder::u32s`] wrote.
    pub fn u32s(&mut self, what: &'static str) -> Result<Vec<u32>, Truncated> {
        let len = self.u32(what)? as usize;
        let bytes = self.take(len.saturating_mul(4), what)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
    }
}
