//! Questions with the places of their evidence, and the documents that these are in.
//!
//! Evidence is bytes of documents: of multi-hop questions the supporting sentences where the set names them
//! (HotpotQA), else the supporting paragraphs (MuSiQue); of single-hop ones the sentence that the answer is
//! in (SQuAD). A document is `title. text` of one passage, as it was embedded.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;

use crate::dataset::{self, Matrix};
use crate::{Error, Result};

/// A passage with its vector.
pub struct Document {
    /// Its key.
    pub key: String,
    /// What passages are grouped by: its title.
    pub title: String,
    /// `title. text`.
    pub text: String,
}

/// A question and where its evidence is.
#[derive(Clone)]
pub struct Question {
    /// In words.
    pub text: String,
    /// Its vector's row.
    pub row: usize,
    /// Keys of documents and bytes in them.
    pub evidence: Vec<(String, Range<usize>)>,
    /// Accepted answers.
    pub answers: Vec<String>,
}

/// Documents and questions of one data set.
pub struct Set {
    /// The folder's name.
    pub name: String,
    /// Whether questions need several documents.
    pub is_multi_hop: bool,
    pub documents: Vec<Document>,
    pub vectors: Matrix,
    pub questions: Vec<Question>,
    pub question_vectors: Matrix,
}

#[derive(Deserialize)]
struct Passage {
    id: String,
    #[serde(default)]
    title: String,
    text: String,
}

#[derive(Deserialize)]
struct Asked {
    text: String,
    #[serde(default)]
    gold: Vec<String>,
    #[serde(default)]
    supporting_facts: Option<Vec<(String, usize)>>,
    #[serde(default)]
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Text(String),
    Placed { text: String, start: usize },
}

impl Set {
    /// Reads a set from its folder; at most `limit` questions that have evidence.
    ///
    /// # Errors
    /// Files are missing, or do not fit each other.
    pub fn read(folder: &Path, limit: usize) -> Result<Self> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let passages: Vec<Passage> = dataset::json_lines(&folder.join("corpus.jsonl.zst"))?;
        let asked: Vec<Asked> = dataset::json_lines(&folder.join("queries.jsonl.zst"))?;
        let vectors = dataset::read(&folder.join("corpus_minilm384.f16.npy"))?;
        let question_vectors = dataset::read(&folder.join("queries_minilm384.f16.npy"))?;
        if vectors.rows() != passages.len() || question_vectors.rows() < asked.len() {
            return Err(Error::from(format!("{name}: vectors and texts are not equally many")));
        }
        let at: HashMap<&str, &Passage> = passages.iter().map(|one| (one.id.as_str(), one)).collect();
        let evidence = |one: &Asked| -> Vec<(String, Range<usize>)> {
            let gold = one.gold.iter().filter_map(|id| at.get(id.as_str()).copied());
            gold.flat_map(|passage| places(passage, one).into_iter().map(|range| (passage.id.clone(), range)))
                .collect()
        };
        let mut questions = Vec::new();
        for (row, one) in asked.iter().enumerate() {
            let evidence = evidence(one);
            if evidence.is_empty() || questions.len() == limit {
                continue;
            }
            let answer = |answer: &Answer| match answer {
                Answer::Text(text) | Answer::Placed { text, .. } => text.clone(),
            };
            let answers = one.answers.iter().map(answer).collect();
            questions.push(Question { text: one.text.clone(), row, evidence, answers });
        }
        let is_multi_hop = asked.iter().any(|one| one.gold.len() > 1);
        let document = |one: Passage| Document { text: whole(&one), key: one.id, title: one.title };
        let documents = passages.into_iter().map(document).collect();
        Ok(Self { name, is_multi_hop, documents, vectors, questions, question_vectors })
    }
}

impl Set {
    /// Passages without questions: `passages.jsonl.zst` and `base.f16.npy` of a folder.
    ///
    /// # Errors
    /// As [`Set::read`].
    pub fn many(folder: &Path) -> Result<Self> {
        let passages: Vec<Passage> = dataset::json_lines(&folder.join("passages.jsonl.zst"))?;
        let vectors = dataset::read(&folder.join("base.f16.npy"))?;
        if vectors.rows() != passages.len() {
            return Err(Error::from("passages and vectors are not equally many"));
        }
        let document = |one: Passage| Document { text: whole(&one), key: one.id, title: one.title };
        Ok(Self {
            name: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            is_multi_hop: false,
            documents: passages.into_iter().map(document).collect(),
            question_vectors: Matrix { dim: vectors.dim, data: Vec::new() },
            vectors,
            questions: Vec::new(),
        })
    }
}

fn whole(passage: &Passage) -> String {
    if passage.title.is_empty() {
        passage.text.clone()
    } else {
        format!("{}. {}", passage.title, passage.text)
    }
}

/// Where the evidence for a question is in one of its gold passages.
fn places(passage: &Passage, question: &Asked) -> Vec<Range<usize>> {
    let whole = whole(passage);
    let from = whole.len() - passage.text.len();
    let sentences = sentences(&passage.text);
    let moved = |range: &Range<usize>| range.start + from..range.end + from;
    if let Some(facts) = &question.supporting_facts {
        let own = facts.iter().filter(|(title, _)| *title == passage.title);
        return own
            .filter_map(|(_, at)| sentences.get((*at).min(sentences.len().checked_sub(1)?)))
            .map(moved)
            .collect();
    }
    let placed = question.answers.iter().find_map(|answer| match answer {
        Answer::Placed { start, .. } => Some(*start),
        Answer::Text(_) => None,
    });
    match placed {
        // Offsets are in characters.
        Some(start) => {
            let byte = passage.text.char_indices().nth(start).map_or(0, |(byte, _)| byte);
            sentences.iter().find(|range| range.contains(&byte)).map(moved).into_iter().collect()
        }
        None => std::iter::once(from..whole.len()).collect(),
    }
}

/// Sentences by their ends: a full stop, question or exclamation mark, perhaps quoted, before white space and
/// a capital letter or a digit.
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut sentences = Vec::new();
    let mut start = 0;
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    for (place, &(at, char)) in chars.iter().enumerate() {
        let next = |by: usize| chars.get(place + by).map(|(_, char)| *char);
        let ends = matches!(char, '.' | '!' | '?' | '"')
            && next(1).is_some_and(char::is_whitespace)
            && next(2).is_some_and(|next| next.is_uppercase() || next.is_ascii_digit() || next == '"')
            && (char != '"' || place > 0 && matches!(chars[place - 1].1, '.' | '!' | '?'));
        if ends {
            sentences.push(start..at + char.len_utf8());
            start = chars.get(place + 2).map_or(text.len(), |(at, _)| *at);
        }
    }
    if start < text.len() {
        sentences.push(start..text.len());
    }
    sentences
}
