//! The keys in force: the keys file as the running server sees it.
//!
//! A look at the file's identity, time and length every half second notices a change without a restart;
//! renames make that reliable, since a replaced file is another inode. What a change means:
//!
//! - a file that was never there: no authentication, which the server allows on loopback addresses only;
//! - a file that appears: from then on every request needs a key, for as long as the process lives;
//! - a file that goes away or loses its last key: nobody is let in (never "everybody");
//! - a file that is damaged: the keys read before stay in force and the log says so, until it is repaired.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use tonic::Status;

use super::Caller;
use super::keys::{self, KeySet, KeysError};

/// How often the file is looked at.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The keys in force.
pub struct Keyring {
    path: PathBuf,
    state: RwLock<State>,
}

struct State {
    /// None: no keys file was ever there.
    keys: Option<Arc<KeySet>>,
    stamp: Option<Stamp>,
}

/// Tells a replaced file from the one before.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Some(Self { modified: metadata.modified().ok(), length: metadata.len(), inode })
    }
}

impl Keyring {
    /// Reads the keys file.
    ///
    /// # Errors
    /// When it is there and cannot be read or is damaged.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, KeysError> {
        let path = path.into();
        let stamp = Stamp::of(&path);
        let keys = keys::read(&path)?.map(Arc::new);
        warn_if_readable(&path);
        Ok(Self { path, state: RwLock::new(State { keys, stamp }) })
    }

    /// The keys file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether requests need a key.
    pub fn is_closed(&self) -> bool {
        self.state.read().keys.is_some()
    }

    /// Whether any key can get in.
    pub fn has_keys(&self) -> bool {
        self.state.read().keys.as_ref().is_some_and(|keys| !keys.is_empty())
    }

    /// Looks at the file and takes over what changed.
    ///
    /// # Errors
    /// When the changed file cannot be used; the keys read before stay in force.
    pub fn refresh(&self) -> Result<bool, KeysError> {
        let stamp = Stamp::of(&self.path);
        if stamp == self.state.read().stamp {
            return Ok(false);
        }
        let read = keys::read(&self.path);
        let mut state = self.state.write();
        // A damaged file is reported once, not twice a second. One that could not be read is looked at
        // again: it may take a key away.
        if !matches!(read, Err(KeysError::Io { .. })) {
            state.stamp = stamp;
        }
        state.keys = match read? {
            Some(keys) => Some(Arc::new(keys)),
            None => state.keys.as_ref().map(|_| Arc::default()),
        };
        Ok(true)
    }

    /// Keeps looking at the file until the future is dropped.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let keyring = Arc::clone(&self);
            let refreshed = tokio::task::spawn_blocking(move || keyring.refresh()).await;
            // It is cancelled only when the server ends, and it does not panic.
            let Ok(refreshed) = refreshed else { return };
            match refreshed {
                Ok(false) => {}
                Ok(true) => {
                    let keys = self.state.read().keys.as_ref().map_or(0, |keys| keys.len());
                    tracing::info!(file = %self.path.display(), keys, "keys file read again");
                }
                Err(error) => tracing::error!(%error, "the keys read before stay in force"),
            }
        }
    }

    /// Whether a caller who was let in earlier would be let in as the same one now.
    ///
    /// # Errors
    /// UNAUTHENTICATED when the key was revoked or changed since.
    pub fn still_allows(&self, caller: &Caller) -> Result<(), Status> {
        match &self.state.read().keys {
            Some(keys) if !keys.knows(caller) => {
                Err(Status::unauthenticated("the API key was revoked or changed since the stream began"))
            }
            _ => Ok(()),
        }
    }

    /// Who sent the header `authorization`.
    ///
    /// # Errors
    /// UNAUTHENTICATED when there are keys and the header holds none of them. The message does not tell an
    /// unknown id from a wrong secret.
    pub fn authenticate(&self, header: Option<&[u8]>) -> Result<Caller, Status> {
        let Some(keys) = self.state.read().keys.clone() else { return Ok(Caller::anybody()) };
        let Some(header) = header else {
            return Err(Status::unauthenticated(
                "this server needs an API key: send the header `authorization: Bearer spd_...`",
            ));
        };
        let token = std::str::from_utf8(header).ok().and_then(bearer);
        let Some(token) = token else {
            return Err(Status::unauthenticated("the header authorization is not `Bearer spd_...`"));
        };
        keys.authenticate(token)
            .ok_or_else(|| Status::unauthenticated("the API key is not known: wrong, or revoked"))
    }
}

/// The token of `Bearer <token>`; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn warn_if_readable(path: &Path) {
    #[cfg(unix)]
    if let Ok(metadata) = std::fs::metadata(path) {
        use std::os::unix::fs::PermissionsExt;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let file = path.display();
            tracing::warn!("keys file {file} has mode {mode:o}; others need not read it: chmod 600 {file}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Access, Tenants};
    use super::*;

    fn code(result: Result<Caller, Status>) -> tonic::Code {
        result.unwrap_err().code()
    }

    #[test]
    fn without_a_file_anybody_and_with_one_nobody_without_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let ring = Keyring::open(&path).unwrap();
        assert!(!ring.is_closed());
        assert!(ring.authenticate(None).unwrap().require_everywhere(Access::Admin).is_ok());

        let (record, token) = keys::create(&path, "", Access::Read, Tenants::All).unwrap();
        assert!(ring.refresh().unwrap());
        assert!(!ring.refresh().unwrap());
        assert!(ring.is_closed() && ring.has_keys());
        let header = format!("Bearer {token}");
        assert_eq!(ring.authenticate(Some(header.as_bytes())).unwrap().id(), record.id);
        let lower = format!("bearer   {token} ");
        assert!(ring.authenticate(Some(lower.as_bytes())).is_ok());
        for wrong in ["", "Bearer", "Bearer ", &token, "Basic abc", "Bearer spd_1_2", "Bearer \u{e9}"] {
            assert_eq!(code(ring.authenticate(Some(wrong.as_bytes()))), tonic::Code::Unauthenticated);
        }
        assert_eq!(code(ring.authenticate(Some(b"Bearer \xff"))), tonic::Code::Unauthenticated);
        assert_eq!(code(ring.authenticate(None)), tonic::Code::Unauthenticated);

        keys::revoke(&path, &record.id).unwrap();
        ring.refresh().unwrap();
        assert!(ring.is_closed() && !ring.has_keys());
        assert!(ring.authenticate(Some(header.as_bytes())).is_err());
    }

    #[test]
    fn a_lost_file_lets_nobody_in_and_a_damaged_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let (_, token) = keys::create(&path, "", Access::Read, Tenants::All).unwrap();
        let header = format!("Bearer {token}");
        let ring = Keyring::open(&path).unwrap();
        let good = std::fs::read(&path).unwrap();

        std::fs::write(&path, "{").unwrap();
        assert!(ring.refresh().is_err());
        assert!(ring.authenticate(Some(header.as_bytes())).is_ok());
        assert!(!ring.refresh().unwrap(), "damage is reported once");

        std::fs::remove_file(&path).unwrap();
        assert!(ring.refresh().unwrap());
        assert!(ring.is_closed());
        assert!(ring.authenticate(None).is_err());
        assert!(ring.authenticate(Some(header.as_bytes())).is_err());

        std::fs::write(&path, good).unwrap();
        assert!(ring.refresh().unwrap());
        assert!(ring.authenticate(Some(header.as_bytes())).is_ok());

        std::fs::write(&path, "{").unwrap();
        assert!(Keyring::open(&path).is_err(), "a server does not start on a damaged file");
    }
}
