//! Contexts over random documents: spans, counts, merging, order.

use spandrel_storage::{Chunk, Row};

use super::*;
use crate::rag::chunk::{ChunkOptions, chunks};
use crate::rag::random::Random;
use crate::response::Hit;

fn tokenizer() -> &'static Tokenizer {
    Tokenizer::named("cl100k_base").unwrap()
}

fn candidate(key: &str, text: &str, chunk: Option<Chunk>) -> Candidate {
    let hit = Hit { row: Row { chunk, ..Row::new(key) }, score: 1.0, routes: Vec::new() };
    Candidate::new(hit, text.to_owned(), 1)
}

fn frame<'a>(
    separator: &'a str,
    order: Order,
    merge: bool,
    budget_tokens: usize,
    stop: &'a Stop,
) -> Frame<'a> {
    Frame { separator, order, merge, budget_tokens, overhead_tokens: 0, tokenizer: tokenizer(), stop }
}

const ORDERS: [Order; 4] = [Order::Score, Order::Document, Order::BestLast, Order::Edges];

#[test]
fn every_context_is_within_its_budget_and_made_of_its_blocks() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let mut candidates = Vec::new();
        let mut texts = Vec::new();
        for document in 0..3 {
            let text = random.text(200);
            let options =
                ChunkOptions { tokens_max: 20, overlap_tokens: 7 * (document % 2), markdown: false };
            let name = format!("d{document}");
            for (at, (chunk_text, chunk)) in
                chunks(&name, &text, &options, tokenizer()).unwrap().into_iter().enumerate()
            {
                candidates.push(candidate(&format!("{name}#{at}"), &chunk_text, Some(chunk)));
            }
            texts.push(text);
        }
        if candidates.is_empty() {
            continue;
        }
        let stop = Stop::default();
        let separator = ["\n\n", "", " ", "---"][random.below(4)];
        for order in ORDERS {
            for merge in [false, true] {
                let budget = random.below(300);
                let mut chosen: Vec<usize> = (0..candidates.len()).filter(|_| random.below(2) == 0).collect();
                let asked = chosen.clone();
                let frame = frame(separator, order, merge, budget, &stop);
                let made = frame.build(&candidates, &mut chosen).unwrap();
                let what = format!("seed {seed} {order:?} merge {merge} budget {budget}");
                assert!(asked.starts_with(&chosen), "{what}");
                assert_eq!(made.tokens, tokenizer().count(&made.context), "{what}");
                assert!(made.tokens <= budget, "{what}");
                let joined: Vec<&str> = made.blocks.iter().map(|block| block.text.as_str()).collect();
                assert_eq!(joined.join(separator), made.context, "{what}");
                for block in &made.blocks {
                    assert_eq!(made.context[block.span.clone()], block.text, "{what}");
                    let source = block.source.clone().unwrap();
                    let document: usize = candidates[block.best].document().unwrap()[1..].parse().unwrap();
                    let whole = &texts[document][source.start as usize..source.end as usize];
                    let bare = |text: &str| text.split_whitespace().collect::<String>();
                    assert_eq!(bare(whole), bare(&block.text), "{what}: what was merged is what stood there");
                }
                let mut members: Vec<usize> =
                    made.blocks.iter().flat_map(|block| block.members.clone()).collect();
                members.sort_unstable();
                let mut wanted = chosen.clone();
                wanted.sort_unstable();
                assert_eq!(members, wanted, "{what}: everything chosen is in it once");
            }
        }
    }
}

#[test]
fn merged_chunks_say_what_they_share_once() {
    let text = "One two three. Four five six. Seven eight nine.";
    let chunk = |start: usize, end: usize| {
        let chunk = Chunk { document: "d".into(), span: start as u64..end as u64, tokens: 0 };
        candidate(&format!("d#{start}"), &text[start..end], Some(chunk))
    };
    let stop = Stop::default();
    let build = |candidates: Vec<Candidate>| {
        let mut chosen: Vec<usize> = (0..candidates.len()).collect();
        frame("\n\n", Order::Score, true, 100, &stop).build(&candidates, &mut chosen).unwrap().context
    };
    assert_eq!(build(vec![chunk(0, 20), chunk(15, 47)]), text);
    assert_eq!(build(vec![chunk(15, 47), chunk(0, 14)]), text, "a space that no chunk has is put back");
    assert_eq!(build(vec![chunk(0, 47), chunk(15, 29)]), text, "one within another");
    assert_eq!(build(vec![chunk(0, 14), chunk(30, 47)]), "One two three.\n\nSeven eight nine.");
    // The bytes do not agree: somebody has changed one of them.
    let mut other = chunk(15, 47);
    other.text = other.text.replace("Four", "Five");
    let apart = build(vec![chunk(0, 20), other.clone()]);
    assert_eq!(apart, format!("{}\n\n{}", &text[..20], other.text));
}

#[test]
fn orders_are_as_they_say() {
    let of = |document: &str, start: u64| {
        let text = format!("{document}{start}");
        let span = start..start + text.len() as u64;
        candidate(&text, &text, Some(Chunk { document: document.into(), span, tokens: 0 }))
    };
    let candidates = [of("b", 50), of("a", 70), of("b", 10), of("a", 20), of("c", 0)];
    let stop = Stop::default();
    let build = |order| {
        let mut chosen: Vec<usize> = (0..5).rev().collect();
        frame(" ", order, false, 100, &stop).build(&candidates, &mut chosen).unwrap().context
    };
    assert_eq!(build(Order::Score), "b50 a70 b10 a20 c0");
    assert_eq!(build(Order::BestLast), "c0 a20 b10 a70 b50");
    assert_eq!(build(Order::Document), "b10 b50 a20 a70 c0");
    assert_eq!(build(Order::Edges), "b50 b10 c0 a20 a70");
}

#[test]
fn overheads_count_and_the_last_chosen_goes_first() {
    let candidates: Vec<Candidate> = (0..4).map(|at| candidate(&at.to_string(), "word", None)).collect();
    let stop = Stop::default();
    let mut chosen = vec![2, 0, 3, 1];
    let mut tight = frame("\n", Order::Score, false, 12, &stop);
    tight.overhead_tokens = 3;
    let made = tight.build(&candidates, &mut chosen).unwrap();
    assert_eq!(chosen, [2, 0]);
    assert_eq!(made.context, "word\nword");
    let mut none = vec![0];
    let empty = frame("\n", Order::Score, true, 0, &stop).build(&candidates, &mut none).unwrap();
    assert!(empty.context.is_empty() && empty.tokens == 0 && none.is_empty());
}
