//! A stream of texts without its near copies, before anything is embedded or stored: which of them were seen,
//! in about 44 bytes a text and without keeping the texts (LSHBloom, Khan et al., 2024).
//!
//! For corpora that are cleaned before they become rows. Rows of a collection are compared when they are
//! written, by [`DedupSpec`](crate::DedupSpec), which knows what is replaced and deleted.

use std::path::Path;

use spandrel_index::dedup::{Dedup, Signature};
pub use spandrel_index::dedup::{Seen, Spec};
use spandrel_storage::durable;

use crate::error::{Error, ErrorKind, Result};
use crate::rag::kv::hash_bytes;
use crate::random::hashed;

/// Texts that one thread signs at least.
const TEXTS_OF_THREAD: usize = 64;
/// What a file begins with; after it come a hash of the rest and the rest.
const MAGIC: &[u8; 8] = b"SPSEEN01";
const HASH_BYTES: usize = 16;

/// Texts that were seen, as far as copies of them are to be told.
///
/// ```
/// use spandrel::seen::{Seen, SeenTexts, Spec};
///
/// let mut seen = SeenTexts::new(Spec { room: 1_000, ..Spec::default() }, true).unwrap();
/// let texts = ["returns are free within 30 days", "Returns are free, within 30 days!"];
/// assert_eq!(seen.add(&texts.map(|text| ("acme", text))).unwrap(), [Seen::New, Seen::Exact]);
/// assert_eq!(seen.add(&[("globex", texts[0])]).unwrap(), [Seen::New]);
/// ```
pub struct SeenTexts {
    dedup: Dedup,
    /// Whether texts are compared within tenants.
    tenants: bool,
    threads: usize,
}

impl SeenTexts {
    /// None seen yet, of texts that are compared with those of their tenant, or with all.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a spec with a number out of its range.
    pub fn new(spec: Spec, tenants: bool) -> Result<Self> {
        Ok(Self::of(Dedup::new(spec)?, tenants))
    }

    fn of(dedup: Dedup, tenants: bool) -> Self {
        Self { dedup, tenants, threads: std::thread::available_parallelism().map_or(1, usize::from) }
    }

    /// What counts as a copy.
    pub fn spec(&self) -> &Spec {
        self.dedup.spec()
    }

    /// Whether texts are compared with those of their tenant only.
    pub fn of_tenants(&self) -> bool {
        self.tenants
    }

    /// Texts that were new.
    pub fn texts(&self) -> u64 {
        self.dedup.docs()
    }

    /// Bytes of memory in use, and about as many in a file.
    pub fn bytes(&self) -> usize {
        self.dedup.bytes()
    }

    /// Says of each text, in order, whether it, or one like it, was there before, and remembers those that
    /// are new. With it comes the name of a tenant, or any other: texts are compared with those of the same
    /// name. Signing is done on all cores.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when there is no memory for more; then those before it are remembered.
    pub fn add(&mut self, texts: &[(&str, &str)]) -> Result<Vec<Seen>> {
        let signer = self.dedup.signer();
        let within = |tenant: &str| if self.tenants { scope_of(tenant) } else { 0 };
        let of_thread = texts.len().div_ceil(self.threads).max(TEXTS_OF_THREAD);
        let signatures: Vec<Vec<Signature>> = std::thread::scope(|scope| {
            let sign = |texts: &[(&str, &str)]| {
                texts.iter().map(|(tenant, text)| signer.sign(text).within(within(tenant))).collect()
            };
            let mut parts = texts.chunks(of_thread);
            let first = parts.next();
            let rest: Vec<_> = parts.map(|texts| scope.spawn(move || sign(texts))).collect();
            let first: Vec<Signature> = first.map(sign).unwrap_or_default();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Vec<Signature>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            std::iter::once(first).chain(rest.into_iter().map(join)).collect()
        });
        let each = signatures.iter().flatten();
        each.map(|signature| Ok(self.dedup.insert_if_absent(signature)?)).collect()
    }

    /// Writes what was seen to a file, durably; one that is there is replaced in one step.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let body = [vec![u8::from(self.tenants)], self.dedup.encode()].concat();
        let mut bytes = Vec::with_capacity(MAGIC.len() + HASH_BYTES + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&hash_bytes(&body));
        bytes.extend_from_slice(&body);
        Ok(durable::replace_file(path, &bytes)?)
    }

    /// What [`save`](Self::save) has written; none where there is no file.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for another file, or a damaged one.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(spandrel_storage::Error::io("read", path, error).into()),
        };
        let damaged = |what: &str| {
            let what = format!("{}: {what}; delete it to begin anew", path.display());
            Error::new(ErrorKind::Corrupt, what)
        };
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return Err(damaged("this is not a file of texts that were seen"));
        };
        let body = rest.split_at_checked(HASH_BYTES).filter(|(hash, body)| hash_bytes(body) == **hash);
        let Some((_, body)) = body else { return Err(damaged("it is damaged or cut short")) };
        let (tenants, body) = match body {
            [tenants @ (0 | 1), body @ ..] => (*tenants == 1, body),
            _ => return Err(damaged("it begins with a number that this build does not know")),
        };
        let dedup = Dedup::decode(body).map_err(|error| damaged(&error.to_string()))?;
        Ok(Some(Self::of(dedup, tenants)))
    }
}

/// What the keys of a tenant's texts are made different by; the empty name is no scope.
fn scope_of(tenant: &str) -> u64 {
    if tenant.is_empty() { 0 } else { hashed(0, tenant.as_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_kept_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seen");
        assert!(SeenTexts::load(&path).unwrap().is_none());
        let mut seen = SeenTexts::new(Spec { room: 100, ..Spec::default() }, true).unwrap();
        let texts: Vec<String> =
            (0..500).map(|text| (0..20).map(|word| format!("{text}x{word} ")).collect()).collect();
        let texts: Vec<(&str, &str)> = texts.iter().map(|text| ("t", text.as_str())).collect();
        assert!(seen.add(&texts[..300]).unwrap().iter().all(|seen| *seen == Seen::New));
        seen.save(&path).unwrap();
        let mut seen = SeenTexts::load(&path).unwrap().unwrap();
        assert_eq!((seen.texts(), seen.spec().room), (300, 100));
        let again = seen.add(&texts).unwrap();
        assert!(again[..300].iter().all(|seen| *seen == Seen::Exact));
        assert!(again[300..].iter().all(|seen| *seen == Seen::New));
        let others: Vec<(&str, &str)> = texts.iter().map(|(_, text)| ("other", *text)).collect();
        assert!(seen.add(&others).unwrap().iter().all(|seen| *seen == Seen::New));
        let mut of_all = SeenTexts::new(Spec::default(), false).unwrap();
        assert_eq!(of_all.add(&[texts[0], others[0]]).unwrap(), [Seen::New, Seen::Exact]);
        // The threads do not matter.
        let mut one = SeenTexts { threads: 1, ..SeenTexts::load(&path).unwrap().unwrap() };
        assert_eq!(one.add(&texts).unwrap(), again);

        let bytes = std::fs::read(&path).unwrap();
        for damaged in [&bytes[..bytes.len() - 1], &bytes[1..], b"", &[&bytes[..], b"x"].concat()] {
            std::fs::write(&path, damaged).unwrap();
            let error = SeenTexts::load(&path).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains("delete it"), "{error}");
        }
        let bad = SeenTexts::new(Spec { threshold: 2.0, ..Spec::default() }, false);
        assert_eq!(bad.err().unwrap().kind(), ErrorKind::Invalid);
    }
}
