//! The keys file: API keys at rest.
//!
//! A key is `spd_<id>_<secret>`: 12 hex digits that name it and 64 that prove it, 256 bits from the operating
//! system. The file holds the SHA-256 of the secret, so that whoever reads the file cannot use it; a slow
//! password hash would add nothing, since a secret of 256 random bits cannot be guessed. Secrets are compared
//! in constant time.
//!
//! The file is JSON, mode 0600, replaced atomically and under a lock, and lies beside the data folder rather
//! than in it, so that a backup of the data carries no credentials.
//!
//! ```json
//! {"version": 1, "keys": [{"id": "5f0c...", "name": "ingest", "access": "write", "tenants": ["acme"],
//!   "created_unix_s": 1767225600, "secret_sha256": "9f86..."}]}
//! ```

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{Access, Caller, Tenants};

/// Version of the file that this build reads and writes.
const VERSION: u32 = 1;
/// What every key starts with.
const PREFIX: &str = "spd";
/// Random bytes of an id and of a secret.
const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;
/// Longest name of a key, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Most bytes of a keys file; more is not a keys file.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// One key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// Names the key: 12 lower-case hex digits.
    pub id: String,
    /// What the operator calls it; may be empty.
    #[serde(default)]
    pub name: String,
    /// What it allows.
    pub access: Access,
    /// Whose rows.
    pub tenants: Tenants,
    /// Access labels one of which a row has to have; absent: all rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeSet<String>>,
    /// Seconds since 1970.
    pub created_unix_s: u64,
    /// SHA-256 of the secret's hex digits, as 64 lower-case hex digits.
    pub secret_sha256: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    version: u32,
    keys: Vec<KeyRecord>,
}

/// Why a keys file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The system refused it.
    #[error("{action} keys file {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// It is not a keys file, or damaged.
    #[error("keys file {} is damaged: {what}; restore it from a copy, or delete it and create new keys", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        what: String,
    },
    /// There is no such key.
    #[error("{0}")]
    NotFound(String),
    /// A name or id that cannot be used.
    #[error("{0}")]
    Invalid(String),
}

/// The keys of a file, by id.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: HashMap<String, KeyRecord>,
}

impl KeySet {
    /// The caller whom `token` proves; none when there is no such key or the secret is wrong. Takes the same
    /// time whether the id is known or not.
    pub fn authenticate(&self, token: &str) -> Option<Caller> {
        let mut parts = token.splitn(3, '_');
        let (prefix, id, secret) = (parts.next()?, parts.next()?, parts.next()?);
        let found = self.keys.get(id);
        let expected = found.map_or(UNKNOWN, |record| record.secret_sha256.as_str());
        let presented = hex(&Sha256::digest(secret.as_bytes()));
        let equal: bool = presented.as_bytes().ct_eq(expected.as_bytes()).into();
        let record = found?;
        let KeyRecord { id, access, tenants, labels, .. } = record;
        (equal && prefix == PREFIX).then(|| Caller::with_labels(id, *access, tenants.clone(), labels.clone()))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// Compared with when there is no such id. Not the digest of any secret that can be made: secrets are hex.
const UNKNOWN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The keys file of a data folder, where the configuration names none: beside the folder.
pub fn default_path(data: &Path) -> PathBuf {
    crate::config::sibling(data, ".keys.json")
}

/// Reads a keys file; none when it is not there.
///
/// # Errors
/// When it cannot be read or is damaged.
pub fn read(path: &Path) -> Result<Option<KeySet>, KeysError> {
    let Some(file) = read_file(path)? else { return Ok(None) };
    Ok(Some(KeySet { keys: file.keys.into_iter().map(|key| (key.id.clone(), key)).collect() }))
}

/// All keys of the file in the order they were made; none when it is not there.
///
/// # Errors
/// When it cannot be read or is damaged.
pub fn list(path: &Path) -> Result<Vec<KeyRecord>, KeysError> {
    Ok(read_file(path)?.map(|file| file.keys).unwrap_or_default())
}

/// Makes a key, adds it to the file and returns it with its full text, which is nowhere kept.
///
/// # Errors
/// When the name is too long, or the file cannot be read or written.
pub fn create(
    path: &Path,
    name: &str,
    access: Access,
    tenants: Tenants,
) -> Result<(KeyRecord, String), KeysError> {
    create_bound(path, name, access, tenants, None)
}

/// As [`create`], bound to labels, too, where there are some.
///
/// # Errors
/// As [`create`]; a key with labels is to write.
pub fn create_bound(
    path: &Path,
    name: &str,
    access: Access,
    tenants: Tenants,
    labels: Option<BTreeSet<String>>,
) -> Result<(KeyRecord, String), KeysError> {
    // Whoever may write rows, or delete what cannot be seen, is held back by no label.
    if labels.is_some() && access > Access::Read {
        return Err(KeysError::Invalid("a key with labels has read access".to_owned()));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(KeysError::Invalid(format!("a key's name has at most {NAME_BYTES_MAX} bytes")));
    }
    let _lock = lock(path)?;
    let mut file = read_file(path)?.unwrap_or_default();
    let id = hex(&random::<ID_BYTES>(path)?);
    let secret = hex(&random::<SECRET_BYTES>(path)?);
    let record = KeyRecord {
        id: id.clone(),
        name: name.to_owned(),
        access,
        tenants,
        labels,
        created_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        secret_sha256: hex(&Sha256::digest(secret.as_bytes())),
    };
    file.keys.push(record.clone());
    write_file(path, file)?;
    Ok((record, format!("{PREFIX}_{id}_{secret}")))
}

/// Takes a key out of the file. The file stays, even when it has no keys any more: an empty file lets nobody
/// in.
///
/// # Errors
/// When there is no such key, or the file cannot be read or written.
pub fn revoke(path: &Path, id: &str) -> Result<KeyRecord, KeysError> {
    let _lock = lock(path)?;
    let mut file = read_file(path)?.unwrap_or_default();
    let Some(at) = file.keys.iter().position(|key| key.id == id) else {
        return Err(KeysError::NotFound(format!(
            "there is no key '{id}' in {}; `spandrel key list` shows the ids",
            path.display()
        )));
    };
    let record = file.keys.remove(at);
    write_file(path, file)?;
    Ok(record)
}

fn random<const N: usize>(path: &Path) -> Result<[u8; N], KeysError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| KeysError::Io {
        action: "draw random bytes for",
        path: path.to_owned(),
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn read_file(path: &Path) -> Result<Option<KeysFile>, KeysError> {
    let io = |action, source| KeysError::Io { action, path: path.to_owned(), source };
    let damaged = |what: String| KeysError::Damaged { path: path.to_owned(), what };
    let length = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("open", error)),
    };
    if length > FILE_BYTES_MAX {
        return Err(damaged(format!("{length} bytes, a keys file has at most {FILE_BYTES_MAX}")));
    }
    let bytes = std::fs::read(path).map_err(|error| io("read", error))?;
    let file: KeysFile = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if file.version != VERSION {
        return Err(damaged(format!("version {}, this build reads version {VERSION}", file.version)));
    }
    let is_hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let mut ids = HashSet::with_capacity(file.keys.len());
    for (at, key) in file.keys.iter().enumerate() {
        if !is_hex(&key.id, 2 * ID_BYTES) {
            return Err(damaged(format!("keys[{at}].id is not {} hex digits", 2 * ID_BYTES)));
        }
        if !is_hex(&key.secret_sha256, 64) {
            return Err(damaged(format!("keys[{at}].secret_sha256 is not 64 hex digits")));
        }
        if !ids.insert(key.id.as_str()) {
            return Err(damaged(format!("keys[{at}].id is there twice")));
        }
    }
    Ok(Some(file))
}

/// Held while a file is read, changed and replaced, so that two operators do not undo each other's change.
fn lock(path: &Path) -> Result<File, KeysError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let io = |action| move |source| KeysError::Io { action, path: path.to_owned(), source };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(io("make the folder of"))?;
    }
    let file = File::options().create(true).append(true).open(&name).map_err(io("lock"))?;
    file.lock().map_err(io("lock"))?;
    Ok(file)
}

fn write_file(path: &Path, mut file: KeysFile) -> Result<(), KeysError> {
    file.version = VERSION;
    let io = |action| move |source| KeysError::Io { action, path: path.to_owned(), source };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // A NamedTempFile has mode 0600 from its first moment.
    let mut fresh = tempfile::NamedTempFile::new_in(folder).map_err(io("write"))?;
    serde_json::to_writer_pretty(&mut fresh, &file)
        .map_err(|error| KeysError::Invalid(format!("keys file: {error}")))?;
    fresh.write_all(b"\n").map_err(io("write"))?;
    fresh.as_file().sync_all().map_err(io("sync"))?;
    fresh.persist(path).map_err(|error| KeysError::Io {
        action: "replace",
        path: path.to_owned(),
        source: error.error,
    })?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("sync the folder of"))
}

#[cfg(test)]
mod tests;
