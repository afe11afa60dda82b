//! Segment files: immutable files of named sections, with a checksum for every page.
//!
//! [`SegmentWriter`] writes one from front to back; [`SegmentFile`] opens it and gives out [`Section`]s,
//! which read ranges and batches of extents. What is in a section is the affair of the index that wrote it.
//! Not a place for state: a segment file never changes, and deleted documents are kept in the manifest.
//!
//! ```text
//! page 0            header: a sealed block (magic `SPANDSEG`, version, body, crc32c) of exactly one page
//!                     body: kind [u8; 4], id u64, zeros
//! pages 1..=P       payload: the sections in the order written; each starts at a page, its last page ends in
//!                     zeros. Nothing but section bytes: vectors and codes lie aligned and whole in pages
//! page 1 + P        page table: P x u32, crc32c of each payload page
//! after it          section table: S x (name as u32 length and UTF-8, length in bytes u64); the first
//!                     section starts at page 1, each other one at the page after the last of the one before
//! last 56 bytes     footer: a sealed block (magic `SPANDEND`, version, body, crc32c)
//!                     body: kind [u8; 4], id u64, P u64, S u32, bytes of the section table u32,
//!                     bytes of the file u64, crc32c of page table and section table together u32
//! ```
//! All numbers are little-endian. Every byte is under a checksum: header and footer under their own, the
//! tables under the one in the footer, payload under the page table. The crc32c of the footer therefore names
//! one content; it is the [`SegmentInfo::checksum`] that the manifest records.
//!
//! Cost: 4 bytes of memory for each open page of 4096 (the page table stays resident), 0.1% of the file.

pub(crate) mod layout;
mod reader;
mod scalar;
mod section;
mod writer;

pub use reader::SegmentFile;
pub use scalar::Scalar;
pub use section::Section;
pub use writer::SegmentWriter;

/// Newest format version that this build reads, and the one it writes.
pub const FORMAT_VERSION: u32 = 1;
/// Longest section name in bytes.
pub const SECTION_NAME_BYTES_MAX: usize = 255;

/// What names a finished segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The id given at creation.
    pub id: u64,
    /// The kind given at creation.
    pub kind: [u8; 4],
    /// Length of the file.
    pub bytes: u64,
    /// crc32c of the footer, which covers all other checksums.
    pub checksum: u32,
}

#[cfg(test)]
mod tests;
