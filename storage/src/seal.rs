//! Whether a block of bytes is ours, undamaged and of a version that this build reads.
//!
//! ```text
//! offset    bytes  what
//! 0         8      magic
//! 8         4      format version, u32
//! 12        n      body
//! 12 + n    4      crc32c of everything before
//! ```
//! These places are the same in every version, so that a newer file is told apart from a damaged one: the
//! checksum is compared before the version. Little-endian. Cost: one pass over the bytes.

use std::path::Path;

use crate::error::{Error, Result};

/// Bytes before the body.
pub(crate) const HEAD_BYTES: usize = 12;
/// Bytes around a body.
pub(crate) const SEAL_BYTES: usize = HEAD_BYTES + 4;

/// A kind of sealed block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal {
    /// First bytes of the block.
    pub magic: [u8; 8],
    /// The version that is written, and the newest that is read. Version 0 is never written.
    pub version: u32,
    /// What the block is, for messages: `segment file`.
    pub noun: &'static str,
}

impl Seal {
    /// `body` with head and checksum.
    pub fn close(&self, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(body.len() + SEAL_BYTES);
        bytes.extend_from_slice(&self.magic);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(body);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The body of the block `bytes`, which starts at byte `offset` of `file`.
    ///
    /// # Errors
    /// [`Error::Version`] for a foreign block or a newer version, [`Error::Corrupt`] for damage.
    pub fn open<'a>(&self, bytes: &'a [u8], file: &Path, offset: u64) -> Result<&'a [u8]> {
        let noun = self.noun;
        let Some((sealed, crc)) = bytes.split_last_chunk::<4>().filter(|_| bytes.len() >= SEAL_BYTES) else {
            // Too short for a verdict: a cut-off file of ours begins like one of ours.
            return Err(if bytes.starts_with(&self.magic) || self.magic.starts_with(bytes) {
                Error::corrupt(file, offset + bytes.len() as u64, format!("the {noun} is cut off"))
            } else {
                self.foreign(file)
            });
        };
        let (head, rest) = sealed.split_at(self.magic.len());
        let crc = u32::from_le_bytes(*crc);
        let found = crc32c::crc32c(sealed);
        if found != crc {
            let ours = head == self.magic || crc32c::crc32c_append(crc32c::crc32c(&self.magic), rest) == crc;
            return Err(if ours {
                let what = format!("checksum of the {noun} is {found:08x}, expected {crc:08x}");
                Error::corrupt(file, offset, what)
            } else {
                self.foreign(file)
            });
        }
        if head != self.magic {
            return Err(self.foreign(file));
        }
        let (version, body) = rest.split_first_chunk::<4>().expect("at least SEAL_BYTES, checked above");
        let version = u32::from_le_bytes(*version);
        if version == 0 || version > self.version {
            let what = format!(
                "{noun} of format version {version}; this build reads versions 1 to {}: use a newer build",
                self.version
            );
            return Err(Error::Version { path: file.to_path_buf(), what });
        }
        Ok(body)
    }

    fn foreign(&self, file: &Path) -> Error {
        Error::Version {
            path: file.to_path_buf(),
            what: format!("not a Spandrel {}; it was left as it is", self.noun),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEAL: Seal = Seal { magic: *b"TESTSEAL", version: 3, noun: "test block" };

    fn open(bytes: &[u8]) -> Result<&[u8]> {
        SEAL.open(bytes, Path::new("block"), 0)
    }

    #[test]
    fn opens_what_it_closed() {
        for body in [&b""[..], b"x", b"a longer body"] {
            assert_eq!(open(&SEAL.close(body)).unwrap(), body);
        }
    }

    #[test]
    fn every_flip_and_every_cut_is_damage() {
        let bytes = SEAL.close(b"body of some bytes");
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert!(matches!(open(&bad), Err(Error::Corrupt { .. })), "byte {at} bit {bit}");
            }
            assert!(matches!(open(&bytes[..at]), Err(Error::Corrupt { .. })), "cut at {at}");
        }
    }

    #[test]
    fn newer_versions_and_foreign_bytes_are_told_apart_from_damage() {
        let newer = Seal { version: 4, ..SEAL }.close(b"body");
        let foreign = Seal { magic: *b"OTHERONE", ..SEAL }.close(b"body");
        for bytes in [&newer[..], &foreign, b"short text", b"some text, long enough to hold a checksum"] {
            assert!(matches!(open(bytes), Err(Error::Version { .. })), "{bytes:?}");
        }
    }
}
