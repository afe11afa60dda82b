//! The engine in this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use spandrel::{Collection, Database, FieldValue, Fields, Hit, Route, Row, Schema, SearchRequest, Settings};

use super::{Engine, Found, Process, Searcher, Size, VECTOR, Wanted, Work, Writer, row_of};
use crate::{Error, Result};

/// A database in a folder, with its bench collection.
pub struct Embedded {
    database: Database,
    collection: Arc<Collection>,
    dir: PathBuf,
}

impl Embedded {
    /// Opens the database in `dir`, which may be new, and its collection `name`, which is created if it is
    /// not there. The flag says whether it was there.
    ///
    /// # Errors
    /// The engine's; the collection that is there has another schema.
    pub fn open(dir: &Path, name: &str, settings: Settings, schema: Schema) -> Result<(Self, bool)> {
        let database = Database::open(dir, settings)?;
        let was_there = database.collections().iter().any(|other| other == name);
        let collection = if was_there {
            database.collection(name)?
        } else {
            database.create_collection(name, schema.clone())?
        };
        Ok((Self::of(database, collection, dir, &schema)?, was_there))
    }

    /// Opens the database in `dir` and its collection `name`, which are there.
    ///
    /// # Errors
    /// The engine's; they are not there, or the collection has another schema.
    pub fn reopen(dir: &Path, name: &str, settings: Settings, schema: &Schema) -> Result<Self> {
        if !dir.exists() {
            return Err(format!("{} is not there", dir.display()).into());
        }
        let database = Database::open(dir, settings)?;
        let collection = database.collection(name)?;
        Self::of(database, collection, dir, schema)
    }

    fn of(database: Database, collection: Arc<Collection>, dir: &Path, schema: &Schema) -> Result<Self> {
        if collection.schema() != schema {
            return Err(format!(
                "{} holds a collection '{}' of another schema (dimension, metric, element or index); \
                 name another folder or delete this one",
                dir.display(),
                collection.name()
            )
            .into());
        }
        Ok(Self { database, collection, dir: dir.to_owned() })
    }
}

impl Engine for Embedded {
    fn writer(&self) -> Result<Box<dyn Writer + Send + '_>> {
        Ok(Box::new(Rows(&self.collection)))
    }

    fn searcher(&self, calls: &[Vec<&[f32]>], wanted: Wanted) -> Result<Box<dyn Searcher + Send + '_>> {
        let request = |query: &&[f32]| request(query, wanted, false);
        let calls = calls.iter().map(|call| call.iter().map(request).collect()).collect();
        Ok(Box::new(Calls { collection: &self.collection, calls }))
    }

    fn flush(&self) -> Result<()> {
        Ok(self.collection.flush()?)
    }

    fn settle(&self) -> Result<()> {
        Ok(self.collection.optimize()?)
    }

    fn size(&self) -> Result<Size> {
        let (collection, database) = (self.collection.stats()?, self.database.stats()?);
        Ok(Size {
            rows: collection.rows,
            segments: collection.segments,
            segment_bytes: collection.segment_bytes,
            memory_bytes: collection.memory_bytes,
            simd: database.simd,
            reader: database.reader,
        })
    }

    fn work(&self, query: &[f32], wanted: Wanted) -> Result<Work> {
        let response = self.collection.search(&request(query, wanted, true))?;
        let explain = response.explain.ok_or_else(|| Error::from("the engine did not explain a search"))?;
        let sum = |work: Work, stage: &spandrel::Stage| Work {
            read_bytes: work.read_bytes + stage.read_bytes,
            scored: work.scored + stage.scored,
        };
        Ok(explain.stages.iter().fold(Work::default(), sum))
    }

    fn vectors(&self, rows: &[usize]) -> Result<Vec<Option<Vec<f32>>>> {
        let keys: Vec<String> = rows.iter().map(usize::to_string).collect();
        let vector = |row: Option<Row>| match row?.fields.remove(VECTOR) {
            Some(FieldValue::Dense(vector)) => Some(vector),
            _ => None,
        };
        Ok(self.collection.get("", &keys, &Fields::All)?.into_iter().map(vector).collect())
    }

    fn process(&self) -> Process {
        Process::This
    }

    fn close(&self) -> Result<u64> {
        self.database.close()?;
        folder_bytes(&self.dir)
    }
}

struct Rows<'a>(&'a Collection);

impl Writer for Rows<'_> {
    fn upsert(&mut self, rows: Vec<Row>) -> Result<()> {
        self.0.upsert(rows)?;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

struct Calls<'a> {
    collection: &'a Collection,
    calls: Vec<Vec<SearchRequest>>,
}

impl Searcher for Calls<'_> {
    fn call(&mut self, call: usize) -> Result<Vec<Vec<Found>>> {
        let requests = self.calls.get(call).ok_or("no such call")?;
        if let [request] = requests.as_slice() {
            return Ok(vec![found(&self.collection.search(request)?.hits)?]);
        }
        let responses = self.collection.search_batch(requests)?;
        responses.iter().map(|response| found(&response.hits)).collect()
    }
}

fn request(query: &[f32], wanted: Wanted, explain: bool) -> SearchRequest {
    let request = SearchRequest::new(Route::dense(VECTOR, query.to_vec()));
    let recall = wanted.recall.map_or(request.recall, |recall| recall as f32);
    SearchRequest { k: wanted.k, recall, rescore: wanted.rescore, fields: Fields::None, explain, ..request }
}

fn found(hits: &[Hit]) -> Result<Vec<Found>> {
    hits.iter().map(|hit| Ok(Found { row: row_of(&hit.row.key)?, score: hit.score })).collect()
}

/// Bytes of the files under `dir`.
fn folder_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { folder_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
