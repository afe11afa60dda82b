//! Writes the text fields of a segment as one tantivy segment in document order, ready to be sections of a
//! segment file.
//!
//! Documents come analysed and numbered by their order; tantivy keeps that order because a single writer
//! without a sort field flushes once. Each term is prefixed by its tenant, so that document frequencies are
//! the tenant's own and a tenant's query never meets another's postings. Kept: frequencies and lengths; not
//! kept: positions, text. tantivy reads documents only through a tokenizer, so terms travel encoded: the
//! tenant's prefix, then each term followed by as many zero bytes as its frequency (no term holds one).
//!
//! Sections: `text.meta` is tantivy's meta.json under a fixed segment id, `text.idx` and so on are its files,
//! and `text.stats` is ours, little-endian:
//! ```text
//! u8 1 | u32 documents | u16 fields
//! a field: u16 id, u32 tenants | a tenant of it: u32 id, u32 documents, u64 tokens
//! ```
//! Memory while building: about the size of the finished sections plus 8 bytes a distinct term and hash slot.

use std::path::Path;

use spandrel_storage::codec::Encoder;
use spandrel_storage::{FieldId, TenantId};
use tantivy::directory::RamDirectory;
use tantivy::schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::{Token, TokenStream, Tokenizer, TokenizerManager};
use tantivy::{Directory, Index, IndexSettings, SingleSegmentIndexWriter, TERMINATED, TantivyDocument};

use super::analyze::TextDoc;
use super::directory::{EXTENSIONS, META, SEGMENT_ID};
use crate::error::{Error, Result};

/// Version of `text.stats`.
pub(super) const FORMAT: u8 = 1;
/// Separates terms in the text that travels to tantivy.
const SEPARATOR: char = '\0';
/// Name of the tokenizer that takes it apart.
const TOKENIZER: &str = "encoded";
/// Sizes tantivy's first hash table (an eighth of it); the table grows with the segment.
const TABLE_BYTES: usize = 16 << 20;
/// Bytes of a tenant's prefix.
pub(super) const PREFIX_BYTES: usize = 6;

/// Documents and tokens of one tenant in one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TenantTotals {
    pub(super) tenant: TenantId,
    pub(super) docs: u32,
    pub(super) tokens: u64,
}

/// Builds the text sections of one segment.
pub struct TextBuilder {
    writer: SingleSegmentIndexWriter<TantivyDocument>,
    directory: RamDirectory,
    fields: Vec<FieldTotals>,
    doc_count: u32,
    tenant: Option<TenantId>,
    encoded: String,
}

#[derive(Debug)]
struct FieldTotals {
    id: FieldId,
    field: Field,
    tenants: Vec<TenantTotals>,
}

impl std::fmt::Debug for TextBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextBuilder").field("doc_count", &self.doc_count).finish_non_exhaustive()
    }
}

impl TextBuilder {
    /// An empty builder for the text fields of a schema, in any order.
    ///
    /// # Errors
    /// [`Error::Text`] when tantivy refuses.
    pub fn new(fields: &[FieldId]) -> Result<Self> {
        let mut ids = fields.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let schema = schema(&ids);
        let mut totals = Vec::new();
        for id in ids {
            let field = schema.get_field(&field_name(id)).map_err(failed)?;
            totals.push(FieldTotals { id, field, tenants: Vec::new() });
        }
        let tokenizers = TokenizerManager::new();
        tokenizers.register(TOKENIZER, EncodedTerms::default());
        let settings =
            IndexSettings { docstore_compress_dedicated_thread: false, ..IndexSettings::default() };
        let directory = RamDirectory::create();
        let writer = Index::builder()
            .schema(schema)
            .settings(settings)
            .tokenizers(tokenizers)
            .single_segment_index_writer(directory.clone(), TABLE_BYTES)
            .map_err(failed)?;
        Ok(Self { writer, directory, fields: totals, doc_count: 0, tenant: None, encoded: String::new() })
    }

    /// Adds the next document; its number is how many were added before it. One without text is added empty.
    ///
    /// # Errors
    /// [`Error::Invalid`] when tenants descend, for a field that the builder was not made with, and beyond
    /// 2^31 - 2 documents; [`Error::Text`] when tantivy refuses. The builder is of no use after an error.
    pub fn push(&mut self, tenant: TenantId, doc: &TextDoc) -> Result<()> {
        if self.tenant.is_some_and(|last| last > tenant) {
            return Err(Error::Invalid(format!(
                "documents of tenant {tenant} follow those of a later tenant"
            )));
        }
        if self.doc_count + 1 >= TERMINATED {
            return Err(Error::Invalid(format!("a text index holds fewer than {TERMINATED} documents")));
        }
        self.tenant = Some(tenant);
        let mut document = TantivyDocument::new();
        for terms in doc.fields() {
            let known = self.fields.iter_mut().find(|field| field.id == terms.field());
            let Some(field) = known else {
                return Err(Error::Invalid(format!(
                    "field {} is no text field of this index",
                    terms.field()
                )));
            };
            field.count(tenant, terms.tokens());
            self.encoded.clear();
            push_prefix(tenant, &mut self.encoded);
            for (term, freq) in terms.terms() {
                self.encoded.push_str(term);
                self.encoded.extend(std::iter::repeat_n(SEPARATOR, freq as usize));
            }
            document.add_text(field.field, &self.encoded);
        }
        self.writer.add_document(document).map_err(failed)?;
        self.doc_count += 1;
        Ok(())
    }

    /// The sections, by name.
    ///
    /// # Errors
    /// [`Error::Text`] when tantivy refuses.
    pub fn finish(self) -> Result<Vec<(String, Vec<u8>)>> {
        let Self { writer, directory, fields, doc_count, .. } = self;
        let index = writer.finalize().map_err(failed)?;
        let metas = index.searchable_segment_metas().map_err(failed)?;
        let [meta] = metas.as_slice() else {
            return Err(Error::Text(format!("expected one tantivy segment, found {}", metas.len())));
        };
        let id = meta.id().uuid_string();
        let json = directory.atomic_read(Path::new(META)).map_err(failed)?;
        let mut sections = vec![
            ("text.stats".to_owned(), write_totals(doc_count, &fields)),
            ("text.meta".to_owned(), rename(json, &id)?),
        ];
        for extension in EXTENSIONS {
            let path = format!("{id}.{extension}");
            let file = directory.open_read(Path::new(&path)).map_err(failed)?;
            let bytes = file.read_bytes().map_err(failed)?.as_slice().to_vec();
            directory.delete(Path::new(&path)).map_err(failed)?;
            sections.push((format!("text.{extension}"), bytes));
        }
        Ok(sections)
    }
}

impl FieldTotals {
    fn count(&mut self, tenant: TenantId, tokens: u32) {
        match self.tenants.last_mut().filter(|last| last.tenant == tenant) {
            Some(last) => {
                last.docs += 1;
                last.tokens += u64::from(tokens);
            }
            None => self.tenants.push(TenantTotals { tenant, docs: 1, tokens: u64::from(tokens) }),
        }
    }
}

/// tantivy's schema for these fields, ascending.
pub(super) fn schema(fields: &[FieldId]) -> Schema {
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(TOKENIZER)
        .set_index_option(IndexRecordOption::WithFreqs)
        .set_fieldnorms(true);
    let options = TextOptions::default().set_indexing_options(indexing);
    let mut schema = Schema::builder();
    for field in fields {
        schema.add_text_field(&field_name(*field), options.clone());
    }
    schema.build()
}

/// tantivy's name of a field.
pub(super) fn field_name(field: FieldId) -> String {
    format!("f{field}")
}

/// Appends the prefix of a tenant's terms: its id in six ASCII characters of six bits, so that prefixes order
/// as ids do.
pub(super) fn push_prefix(tenant: TenantId, out: &mut String) {
    for at in (0..PREFIX_BYTES).rev() {
        let bits = (u64::from(tenant.0) >> (6 * at)) as u8 & 63;
        out.push(char::from(b'0' + bits));
    }
}

/// Any failure inside tantivy.
pub(super) fn failed(error: impl std::fmt::Display) -> Error {
    Error::Text(error.to_string())
}

fn write_totals(doc_count: u32, fields: &[FieldTotals]) -> Vec<u8> {
    let mut out = Encoder::default();
    out.u8(FORMAT).u32(doc_count).u16(fields.len() as u16);
    for field in fields {
        out.u16(field.id.0).u32(field.tenants.len() as u32);
        for totals in &field.tenants {
            out.u32(totals.tenant.0).u32(totals.docs).u64(totals.tokens);
        }
    }
    out.finish()
}

/// Puts the fixed segment id in place of the random one.
fn rename(json: Vec<u8>, id: &str) -> Result<Vec<u8>> {
    let json = String::from_utf8(json).map_err(|error| Error::Text(error.to_string()))?;
    let parts = [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]];
    let renamed = json.replace(&parts.join("-"), SEGMENT_ID[1]).replace(id, SEGMENT_ID[0]);
    if renamed == json {
        return Err(Error::Text("tantivy's meta.json does not name its segment".into()));
    }
    Ok(renamed.into_bytes())
}

/// Takes encoded terms apart, see the module's head.
#[derive(Clone, Default)]
struct EncodedTerms {
    token: Token,
}

/// The tokens of one encoded text.
struct EncodedStream<'a> {
    token: &'a mut Token,
    rest: &'a str,
}

impl Tokenizer for EncodedTerms {
    type TokenStream<'a> = EncodedStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> EncodedStream<'a> {
        self.token.reset();
        let (prefix, rest) = text.split_at_checked(PREFIX_BYTES).unwrap_or_default();
        self.token.text.push_str(prefix);
        EncodedStream { token: &mut self.token, rest }
    }
}

impl TokenStream for EncodedStream<'_> {
    fn advance(&mut self) -> bool {
        self.token.position = self.token.position.wrapping_add(1);
        if self.token.text.len() > PREFIX_BYTES
            && let Some(rest) = self.rest.strip_prefix(SEPARATOR)
        {
            self.rest = rest;
            return true;
        }
        let Some((term, rest)) = self.rest.split_once(SEPARATOR) else { return false };
        self.token.text.truncate(PREFIX_BYTES);
        self.token.text.push_str(term);
        self.rest = rest;
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_order_as_tenants_do() {
        let prefix = |tenant: u32| {
            let mut out = String::new();
            push_prefix(TenantId(tenant), &mut out);
            out
        };
        let tenants = [0, 1, 63, 64, 4095, 4096, 1 << 30, u32::MAX];
        let prefixes: Vec<String> = tenants.iter().map(|tenant| prefix(*tenant)).collect();
        assert!(prefixes.is_sorted_by(|a, b| a < b));
        assert!(prefixes.iter().all(|prefix| prefix.len() == PREFIX_BYTES && prefix.is_ascii()));
    }

    #[test]
    fn terms_survive_the_journey_to_tantivy() {
        let mut tokenizer = EncodedTerms::default();
        let mut tokens = Vec::new();
        for text in ["000001a\0\0\0straße\0b\0\0", "000002", "000001日\0"] {
            let mut stream = tokenizer.token_stream(text);
            while stream.advance() {
                tokens.push(stream.token().text.clone());
            }
        }
        let expected = ["000001a", "000001a", "000001a", "000001straße", "000001b", "000001b", "000001日"];
        assert_eq!(tokens, expected);
    }
}
