//! Text to terms: the same cut for documents, queries and text filters.
//!
//! A token is a maximal run of alphanumeric characters (Unicode), lower-cased. With a language: its stop
//! words are dropped (where tantivy has a list), the rest go through its Snowball stemmer. Tokens longer than
//! [`TERM_BYTES_MAX`] bytes are dropped and not counted; no accents are folded (`café` is not `cafe`),
//! because stemmers read them. Scripts without spaces between words (Chinese, Japanese, Thai) come out as
//! whole phrases: use dense or sparse fields for those.
//!
//! Analysis happens outside of every lock and yields a [`TextDoc`], which both forms of the index take. About
//! 5 million tokens a second without a language.

use std::fmt;

use spandrel_storage::{FieldId, TextSpec};
use tantivy::tokenizer::{
    Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter, TextAnalyzer,
};

use crate::error::{Error, Result};
use crate::intern::{Interner, hash};

/// Longest token in bytes after lower-casing; enough for a hex SHA-512 digest.
pub const TERM_BYTES_MAX: usize = 128;

/// Counts of terms that are kept between texts for their memory.
const FREQS_KEPT_MAX: usize = 1 << 16;

/// Cuts text into terms the way one field is configured.
#[derive(Clone)]
pub struct Analyzer {
    tokens: TextAnalyzer,
    /// Terms of the text at hand and how often each occurs; kept between texts for their memory.
    terms: Interner,
    freqs: Vec<u32>,
}

impl fmt::Debug for Analyzer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Analyzer").finish_non_exhaustive()
    }
}

impl Analyzer {
    /// Lower-cased words, no language.
    pub fn plain() -> Self {
        Self::of(None)
    }

    /// The analyzer of a text field.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a language that is not one of [`spandrel_storage::schema::LANGUAGES`].
    pub fn for_spec(spec: &TextSpec) -> Result<Self> {
        match &spec.language {
            None => Ok(Self::plain()),
            Some(name) => match language(name) {
                Some(language) => Ok(Self::of(Some(language))),
                None => Err(Error::Invalid(format!("unknown language '{name}'"))),
            },
        }
    }

    fn of(language: Option<Language>) -> Self {
        let plain = TextAnalyzer::builder(SimpleTokenizer::default())
            .filter(LowerCaser)
            .filter(RemoveLongFilter::limit(TERM_BYTES_MAX + 1));
        let tokens = match language.map(|language| (StopWordFilter::new(language), Stemmer::new(language))) {
            None => plain.build(),
            Some((Some(stop), stemmer)) => plain.filter(stop).filter(stemmer).build(),
            Some((None, stemmer)) => plain.filter(stemmer).build(),
        };
        Self { tokens, terms: Interner::default(), freqs: Vec::new() }
    }

    /// Calls `sink` with each token of `text`, in order, repeated ones again.
    pub fn each(&mut self, text: &str, mut sink: impl FnMut(&str)) {
        let mut tokens = self.tokens.token_stream(text);
        while tokens.advance() {
            // A stemmer may leave nothing of a token; the empty string is no term.
            let term = tokens.token().text.as_str();
            if !term.is_empty() {
                sink(term);
            }
        }
    }

    /// The terms of one field of a document, with their frequencies. None if the text has no tokens.
    pub fn field(&mut self, field: FieldId, text: &str) -> Option<FieldTerms> {
        let (mut terms, mut freqs) = (std::mem::take(&mut self.terms), std::mem::take(&mut self.freqs));
        terms.clear();
        freqs.clear();
        // As the table of terms is dropped after a huge text, so is this.
        freqs.shrink_to(FREQS_KEPT_MAX);
        let mut tokens = 0u32;
        self.each(text, |term| {
            let number = terms.intern(hash(term.as_bytes()), term.as_bytes()) as usize;
            if number == freqs.len() {
                freqs.push(0);
            }
            freqs[number] += 1;
            tokens += 1;
        });
        let counted = (tokens > 0).then(|| FieldTerms::new(field, tokens, &terms, &freqs));
        (self.terms, self.freqs) = (terms, freqs);
        counted
    }
}

fn language(name: &str) -> Option<Language> {
    Some(match name {
        "arabic" => Language::Arabic,
        "danish" => Language::Danish,
        "dutch" => Language::Dutch,
        "english" => Language::English,
        "finnish" => Language::Finnish,
        "french" => Language::French,
        "german" => Language::German,
        "greek" => Language::Greek,
        "hungarian" => Language::Hungarian,
        "italian" => Language::Italian,
        "norwegian" => Language::Norwegian,
        "portuguese" => Language::Portuguese,
        "romanian" => Language::Romanian,
        "russian" => Language::Russian,
        "spanish" => Language::Spanish,
        "swedish" => Language::Swedish,
        "tamil" => Language::Tamil,
        "turkish" => Language::Turkish,
        _ => return None,
    })
}

/// One term of a document's field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TermFreq {
    hash: u32,
    /// Where the term ends in the field's bytes.
    end: u32,
    freq: u32,
}

/// The distinct terms of one text field of one document. It has at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerms {
    field: FieldId,
    tokens: u32,
    text: String,
    terms: Vec<TermFreq>,
}

impl FieldTerms {
    /// From terms numbered from 0 and their frequencies, at least one; `tokens` is the sum of these.
    fn new(field: FieldId, tokens: u32, terms: &Interner, freqs: &[u32]) -> Self {
        let mut built = Self { field, tokens, text: String::new(), terms: Vec::with_capacity(terms.len()) };
        for (number, freq) in freqs.iter().enumerate() {
            let number = number as u32;
            built.add(terms.hash_of(number), terms.get(number), *freq);
        }
        built
    }

    /// Adds a distinct term, whose hash is `hash`.
    fn add(&mut self, hash: u32, term: &[u8], freq: u32) {
        self.text.push_str(std::str::from_utf8(term).expect("terms are cut from text"));
        let end = u32::try_from(self.text.len()).expect("checked at the door: a text is shorter than 4 GiB");
        self.terms.push(TermFreq { hash, end, freq });
    }

    /// The field.
    pub fn field(&self) -> FieldId {
        self.field
    }

    /// Length of the field in tokens: the sum of all frequencies, at least 1.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// The terms and how often each occurs.
    pub fn terms(&self) -> impl Iterator<Item = (&str, u32)> {
        self.hashed().map(|(_, term, freq)| (term, freq))
    }

    /// The terms with their hashes and frequencies.
    pub(super) fn hashed(&self) -> impl Iterator<Item = (u32, &str, u32)> {
        let mut start = 0;
        self.terms.iter().map(move |term| {
            let text = &self.text[start..term.end as usize];
            start = term.end as usize;
            (term.hash, text, term.freq)
        })
    }
}

/// The analysed text fields of one document, what both forms of the text index are built from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextDoc {
    fields: Vec<FieldTerms>,
}

impl TextDoc {
    /// A document of these fields.
    ///
    /// # Panics
    /// When two of them are of the same field.
    pub fn new(mut fields: Vec<FieldTerms>) -> Self {
        fields.sort_by_key(|field| field.field);
        assert!(fields.is_sorted_by(|a, b| a.field < b.field), "a field occurs once a document");
        Self { fields }
    }

    /// The fields that have tokens, ascending.
    pub fn fields(&self) -> &[FieldTerms] {
        &self.fields
    }

    /// Bytes of memory in use.
    pub fn memory_bytes(&self) -> usize {
        let field = |field: &FieldTerms| {
            size_of::<FieldTerms>() + field.text.capacity() + field.terms.capacity() * size_of::<TermFreq>()
        };
        size_of::<Self>() + self.fields.iter().map(field).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use spandrel_storage::schema::LANGUAGES;

    use super::*;

    fn terms(spec: TextSpec, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        Analyzer::for_spec(&spec).unwrap().each(text, |term| out.push(term.to_owned()));
        out
    }

    #[test]
    fn words_are_lower_cased_and_nothing_else_without_a_language() {
        let long = "x".repeat(TERM_BYTES_MAX);
        let text = format!("The Quick-brown fox's Straße, CAFÉ 42 {long} {long}y !");
        let expected = ["the", "quick", "brown", "fox", "s", "straße", "café", "42", &long];
        assert_eq!(terms(TextSpec::default(), &text), expected);
        assert!(terms(TextSpec::default(), " \n-- ").is_empty());
    }

    #[test]
    fn english_drops_stop_words_and_stems() {
        let spec = TextSpec { language: Some("english".into()) };
        assert_eq!(terms(spec.clone(), "The foxes are running to the ponies"), ["fox", "run", "poni"]);
        assert!(terms(spec, "To be, or not to be").len() <= 1);
    }

    #[test]
    fn every_language_of_the_schema_has_an_analyzer() {
        for name in LANGUAGES {
            let spec = TextSpec { language: Some(name.into()) };
            assert!(!terms(spec, "database 2026").is_empty(), "{name}");
        }
        let unknown = TextSpec { language: Some("klingon".into()) };
        assert!(matches!(Analyzer::for_spec(&unknown), Err(Error::Invalid(_))));
    }

    #[test]
    fn terms_are_counted_once_each() {
        let mut analyzer = Analyzer::plain();
        for _ in 0..2 {
            let field = analyzer.field(FieldId(3), "b a b c B").unwrap();
            assert_eq!(field.terms().collect::<Vec<_>>(), [("b", 3), ("a", 1), ("c", 1)]);
            assert_eq!((field.field(), field.tokens()), (FieldId(3), 5));
        }
        assert_eq!(analyzer.field(FieldId(3), "?"), None);
    }
}
