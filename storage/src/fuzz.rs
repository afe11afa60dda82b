//! The decoders of everything that comes from disk, one function each, for fuzzing: whatever the bytes, they
//! return. No part of the API; behind the feature `fuzz`.

use std::path::Path;

use crate::codec::Decoder;
use crate::file::layout::{Footer, decode_header, decode_sections};
use crate::id::CollectionId;
use crate::manifest::{Manifest, decode_body};
use crate::record::{FieldSet, Record};
use crate::seal::Seal;
use crate::store::{audit, catalogue, witness};

/// A collection's manifest, and its body as a seal that holds would hand it on.
pub fn manifest(bytes: &[u8]) {
    let _ = Manifest::decode(bytes, Path::new("fuzz"));
    let _ = decode_body(&mut Decoder::new(bytes));
}

/// A record of the row table, with all of its fields and with none.
pub fn record(bytes: &[u8]) {
    let _ = Record::decode(bytes, &FieldSet::ALL);
    let _ = Record::decode(bytes, &FieldSet::NONE);
}

/// A sealed block.
pub fn seal(bytes: &[u8]) {
    let seal = Seal { magic: *b"SPANDMAN", version: 1, noun: "block" };
    let _ = seal.open(bytes, Path::new("fuzz"), 0);
}

/// The first page of a segment file.
pub fn segment_header(bytes: &[u8]) {
    let _ = decode_header(bytes, Path::new("fuzz"));
}

/// The footer of a segment file: 8 bytes of file length, then the footer.
pub fn segment_footer(bytes: &[u8]) {
    if let Some((file_bytes, footer)) = bytes.split_first_chunk() {
        let _ = Footer::decode(footer, Path::new("fuzz"), u64::from_le_bytes(*file_bytes));
    }
}

/// The section table of a segment file: 4 bytes of section count, 4 of pages, then the table.
pub fn segment_sections(bytes: &[u8]) {
    let Some((section_count, rest)) = bytes.split_first_chunk() else { return };
    let Some((page_count, table)) = rest.split_first_chunk() else { return };
    let footer = Footer {
        id: 1,
        kind: *b"FUZZ",
        page_count: u64::from(u32::from_le_bytes(*page_count)),
        section_count: u32::from_le_bytes(*section_count),
        section_table_bytes: u32::try_from(table.len()).unwrap_or(u32::MAX),
        tables_crc: 0,
    };
    let _ = decode_sections(table, &footer, Path::new("fuzz"), 0);
}

/// A slot of the witness.
pub fn witness(bytes: &[u8]) {
    let _ = witness::Account::decode(bytes);
}

/// A log of RocksDB, as write-ahead log and as manifest, and one record of a block of it.
pub fn audit(bytes: &[u8]) {
    let _ = (audit::walk(bytes, true), audit::walk(bytes, false), audit::record_at(bytes, 0));
}

/// An entry of the catalogue.
pub fn catalogue(bytes: &[u8]) {
    let _ = catalogue::decode(Path::new("fuzz"), CollectionId(1), bytes);
}

#[test]
fn noise_is_survived() {
    let small: [fn(&[u8]); 7] =
        [manifest, record, seal, segment_header, segment_footer, segment_sections, witness];
    for bytes in (0..600_usize).map(|len| (0..len).map(|at| (at * at * len / 8) as u8).collect::<Vec<_>>()) {
        small.iter().for_each(|decode| decode(&bytes));
        audit(&bytes);
        catalogue(&bytes);
    }
}
