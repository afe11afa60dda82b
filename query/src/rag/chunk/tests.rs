//! What always holds of chunks, over random documents, and the odd documents by name.

use super::*;
use crate::rag::random::Random;

fn tokenizer() -> &'static Tokenizer {
    Tokenizer::named("o200k_base").unwrap()
}

/// Checks every promise of [`chunks`] and returns the texts.
fn check(text: &str, options: &ChunkOptions, tokenizer: &Tokenizer, note: &str) -> Vec<String> {
    let found = chunks("doc", text, options, tokenizer).unwrap();
    let mut covered = 0;
    let mut last_start = None;
    for (chunk, origin) in &found {
        let (start, end) = (origin.span.start as usize, origin.span.end as usize);
        assert_eq!(&text[start..end], chunk, "{note}: a span is the chunk's text");
        assert_eq!(origin.document, "doc");
        assert!(options.markdown || chunk.trim() == chunk, "{note}: white space at the ends of {chunk:?}");
        assert!(!chunk.trim().is_empty(), "{note}");
        let tokens = tokenizer.count(chunk);
        assert_eq!(origin.tokens as usize, tokens, "{note}");
        assert!(tokens <= options.tokens_max, "{note}: {tokens} tokens in {chunk:?}");
        assert!(last_start.is_none_or(|last| start > last), "{note}: starts ascend");
        assert!(end > covered, "{note}: ends ascend");
        if start > covered {
            assert!(text[covered..start].trim().is_empty(), "{note}: lost {:?}", &text[covered..start]);
        } else if options.overlap_tokens == 0 {
            assert_eq!(start, covered, "{note}: chunks overlap");
        }
        (covered, last_start) = (end, Some(start));
    }
    assert!(text[covered..].trim().is_empty(), "{note}: lost the end");
    found.into_iter().map(|(chunk, _)| chunk).collect()
}

#[test]
fn random_documents() {
    let seed = Random::new_seed();
    let mut random = Random::new(seed);
    for round in 0..150 {
        let name = if round % 2 == 0 { "o200k_base" } else { "cl100k_base" };
        let tokenizer = Tokenizer::named(name).unwrap();
        let text = random.text(6_000);
        let tokens_max = CHUNK_TOKENS_LOW + random.below(120);
        let overlap_tokens = if random.below(2) == 0 { 0 } else { random.below(tokens_max / 2 + 1) };
        let options = ChunkOptions { tokens_max, overlap_tokens, markdown: random.below(2) == 0 };
        check(&text, &options, tokenizer, &format!("seed {seed} round {round} {options:?}"));
    }
}

#[test]
fn windows_leave_no_seam() {
    let seed = Random::new_seed();
    let mut random = Random::new(seed);
    for round in 0..40 {
        let text = random.text(5_000);
        let tokens_max = CHUNK_TOKENS_LOW + random.below(20);
        let overlap_tokens = if random.below(2) == 0 { 0 } else { random.below(tokens_max / 2 + 1) };
        let options = ChunkOptions { tokens_max, overlap_tokens, markdown: random.below(2) == 0 };
        let splitter = Splitter::new(&options, tokenizer()).unwrap();
        let mut covered = 0;
        for (start, end) in spans(&text, 600, &splitter) {
            let note = format!("seed {seed} round {round} {options:?} {start}..{end}");
            assert!(end > covered, "{note}");
            assert!(start <= covered || text[covered..start].trim().is_empty(), "{note}");
            assert!(tokenizer().count(&text[start..end]) <= tokens_max, "{note}");
            covered = end;
        }
        assert!(text[covered..].trim().is_empty(), "seed {seed} round {round}");
    }
}

/// For prose the windows change nothing at all.
#[test]
fn windows_split_prose_as_one() {
    let text = "The first sentence is short. The second one, however, goes on for a while!\n\nNext part? "
        .repeat(60);
    let options = ChunkOptions { tokens_max: 40, ..ChunkOptions::default() };
    let splitter = Splitter::new(&options, tokenizer()).unwrap();
    assert_eq!(spans(&text, 700, &splitter), spans(&text, 1 << 20, &splitter));
}

#[test]
fn odd_documents() {
    let options = ChunkOptions { tokens_max: 16, ..ChunkOptions::default() };
    assert!(check("", &options, tokenizer(), "empty").is_empty());
    assert!(check(" \r\n\t \u{3000}", &options, tokenizer(), "white space").is_empty());
    assert_eq!(check("a", &options, tokenizer(), "one letter"), ["a"]);
    let lines = check("first line\r\nsecond line\r\n\r\nthird", &options, tokenizer(), "crlf");
    assert_eq!(lines, ["first line\r\nsecond line\r\n\r\nthird"]);
    let family = "\u{1F469}\u{200D}\u{1F469}\u{200D}\u{1F467}\u{200D}\u{1F466}".repeat(30);
    check(&family, &ChunkOptions { tokens_max: 8, ..options }, tokenizer(), "graphemes of many tokens");
    let marks = format!("a{}", "\u{301}".repeat(500));
    check(&marks, &ChunkOptions { tokens_max: 8, ..options }, tokenizer(), "a grapheme longer than a chunk");
}

#[test]
fn giant_words() {
    for word in ["a", "Zx9", "\u{4E2D}", "\u{1F600}", "-", "\u{301}"] {
        for markdown in [false, true] {
            let text = word.repeat((40 << 10) / word.len());
            let options = ChunkOptions { tokens_max: 64, markdown, ..ChunkOptions::default() };
            assert!(check(&text, &options, tokenizer(), word).len() > 9, "{word}");
        }
    }
}

#[test]
fn markdown_is_split_at_headings() {
    let section = "Some words that fill the section with text.\n";
    let text = format!("# One\n\n{section}\n# Two\n\n{section}\n# Three\n\n{section}");
    let options = ChunkOptions { tokens_max: 16, markdown: true, ..ChunkOptions::default() };
    let found = check(&text, &options, tokenizer(), "markdown");
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|chunk| chunk.starts_with('#')), "{found:?}");
}

#[test]
fn overlap_repeats_the_end() {
    let text = (0..200).map(|n| format!("Sentence number {n} is here. ")).collect::<String>();
    let options = ChunkOptions { tokens_max: 40, overlap_tokens: 16, markdown: false };
    check(&text, &options, tokenizer(), "overlap");
    let found = chunks("doc", &text, &options, tokenizer()).unwrap();
    let overlapping = found.windows(2).filter(|two| two[1].1.span.start < two[0].1.span.end).count();
    assert!(overlapping * 10 > found.len() * 8, "{overlapping} of {}", found.len());
}

#[test]
fn limits() {
    let bad = |options: ChunkOptions| chunks("doc", "text", &options, tokenizer()).unwrap_err().to_string();
    let options = ChunkOptions::default();
    assert!(bad(ChunkOptions { tokens_max: 7, ..options }).contains("8 to 32768"));
    assert!(bad(ChunkOptions { tokens_max: 40_000, ..options }).contains("8 to 32768"));
    assert!(bad(ChunkOptions { overlap_tokens: 200, ..options }).contains("half"));
}
