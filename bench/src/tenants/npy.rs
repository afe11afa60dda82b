//! Arrays as numpy keeps them (npy, little-endian, C order): what a peer reads, and what is read back.

use std::path::Path;

use crate::{Error, Result};

/// Magic, version and the length of the header.
const PREAMBLE_BYTES: usize = 10;
/// Headers are padded so that the elements begin at a multiple of this.
const ALIGN_BYTES: usize = 64;

/// A type of element.
pub trait Element: Copy {
    /// What numpy calls it.
    const DESCR: &'static str;
    /// Its bytes in a file.
    fn bytes(self) -> impl IntoIterator<Item = u8>;
}

macro_rules! element {
    ($of:ty, $descr:literal) => {
        impl Element for $of {
            const DESCR: &'static str = $descr;
            fn bytes(self) -> impl IntoIterator<Item = u8> {
                self.to_le_bytes()
            }
        }
    };
}
element!(u32, "<u4");
element!(i64, "<i8");
element!(f64, "<f8");

/// Writes an array of these elements: of one dimension, or of rows of `columns`.
///
/// # Errors
/// The file cannot be written.
pub fn write<T: Element>(path: &Path, elements: &[T], columns: Option<usize>) -> Result<()> {
    let shape = match columns {
        None => format!("({},)", elements.len()),
        Some(columns) => format!("({}, {columns})", elements.len() / columns.max(1)),
    };
    let mut header = format!("{{'descr': '{}', 'fortran_order': False, 'shape': {shape}, }}", T::DESCR);
    let unpadded = PREAMBLE_BYTES + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(ALIGN_BYTES) - unpadded));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(header.len())?.to_le_bytes());
    bytes.extend(header.into_bytes());
    elements.iter().for_each(|element| bytes.extend(element.bytes()));
    std::fs::write(path, bytes).map_err(|error| failed(path, &error))
}

/// The numbers of an array of 64-bit floats, of whatever shape.
///
/// # Errors
/// The file cannot be read or is no such array.
pub fn floats(path: &Path) -> Result<Vec<f64>> {
    let bytes = std::fs::read(path).map_err(|error| failed(path, &error))?;
    match parts(&bytes) {
        Some((header, data)) if header.contains("<f8") => {
            Ok(data.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
        }
        _ => Err(failed(path, &"no array of 64-bit floats")),
    }
}

/// The numbers of an array of integers of 32 or 64 bits, of whatever shape.
pub fn integers(bytes: &[u8]) -> Option<Vec<u64>> {
    let (header, data) = parts(bytes)?;
    if header.contains("<i8") || header.contains("<u8") {
        Some(data.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
    } else if header.contains("<i4") || header.contains("<u4") {
        Some(data.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes).into()).collect())
    } else {
        None
    }
}

/// Header and elements.
fn parts(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (begin, length) = match bytes.get(6)? {
        1 => (10, u16::from_le_bytes(*bytes.get(8..10)?.first_chunk()?) as usize),
        _ => (12, u32::from_le_bytes(*bytes.get(8..12)?.first_chunk()?) as usize),
    };
    Some((std::str::from_utf8(bytes.get(begin..begin + length)?).ok()?, bytes.get(begin + length..)?))
}

fn failed(path: &Path, what: &dyn std::fmt::Display) -> Error {
    format!("{}: {what}", path.display()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_both_widths_are_read_and_nothing_else() {
        let array = |of: &str, data: &[u8]| {
            let header = format!("{{'descr': '{of}', 'fortran_order': False, 'shape': (2,), }}\n");
            let length = (header.len() as u16).to_le_bytes();
            [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
        };
        assert_eq!(integers(&array("<i4", &[7, 0, 0, 0, 0, 1, 0, 0])), Some(vec![7, 256]));
        assert_eq!(integers(&array("<i8", &[9, 0, 0, 0, 0, 0, 0, 0])), Some(vec![9]));
        assert_eq!(integers(&array("<f4", &[0; 8])), None);
        assert_eq!(integers(b"\x93NUMPY"), None);
    }

    #[test]
    fn what_is_written_is_aligned_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        write(&path, &[1_u32, 2, 3, 4], Some(2)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let (header, _) = parts(&bytes).unwrap();
        assert!(header.contains("'shape': (2, 2)"));
        assert_eq!((header.len() + PREAMBLE_BYTES) % ALIGN_BYTES, 0);
        assert_eq!(integers(&bytes), Some(vec![1, 2, 3, 4]));
        write(&path, &[-1.5, f64::NAN], None).unwrap();
        let read = floats(&path).unwrap();
        assert!(read[0] == -1.5 && read[1].is_nan());
        write(&path, &[-1_i64], None).unwrap();
        assert!(floats(&path).is_err());
    }
}
