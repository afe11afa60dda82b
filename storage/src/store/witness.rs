//! The witness: an account of what is durable, kept apart from RocksDB's own log.
//!
//! RocksDB accepts a write-ahead log whose last records are gone or damaged as the trace of a crash. That is
//! right for writes that no one was promised, and silent loss for those that were acknowledged as durable. So
//! every commit carries a number, kept in `meta`; and after each fsync of the log the witness is told which
//! number is now safe. A store that opens with a smaller number than its witness has lost something, and says
//! so.
//!
//! The witness is written after the fsync and not synced itself: after a power failure it may be behind,
//! which only weakens the check, never raises a false alarm. It costs one 64-byte overwrite a durable commit,
//! about a microsecond. After a clean close it also holds the checksum of RocksDB's manifest, which then must
//! not change.
//!
//! Two slots on two 4 KB pages are written in turn; the valid one with the larger generation counts.
//! Little-endian:
//!
//! | offset | bytes | what                                                                                  |
//! |-------:|------:|---------------------------------------------------------------------------------------|
//! |      0 |     8 | magic                                                                                 |
//! |      8 |     8 | generation, grows by one a write                                                      |
//! |     16 |     8 | commits: the number of the last durable commit                                        |
//! |     24 |     8 | sequence: RocksDB's number of that commit's first entry, 0 if not written since open  |
//! |     32 |     8 | clean: 1 after a clean close                                                          |
//! |     40 |     8 | manifest: checksum of CURRENT and the manifest it names, after a clean close          |
//! |     48 |     4 | crc32c of the 48 bytes before                                                         |

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::codec::{Decoder, Encoder};
use crate::durable;
use crate::error::{Error, Result};

const NAME: &str = "WITNESS";
const MAGIC: u64 = u64::from_le_bytes(*b"SPDRWTNS");
const BODY_BYTES: usize = 48;
const SLOT_BYTES: usize = BODY_BYTES + 4;
const PAGE_BYTES: usize = 4096;

/// What the witness says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    generation: u64,
    /// Number of the last durable commit.
    pub commits: u64,
    /// RocksDB's sequence number of that commit's first entry; 0 when its log was folded into tables since.
    pub sequence: u64,
    /// Checksum of the manifest after a clean close.
    pub manifest: Option<u64>,
}

impl Account {
    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::with_capacity(SLOT_BYTES);
        out.u64(MAGIC).u64(self.generation).u64(self.commits).u64(self.sequence);
        out.u64(u64::from(self.manifest.is_some())).u64(self.manifest.unwrap_or(0));
        let mut bytes = out.finish();
        let check = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut left = Decoder::new(bytes);
        let body = left.take(BODY_BYTES, "witness").ok()?;
        if left.u32("check").ok()? != crc32c::crc32c(body) {
            return None;
        }
        let mut body = Decoder::new(body);
        let magic = body.u64("magic").ok()?;
        let account = Self {
            generation: body.u64("generation").ok()?,
            commits: body.u64("commits").ok()?,
            sequence: body.u64("sequence").ok()?,
            manifest: match (body.u64("clean").ok()?, body.u64("manifest").ok()?) {
                (0, _) => None,
                (_, check) => Some(check),
            },
        };
        (magic == MAGIC).then_some(account)
    }
}

/// The open witness of a store.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
    path: PathBuf,
    account: Account,
}

impl Witness {
    /// Writes the witness of a store that has no commits, or of a checkpoint with `commits` of them.
    pub(super) fn create(folder: &Path, commits: u64) -> Result<()> {
        let slot = Account { generation: 1, commits, ..Account::default() }.encode();
        let mut bytes = vec![0; 2 * PAGE_BYTES];
        for page in bytes.chunks_mut(PAGE_BYTES) {
            page[..SLOT_BYTES].copy_from_slice(&slot);
        }
        durable::replace_file(&folder.join(NAME), &bytes)
    }

    /// Opens the witness of a store that is ready.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is missing or neither slot is whole.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(Error::corrupt(&path, 0, "the file is missing"));
            }
            Err(e) => return Err(Error::io("open", &path, e)),
        };
        let mut account: Option<Account> = None;
        for slot in 0..2 {
            let mut bytes = [0; SLOT_BYTES];
            match file.read_exact_at(&mut bytes, (slot * PAGE_BYTES) as u64) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => continue,
                Err(e) => return Err(Error::io("read", &path, e)),
            }
            let found = Account::decode(&bytes);
            if found.map(|slot| slot.generation) > account.map(|slot| slot.generation) {
                account = found;
            }
        }
        let account = account.ok_or_else(|| Error::corrupt(&path, 0, "neither slot matches its checksum"))?;
        Ok(Self { file, path, account })
    }

    /// What it says.
    pub(super) fn account(&self) -> Account {
        self.account
    }

    /// Notes that commits up to `commits` are durable, the last one at RocksDB's `sequence`. Not synced.
    pub(super) fn record(&mut self, commits: u64, sequence: u64) -> Result<()> {
        self.write(Account { commits, sequence, manifest: None, ..self.account })
    }

    /// Takes back a clean close before RocksDB changes its files. Durable in both slots, so that a clean
    /// close of an earlier session is never believed after a crash of this one.
    pub(super) fn retract(&mut self) -> Result<()> {
        match self.account.manifest {
            Some(_) => self.record_twice(self.account.commits, self.account.sequence),
            None => Ok(()),
        }
    }

    /// Starts a session whose database holds `commits`, all of them in tables. Durable in both slots.
    pub(super) fn begin(&mut self, commits: u64) -> Result<()> {
        match self.account {
            Account { commits: same, sequence: 0, manifest: None, .. } if same == commits => Ok(()),
            _ => self.record_twice(commits, 0),
        }
    }

    fn record_twice(&mut self, commits: u64, sequence: u64) -> Result<()> {
        self.record(commits, sequence)?;
        self.record(commits, sequence)?;
        self.sync()
    }

    /// Notes a clean close with this checksum of the manifest. Durable.
    pub(super) fn finish(&mut self, commits: u64, manifest: u64) -> Result<()> {
        self.write(Account { commits, sequence: 0, manifest: Some(manifest), ..self.account })?;
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        let failed = |source| Error::SyncFailed { path: self.path.clone(), source, renamed: false };
        self.file.sync_all().map_err(failed)
    }

    fn write(&mut self, mut account: Account) -> Result<()> {
        account.generation = self.account.generation + 1;
        let at = (account.generation as usize % 2 * PAGE_BYTES) as u64;
        self.file.write_all_at(&account.encode(), at).map_err(|e| Error::io("write", &self.path, e))?;
        self.account = account;
        Ok(())
    }
}
