//! Chunk caches of LLM servers: descriptors of key-value tensors that a server keeps, which of them a context
//! can reuse, which go when there is no room, and an order of chunks that reuses more. Never the tensors.

pub mod catalogue;
pub mod descriptor;
pub mod gdsf;
mod hash;
pub mod history;
pub mod keeper;
mod notice;
pub mod order;
pub mod reuse;
mod save;
pub mod settings;

pub use self::catalogue::{Advice, ChunkCaches, Found, Stats, Wanted};
pub use self::descriptor::{
    Attention, ModelKey, Owner, Scope, Tier, TokenHash, Variant, VariantId, aligned_tokens, hash_tokens,
};
pub(crate) use self::hash::hash_bytes;
pub use self::keeper::{ChunkCatalogue, Reusable};
pub use self::notice::{Notice, NoticePage};
pub use self::reuse::{Load, Reuse, Rule};
pub use self::settings::KvSettings;
