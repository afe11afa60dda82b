//! What a person reads while the demo runs.

use std::path::Path;
use std::time::Duration;

use spandrel::{FieldValue, Hit, RetrieveResponse, SearchResponse};

use super::super::output;
use super::Measured;
use super::corpus::{Corpus, Question};

/// Longest excerpt of a paragraph in characters.
const EXCERPT_CHARS: usize = 150;

/// Prints for people; says nothing when the result is to be JSON.
pub(super) struct Show {
    pub json: bool,
}

impl Show {
    fn say(&self, text: &str) {
        if !self.json {
            // Whoever stops reading does not stop the demo.
            let _ = output::print(&format!("{text}\n"));
        }
    }

    pub(super) fn opening(&self, corpus: &Corpus) {
        self.say(&format!(
            "Spandrel demo: {} paragraphs of {} Wikipedia articles and {} questions of people (SQuAD 1.1, CC BY-SA 4.0),\n\
             with all-MiniLM-L6-v2 embeddings. Each article is a tenant: a search in one never sees another's rows.",
            corpus.rows.len(),
            corpus.tenants(),
            corpus.questions.len()
        ));
    }

    pub(super) fn serving(&self, url: &str, data: &Path) {
        self.say(&format!("\nServing {} on {url}, with API keys.", data.display()));
    }

    pub(super) fn imported(&self, rows: usize, tenants: usize, seconds: f64) {
        self.say(&format!(
            "Imported {rows} rows of {tenants} tenants through gRPC in {seconds:.2} s ({:.0} rows/s, every batch synced to disk).",
            rows as f64 / seconds
        ));
    }

    pub(super) fn answers(&self, what: &str, question: &Question, response: &SearchResponse, time: Duration) {
        self.say(&format!("\n== {what}, in \"{}\"\n   Q: {}", question.tenant, question.text));
        for (at, hit) in response.hits.iter().enumerate() {
            let mark = if hit.row.key == question.gold { "  <- the paragraph that answers it" } else { "" };
            self.say(&format!("   {}. {:.4}  {}{mark}", at + 1, hit.score, hit.row.key));
            self.say(&format!("      {}", excerpt(hit, &question.answers)));
        }
        self.say(&format!(
            "   A: {}   ({:.2} ms through gRPC)",
            question.answers.join(" / "),
            milliseconds(time)
        ));
    }

    pub(super) fn refused(&self, tenant: &str, other: &str, message: &str) {
        self.say(&format!(
            "\n== another tenant's data: a key of \"{tenant}\" asks for rows of \"{other}\"\n   refused: {message}"
        ));
    }

    pub(super) fn context(
        &self,
        question: &Question,
        response: &RetrieveResponse,
        budget: usize,
        time: Duration,
    ) {
        self.say(&format!(
            "\n== retrieve: whole paragraphs into a budget of {budget} tokens, in \"{}\"\n   Q: {}",
            question.tenant, question.text
        ));
        for chunk in &response.chunks {
            let mark =
                if chunk.hit.row.key == question.gold { "  <- the paragraph that answers it" } else { "" };
            self.say(&format!("   [{}] {} tokens{mark}", chunk.hit.row.key, chunk.tokens));
            self.say(&format!(
                "      {}",
                excerpt_of(&response.context[chunk.context_span.clone()], &question.answers)
            ));
        }
        self.say(&format!(
            "   {} of {budget} tokens used by {} of {} candidates   ({:.2} ms through gRPC)",
            response.tokens,
            response.chunks.len(),
            response.candidates,
            milliseconds(time)
        ));
    }

    pub(super) fn measured(&self, measured: &Measured) {
        self.say(&format!(
            "\n== all {} questions, dense, k = 10, one after another through gRPC\n   \
             recall@10 against exact search {:.4}; the paragraph that answers is among the ten for {:.1} %\n   \
             p50 {} us, p99 {} us",
            measured.questions,
            measured.recall,
            measured.gold * 100.0,
            measured.p50_us,
            measured.p99_us
        ));
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn excerpt(hit: &Hit, answers: &[String]) -> String {
    match hit.row.fields.get("text") {
        Some(FieldValue::Text(text)) => excerpt_of(text, answers),
        _ => String::new(),
    }
}

/// The part of a text around the first answer that occurs in it, or its beginning.
fn excerpt_of(text: &str, answers: &[String]) -> String {
    let found = answers.iter().find_map(|answer| text.find(answer.as_str()));
    let before = found.map_or(0, |at| text[..at].chars().count().saturating_sub(EXCERPT_CHARS / 2));
    let part: String = text.chars().skip(before).take(EXCERPT_CHARS).collect();
    let part = part.split_whitespace().collect::<Vec<_>>().join(" ");
    let head = if before > 0 { "..." } else { "" };
    let tail = if before + EXCERPT_CHARS < text.chars().count() { "..." } else { "" };
    format!("{head}{part}{tail}")
}
