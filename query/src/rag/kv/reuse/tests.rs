//! The formulas against brute force, and which variant is best.

use super::super::descriptor::tests::variant;
use super::super::descriptor::{Attention, Tier, hash_tokens};
use super::*;
use crate::rag::random::Random;

fn hashes(chunks: &[u32]) -> Vec<TokenHash> {
    chunks.iter().map(|chunk| hash_tokens(&[*chunk])).collect()
}

/// Attention of all prefix chunks, adding up to 1, by looking at each chunk on its own.
fn dense(variant: &Variant) -> Vec<f64> {
    let told = |chunk: &TokenHash| variant.inter.iter().find(|a| a.chunk == *chunk).map(|a| a.share);
    let shares: Vec<_> = variant.prefix.iter().map(told).collect();
    let left = 1.0 - shares.iter().flatten().sum::<f64>();
    let missing = shares.iter().filter(|share| share.is_none()).count() as f64;
    let shares: Vec<f64> = shares.into_iter().map(|share| share.unwrap_or(left / missing)).collect();
    let sum: f64 = shares.iter().sum();
    shares.into_iter().map(|share| share / sum).collect()
}

#[test]
fn formulas_match_brute_force() {
    let seed = Random::new_seed();
    let mut random = Random::new(seed);
    for round in 0..2_000 {
        let mut chunks: Vec<u32> = (1..9).collect();
        random.shuffle(&mut chunks);
        let old = chunks[..1 + random.below(7)].to_vec();
        random.shuffle(&mut chunks);
        let new = chunks[..1 + random.below(7)].to_vec();
        let mut variant = variant(0, &old);
        variant.cci = random.unit();
        let told = random.below(old.len() + 1);
        let share = |chunk: &TokenHash| Attention { chunk: *chunk, share: 0.01 + random.unit() * 0.1 };
        variant.inter = variant.prefix[..told].iter().map(share).collect();
        variant.check().unwrap();
        let shares = dense(&variant);
        let is_common = |chunk: &u32| new.contains(chunk);
        let beta: f64 = (0..old.len()).filter(|at| is_common(&old[*at])).map(|at| shares[at]).sum();
        let (mut pairs, mut swapped) = (0.0, 0.0);
        for a in old.iter().filter(|chunk| is_common(chunk)) {
            for b in old.iter().filter(|chunk| is_common(chunk)) {
                let place = |list: &[u32], chunk| list.iter().position(|other| *other == chunk).unwrap();
                if place(&old, *a) < place(&old, *b) {
                    pairs += 1.0;
                    swapped += f64::from(u8::from(place(&new, *a) > place(&new, *b)));
                }
            }
        }
        let gamma = if pairs > 0.0 { swapped / pairs } else { 0.0 };
        let seen = new.iter().filter(|chunk| old.contains(chunk)).count() as f64 / new.len() as f64;
        let preceding = hashes(&new);
        let message = format!("seed {seed}, round {round}: {old:?} {new:?}");
        assert!((overlap(&variant, &preceding) - beta).abs() < 1e-9, "{message}");
        assert!((order_penalty(&variant.prefix, &preceding) - gamma).abs() < 1e-9, "{message}");
        for (count_unseen, factor) in [(false, 1.0), (true, seen)] {
            let rule = Rule { alpha: 1.5, count_unseen, ..Rule::default() };
            let want = (1.5 * variant.cci * (1.0 - beta * (1.0 - gamma) * factor)).clamp(0.0, 1.0);
            let want = if old == new { 0.0 } else { want };
            let fraction = recompute_fraction(&rule, &variant, &preceding);
            assert!((fraction - want).abs() < 1e-9, "{message}");
        }
    }
}

#[test]
fn prefixes_that_are_the_same_or_not_there() {
    let rule = Rule::default();
    let (free, behind) = (variant(0, &[]), variant(0, &[1, 2]));
    assert_eq!(recompute_fraction(&rule, &free, &[]), 0.0);
    assert_eq!(recompute_fraction(&rule, &free, &hashes(&[1])), 0.3);
    assert_eq!(recompute_fraction(&rule, &behind, &hashes(&[1, 2])), 0.0);
    assert!((recompute_fraction(&rule, &behind, &hashes(&[2, 1])) - 0.3).abs() < 1e-12);
    assert_eq!(recompute_fraction(&rule, &behind, &[]), 0.3);
    // As the paper has it, one chunk more before it costs nothing.
    let paper = Rule { count_unseen: false, ..rule };
    assert_eq!(recompute_fraction(&paper, &behind, &hashes(&[1, 2, 3])), 0.0);
    let strict = recompute_fraction(&rule, &behind, &hashes(&[1, 2, 3]));
    assert!((strict - 0.1).abs() < 1e-12, "{strict}");
    let mut parallel = variant(0, &[]);
    parallel.model.shared_prefix = Some(TokenHash::default());
    assert_eq!(recompute_fraction(&rule, &parallel, &hashes(&[1, 2])), 0.0);
    let mut fixed = reuse(&rule, (VariantId(1), &free), &hashes(&[1]));
    assert_eq!((fixed.recompute_tokens, fixed.exact), (77, false), "rounded up");
    fixed = reuse(&rule, (VariantId(1), &free), &[]);
    assert_eq!((fixed.recompute_tokens, fixed.exact, fixed.saved_us), (0, true, 10_000.0));
    assert!(Rule { alpha: f64::NAN, ..rule }.check().is_err() && rule.check().is_ok());
    let json = serde_json::to_string(&rule).unwrap();
    assert_eq!(serde_json::from_str::<Rule>(&json).unwrap(), rule);
}

#[test]
fn the_best_variant_saves_most_then_is_small_then_old() {
    let rule = Rule::default();
    let mut variants = [variant(0, &[]), variant(0, &[1]), variant(0, &[1]), variant(0, &[1])];
    variants[1].bytes += 1;
    let listed = |variants: &[Variant]| {
        let ids = variants.iter().enumerate().map(|(at, variant)| (VariantId(at as u64), variant.clone()));
        ids.collect::<Vec<_>>()
    };
    let pick = |variants: &[Variant], chunks: &[u32]| {
        let listed = listed(variants);
        let refs = listed.iter().map(|(id, variant)| (*id, variant));
        best(&rule, refs, &hashes(chunks)).map(|reuse| reuse.id.0)
    };
    assert_eq!(pick(&variants, &[1]), Some(2));
    assert_eq!(pick(&variants, &[]), Some(0));
    variants.iter_mut().for_each(|variant| variant.tier = Tier::Ssd);
    assert_eq!(pick(&variants, &[1]), Some(2));
    // Loading takes longer than computing.
    variants.iter_mut().for_each(|variant| variant.recompute_us = 300);
    assert_eq!(pick(&variants, &[1]), None);
}
