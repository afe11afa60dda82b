//! How rows of a schema are compared: which text, by which keys, and which rows not at all.
//!
//! A row that was written as a copy, which its own field says, is not compared with: a copy of a copy is a
//! copy of the row that was there first, or none.

use spandrel_storage::{DedupSpec, FieldId, FieldValue, Schema, TenantId, Value};

use super::bands::Bands;
use super::hash::{K, mix};
use super::minhash::PERMUTATIONS_DEFAULT;
use super::shingle::{SHINGLE_WORDS_DEFAULT, content_hash};
use super::{Signer, content_key};
use crate::error::{Error, Result};

/// The chance that the table of a segment tells of a row that shares no key with the one that is asked for,
/// at most. Whoever asks reads the row to be sure, so that this is a matter of time: a collection has some
/// ten segments, and one text of a hundred has a row read for nothing.
pub const SEGMENT_PROMISE: f64 = 1e-3;

/// Makes the keys of rows.
#[derive(Debug)]
pub struct Comparer {
    field: FieldId,
    /// The field that says that a row is a copy.
    mark: Option<FieldId>,
    /// None where only the same words in the same order count.
    signer: Option<Signer>,
}

impl Comparer {
    /// What the schema asks for; none where it does not ask.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a schema that was not checked.
    pub fn of(schema: &Schema) -> Result<Option<Self>> {
        let Some(DedupSpec { field, threshold, into, .. }) = &schema.dedup else { return Ok(None) };
        let id = |name: &String| match schema.find(name) {
            Some((id, _)) => Ok(id),
            None => Err(Error::Invalid(format!("dedup: there is no field '{name}'"))),
        };
        let signer = match *threshold < 1.0 {
            true => {
                let bands = Bands::for_threshold(*threshold, PERMUTATIONS_DEFAULT)?;
                Some(Signer::new(SHINGLE_WORDS_DEFAULT, PERMUTATIONS_DEFAULT, bands)?)
            }
            false => None,
        };
        Ok(Some(Self { field: id(field)?, mark: into.as_ref().map(id).transpose()?, signer }))
    }

    /// The text field that is compared.
    pub fn field(&self) -> FieldId {
        self.field
    }

    /// The payload field that says that a row is a copy.
    pub fn mark(&self) -> Option<FieldId> {
        self.mark
    }

    /// Keys of a text, the last of which is that of the exact content.
    pub fn keys_of_text(&self) -> usize {
        self.signer.as_ref().map_or(0, |signer| signer.bands().bands()) + 1
    }

    /// Bands and rows of a band, 0 and 0 without: what keys on disk have to be of to be compared with.
    pub fn shape(&self) -> [u16; 2] {
        let shape = |signer: &Signer| [signer.bands().bands() as u16, signer.bands().rows() as u16];
        self.signer.as_ref().map_or([0, 0], shape)
    }

    /// The keys of a text; none of one without words.
    pub fn keys(&self, text: &str) -> Box<[u64]> {
        match &self.signer {
            Some(signer) => signer.sign(text).keys.into_boxed_slice(),
            None => match content_hash(text) {
                0 => Box::default(),
                content => Box::new([content_key(content)]),
            },
        }
    }

    /// The keys of a row that others are compared with.
    pub fn keys_of_row(&self, fields: &[(FieldId, FieldValue)]) -> Box<[u64]> {
        let value = |id: FieldId| fields.iter().find(|(field, _)| *field == id).map(|(_, value)| value);
        let is_copy = match self.mark.and_then(value) {
            Some(FieldValue::Payload(Value::Bool(copy))) => *copy,
            Some(FieldValue::Payload(Value::String(of))) => !of.is_empty(),
            _ => false,
        };
        match value(self.field) {
            Some(FieldValue::Text(text)) if !is_copy => self.keys(text),
            _ => Box::default(),
        }
    }
}

/// Keys as the rows of a tenant have them: those of others have other ones.
pub fn of_tenant(tenant: TenantId, keys: &[u64]) -> impl Iterator<Item = u64> {
    let scope = u64::from(tenant.0).wrapping_add(1).wrapping_mul(K[3]);
    keys.iter().map(move |key| mix(key ^ scope))
}

#[cfg(test)]
mod tests {
    use super::*;
    use spandrel_storage::PayloadKind;

    #[test]
    fn rows_that_are_copies_have_no_keys() {
        let schema = Schema::new().text("title").text("body").payload("of", PayloadKind::Keyword);
        assert!(Comparer::of(&schema).unwrap().is_none());
        let schema = schema.dedup(DedupSpec::link("body", "of"));
        let comparer = Comparer::of(&schema).unwrap().unwrap();
        let text = |id, text: &str| (FieldId(id), FieldValue::Text(text.into()));
        let of = |key: &str| (FieldId(2), FieldValue::Payload(Value::String(key.into())));
        let keys = comparer.keys_of_row(&[text(0, "a title"), text(1, "Some words.")]);
        assert_eq!((keys.len(), &keys), (comparer.keys_of_text(), &comparer.keys("some WORDS")));
        assert_eq!(comparer.keys_of_row(&[text(1, "Some words."), of("")]), keys);
        assert!(comparer.keys_of_row(&[text(1, "Some words."), of("a")]).is_empty());
        assert!(comparer.keys_of_row(&[text(0, "Some words.")]).is_empty());
        assert!(comparer.keys_of_row(&[text(1, " - ")]).is_empty());
    }

    #[test]
    fn a_threshold_of_one_is_of_the_content_alone() {
        let schema = Schema::new().text("body").dedup(DedupSpec::skip("body").threshold(1.0));
        let comparer = Comparer::of(&schema).unwrap().unwrap();
        assert_eq!((comparer.keys_of_text(), comparer.shape()), (1, [0, 0]));
        assert_eq!(comparer.keys("One, two"), comparer.keys("one two"));
        assert_ne!(comparer.keys("one two"), comparer.keys("two one"));
        let near = Schema::new().text("body").dedup(DedupSpec::skip("body"));
        let near = Comparer::of(&near).unwrap().unwrap();
        assert_eq!((near.keys_of_text(), near.shape()), (10, [9, 13]));
        assert_eq!(near.keys("one two").last(), comparer.keys("one two").last());
    }

    #[test]
    fn tenants_share_no_keys() {
        let own: Vec<u64> = (0..100).collect();
        let keys: std::collections::HashSet<u64> =
            (0..100).flat_map(|tenant| of_tenant(TenantId(tenant), &own)).collect();
        assert_eq!(keys.len(), 10_000);
    }
}
