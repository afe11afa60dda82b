//! Plans of documents, stale keys, and embedding in batches.

use std::sync::Mutex;

use super::*;

fn tokenizer() -> &'static Tokenizer {
    Tokenizer::named("o200k_base").unwrap()
}

fn document(sentences: usize) -> Document {
    Document {
        key: "guide".into(),
        text: (0..sentences).map(|n| format!("This is sentence {n}. ")).collect(),
        tenant: "acme".into(),
        payload: [("year".to_owned(), Value::Integer(2026))].into(),
    }
}

#[test]
fn a_row_for_every_chunk() {
    let document = document(40);
    let options = ChunkOptions { tokens_max: 32, ..ChunkOptions::default() };
    let rows = rows(&document, "body", &options, tokenizer()).unwrap();
    assert!(rows.len() > 4);
    for (n, row) in rows.iter().enumerate() {
        assert_eq!(row.key, format!("guide#{n}"));
        assert_eq!(row.tenant, "acme");
        assert_eq!(row.fields["year"], FieldValue::Payload(Value::Integer(2026)));
        let chunk = row.chunk.as_ref().unwrap();
        let text = &document.text[chunk.span.start as usize..chunk.span.end as usize];
        assert_eq!(row.fields["body"], FieldValue::Text(text.to_owned()));
        assert_eq!((chunk.document.as_str(), chunk.tokens as usize), ("guide", tokenizer().count(text)));
    }
    let blank = Document { text: " \n".into(), ..document };
    assert!(super::rows(&blank, "body", &options, tokenizer()).unwrap().is_empty());
}

#[test]
fn bad_documents_are_refused() {
    let options = ChunkOptions::default();
    let refused =
        |document: Document| rows(&document, "body", &options, tokenizer()).unwrap_err().to_string();
    assert!(refused(Document { key: String::new(), ..document(1) }).contains("1 to 501"));
    assert!(refused(Document { key: "k".repeat(502), ..document(1) }).contains("502 bytes"));
    let payload = [("body".to_owned(), Value::Bool(true))].into();
    assert!(refused(Document { payload, ..document(1) }).contains("name of the text field"));
    let longest = Document { key: "k".repeat(DOCUMENT_KEY_BYTES_MAX), ..document(1) };
    let row_key_longest = rows(&longest, "body", &options, tokenizer()).unwrap()[0].key.len() + 9;
    assert!(row_key_longest <= KEY_BYTES_MAX);
}

#[test]
fn stale_keys() {
    assert!(is_stale("guide#3", "guide", 3));
    assert!(is_stale("guide#10", "guide", 3));
    assert!(is_stale("guide#0", "guide", 0));
    for key in
        ["guide#2", "guide#", "guide#x", "guide#03", "guide#3#0", "guide", "guide2#5", "other#5", "guide#+5"]
    {
        assert!(!is_stale(key, "guide", 3), "{key}");
    }
    assert!(row_key("guide", 7).starts_with(&key_prefix("guide")));
    assert!(is_stale(&row_key("a#b", 4), "a#b", 4) && !is_stale(&row_key("a#b", 4), "a", 0));
}

/// Answers with the length of the text, and remembers the sizes of its batches.
struct Lengths {
    batches: Mutex<Vec<usize>>,
    answer: fn(&str) -> Vec<f32>,
}

impl Embedder for Lengths {
    fn embed(
        &self,
        texts: &[&str],
        purpose: EmbedPurpose,
        _: Option<std::time::Instant>,
    ) -> Result<Vec<Vec<f32>>> {
        assert_eq!(purpose, EmbedPurpose::Passage);
        self.batches.lock().unwrap().push(texts.len());
        Ok(texts.iter().map(|text| (self.answer)(text)).collect())
    }
    fn dim(&self) -> Option<usize> {
        None
    }
    fn name(&self) -> &str {
        "lengths"
    }
}

#[test]
fn embeds_what_has_no_vector() {
    let mut rows: Vec<Row> = (0..600).map(|n| Row::new(n.to_string()).text("body", "x".repeat(n))).collect();
    rows[5] = rows[5].clone().dense("embedding", vec![9.0, 9.0]);
    rows.push(Row::new("no text"));
    let embedder = Lengths { batches: Mutex::default(), answer: |text| vec![text.len() as f32, 1.0] };
    embed_rows(&mut rows, "body", "embedding", &embedder, &Default::default()).unwrap();
    assert_eq!(*embedder.batches.lock().unwrap(), [256, 256, 86]);
    for (n, row) in rows[..600].iter().enumerate().skip(1) {
        let expected = if n == 5 { vec![9.0, 9.0] } else { vec![n as f32, 1.0] };
        assert_eq!(row.fields["embedding"], FieldValue::Dense(expected));
    }
    assert!(!rows[0].fields.contains_key("embedding") && !rows[600].fields.contains_key("embedding"));
}

#[test]
fn bad_answers_are_refused() {
    let refused = |answer: fn(&str) -> Vec<f32>| {
        let mut rows = vec![Row::new("a").text("body", "one"), Row::new("b").text("body", "three")];
        let embedder = Lengths { batches: Mutex::default(), answer };
        embed_rows(&mut rows, "body", "embedding", &embedder, &Default::default()).unwrap_err().to_string()
    };
    assert!(refused(|text| vec![0.0; text.len()]).contains("5 elements where 3 were expected"));
    assert!(refused(|_| vec![]).contains("0 elements"));
    assert!(refused(|_| vec![f32::NAN]).contains("NaN"));
}
