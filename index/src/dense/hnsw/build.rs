//! Builds a graph: hnsw_rs inserts, and what it linked is taken over.
//!
//! What stands between it and the rest, because its own faults would be ours:
//!
//! - Distances are ours: squared ones in [`Space`], where every metric is L2 and norms are of size 1, finite
//!   and never below zero, so that its assertions hold. To it a vector is a number; nothing is copied.
//! - Of equal vectors one is inserted, the others hang on it as [`copies`](Graph::copies): its rule of
//!   choice keeps one link at distance 0 and cuts all others off.
//! - It is given vectors in random order, the first of them by one thread: those that threads insert at the
//!   same time do not see each other.
//! - Its links are chosen anew and made to reach every vector ([`mend`](super::mend)).
//! - It ends the process for more than 256 links, has no delete and panics over damaged files: links are 16,
//!   graphs are written once, and its own file format is not used.
//!
//! While it builds it takes about 3 KB a vector, besides the placed vectors.
//! With one thread the same vectors give the same graph; with more, another one as good.

use hnsw_rs::anndists::dist::Distance;
use hnsw_rs::hnsw::Hnsw;
use spandrel_storage::{DenseSpec, Metric};

use super::calibrate::{self, Calibration, Placed};
use super::graph::{DEGREES, Graph, LAYERS_MAX, Layer, NONE, STARTS_MAX};
use super::mend;
use crate::dense::space::{Rows, Space};
use crate::parallel::for_parts;
use crate::random::Random;
use crate::simd::{self, Kernels};

pub(super) const SEED: u64 = 0x6873_6e77;
/// Links of an inserted vector in the layers above the lowest, where it has twice as many.
const LINKS: usize = DEGREES[1];
/// The beam of an insertion.
const BEAM: usize = 96;
/// Vectors that one thread inserts before others begin.
const FIRST: usize = 512;
/// Longest vectors that a search begins at under inner product.
const STARTS: usize = STARTS_MAX / 2;
/// Rows that mean and scale are measured on, at most.
const SPACE_ROWS: usize = 1 << 15;
/// Rows that are placed at once.
const PART_ROWS: usize = 128;

/// Compares vectors by their numbers.
struct ByNumber<'a>(Placed<'a>);

impl Distance<u32> for ByNumber<'_> {
    fn eval(&self, a: &[u32], b: &[u32]) -> f32 {
        self.0.distance(self.0.row(a[0]), self.0.row(b[0]))
    }
}

/// Builds the graph over `count` vectors, of which `rows` gives one by its position, with `threads` threads.
///
/// # Panics
/// When there is no vector.
pub fn build(spec: &DenseSpec, rows: Rows<'_>, count: u32, threads: usize) -> Graph {
    assert!(count > 0, "there is something to link");
    let (dim, count) = (spec.dim as usize, count as usize);
    let space = Space::fit(spec.metric, rows, count, dim, (SEED, SPACE_ROWS));
    let mut values = vec![0.0; count * space.dims()];
    for_parts(threads, &mut values, PART_ROWS * space.dims(), |part, placed| {
        let mut row = vec![0.0; dim];
        for (at, placed) in (part * PART_ROWS..).zip(placed.chunks_exact_mut(space.dims())) {
            rows(at, &mut row);
            space.place(&row, placed);
        }
    });
    let copies = copies(rows, (count, dim), threads);
    let is_copy = mark_copies(&copies);
    let is_copy = |vector: u32| is_copy.get(vector as usize).copied().unwrap_or(false);
    let linked: Vec<u32> = (0..count as u32).filter(|vector| !is_copy(*vector)).collect();
    let placed = Placed { space: &space, values: &values, kernels: Kernels::best(), threads };
    let (mut layers, entry) = link(&linked, count, placed);
    for layer in &mut layers {
        if let Some(entry) = layer.position(entry) {
            mend::connect(layer, entry, is_copy, placed);
        }
    }
    let entry = layers[layers.len() - 1].position(entry).unwrap_or(0);
    let mut graph = Graph {
        metric: spec.metric,
        field_dim: spec.dim,
        layers,
        entry,
        starts: longest(&linked, rows, placed),
        copies,
        calibration: Calibration::default(),
    };
    graph.calibration = calibrate::measure(&graph, &linked, rows, placed);
    graph
}

/// Under inner product the longest of `linked`: they are the answer to queries of many directions, and those
/// they are linked from lie in one.
fn longest(linked: &[u32], rows: Rows<'_>, placed: Placed<'_>) -> Vec<u32> {
    if placed.space.metric != Metric::Ip {
        return Vec::new();
    }
    let mut row = vec![0.0; placed.space.field_dim()];
    let norm = |vector: &u32| {
        rows(*vector as usize, &mut row);
        (simd::norm_squared(&row), *vector)
    };
    let mut norms: Vec<(f64, u32)> = linked.iter().map(norm).collect();
    norms.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    norms.iter().take(STARTS).map(|(_, vector)| *vector).collect()
}

/// For each vector the next one that is equal to it; empty when no two are.
fn copies(rows: Rows<'_>, (count, dim): (usize, usize), threads: usize) -> Vec<u32> {
    let mut hashes: Vec<(u64, u32)> = vec![(0, 0); count];
    for_parts(threads, &mut hashes, PART_ROWS, |part, hashes| {
        let mut row = vec![0.0; dim];
        for (at, hash) in (part * PART_ROWS..).zip(hashes) {
            rows(at, &mut row);
            let mixed = row.iter().fold(0, |hash, value| Random(hash ^ u64::from(value.to_bits())).next());
            *hash = (mixed, at as u32);
        }
    });
    hashes.sort_unstable();
    let mut next = Vec::new();
    let (mut first, mut other) = (vec![0.0; dim], vec![0.0; dim]);
    for alike in hashes.chunk_by(|a, b| a.0 == b.0).filter(|alike| alike.len() > 1) {
        rows(alike[0].1 as usize, &mut first);
        let mut last = alike[0].1;
        for (_, at) in &alike[1..] {
            rows(*at as usize, &mut other);
            // Of two vectors of one hash that differ both are linked.
            if first.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits()) {
                next.resize(count, NONE);
                next[last as usize] = *at;
                last = *at;
            }
        }
    }
    next
}

/// Which vectors hang on another; empty when none does.
fn mark_copies(next: &[u32]) -> Vec<bool> {
    let mut marks = vec![false; next.len()];
    next.iter().filter(|next| **next != NONE).for_each(|next| marks[*next as usize] = true);
    marks
}

/// Inserts the vectors `linked`, of `count`, and takes the links over: layers, and the vector that a search
/// begins at.
fn link(linked: &[u32], count: usize, placed: Placed<'_>) -> (Vec<Layer>, u32) {
    let hnsw = Hnsw::new(LINKS, linked.len(), LAYERS_MAX, BEAM, ByNumber(placed));
    let mut order = linked.to_vec();
    let mut random = Random(SEED);
    (1..order.len()).rev().for_each(|at| order.swap(at, random.below(at + 1)));
    let insert = |vector: &u32| hnsw.insert_slice((std::slice::from_ref(vector), *vector as usize));
    let (first, rest) = order.split_at_mut(FIRST.min(linked.len()));
    first.iter().for_each(insert);
    for_parts(placed.threads, rest, PART_ROWS, |_, part| part.iter().for_each(insert));

    let points = hnsw.get_point_indexation();
    let top = usize::from(hnsw.get_max_level_observed());
    // Each with the highest layer that it is in.
    let mut inserted: Vec<_> =
        (0..=top).flat_map(|at| points.get_layer_iterator(at).map(move |p| (at, p))).collect();
    inserted.sort_unstable_by_key(|(_, point)| point.get_origin_id());
    let mut layers: Vec<Layer> = Vec::new();
    for at in 0..=top {
        let here = inserted.iter().filter(|(highest, _)| *highest >= at).map(|(_, point)| point);
        let (layer, mut links) = match at {
            0 => (Layer::new(0, Vec::new(), count), vec![Vec::new(); count]),
            _ => {
                let vectors: Vec<u32> = here.clone().map(|point| point.get_origin_id() as u32).collect();
                let count = vectors.len();
                (Layer::new(at, vectors, count), vec![Vec::new(); count])
            }
        };
        for point in here {
            let Some(own) = layer.position(point.get_origin_id() as u32) else { continue };
            // What it is linked to may be in lower layers only.
            let others = point.get_neighborhood_id();
            let others = others.get(at).into_iter().flatten();
            links[own as usize]
                .extend(others.filter_map(|other| layer.position(other.get_origin_id() as u32)));
        }
        layers.push(layer);
        let layer = &mut layers[at];
        mend::choose(layer, links, placed);
    }
    let highest = inserted.iter().max_by_key(|(highest, _)| *highest);
    (layers, highest.map_or(0, |(_, point)| point.get_origin_id() as u32))
}
