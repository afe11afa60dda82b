//! What is asked of a text field, and the statistics that weigh it: the tenant's own, over the whole
//! collection.

use spandrel_storage::{FieldId, TenantId};

use super::analyze::Analyzer;
use crate::error::{Error, Result};
use crate::intern::hash;

/// Most distinct terms of one query.
pub const QUERY_TERMS_MAX: usize = 1024;

/// Which documents match a query of several terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Match {
    /// Those with at least one of the terms.
    #[default]
    Any,
    /// Those with all of the terms.
    All,
}

/// One distinct term of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueryTerm {
    pub(super) text: String,
    pub(super) hash: u32,
    /// How often the query says it; its weight counts that often.
    pub(super) count: u32,
}

/// A question to one text field of one tenant, analysed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextQuery {
    pub(super) field: FieldId,
    pub(super) tenant: TenantId,
    pub(super) matching: Match,
    pub(super) terms: Vec<QueryTerm>,
}

impl TextQuery {
    /// Analyses `text` with the field's analyzer. A text without tokens gives an empty query, which finds
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more than [`QUERY_TERMS_MAX`] distinct terms.
    pub fn parse(
        field: FieldId,
        tenant: TenantId,
        matching: Match,
        analyzer: &mut Analyzer,
        text: &str,
    ) -> Result<Self> {
        let mut terms = Vec::new();
        for (hash, term, count) in analyzer.field(field, text).iter().flat_map(|field| field.hashed()) {
            terms.push(QueryTerm { text: term.to_owned(), hash, count });
        }
        Self { field, tenant, matching, terms }.checked()
    }

    /// A query for these terms as they are; repeated ones count again.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more than [`QUERY_TERMS_MAX`] distinct terms.
    pub fn of_terms<'a>(
        field: FieldId,
        tenant: TenantId,
        matching: Match,
        tokens: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self> {
        let mut query = Self { field, tenant, matching, terms: Vec::new() };
        for token in tokens {
            match query.terms.iter_mut().find(|term| term.text == token) {
                Some(term) => term.count += 1,
                None => {
                    let hash = hash(token.as_bytes());
                    query.terms.push(QueryTerm { text: token.to_owned(), hash, count: 1 });
                    query = query.checked()?;
                }
            }
        }
        Ok(query)
    }

    fn checked(self) -> Result<Self> {
        if self.terms.len() <= QUERY_TERMS_MAX {
            return Ok(self);
        }
        let message = format!(
            "a text query has at most {QUERY_TERMS_MAX} distinct terms, this one has {}",
            self.terms.len()
        );
        Err(Error::Invalid(message))
    }

    /// Whether it has no terms and so finds nothing.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The field that is asked.
    pub fn field(&self) -> FieldId {
        self.field
    }

    /// The tenant that asks.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// The distinct terms in the order in which they first occur, each with how often.
    pub fn terms(&self) -> impl Iterator<Item = (&str, u32)> {
        self.terms.iter().map(|term| (term.text.as_str(), term.count))
    }
}

/// Statistics of one tenant and field for one query, summed over segments.
///
/// A document without tokens does not count as having the field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextStats {
    /// Documents that have the field.
    pub docs: u64,
    /// Tokens of the field in all of these.
    pub tokens: u64,
    /// For each term of the query, documents that have it.
    pub doc_freq: Vec<u64>,
}

impl TextStats {
    /// Zeros, to which segments add.
    pub fn new(query: &TextQuery) -> Self {
        Self { docs: 0, tokens: 0, doc_freq: vec![0; query.terms.len()] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_terms_count_and_too_many_are_refused() {
        let parse =
            |text: &str| TextQuery::parse(FieldId(0), TenantId(0), Match::Any, &mut Analyzer::plain(), text);
        let query = parse("b a B c").unwrap();
        assert_eq!(query.terms().collect::<Vec<_>>(), [("b", 2), ("a", 1), ("c", 1)]);
        let terms = TextQuery::of_terms(FieldId(0), TenantId(0), Match::Any, ["b", "a", "b", "c"]).unwrap();
        assert_eq!(query, terms);
        assert!(parse("!").unwrap().is_empty());
        let many = |count: usize| (0..count).map(|n| format!("w{n} ")).collect::<String>();
        assert!(parse(&many(QUERY_TERMS_MAX)).is_ok());
        assert!(matches!(parse(&many(QUERY_TERMS_MAX + 1)), Err(Error::Invalid(_))));
    }
}
