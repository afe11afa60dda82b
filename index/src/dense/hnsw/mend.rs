//! Makes a graph that can be searched of links that nearly are one.
//!
//! Builders that insert one vector after the other give a full vector's links back to the nearest, whatever
//! direction they lie in: vectors far from the others, long ones under inner product above all, lose those
//! that lead to them. Here every vector chooses once more, from what it is linked to and what is linked to
//! it, the nearest first: one is passed over when another that was chosen is nearer to it by a factor
//! (RobustPrune of DiskANN, Subramanya et al., 2019), which keeps a link in every direction, far ones
//! included. After that what is not reached from the entry is linked from the nearest that is: every vector
//! is reached.

use super::calibrate::Placed;
use super::graph::Layer;
use super::search::{WalkScratch, walk_to_the_end};
use crate::parallel::for_parts;

/// Factor by which another has to be nearer, squared.
const NEARER_SQUARED: f32 = 1.44;
/// Places of a row that are left to what is not reached otherwise.
const SPARE: usize = 2;
/// Candidates that a vector chooses among, in places of a row.
const CHOICE: usize = 4;
/// The beam that looks for the nearest of those that are reached.
const BEAM: usize = 32;
/// Rows that one thread takes at once.
const PART_ROWS: usize = 64;

/// Fills the rows of `layer`, from `links` of each position to others.
pub(super) fn choose(layer: &mut Layer, mut links: Vec<Vec<u32>>, placed: Placed<'_>) {
    let own: Vec<usize> = links.iter().map(Vec::len).collect();
    for at in 0..links.len() {
        for place in 0..own[at] {
            let other = links[at][place] as usize;
            links[other].push(at as u32);
        }
    }
    let vectors: Vec<u32> = (0..layer.count() as u32).map(|at| layer.vector(at)).collect();
    let row_of = |at: u32| placed.row(vectors[at as usize]);
    let degree = layer.degree();
    for_parts(placed.threads, layer.rows_mut(), PART_ROWS * degree, |part, rows| {
        let mut near: Vec<(f32, u32)> = Vec::new();
        for (at, row) in (part * PART_ROWS..).zip(rows.chunks_exact_mut(degree)) {
            let own = row_of(at as u32);
            near.clear();
            near.extend(links[at].iter().map(|link| (placed.distance(own, row_of(*link)), *link)));
            near.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            near.dedup_by_key(|(_, link)| *link);
            near.truncate(CHOICE * degree);
            let mut chosen = 0;
            for (distance, link) in &near {
                let other = row_of(*link);
                let passed = row[..chosen]
                    .iter()
                    .any(|one| NEARER_SQUARED * placed.distance(other, row_of(*one)) <= *distance);
                if !passed && *link as usize != at {
                    row[chosen] = *link;
                    chosen += 1;
                }
                if chosen == degree - SPARE {
                    break;
                }
            }
        }
    });
}

/// Links what is not reached from the position `entry`; copies, which have no links, stay out.
pub(super) fn connect(layer: &mut Layer, entry: u32, is_copy: impl Fn(u32) -> bool, placed: Placed<'_>) {
    let mut reached = vec![false; layer.count()];
    let mut open = vec![entry];
    reached[entry as usize] = true;
    let mut scratch = WalkScratch::default();
    // Its row has places left.
    let mut last = entry;
    let mut next = 0..layer.count() as u32;
    loop {
        while let Some(at) = open.pop() {
            for link in layer.links(at) {
                if !std::mem::replace(&mut reached[link as usize], true) {
                    open.push(link);
                }
            }
        }
        let missing = |at: &u32| !reached[*at as usize] && !is_copy(layer.vector(*at));
        let Some(at) = next.find(missing) else { return };
        let mut score = placed.scores(placed.row(layer.vector(at)));
        walk_to_the_end(layer, &[entry], BEAM, &mut score, &mut scratch);
        let linked = scratch.beam.iter().map(|met| met.at).find(|from| layer.link(*from, at));
        if linked.is_none() {
            let linked = layer.link(last, at);
            debug_assert!(linked, "a vector that was linked last has room");
        }
        (last, reached[at as usize]) = (at, true);
        open.push(at);
    }
}

/// Whether every position but copies is reached from `entry`.
#[cfg(test)]
pub(super) fn is_connected(layer: &Layer, entry: u32, is_copy: impl Fn(u32) -> bool) -> bool {
    let (mut reached, mut open) = (vec![false; layer.count()], vec![entry]);
    while let Some(at) = open.pop() {
        if !std::mem::replace(&mut reached[at as usize], true) {
            open.extend(layer.links(at));
        }
    }
    (0..layer.count() as u32).all(|at| reached[at as usize] || is_copy(layer.vector(at)))
}
