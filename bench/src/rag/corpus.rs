//! A data set in a database: one tenant a set, a row a passage or a piece of one.

use std::sync::Arc;

use spandrel::rag::chunk::chunks;
use spandrel::rag::tokens::Tokenizer;
use spandrel::{
    Chunk, ChunkOptions, Collection, Database, DedupSpec, Fields, Fusion, Metric, PayloadKind, Route, Row,
    Schema, SearchRequest, Settings,
};
use tempfile::TempDir;

use super::questions::{Question, Set};
use crate::Result;

/// Names of fields.
pub const TEXT: &str = "text";
pub const VECTOR: &str = "embedding";
pub const TITLE: &str = "title";
/// The tokenizer of the schema.
pub const TOKENIZER: &str = "o200k_base";
const UPSERT_ROWS: usize = 1_000;

/// A database of some sets.
pub struct Corpus {
    pub collection: Arc<Collection>,
    pub tokenizer: &'static Tokenizer,
    _database: Database,
    _folder: TempDir,
}

impl Corpus {
    /// Stores sets, each as a tenant of its name, or all as one. With `chunk_tokens` passages are cut into
    /// pieces of at most so many tokens, which repeat so many of the one before; every piece has the vector
    /// of its passage.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn store(sets: &[&Set], shape: (usize, usize), tenant: impl Fn(&Set) -> String) -> Result<Self> {
        Self::store_without_copies(sets, shape, None, tenant)
    }

    /// As [`store`](Self::store), without passages that are as similar as this to others.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub fn store_without_copies(
        sets: &[&Set],
        (chunk_tokens, overlap_tokens): (usize, usize),
        similarity: Option<f64>,
        tenant: impl Fn(&Set) -> String,
    ) -> Result<Self> {
        let folder = TempDir::new()?;
        let settings = Settings { durability: spandrel::Durability::Buffered, ..Settings::default() };
        let database = Database::open(folder.path().join("data"), settings)?;
        let dim = sets.first().map_or(1, |set| set.vectors.dim as u32);
        let mut schema =
            Schema::new().text(TEXT).dense(VECTOR, dim, Metric::Ip).payload(TITLE, PayloadKind::Keyword);
        schema.tokenizer = TOKENIZER.to_owned();
        schema.dedup = similarity.map(|similarity| DedupSpec::skip(TEXT).threshold(similarity));
        let tokenizer = Tokenizer::named(TOKENIZER)?;
        let collection = database.create_collection("rag", schema)?;
        for set in sets {
            let mut rows = Vec::with_capacity(UPSERT_ROWS);
            for (at, document) in set.documents.iter().enumerate() {
                let pieces = if chunk_tokens == 0 {
                    let tokens = tokenizer.count(&document.text) as u32;
                    let span = 0..document.text.len() as u64;
                    vec![(document.text.clone(), Chunk { document: document.key.clone(), span, tokens })]
                } else {
                    let options = ChunkOptions { tokens_max: chunk_tokens, overlap_tokens, markdown: false };
                    chunks(&document.key, &document.text, &options, tokenizer)?
                };
                for (piece, (text, chunk)) in pieces.into_iter().enumerate() {
                    let row = Row::new(format!("{}#{piece}", document.key)).tenant(tenant(set)).chunk(chunk);
                    let title = document.title.clone();
                    rows.push(
                        row.text(TEXT, text)
                            .dense(VECTOR, set.vectors.row(at).to_vec())
                            .payload(TITLE, title),
                    );
                }
                if rows.len() >= UPSERT_ROWS {
                    collection.upsert(std::mem::take(&mut rows))?;
                }
            }
            collection.upsert(rows)?;
        }
        collection.flush()?;
        collection.settle()?;
        collection.warm_up();
        Ok(Self { collection, tokenizer, _database: database, _folder: folder })
    }
}

/// The hybrid search that finds candidates: vectors and words, weighed alike.
pub fn search(set: &Set, question: &Question, tenant: String, k: usize) -> SearchRequest {
    let vector = set.question_vectors.row(question.row).to_vec();
    let routes = vec![Route::dense(VECTOR, vector), Route::text(TEXT, question.text.clone())];
    SearchRequest {
        tenant,
        routes,
        fusion: Fusion::Weighted,
        k,
        fields: Fields::None,
        ..SearchRequest::default()
    }
}
