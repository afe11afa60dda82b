//! Which labels each row has: a sparse matrix as numpy keeps it (npz: `indptr`, `indices`), the rows of which
//! are lists of labels.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zip::ZipArchive;

use crate::{Error, Result};

/// The labels of each of `rows` rows.
///
/// # Errors
/// The file cannot be read, or has another number of rows.
pub fn read(path: &Path, rows: usize) -> Result<Vec<Vec<u32>>> {
    let failed = |what: &dyn std::fmt::Display| -> Error { format!("{}: {what}", path.display()).into() };
    let file = File::open(path).map_err(|error| failed(&error))?;
    let mut archive = ZipArchive::new(file).map_err(|error| failed(&error))?;
    let mut array = |name: &str| -> Result<Vec<u64>> {
        let mut bytes = Vec::new();
        archive.by_name(name).map_err(|error| failed(&error))?.read_to_end(&mut bytes)?;
        integers(&bytes).ok_or_else(|| failed(&format!("{name} is no array of integers")))
    };
    let (starts, labels) = (array("indptr.npy")?, array("indices.npy")?);
    if starts.len() != rows + 1 || !starts.is_sorted() || starts.last() != Some(&(labels.len() as u64)) {
        return Err(failed(&format!(
            "it has lists of labels for {} rows, not {rows}",
            starts.len().max(1) - 1
        )));
    }
    let list = |pair: &[u64]| {
        labels[pair[0] as usize..pair[1] as usize].iter().map(|label| Ok(u32::try_from(*label)?)).collect()
    };
    starts.windows(2).map(list).collect()
}

/// The numbers of a one-dimensional npy array of little-endian integers.
fn integers(bytes: &[u8]) -> Option<Vec<u64>> {
    let length = match bytes.get(6)? {
        1 => u16::from_le_bytes(*bytes.get(8..10)?.first_chunk()?) as usize + 10,
        _ => u32::from_le_bytes(*bytes.get(8..12)?.first_chunk()?) as usize + 12,
    };
    let (header, data) = (std::str::from_utf8(bytes.get(10..length)?).ok()?, bytes.get(length..)?);
    if header.contains("<i8") || header.contains("<u8") {
        Some(data.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
    } else if header.contains("<i4") || header.contains("<u4") {
        Some(data.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes).into()).collect())
    } else {
        None
    }
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
}
