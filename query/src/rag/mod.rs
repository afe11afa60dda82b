//! From documents to rows, and from rows to a context: chunking, embedding, token counts, packing.

pub mod chunk;
pub mod context;
pub mod embed;
pub mod ingest;
pub mod openai;
pub mod tokens;

#[cfg(test)]
pub(crate) mod random;
