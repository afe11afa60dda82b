//! From documents to rows, and from rows to a context: chunking, embedding, token counts, packing.

pub mod embed;
