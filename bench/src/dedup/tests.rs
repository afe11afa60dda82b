//! Truth against the definition, the words that all sides are given, and how decisions are judged.

use std::collections::HashSet;

use super::*;
use crate::random::Random;

fn jaccard(a: &str, b: &str) -> f64 {
    let set = |text: &str| -> HashSet<String> {
        let words: Vec<&str> = text.split(' ').collect();
        words.windows(5.min(words.len())).map(|words| words.join(" ")).collect()
    };
    let (a, b) = (set(a), set(b));
    a.intersection(&b).count() as f64 / a.union(&b).count() as f64
}

#[test]
fn truth_is_what_the_definition_says() {
    let mut random = Random(3);
    let mut passages = |count| -> Vec<String> {
        let mut text =
            || (0..1 + random.below(40)).map(|_| ["a", "b", "c"][random.below(3)]).collect::<Vec<_>>();
        (0..count).map(|_| text().join(" ")).collect()
    };
    let texts = corpus::with_copies(&passages(60), 60, 1);
    assert_eq!(texts.len(), 120);
    for threshold in [0.2, 0.5, 0.8] {
        let mut kept: Vec<&String> = Vec::new();
        let mut expected = Vec::new();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            let copy = kept.iter().any(|kept| jaccard(kept, text) >= threshold);
            expected.push(copy);
            kept.extend((!copy).then_some(text));
        }
        let words: Vec<String> = texts.iter().filter(|text| !text.is_empty()).cloned().collect();
        assert_eq!(exact::decide(&words, threshold), expected, "{threshold}");
    }
    assert_eq!(
        exact::decide(&["".into(), "".into(), "a".into(), "a".into()], 0.5),
        [false, false, false, true]
    );
}

#[test]
fn words_are_those_of_the_engine() {
    assert_eq!(corpus::words("  The QUICK-brown fox; 東京 x2. "), "the quick brown fox 東 京 x2");
    let (shingler, text) = (Shingler::default(), "Ærøskøbing, 東京: THE quick (brown) fox's 2 ẞ");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    shingler.shingles(text, &mut ours);
    shingler.shingles(&corpus::words(text), &mut theirs);
    assert_eq!(ours, theirs);
}

#[test]
fn copies_are_found_and_counted() {
    let passages: Vec<String> = (0..300)
        .map(|at| (0..60).map(|word| format!("w{}", at * 60 + word)).collect::<Vec<_>>().join(" "))
        .collect();
    let texts = corpus::with_copies(&passages, 100, 7);
    let words: Vec<String> = texts.iter().map(|text| corpus::words(text)).collect();
    let truth = exact::decide(&words, 0.8);
    let at = Point { seed: 7, threshold: 0.8, texts: &texts, truth: &truth };
    let ours = at.ours(1).unwrap();
    let collection = at.ingest().unwrap();
    assert_eq!(collection["copies"], at.front().unwrap()["copies"]);
    for row in [ours.filter, ours.table, at.front().unwrap(), collection] {
        let figure = |name: &str| row[name].as_f64().unwrap();
        assert!(figure("precision") > 0.8 && figure("recall") > 0.8, "{row:?}");
        assert_eq!(figure("kept") + figure("copies"), 400.0);
    }
    assert_eq!(quality(&[true, true, false, false], &[true, false, true, false]), (0.5, 0.5));
}
