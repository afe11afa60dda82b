//! Which labels each row has: a sparse matrix as numpy keeps it (npz: `indptr`, `indices`), the rows of which
//! are lists of labels.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zip::ZipArchive;

use crate::tenants::npy;
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
        npy::integers(&bytes).ok_or_else(|| failed(&format!("{name} is no array of integers")))
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
