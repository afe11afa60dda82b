//! The header of NumPy's `.npy` format, versions 1 to 3, for two-dimensional little-endian arrays in C order.
//!
//! ```text
//! 0  6  magic  0x93 "NUMPY"
//! 6  2  version: major, minor
//! 8  2  header length, u16 (version 1) or u32, 4 bytes (versions 2 and 3)
//! .. .. header: a Python dictionary, {'descr': '<f2', 'fortran_order': False, 'shape': (100, 384), }
//! ```

use super::matrix::VectorElement;
use super::source::Source;
use crate::error::Result;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Longest header read; a plain array's has about a hundred bytes.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// What the header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) rows: u64,
    pub(super) dim: u64,
    pub(super) element: VectorElement,
    /// Bytes before the first element.
    pub(super) bytes: u64,
}

/// Reads the header at the start of `source`.
pub(super) fn read(source: &mut Source) -> Result<Header> {
    let mut start = [0; 8];
    source.fill_exact(&mut start, "the npy header")?;
    if &start[..6] != MAGIC {
        return Err(source.bad("this is no npy file: it does not start with \\x93NUMPY"));
    }
    let (len, before) = match start[6] {
        1 => {
            let mut len = [0; 2];
            source.fill_exact(&mut len, "the npy header")?;
            (usize::from(u16::from_le_bytes(len)), 10)
        }
        2 | 3 => {
            let mut len = [0; 4];
            source.fill_exact(&mut len, "the npy header")?;
            (u32::from_le_bytes(len) as usize, 12)
        }
        version => return Err(source.bad(format!("npy version {version} is not known; 1 to 3 are"))),
    };
    if len > HEADER_BYTES_MAX {
        return Err(source.bad(format!("the npy header claims {len} bytes, more than {HEADER_BYTES_MAX}")));
    }
    let mut header = vec![0; len];
    source.fill_exact(&mut header, "the npy header")?;
    let text = String::from_utf8_lossy(&header);
    let (rows, dim, element) = parse(&text).map_err(|what| source.bad(what))?;
    Ok(Header { rows, dim, element, bytes: (before + len) as u64 })
}

/// Reads the dictionary.
fn parse(text: &str) -> Result<(u64, u64, VectorElement), String> {
    let value = |key: &str| {
        let quoted = [format!("'{key}'"), format!("\"{key}\"")];
        let after = quoted.iter().find_map(|quoted| text.split_once(quoted.as_str()))?.1;
        Some(after.trim_start().strip_prefix(':')?.trim_start())
    };
    let missing = |key: &str| format!("the npy header has no readable '{key}'");
    let descr = value("descr").ok_or_else(|| missing("descr"))?;
    let quote =
        descr.chars().next().filter(|c| "'\"".contains(*c)).ok_or("a structured npy array is not vectors")?;
    let descr = descr[1..].split(quote).next().unwrap_or_default();
    let element = match descr {
        "<f4" => VectorElement::F32,
        "<f2" => VectorElement::F16,
        "|u1" | "<u1" => VectorElement::U8,
        "|i1" | "<i1" => VectorElement::I8,
        ">f4" | ">f2" => {
            return Err(format!("npy type '{descr}' is big-endian; store it as '<{}'", &descr[1..]));
        }
        other => {
            return Err(format!("npy type '{other}' is not one of <f4, <f2, |u1, |i1; use .astype('<f4')"));
        }
    };
    let order = value("fortran_order").ok_or_else(|| missing("fortran_order"))?;
    if !order.starts_with("False") {
        return Err("the npy array is in Fortran order; save numpy.ascontiguousarray(array)".to_owned());
    }
    let shape = value("shape").ok_or_else(|| missing("shape"))?;
    let inner =
        shape.strip_prefix('(').and_then(|rest| rest.split_once(')')).ok_or_else(|| missing("shape"))?.0;
    let sizes: Vec<&str> = inner.split(',').map(str::trim).filter(|size| !size.is_empty()).collect();
    let size = |text: &str| text.trim_end_matches('L').parse::<u64>().map_err(|_| missing("shape"));
    match sizes[..] {
        [rows, dim] => Ok((size(rows)?, size(dim)?, element)),
        _ => Err(format!("the npy array has shape ({inner}); vectors need two dimensions, (rows, dim)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_numpy_writes() {
        let text = "{'descr': '<f2', 'fortran_order': False, 'shape': (100000, 384), }          \n";
        assert_eq!(parse(text).unwrap(), (100_000, 384, VectorElement::F16));
        let text = "{\"shape\": (3L, 2L,), \"fortran_order\":False,\"descr\":\"|u1\"}";
        assert_eq!(parse(text).unwrap(), (3, 2, VectorElement::U8));
    }

    #[test]
    fn says_what_is_wrong() {
        let with = |descr: &str, order: &str, shape: &str| {
            parse(&format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}")).unwrap_err()
        };
        assert!(with("'<f8'", "False", "(1, 2)").contains("astype"));
        assert!(with("'>f4'", "False", "(1, 2)").contains("big-endian"));
        assert!(with("[('a', '<f4')]", "False", "(1, 2)").contains("structured"));
        assert!(with("'<f4'", "True", "(1, 2)").contains("Fortran"));
        assert!(with("'<f4'", "False", "(5,)").contains("two dimensions"));
        assert!(with("'<f4'", "False", "(5, -2)").contains("shape"));
        assert!(with("'<f4'", "False", "(99999999999999999999, 2)").contains("shape"));
        assert!(with("'<f4'", "False", "5").contains("shape"));
        for text in ["", "{}", "'descr'", "'descr':", "'descr': '", "{'descr': '\u{E9}'"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
