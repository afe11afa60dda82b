//! What pools are made of, on texts small enough to see.

use spandrel_storage::{Chunk, Row};

use super::*;
use crate::request::Route;
use crate::response::{Hit, RouteScore};

fn candidate(key: &str, text: &str, score: f32) -> Candidate {
    let hit = Hit { row: Row::new(key), score, routes: vec![Some(RouteScore { score, rank: 1 })] };
    Candidate::new(hit, text.to_owned(), 1)
}

fn parts<'a>(tokens: &'a [u32], question: Option<&'a str>) -> Parts<'a> {
    Parts { tokens, question, needs: (1, &[]), words: true, similarity: false }
}

#[test]
fn relevance_is_the_place_between_worst_and_best() {
    let candidates = [candidate("a", "x", 9.0), candidate("b", "y", 7.0), candidate("c", "z", 5.0)];
    let made = pool(&candidates, &parts(&[3, 4, 5], None));
    let relevance: Vec<f32> = made.items().iter().map(|item| item.relevance).collect();
    assert_eq!(relevance, [1.0, 0.5, 0.0]);
    assert_eq!(made.items().iter().map(|item| item.tokens).collect::<Vec<_>>(), [3, 4, 5]);
    let equal = pool(&candidates[..1], &parts(&[3], None));
    assert_eq!(equal.item(0).relevance, 1.0);
}

#[test]
fn rare_terms_of_the_question_weigh_most_and_the_head_covers_them_whole() {
    let long = "The story of one who was born in a far away town by the sea: Verdi";
    let candidates =
        [candidate("a", "Verdi was born", 3.0), candidate("b", long, 2.0), candidate("c", "Born late", 1.0)];
    let made = pool(&candidates, &parts(&[1; 3], Some("Where was Verdi born, where?")));
    let aspects = made.aspects();
    // "where" is in none of them: nobody can cover it. "was" is in two, "verdi" in two, "born" in all.
    assert_eq!(aspects.weights.len(), 3);
    assert!((aspects.weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    let born = terms("born")[0];
    let verdi = terms("verdi")[0];
    let words = Words::new(&candidates, voices(candidates.len(), &[]));
    let df = |word: u64| words.holders(word).len();
    assert_eq!((df(born), df(verdi)), (3, 2));
    // The last aspect is the most frequent term, which all three cover in their heads.
    assert_eq!((0..3).map(|at| made.cover(at)[2]).collect::<Vec<_>>(), [1.0, 1.0, 1.0]);
    let covered: Vec<f32> = (0..2).map(|at| made.cover(at).iter().copied().fold(2.0, f32::min)).collect();
    assert_eq!(covered, [1.0, BODY_COVER]);
}

#[test]
fn a_chunk_refers_to_what_it_names() {
    let filler = |n: usize| candidate(&format!("f{n}"), &format!("filler number{n} text{n}"), 0.1);
    let mut candidates = vec![
        candidate("film", "Turandot is an opera finished by Franco Alfano", 3.0),
        candidate("man", "Franco Alfano was born in Posillipo", 2.0),
        candidate("other", "Posillipo lies near Naples", 1.0),
    ];
    candidates.extend((0..20).map(filler));
    let tokens = vec![1; candidates.len()];
    let made = pool(&candidates, &parts(&tokens, Some("Where was the man who finished Turandot born?")));
    let refers = |from: u16| made.refers(from).iter().map(|(to, _)| *to).collect::<Vec<_>>();
    assert_eq!(refers(0), [1]);
    assert!(refers(1).contains(&2));
    assert!(refers(2).is_empty() || refers(2) == [1]);
    // What the question says itself is no reference.
    let made = pool(&candidates, &parts(&tokens, Some("Franco Alfano Posillipo")));
    assert!(made.refers(0).is_empty());
}

#[test]
fn needs_are_covered_by_what_their_routes_found() {
    let mut candidates = vec![candidate("a", "x", 3.0), candidate("b", "y", 2.0), candidate("c", "z", 1.0)];
    for (one, score) in candidates.iter_mut().zip([Some(8.0), None, Some(4.0)]) {
        one.hit.routes.push(score.map(|score| RouteScore { score, rank: 1 }));
    }
    let needs = [Route::text("body", "need")];
    let parts = Parts { needs: (1, &needs), ..parts(&[1; 3], None) };
    let made = pool(&candidates, &parts);
    assert_eq!((0..3).map(|at| made.cover(at)[0]).collect::<Vec<_>>(), [1.0, 0.0, 0.0]);
    assert_eq!(made.aspects().weights, [1.0]);
}

#[test]
fn only_texts_that_are_their_span_overlap() {
    let chunk = |key: &str, text: &str, start: u64, end: u64| {
        let mut one = candidate(key, text, 1.0);
        one.hit.row.chunk = Some(Chunk { document: "d".into(), span: start..end, tokens: 1 });
        one
    };
    let made = |second: Candidate| {
        let candidates = [chunk("a", "0123456789", 0, 10), second];
        pool(&candidates, &parts(&[4, 4], None)).overlaps(0).len()
    };
    assert_eq!(made(chunk("b", "56789abcde", 5, 15)), 1);
    assert_eq!(made(chunk("b", "titled: 56789abcde", 5, 15)), 0);
    assert_eq!(made(chunk("b", "abcde", 10, 15)), 0);
}

#[test]
fn similarity_is_the_cosine_and_diversity_counts_what_differs() {
    let vectors = [vec![2.0, 0.0], vec![0.0, 1.0], vec![1.0, 0.0], vec![-1.0, 0.0]];
    let mut candidates: Vec<Candidate> = Vec::new();
    for (at, vector) in vectors.into_iter().enumerate() {
        candidates.push(candidate(&at.to_string(), "x", 1.0));
        candidates[at].vector = Some(vector);
    }
    let made = pool(&candidates, &Parts { similarity: true, ..parts(&[1; 4], None) });
    assert_eq!(made.similarity(0).unwrap(), [1.0, 0.0, 1.0, 0.0]);
    let (mean, vendi) = diversity(&made, &[0, 1]).unwrap();
    assert!(mean.abs() < 1e-6 && (vendi - 2.0).abs() < 1e-4);
    let (mean, vendi) = diversity(&made, &[0, 2]).unwrap();
    assert!((mean - 1.0).abs() < 1e-6 && (vendi - 1.0).abs() < 1e-4, "{mean} {vendi}");
    assert!(diversity(&made, &[]).is_none());
}

#[test]
fn copies_are_one_voice_and_worth_once() {
    let words = |of: &str, count: usize| (0..count).map(|word| format!("{of}{word} ")).collect::<String>();
    let body = words("w", 400);
    let mut candidates = vec![
        candidate("a", &body, 9.0),
        candidate("b", &words("x", 60), 8.0),
        candidate("c", &format!("{body} and more"), 7.0),
        candidate("d", &format!("{} {}", words("w", 200), words("y", 200)), 6.0),
        candidate("e", "short", 5.0),
    ];
    let of = repeats(&candidates);
    let pairs: Vec<(u16, u16)> = of.iter().map(|&(better, worse, _)| (better, worse)).collect();
    assert_eq!(pairs, [(0, 2), (0, 3), (2, 3)], "{of:?}");
    let share = |at: usize| of[at].2;
    assert!(share(0) > 0.8 && (0.25..0.7).contains(&share(1)), "{of:?}");
    let (one_voice, count) = voices(5, &[(0, 2, 0.9), (2, 4, 0.5), (0, 3, 0.3)]);
    assert_eq!((one_voice, count), (vec![0, 1, 0, 3, 0], 3));
    let made = pool(&candidates, &parts(&[1; 5], None));
    let chosen = |of: &[u16]| {
        let mut bits = crate::select::bits::Bits::default();
        of.iter().for_each(|&at| bits.add(at));
        bits
    };
    assert_eq!(made.news(2, &chosen(&[1, 2, 3])), 1.0, "worse ranked ones take nothing");
    assert!(made.news(2, &chosen(&[0, 2])) < 0.2);
    assert_eq!((made.tokens(2, &chosen(&[0, 2])), made.peers(1)), (1, &[][..]));
    // Copies do not refer to each other, however rare their words are.
    let filler = |n: usize| candidate(&format!("f{n}"), &format!("filler number{n} text{n}"), 0.1);
    candidates.extend((0..30).map(filler));
    let made = pool(&candidates, &parts(&vec![1; candidates.len()], None));
    assert!(made.refers(0).is_empty() && made.refers(2).is_empty(), "{:?}", made.refers(0));
}

#[test]
fn crowds_of_copies_and_short_ones_are_told_too() {
    for (words, count) in [(4, 3), (6, 16), (12, 17), (60, 40), (200, 300)] {
        let text: String = (0..words).map(|word| format!("w{word} ")).collect();
        let candidates: Vec<Candidate> =
            (0..count).map(|at| candidate(&format!("c{at}"), &text, 1.0 - at as f32 / 1_000.0)).collect();
        let (voices, different) = voices(count, &repeats(&candidates));
        assert!(different == 1 && voices.iter().all(|voice| *voice == 0), "{words} words, {count} copies");
    }
}
