//! Bytes of header, tables and footer of a segment file, in memory only; the layout is in the head of
//! `file/mod.rs`.
//!
//! Decoding checks every number against the length of the file before anything is allocated by it.

use std::path::Path;

use super::{FORMAT_VERSION, SECTION_NAME_BYTES_MAX, SegmentInfo};
use crate::codec::{Decoder, Encoder, Truncated};
use crate::error::{Error, Result};
use crate::io::PAGE_BYTES;
use crate::seal::{SEAL_BYTES, Seal};

const HEADER: Seal = Seal { magic: *b"SPANDSEG", version: FORMAT_VERSION, noun: "segment file" };
const FOOTER: Seal = Seal { magic: *b"SPANDEND", version: FORMAT_VERSION, noun: "segment footer" };
const FOOTER_BODY_BYTES: usize = 4 + 8 + 8 + 4 + 4 + 8 + 4;
/// Bytes of the footer, the last of the file.
pub(super) const FOOTER_BYTES: usize = FOOTER_BODY_BYTES + SEAL_BYTES;

/// The first page.
pub(super) fn encode_header(id: u64, kind: [u8; 4]) -> Vec<u8> {
    let mut body = Encoder::with_capacity(PAGE_BYTES);
    body.raw(&kind).u64(id);
    let mut body = body.finish();
    body.resize(PAGE_BYTES - SEAL_BYTES, 0);
    HEADER.close(&body)
}

/// Id and kind from the first page; `page` is shorter where the file is.
pub(crate) fn decode_header(page: &[u8], file: &Path) -> Result<(u64, [u8; 4])> {
    let body = if page.len() < PAGE_BYTES && page.starts_with(&HEADER.magic) {
        return Err(Error::corrupt(file, page.len() as u64, "the segment file is cut off"));
    } else {
        HEADER.open(page, file, 0)?
    };
    let mut decoder = Decoder::new(body);
    (|| {
        let kind = array(&mut decoder, "kind")?;
        Ok((decoder.u64("id")?, kind))
    })()
    .map_err(|e: Truncated| Error::corrupt(file, 0, e.to_string()))
}

/// A section as the section table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SectionEntry {
    pub name: String,
    /// Bytes.
    pub len: u64,
}

/// What the footer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub id: u64,
    pub kind: [u8; 4],
    /// Payload pages, without the header.
    pub page_count: u64,
    pub section_count: u32,
    pub section_table_bytes: u32,
    pub tables_crc: u32,
}

impl Footer {
    /// Where the page table starts, which is where the payload ends.
    pub fn tables_offset(&self) -> Option<u64> {
        self.page_count.checked_add(1)?.checked_mul(PAGE_BYTES as u64)
    }

    /// Bytes of page table and section table.
    pub fn tables_bytes(&self) -> Option<u64> {
        self.page_count.checked_mul(4)?.checked_add(u64::from(self.section_table_bytes))
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> Option<u64> {
        self.tables_offset()?.checked_add(self.tables_bytes()?)?.checked_add(FOOTER_BYTES as u64)
    }

    /// The bytes of the footer, and what names the file.
    pub fn encode(&self) -> (Vec<u8>, SegmentInfo) {
        let bytes = self.file_bytes().expect("a file that was written has fewer than 2^64 bytes");
        let mut body = Encoder::with_capacity(FOOTER_BODY_BYTES);
        body.raw(&self.kind)
            .u64(self.id)
            .u64(self.page_count)
            .u32(self.section_count)
            .u32(self.section_table_bytes)
            .u64(bytes)
            .u32(self.tables_crc);
        let footer = FOOTER.close(&body.finish());
        let info = SegmentInfo { id: self.id, kind: self.kind, bytes, checksum: footer_checksum(&footer) };
        (footer, info)
    }

    /// Reads the last [`FOOTER_BYTES`] of a file of `file_bytes`; after success all lengths in it agree with
    /// the file.
    pub fn decode(bytes: &[u8], file: &Path, file_bytes: u64) -> Result<(Self, SegmentInfo)> {
        let at = file_bytes.saturating_sub(FOOTER_BYTES as u64);
        let body = FOOTER.open(bytes, file, at).map_err(|error| match error {
            // The header was ours and of a known version: a strange footer is a cut-off or damaged file.
            Error::Version { .. } => Error::corrupt(file, at, "the file does not end in a segment footer"),
            error => error,
        })?;
        let mut decoder = Decoder::new(body);
        let (footer, said) = (|| {
            let footer = Self {
                kind: array(&mut decoder, "kind")?,
                id: decoder.u64("id")?,
                page_count: decoder.u64("page count")?,
                section_count: decoder.u32("section count")?,
                section_table_bytes: decoder.u32("section table length")?,
                tables_crc: 0,
            };
            let said = decoder.u64("file length")?;
            Ok((Self { tables_crc: decoder.u32("checksum of the tables")?, ..footer }, said))
        })()
        .map_err(|e: Truncated| Error::corrupt(file, at, e.to_string()))?;
        if said != file_bytes || footer.file_bytes() != Some(file_bytes) {
            let what = format!("the footer says {said} bytes, the file has {file_bytes}");
            return Err(Error::corrupt(file, at, what));
        }
        let checksum = footer_checksum(bytes);
        Ok((footer.clone(), SegmentInfo { id: footer.id, kind: footer.kind, bytes: said, checksum }))
    }
}

/// The checksum at the end of a footer.
fn footer_checksum(footer: &[u8]) -> u32 {
    footer.last_chunk::<4>().map_or(0, |crc| u32::from_le_bytes(*crc))
}

/// The section table.
pub(super) fn encode_sections(sections: &[SectionEntry]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    for section in sections {
        encoder.str(&section.name).u64(section.len);
    }
    encoder.finish()
}

/// Reads the section table, which starts at `offset` of the file. After success the sections fill the payload
/// pages exactly and their names differ.
pub(crate) fn decode_sections(
    bytes: &[u8],
    footer: &Footer,
    file: &Path,
    offset: u64,
) -> Result<Vec<SectionEntry>> {
    let damaged = |what: String| Error::corrupt(file, offset, what);
    let mut decoder = Decoder::new(bytes);
    // A name takes at least 5 bytes, a length 8: a wild count fails here before it allocates.
    if u64::from(footer.section_count) * 13 > bytes.len() as u64 {
        return Err(damaged(format!("{} sections do not fit in the section table", footer.section_count)));
    }
    let mut sections = Vec::with_capacity(footer.section_count as usize);
    let mut names = std::collections::HashSet::with_capacity(sections.capacity());
    let mut page_count = 0u64;
    for _ in 0..footer.section_count {
        let name = decoder.str("section name").map_err(|e| damaged(e.to_string()))?;
        let len = decoder.u64("section length").map_err(|e| damaged(e.to_string()))?;
        if name.is_empty() || name.len() > SECTION_NAME_BYTES_MAX || !names.insert(name) {
            return Err(damaged(format!("section name {name:?} is empty, too long or given twice")));
        }
        page_count = page_count.saturating_add(pages_of(len));
        sections.push(SectionEntry { name: name.to_owned(), len });
    }
    if decoder.left() > 0 || page_count != footer.page_count {
        let what = format!("sections of {page_count} pages in a payload of {}", footer.page_count);
        return Err(damaged(what));
    }
    Ok(sections)
}

/// Pages that `len` bytes take.
pub(super) fn pages_of(len: u64) -> u64 {
    len.div_ceil(PAGE_BYTES as u64)
}

fn array<const N: usize>(decoder: &mut Decoder<'_>, what: &'static str) -> Result<[u8; N], Truncated> {
    let mut array = [0; N];
    array.copy_from_slice(decoder.take(N, what)?);
    Ok(array)
}
