//! A retrieval over a database whose chunks a server has cached.

use super::*;
use crate::rag::tokens::Tokenizer;
use crate::{Database, KvSettings, RetrieveRequest, Route, Row, Schema, SearchRequest, Settings};

fn model() -> ModelKey {
    let name = || "m".to_owned();
    ModelKey { model: name(), revision: name(), tokenizer: name(), dtype: name(), ..ModelKey::default() }
}

fn request(tolerance: f64) -> RetrieveRequest {
    let search = SearchRequest::new(Route::text("body", "tide bell")).tenant("a");
    let mut request = RetrieveRequest::new(search, 1_000);
    request.assemble.order = Order::CacheAware { tolerance };
    request.assemble.kv = Some(KvRequest { model: model(), block_tokens: 16, known: Vec::new() });
    request
}

#[test]
fn chunks_are_ordered_by_what_is_cached_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { chunk_caches: Some(KvSettings::default()), ..Settings::default() };
    let database = Database::open(folder.path().join("data"), settings).unwrap();
    let notes = database.create_collection("notes", Schema::new().text("body")).unwrap();
    let row = |key: &str, text: &str| Row::new(key).tenant("a").text("body", text);
    notes
        .upsert(vec![
            row("one", "tide bell tide bell"),
            row("two", "a tide and a bell by the sea"),
            row("three", "a bell that is far from any of the seas and is rung by hand"),
        ])
        .unwrap();
    let first = notes.retrieve(&request(0.9)).unwrap();
    assert_eq!(first.kv.len(), first.chunks.len());
    let tokenizer = Tokenizer::named("o200k_base").unwrap();
    for (chunk, kv) in first.chunks.iter().zip(&first.kv) {
        let text = &first.context[chunk.context_span.clone()];
        let ids = tokenizer.ids(&format!("{text}\n\n"));
        assert_eq!((kv.content, kv.tokens), (hash_tokens(&ids), ids.len().next_multiple_of(16) as u32));
        assert!(kv.reusable.best.is_none() && kv.reusable.recompute_tokens == kv.tokens);
    }
    // The server had the second chunk first and the first one behind it.
    let caches = database.chunk_caches().unwrap();
    let put = |at: usize, prefix: &[TokenHash], tenant: &str| {
        let variant = Variant {
            content: first.kv[at].content,
            model: model(),
            scope: Scope::tenant("notes", tenant),
            prefix: prefix.to_vec(),
            tokens: first.kv[at].tokens,
            bytes: 1 << 20,
            uri: format!("kv://{tenant}/{at}"),
            cci: 0.5,
            recompute_us: 10_000,
            ..Variant::default()
        };
        caches.put(variant).unwrap();
    };
    put(1, &[], "b");
    assert_eq!(notes.retrieve(&request(0.9)).unwrap(), first, "another tenant's are not seen");
    put(1, &[], "a");
    put(0, &[first.kv[1].content], "a");
    let strict = notes.retrieve(&request(0.0)).unwrap();
    assert_eq!((strict.context, strict.kv.len()), (first.context.clone(), 3));
    let ordered = notes.retrieve(&request(0.9)).unwrap();
    let keys: Vec<&str> = ordered.chunks.iter().map(|chunk| chunk.hit.row.key.as_str()).collect();
    assert_eq!(keys[..2], [&*first.chunks[1].hit.row.key, &*first.chunks[0].hit.row.key]);
    assert!(ordered.kv[..2].iter().all(|kv| kv.reusable.recompute_tokens == 0 && kv.reusable.best.is_some()));
    assert_eq!(notes.retrieve(&request(0.9)).unwrap(), ordered, "the same again");
    let spans = ordered.chunks.iter().map(|chunk| &ordered.context[chunk.context_span.clone()]);
    assert_eq!(spans.collect::<Vec<_>>().join("\n\n"), ordered.context);
    // What the caller knows is believed.
    let mut known = request(0.0);
    let content = TokenHash([7; 16]);
    let chunk = KnownChunk { key: first.chunks[0].hit.row.key.clone(), content, tokens: 5 };
    known.assemble.kv.as_mut().unwrap().known.push(chunk);
    let known = notes.retrieve(&known).unwrap();
    assert_eq!((known.kv[0].content, known.kv[0].tokens), (content, 16));
    // What does not fit is refused.
    assert!(notes.retrieve(&request(1.5)).is_err());
    let mut without = request(0.1);
    without.assemble.kv = None;
    assert!(notes.retrieve(&without).is_err());
}
