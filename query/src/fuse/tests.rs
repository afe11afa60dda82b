//! Fusion against its definition over maps, and the cases at the edges.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::rag::random::Random;

type List = Vec<(RowId, f32)>;

fn lists<'a>(ranked: &'a [List], filled: &'a [List]) -> Vec<RouteList<'a>> {
    let filled = |route: usize| filled.get(route).map_or(&[][..], Vec::as_slice);
    ranked.iter().enumerate().map(|(route, list)| RouteList { ranked: list, filled: filled(route) }).collect()
}

fn list(scores: &[(u64, f32)]) -> List {
    scores.iter().map(|&(row, score)| (RowId(row), score)).collect()
}

/// The definition, row by row.
fn naive(ranked: &[List], filled: &[List], fusion: &Fusion, weights: &[f32]) -> Vec<(RowId, f32)> {
    let weighted = matches!(fusion, Fusion::Weighted);
    let all = |route: usize| -> BTreeMap<RowId, f32> {
        let mut scores: BTreeMap<_, _> =
            if weighted { filled[route].iter().copied().collect() } else { [].into() };
        scores.extend(ranked[route].iter().copied());
        scores
    };
    let rows: BTreeSet<RowId> = (0..ranked.len()).flat_map(|route| all(route).into_keys()).collect();
    let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    let score = |row: RowId| -> f32 {
        let part = |route: usize| -> f64 {
            let weight = f64::from(weights[route]);
            match fusion {
                Fusion::Rrf { k } => {
                    let rank = ranked[route].iter().position(|&(other, _)| other == row);
                    rank.map_or(0.0, |rank| weight / (f64::from(*k) + rank as f64 + 1.0))
                }
                Fusion::Weighted => {
                    let scores = all(route);
                    let low = scores.values().copied().fold(f32::INFINITY, f32::min);
                    let high = scores.values().copied().fold(f32::NEG_INFINITY, f32::max);
                    let Some(&score) = scores.get(&row) else { return 0.0 };
                    let scaled = (f64::from(score) - f64::from(low)) / (f64::from(high) - f64::from(low));
                    weight / sum * if high > low { scaled } else { 1.0 }
                }
            }
        };
        (0..ranked.len()).map(part).sum::<f64>() as f32
    };
    let mut fused: Vec<_> = rows.into_iter().map(|row| (row, score(row))).collect();
    fused.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    fused
}

#[test]
fn agrees_with_the_definition() {
    let seed = Random::new_seed();
    let mut random = Random::new(seed);
    for round in 0..300 {
        let routes = 2 + random.below(4);
        let rows = 1 + random.below(40);
        let mut ranked = Vec::new();
        let mut filled = Vec::new();
        for _ in 0..routes {
            let mut scores = List::new();
            for row in 0..rows as u64 {
                if random.below(2) == 0 {
                    scores.push((RowId(row), random.below(9) as f32 - 4.0));
                }
            }
            scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let rest = scores.split_off(random.below(scores.len() + 1));
            ranked.push(scores);
            filled.push(rest);
        }
        let weights: Vec<f32> = (0..routes).map(|_| 0.5 + random.below(4) as f32).collect();
        for fusion in [Fusion::Rrf { k: 60.0 }, Fusion::Rrf { k: 0.0 }, Fusion::Weighted] {
            let note = format!("seed {seed} round {round} {fusion:?}");
            let fused = fuse(&lists(&ranked, &filled), &fusion, &weights);
            let expected = naive(&ranked, &filled, &fusion, &weights);
            let found: List = fused.iter().map(|fused| (fused.row, fused.score)).collect();
            assert_eq!(found, expected, "{note}");
            let limit = random.below(rows + 2);
            let top = fuse_top(&lists(&ranked, &filled), &fusion, &weights, limit);
            assert_eq!(top, fused[..limit.min(fused.len())], "{note} limit {limit}");
        }
    }
}

#[test]
fn provenance_is_kept() {
    let ranked = [list(&[(5, 0.9), (7, 0.8)]), list(&[(7, 12.0)])];
    let filled = [list(&[]), list(&[(5, 3.0)])];
    let fused = fuse(&lists(&ranked, &filled), &Fusion::Rrf { k: 60.0 }, &[1.0, 1.0]);
    assert_eq!(fused[0].row, RowId(7));
    assert_eq!(fused[0].score, (1.0f64 / 62.0 + 1.0 / 61.0) as f32);
    let said = |score, rank| Some(RouteScore { score, rank });
    assert_eq!(fused[0].routes, [said(0.8, 2), said(12.0, 1)]);
    assert_eq!(fused[1].routes, [said(0.9, 1), None]);
    let fused = fuse(&lists(&ranked, &filled), &Fusion::Weighted, &[1.0, 3.0]);
    assert_eq!((fused[0].row, fused[0].score), (RowId(7), 0.75));
    assert_eq!((fused[1].row, fused[1].score), (RowId(5), 0.25));
    assert_eq!(fused[1].routes, [said(0.9, 1), said(3.0, 0)]);
}

#[test]
fn ties_are_broken_by_row() {
    let ranked = [list(&[(9, 1.0), (2, 0.5)]), list(&[(2, 1.0), (9, 0.5)])];
    for fusion in [Fusion::default(), Fusion::Weighted] {
        let fused = fuse(&lists(&ranked, &[]), &fusion, &[1.0, 1.0]);
        assert_eq!(fused.iter().map(|fused| fused.row.0).collect::<Vec<_>>(), [2, 9]);
        assert_eq!(fused[0].score, fused[1].score);
    }
}

#[test]
fn one_route_keeps_its_score() {
    let ranked = [list(&[(3, -1.5), (1, -2.0)])];
    for fusion in [Fusion::default(), Fusion::Weighted] {
        let fused = fuse(&lists(&ranked, &[]), &fusion, &[0.3]);
        assert_eq!(
            fused.iter().map(|fused| (fused.row.0, fused.score)).collect::<Vec<_>>(),
            [(3, -1.5), (1, -2.0)]
        );
    }
}

#[test]
fn odd_scores_and_weights_give_numbers() {
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0];
    let ranked = [
        odd.iter().zip(0..).map(|(&score, row)| (RowId(row), score)).collect(),
        list(&[(0, 4.0), (1, 4.0)]),
        list(&[]),
    ];
    for weights in [&[1.0, 1.0, 1.0][..], &[0.0, 0.0, 0.0], &[f32::NAN, -1.0, 2.0], &[]] {
        for fusion in [Fusion::Rrf { k: 0.0 }, Fusion::Rrf { k: -9.0 }, Fusion::Weighted] {
            let fused = fuse(&lists(&ranked, &[]), &fusion, weights);
            assert_eq!(fused.len(), odd.len());
            assert!(fused.iter().all(|fused| fused.score.is_finite()), "{fusion:?} {weights:?} {fused:?}");
        }
    }
    assert!(fuse(&[], &Fusion::default(), &[]).is_empty());
    assert!(fuse(&lists(&[vec![], vec![]], &[]), &Fusion::Weighted, &[1.0, 1.0]).is_empty());
}

#[test]
fn a_constant_route_counts_fully() {
    let ranked = [list(&[(1, 0.2), (2, 0.1)]), list(&[(2, 7.0), (3, 7.0)])];
    let fused = fuse(&lists(&ranked, &[]), &Fusion::Weighted, &[1.0, 1.0]);
    let scores: Vec<_> = fused.iter().map(|fused| (fused.row.0, fused.score)).collect();
    assert_eq!(scores, [(1, 0.5), (2, 0.5), (3, 0.5)]);
}

#[test]
fn a_row_named_twice_counts_once() {
    let ranked = [list(&[(4, 0.9), (4, 0.1)]), list(&[(6, 1.0)])];
    let fused = fuse(&lists(&ranked, &[]), &Fusion::Rrf { k: 60.0 }, &[1.0, 1.0]);
    assert_eq!(fused[0].routes[0], Some(RouteScore { score: 0.9, rank: 1 }));
    assert_eq!(fused.len(), 2);
}
