//! The corpus that is part of the program: SQuAD 1.1 paragraphs and questions with their embeddings.
//!
//! `server/demo/README.md` names its source and licence. The bytes are written to a folder and read by the
//! same importers that read a user's files.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use spandrel::import::{self, ImportOptions, VectorFile};
use spandrel::{FieldValue, Route, Row, SearchRequest, Value};

use crate::cli::CliError;

/// Dimension of the embeddings.
pub(super) const DIM: usize = 384;

const FILES: [(&str, &[u8]); 4] = [
    ("passages.jsonl.zst", include_bytes!("../../../demo/passages.jsonl.zst")),
    ("passages.npy", include_bytes!("../../../demo/passages.f16.npy")),
    ("questions.jsonl.zst", include_bytes!("../../../demo/questions.jsonl.zst")),
    ("questions.npy", include_bytes!("../../../demo/questions.f16.npy")),
];

/// Rows and questions.
pub(super) struct Corpus {
    pub rows: Vec<Row>,
    pub questions: Vec<Question>,
    /// Position of each row by key.
    at: HashMap<String, usize>,
}

/// A real question, the paragraph that answers it, and what the answer is.
pub(super) struct Question {
    pub tenant: String,
    pub text: String,
    pub gold: String,
    pub answers: Vec<String>,
    pub embedding: Vec<f32>,
}

impl Question {
    /// A search in the question's article.
    pub(super) fn search(&self, routes: Vec<Route>) -> SearchRequest {
        SearchRequest { tenant: self.tenant.clone(), routes, k: 3, ..SearchRequest::default() }
    }

    /// The route of the question's embedding.
    pub(super) fn dense(&self) -> Route {
        Route::dense("embedding", self.embedding.clone())
    }
}

impl Corpus {
    /// Reads the corpus by way of `folder`.
    pub(super) fn read(folder: &Path) -> Result<Self, CliError> {
        for (name, bytes) in FILES {
            let path = folder.join(name);
            std::fs::write(&path, bytes)
                .map_err(|error| CliError::failed(format!("write {}: {error}", path.display())))?;
        }
        let rows = read_rows(folder, "passages")?;
        let questions = read_rows(folder, "questions")?.into_iter().map(question).collect::<Option<Vec<_>>>();
        let questions = questions.ok_or_else(|| CliError::failed("the demo's questions are damaged"))?;
        let at = rows.iter().enumerate().map(|(at, row)| (row.key.clone(), at)).collect();
        Ok(Self { rows, questions, at })
    }

    /// How many tenants there are.
    pub(super) fn tenants(&self) -> usize {
        self.rows.iter().map(|row| row.tenant.as_str()).collect::<BTreeSet<_>>().len()
    }

    /// The first question after this one that is about another article.
    pub(super) fn another_tenant(&self, question: &Question) -> &Question {
        let mut after = self.questions.iter().skip_while(|other| other.tenant != question.tenant);
        after.find(|other| other.tenant != question.tenant).unwrap_or(&self.questions[0])
    }

    /// The first question of the same article, from this one on, that is not answered by its first
    /// paragraphs.
    pub(super) fn later_in_its_article<'a>(&'a self, question: &'a Question) -> &'a Question {
        let same = |other: &&Question| other.tenant == question.tenant && self.paragraph_of(other) >= 5;
        self.questions.iter().find(same).unwrap_or(question)
    }

    /// The number of the paragraph that answers a question.
    pub(super) fn paragraph_of(&self, question: &Question) -> i64 {
        match self.at.get(&question.gold).map(|at| &self.rows[*at].fields["paragraph"]) {
            Some(FieldValue::Payload(Value::Integer(number))) => *number,
            _ => 0,
        }
    }

    /// Keys of the `k` paragraphs of the question's article nearest to it, by cosine in f64.
    pub(super) fn exact(&self, question: &Question, k: usize) -> Vec<&str> {
        let cosine = |row: &Row| -> f64 {
            let Some(FieldValue::Dense(vector)) = row.fields.get("embedding") else { return -1.0 };
            let dot = |a: &[f32], b: &[f32]| {
                a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
            };
            dot(vector, &question.embedding) / dot(vector, vector).sqrt()
        };
        let article = self.rows.iter().filter(|row| row.tenant == question.tenant);
        let mut scored: Vec<(f64, &str)> = article.map(|row| (cosine(row), row.key.as_str())).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.into_iter().take(k).map(|(_, key)| key).collect()
    }
}

fn read_rows(folder: &Path, name: &str) -> Result<Vec<Row>, CliError> {
    let options = ImportOptions { tenant_field: Some("tenant".into()), ..ImportOptions::default() };
    let lines = import::open(&folder.join(format!("{name}.jsonl.zst")), &options)?;
    let vectors = VectorFile::open(folder.join(format!("{name}.npy")))?;
    let mut reader = import::with_vectors(lines, vectors, "embedding");
    let (mut rows, mut batch) = (Vec::new(), Vec::new());
    loop {
        reader.next_batch(1_024, &mut batch)?;
        if batch.is_empty() {
            return Ok(rows);
        }
        rows.append(&mut batch);
    }
}

fn question(mut row: Row) -> Option<Question> {
    let string = |value: &FieldValue| match value {
        FieldValue::Text(text) | FieldValue::Payload(Value::String(text)) => Some(text.clone()),
        _ => None,
    };
    let Some(FieldValue::Dense(embedding)) = row.fields.remove("embedding") else { return None };
    let answers = match row.fields.get("answers")? {
        FieldValue::Payload(value) => value.elements().iter().filter_map(|value| match value {
            Value::String(text) => Some(text.clone()),
            _ => None,
        }),
        _ => return None,
    };
    Some(Question {
        tenant: row.tenant.clone(),
        text: string(row.fields.get("text")?)?,
        gold: string(row.fields.get("gold")?)?,
        answers: answers.collect(),
        embedding,
    })
}
