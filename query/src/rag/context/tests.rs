//! Packing against a version that counts the whole context for every candidate.

use super::*;
use crate::rag::random::Random;
use spandrel_storage::Row;

fn tokenizer() -> &'static Tokenizer {
    Tokenizer::named("o200k_base").unwrap()
}

/// What [`pack`] has to return, by its definition.
fn naive(texts: &[String], separator: &str, budget: usize, tokenizer: &Tokenizer) -> Packing {
    let mut packing = Packing::default();
    for (candidate, text) in texts.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        let mut context = packing.context.clone();
        if !context.is_empty() {
            context.push_str(separator);
        }
        let start = context.len();
        context.push_str(text);
        let tokens = tokenizer.count(&context);
        if tokens <= budget && packing.tokens < budget {
            let span = start..context.len();
            packing.texts.push(PackedText { candidate, span, tokens: tokenizer.count(text) });
            (packing.context, packing.tokens) = (context, tokens);
        }
    }
    packing
}

fn packed(texts: &[String], separator: &str, budget: usize, tokenizer: &Tokenizer) -> Packing {
    pack(texts.iter().map(String::as_str), separator, budget, tokenizer, &Default::default()).unwrap()
}

#[test]
fn agrees_with_counting_the_whole() {
    let seed = Random::new_seed();
    let mut random = Random::new(seed);
    for round in 0..300 {
        let tokenizer = Tokenizer::named(["o200k_base", "cl100k_base"][round % 2]).unwrap();
        let texts: Vec<_> = (0..random.below(12)).map(|_| random.text(200)).collect();
        let separator = ["\n\n", "", " ", "\n", "\n---\n", "/", "\u{3000}", "  \n", "a"][random.below(9)];
        let budget = random.below(250);
        let note = format!("seed {seed} round {round} budget {budget} separator {separator:?} {texts:?}");
        let packing = packed(&texts, separator, budget, tokenizer);
        assert_eq!(packing, naive(&texts, separator, budget, tokenizer), "{note}");
        assert!(tokenizer.count(&packing.context) <= budget, "{note}");
        for text in &packing.texts {
            assert_eq!(packing.context[text.span.clone()], texts[text.candidate], "{note}");
        }
    }
}

#[test]
fn nothing_fits_in_an_empty_budget() {
    let packing = packed(&["one".into(), "two".into()], "\n", 0, tokenizer());
    assert_eq!(packing, Packing::default());
    assert_eq!(packed(&[], "\n", 100, tokenizer()), Packing::default());
}

#[test]
fn a_text_that_does_not_fit_is_skipped() {
    let texts = ["short one".to_owned(), "word ".repeat(500), "short two".to_owned(), String::new()];
    let packing = packed(&texts, "\n\n", 20, tokenizer());
    assert_eq!(packing.context, "short one\n\nshort two");
    assert_eq!(packing.texts.iter().map(|text| text.candidate).collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn equal_texts_have_their_own_spans() {
    let texts = vec!["the same text".to_owned(); 3];
    let packing = packed(&texts, "\n", 100, tokenizer());
    let spans: Vec<_> = packing.texts.iter().map(|text| text.span.clone()).collect();
    assert_eq!(spans, [0..13, 14..27, 28..41]);
}

/// Runs so long that they are cut by force: parts need not add up, the whole is counted.
#[test]
fn giant_runs_stay_within_the_budget() {
    let texts = vec!["xq".repeat(RUN_BYTES_MAX / 3); 4];
    let each = tokenizer().count(&texts[0]);
    for budget in [each - 1, each, each * 2, each * 3 + 5, each * 10] {
        let packing = packed(&texts, "", budget, tokenizer());
        assert_eq!(packing.tokens, tokenizer().count(&packing.context));
        assert!(packing.tokens <= budget);
    }
}

#[test]
fn assembles_a_response() {
    let candidate = |key: &str, text: &str| Candidate {
        hit: Hit { row: Row::new(key), score: 1.0, routes: Vec::new() },
        text: text.to_owned(),
    };
    let candidates = vec![candidate("a", "first"), candidate("b", ""), candidate("c", "third one")];
    let response = assemble(candidates, " | ", 50, tokenizer(), &Default::default()).unwrap();
    assert_eq!(response.context, "first | third one");
    assert_eq!(response.tokens, tokenizer().count(&response.context));
    assert_eq!((response.candidates, response.skipped), (3, 1));
    let keys: Vec<_> = response.chunks.iter().map(|chunk| chunk.hit.row.key.as_str()).collect();
    assert_eq!(keys, ["a", "c"]);
    assert_eq!(&response.context[response.chunks[1].context_span.clone()], "third one");
}
