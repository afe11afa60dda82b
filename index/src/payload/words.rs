//! Which texts of a payload field hold all words of a query: a membership test for filters, without scores.
//!
//! Texts are cut into lower-cased words by the plain analyzer of [`crate::text`], each word once a text. A
//! field may hold a list of texts and passes when one of them holds all words, so postings name texts, not
//! documents; where no document has two texts, a text's number is its document's.
//!
//! On disk: a dictionary as in `keyword.rs` over texts, then u8 1 and u32 n, u32 x n the document of each
//! text, or u8 0 when texts are documents.

use std::ops::Range;

use roaring::RoaringBitmap;
use spandrel_storage::DocId;
use spandrel_storage::codec::{Decoder, Encoder};

use super::build::dedup_from;
use super::damaged;
use super::keyword::Keywords;
use super::lists::Within;
use crate::error::Result;
use crate::intern::{Interner, hash};
use crate::text::Analyzer;

/// The words of the texts of a field.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Words {
    words: Keywords,
    /// The document of each text, ascending; none when texts are numbered as documents.
    owners: Option<Vec<DocId>>,
}

/// Collects texts.
#[derive(Debug)]
pub(super) struct WordsBuilder {
    analyzer: Analyzer,
    words: Interner,
    /// `(word, text)`, distinct.
    pairs: Vec<(u32, u32)>,
    owners: Vec<DocId>,
}

impl WordsBuilder {
    pub(super) fn new() -> Self {
        Self {
            analyzer: Analyzer::plain(),
            words: Interner::default(),
            pairs: Vec::new(),
            owners: Vec::new(),
        }
    }

    /// Pairs collected so far.
    pub(super) fn len(&self) -> usize {
        self.pairs.len().max(self.owners.len())
    }

    /// Adds one text of `doc`; documents never descend.
    pub(super) fn push(&mut self, doc: DocId, text: &str) {
        let element = self.owners.len() as u32;
        let from = self.pairs.len();
        let (words, pairs) = (&mut self.words, &mut self.pairs);
        self.analyzer.each(text, |word| {
            pairs.push((words.intern(hash(word.as_bytes()), word.as_bytes()), element));
        });
        dedup_from(&mut self.pairs, from);
        self.owners.push(doc);
    }

    pub(super) fn finish(mut self, doc_count: u32) -> Words {
        if self.owners.is_sorted_by(|a, b| a < b) {
            for pair in &mut self.pairs {
                pair.1 = self.owners[pair.1 as usize];
            }
            return Words { words: Keywords::build(&self.words, self.pairs, doc_count), owners: None };
        }
        let words = Keywords::build(&self.words, self.pairs, self.owners.len() as u32);
        Words { words, owners: Some(self.owners) }
    }
}

impl Words {
    /// Documents of `docs` with a text that holds every word of `query`; none when it has no words.
    pub(super) fn matches(&self, query: &str, docs: &Range<DocId>) -> RoaringBitmap {
        let lists = self.words.lists();
        let mut found: Vec<Range<usize>> =
            distinct(query).iter().map(|word| self.words.equal(word)).collect();
        found.sort_by_key(|ordinals| lists.count(ordinals.clone()));
        let texts = match &self.owners {
            None => docs.clone(),
            Some(owners) => {
                let before = |doc: DocId| owners.partition_point(|owner| *owner < doc) as u32;
                before(docs.start)..before(docs.end)
            }
        };
        let within = Within::new(texts, lists.doc_count());
        let mut found = found.into_iter();
        let mut texts = found.next().map_or_else(RoaringBitmap::new, |rarest| lists.union(rarest, &within));
        for ordinals in found {
            if texts.is_empty() {
                break;
            }
            texts &= lists.union(ordinals, &within);
        }
        match &self.owners {
            None => texts,
            Some(owners) => texts.iter().map(|text| owners[text as usize]).collect(),
        }
    }

    /// Whether every text is of one of these documents.
    pub(super) fn is_within(&self, docs: &RoaringBitmap) -> bool {
        match &self.owners {
            None => self.words.lists().all().is_subset(docs),
            Some(owners) => owners.iter().all(|doc| docs.contains(*doc)),
        }
    }

    /// At most how many documents [`Self::matches`] returns: the texts of the rarest word.
    pub(super) fn estimate(&self, query: &str) -> u64 {
        let count = |word: String| self.words.lists().count(self.words.equal(&word));
        distinct(query).into_iter().map(count).min().unwrap_or(0)
    }

    /// Bytes of memory in use.
    pub(super) fn memory_bytes(&self) -> usize {
        self.words.memory_bytes() + self.owners.as_ref().map_or(0, |owners| owners.capacity() * 4)
    }

    /// Appends the layout in the module's head.
    pub(super) fn write(&self, out: &mut Encoder) {
        self.words.write(out);
        match &self.owners {
            None => out.u8(0),
            Some(owners) => out.u8(1).u32s(owners),
        };
    }

    /// Reads what [`Self::write`] wrote; documents are below `doc_count`.
    pub(super) fn read(bytes: &mut Decoder<'_>, doc_count: u32) -> Result<Self> {
        let words = Keywords::read(bytes)?;
        let owners = match bytes.u8("owner flag").map_err(damaged)? {
            0 => None,
            _ => Some(bytes.u32s("owners").map_err(damaged)?),
        };
        let text_count = match &owners {
            None => doc_count as usize,
            Some(owners) if owners.is_sorted() && owners.iter().all(|doc| *doc < doc_count) => owners.len(),
            Some(_) => return Err(damaged("texts name documents beyond the document count")),
        };
        if words.lists().doc_count() as usize != text_count {
            return Err(damaged("words name texts beyond the text count"));
        }
        Ok(Self { words, owners })
    }
}

fn distinct(query: &str) -> Vec<String> {
    let mut words = Vec::new();
    Analyzer::plain().each(query, |word| words.push(word.to_owned()));
    words.sort_unstable();
    words.dedup();
    words
}
