//! From documents to rows, and from rows to a context: chunking, embedding, token counts; the seams for
//! models.

pub mod chunk;
pub mod embed;
pub mod ingest;
pub mod kv;
pub mod openai;
pub mod rerank;
pub mod tokens;

#[cfg(test)]
pub(crate) mod random;
