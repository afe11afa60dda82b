//! What a chunk cache is: which tokens it was computed from, by which model, behind which other chunks, where
//! its tensors lie, and what it saves. The tensors stay with the LLM server.
//!
//! The fields follow Cache-Craft (Agarwal et al., 2025): a chunk may have several variants, one for each
//! context that it was computed in, and each knows how much of its attention went to which chunk before it.
//! `cci` is that paper's cache context impact: 0 where what came before does not matter, 1 where all tokens
//! have to be computed again. A cache without a prefix is what CacheBlend (Yao et al., 2024) keeps, and with
//! a shared prefix what APE (Yang et al., 2025) keeps. Departure: names are hashes of exact token ids, not of
//! text, as text tokenised alone and in a context differs. Bytes a descriptor: about 300, plus prefix and
//! URI.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::hash::hash_bytes;
use crate::error::{Error, Result};

/// Most chunks that a variant was computed behind.
pub const PREFIX_CHUNKS_MAX: usize = 64;
/// Longest URI in bytes.
pub const URI_BYTES_MAX: usize = 1_024;
/// Longest name of a model, revision, tokenizer, element type, collection, tenant or label in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// Most access labels of a scope.
pub const LABELS_MAX: usize = 64;
/// Most tokens of a chunk.
pub const TOKENS_MAX: u32 = 1 << 20;
/// Most bytes of a variant.
pub const BYTES_MAX: u64 = 1 << 42;
/// Longest recomputation: an hour.
pub const RECOMPUTE_US_MAX: u64 = 3_600_000_000;
/// How far attention shares may add up to more than 1, as they are rounded.
const SHARE_SLACK: f64 = 1e-3;

/// 128 bits that name exact token ids; hexadecimal in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash(pub [u8; 16]);

/// Names the exact token ids of a chunk, its separator included: the first 16 bytes of the SHA-256 of the
/// ids, each 4 bytes, the least first. The same on every machine, and easy to compute elsewhere.
pub fn hash_tokens(tokens: &[u32]) -> TokenHash {
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    TokenHash(hash_bytes(&bytes))
}

/// Tokens rounded up to a multiple of a server's block, so that chunks padded to it meet at block borders.
/// A block of 0 counts as 1; None where the multiple is above `u32::MAX`.
pub fn aligned_tokens(tokens: u32, block_tokens: u32) -> Option<u32> {
    tokens.checked_next_multiple_of(block_tokens.max(1))
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for TokenHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_hash = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = u128::from_str_radix(text, 16).ok().filter(|_| is_hash);
        bits.map(|bits| Self(bits.to_be_bytes()))
            .ok_or_else(|| Error::invalid("a token hash must be 32 hexadecimal digits"))
    }
}

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A collection and a tenant of it.
pub type Owner<'a> = (&'a str, &'a str);

/// Whose a descriptor is, or who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// The collection, 1 to 256 bytes. No other one ever sees the descriptor.
    pub collection: String,
    /// The tenant, 0 to 256 bytes. No other one ever sees the descriptor.
    pub tenant: String,
    /// Access labels. Who asks with labels sees what has one of them, and nothing without labels; who asks
    /// with none sees all of the tenant. A cache tells of the chunks it was computed behind: it must have
    /// only labels that the chunk and each of those have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeSet<String>>,
}

impl Scope {
    /// A scope of a tenant of a collection, without labels.
    pub fn tenant(collection: impl Into<String>, tenant: impl Into<String>) -> Self {
        Self { collection: collection.into(), tenant: tenant.into(), labels: None }
    }

    /// Its collection and tenant.
    pub fn owner(&self) -> Owner<'_> {
        (&self.collection, &self.tenant)
    }

    /// Whether who asks with this scope may see what has scope `other`.
    pub fn covers(&self, other: &Self) -> bool {
        let shares =
            |mine: &BTreeSet<String>| other.labels.as_ref().is_some_and(|others| !mine.is_disjoint(others));
        self.owner() == other.owner() && self.labels.as_ref().is_none_or(shares)
    }

    /// Checks the limits.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) with what to change.
    pub fn check(&self) -> Result<()> {
        name("collection", &self.collection)?;
        if self.tenant.len() > NAME_BYTES_MAX {
            let limit = format_args!("at most {NAME_BYTES_MAX}: give a shorter name");
            return refuse("bytes of tenant", self.tenant.len(), limit);
        }
        let labels = self.labels.as_ref().map_or(0, BTreeSet::len);
        if labels > LABELS_MAX {
            return refuse("labels", labels, format_args!("at most {LABELS_MAX}: group them"));
        }
        self.labels.iter().flatten().try_for_each(|label| name("label", label))
    }
}

/// What has to be equal for a cache to be of any use.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelKey {
    /// The model's name.
    pub model: String,
    /// Revision of its weights.
    pub revision: String,
    /// The tokenizer that the ids are of.
    pub tokenizer: String,
    /// Element type of the tensors, such as `bf16` or `fp8`.
    pub dtype: String,
    /// Position of the first token that the keys were rotated for; a server that rotates again on use says 0.
    pub position_base: u32,
    /// Hash of the prefix that all chunks share, where they are encoded in parallel behind it (APE).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_prefix: Option<TokenHash>,
}

impl ModelKey {
    /// Checks the limits.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) with what to change.
    pub fn check(&self) -> Result<()> {
        name("model", &self.model)?;
        name("revision", &self.revision)?;
        name("tokenizer", &self.tokenizer)?;
        name("dtype", &self.dtype)
    }
}

/// Where tensors lie, fastest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Memory of the accelerator.
    #[default]
    Hbm,
    /// Memory of the host.
    Dram,
    /// Disk.
    Ssd,
}

impl Tier {
    /// All of them, fastest first.
    pub const ALL: [Self; 3] = [Self::Hbm, Self::Dram, Self::Ssd];
}

/// How much of a chunk's attention to chunks before it went to one of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// The chunk before.
    pub chunk: TokenHash,
    /// Its share: 0 to 1; all shares add up to at most 1.
    pub share: f64,
}

/// Names a variant within a catalogue; ids are never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VariantId(pub u64);

/// A cache of one chunk, computed in one context.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// The chunk's tokens.
    pub content: TokenHash,
    /// What it was computed by.
    pub model: ModelKey,
    /// Whose it is.
    pub scope: Scope,
    /// The chunks that it was computed behind, first to last; empty: it was computed alone.
    #[serde(default)]
    pub prefix: Vec<TokenHash>,
    /// Tokens, padding included: 1 to [`TOKENS_MAX`].
    pub tokens: u32,
    /// Bytes of the tensors: 1 to [`BYTES_MAX`].
    pub bytes: u64,
    /// Where they lie.
    pub tier: Tier,
    /// How the server finds them: 1 to [`URI_BYTES_MAX`] bytes.
    pub uri: String,
    /// Cache context impact, 0 to 1.
    pub cci: f64,
    /// Attention to chunks of the prefix, as far as known. What is left of 1 is spread over the others.
    #[serde(default)]
    pub inter: Vec<Attention>,
    /// What computing all of it takes, at most [`RECOMPUTE_US_MAX`].
    pub recompute_us: u64,
    /// When it was computed, in microseconds since 1970.
    pub created_us: u64,
    /// Times it was used.
    #[serde(default)]
    pub hits: u64,
    /// When it was last used, in microseconds since 1970.
    #[serde(default)]
    pub last_use_us: u64,
}

impl Variant {
    /// Checks the limits.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) with what to change.
    pub fn check(&self) -> Result<()> {
        self.scope.check()?;
        self.model.check()?;
        if !(1..=TOKENS_MAX).contains(&self.tokens) {
            return refuse("tokens", self.tokens, format_args!("1 to {TOKENS_MAX}: split the chunk"));
        }
        if !(1..=BYTES_MAX).contains(&self.bytes) {
            return refuse("bytes", self.bytes, format_args!("1 to {BYTES_MAX}: the size of the tensors"));
        }
        if !(1..=URI_BYTES_MAX).contains(&self.uri.len()) {
            let limit = format_args!("1 to {URI_BYTES_MAX}: give a shorter handle");
            return refuse("bytes of uri", self.uri.len(), limit);
        }
        if self.recompute_us > RECOMPUTE_US_MAX {
            let limit = format_args!("at most {RECOMPUTE_US_MAX}: give microseconds");
            return refuse("recompute_us", self.recompute_us, limit);
        }
        if !(0.0..=1.0).contains(&self.cci) {
            return refuse("cci", self.cci, format_args!("0 to 1: the share of tokens that context changes"));
        }
        self.check_prefix()
    }

    fn check_prefix(&self) -> Result<()> {
        let chunks = self.prefix.len();
        if chunks > PREFIX_CHUNKS_MAX {
            let limit = format_args!("at most {PREFIX_CHUNKS_MAX}: store the chunk without a prefix");
            return refuse("prefix chunks", chunks, limit);
        }
        let distinct: BTreeSet<_> = self.prefix.iter().collect();
        if distinct.len() < chunks || distinct.contains(&self.content) {
            return Err(Error::invalid(
                "a chunk occurs twice in prefix and content: drop duplicates from contexts before caching",
            ));
        }
        let (mut sum, mut named) = (0.0, BTreeSet::new());
        for attention in &self.inter {
            if !distinct.contains(&attention.chunk) || !named.insert(attention.chunk) {
                return Err(Error::invalid(format!(
                    "inter names {}, which is not in prefix or named twice: give each prefix chunk once",
                    attention.chunk
                )));
            }
            if !(0.0..=1.0).contains(&attention.share) {
                return refuse("attention share", attention.share, format_args!("0 to 1: divide by the sum"));
            }
            sum += attention.share;
        }
        if sum > 1.0 + SHARE_SLACK {
            return refuse("sum of attention shares", sum, format_args!("at most 1: divide by the sum"));
        }
        Ok(())
    }
}

fn name(what: &str, name: &str) -> Result<()> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(());
    }
    refuse(&format!("bytes of {what}"), name.len(), format_args!("1 to {NAME_BYTES_MAX}: give a name"))
}

fn refuse(what: &str, value: impl fmt::Display, limit: fmt::Arguments<'_>) -> Result<()> {
    Err(Error::invalid(format!("{what} is {value}, must be {limit}")))
}

#[cfg(test)]
pub(crate) mod tests;
