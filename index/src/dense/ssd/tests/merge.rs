//! Cells of vectors most of which had cells before.

use super::*;
use crate::dense::ssd::incremental::NONE;
use crate::dense::ssd::layout::Part;

/// Cells go on from what was learned from others, until the vectors have outgrown it.
#[test]
fn what_was_learned_serves_other_vectors_of_the_field() {
    let seed = 91;
    let mut random = Random(seed);
    let mixture = Mixture::new(&mut random, 48, 60);
    for metric in [Metric::L2, Metric::Ip] {
        let vectors: Vec<Vec<f32>> = (0..12_000).map(|_| mixture.vector(&mut random, 0.5)).collect();
        let queries: Vec<Vec<f32>> = (0..100).map(|_| mixture.vector(&mut random, 0.5)).collect();
        let mut before = Case::new(metric, Element::F32, &vectors[..6_000]);
        // The first half goes, in three steps; others come.
        for (step, (first, last)) in
            [(2_000, 9_000), (4_000, 10_000), (6_000, 12_000)].into_iter().enumerate()
        {
            let trained = before.ssd.trained().unwrap().unwrap();
            let prior = Prior { trained: &trained, kept: None };
            let case = Case::with(metric, Element::F32, &vectors[first..last], Some(prior));
            let layout = &case.ssd.cells.layout;
            assert_eq!(layout.learned, 6_000, "{metric:?}: learned again at step {step}");
            let cells = (last - first).div_ceil(98) as u32;
            assert!((cells * 9 / 10..=cells).contains(&layout.cells), "{} cells, not {cells}", layout.cells);
            let allow = Allow::all((last - first) as u32);
            for recall in [0.9, 0.99] {
                let found = case.recall(&queries, &allow, 10, recall);
                let what = format!("seed {seed}, {metric:?}, step {step}: {found}");
                assert!(found >= f64::from(recall) - 0.02, "{what}, asked {recall}");
            }
            before = case;
        }
        let trained = before.ssd.trained().unwrap().unwrap();
        // Twice as many, vectors from elsewhere, and longer ones: learned again.
        let layout = |vectors: &[Vec<f32>]| {
            Case::with(metric, Element::F32, vectors, Some(Prior { trained: &trained, kept: None }))
                .ssd
                .cells
                .layout
        };
        assert_eq!(layout(&[&vectors[..], &vectors[..100]].concat()).learned, 12_100);
        let other = Mixture::new(&mut random, 48, 4);
        let elsewhere: Vec<Vec<f32>> = (0..5_000).map(|_| other.vector(&mut random, 3.0)).collect();
        assert_eq!(layout(&elsewhere).learned, 5_000);
    }
}

/// Vectors that came and went, in the order of their arrival.
struct Rows {
    vectors: Vec<Vec<f32>>,
    /// The position that each had before, or none.
    kept: Vec<u32>,
}

impl Rows {
    fn new(vectors: Vec<Vec<f32>>) -> Self {
        Self { kept: vec![NONE; vectors.len()], vectors }
    }

    /// Drops some, adds others.
    fn replace(&mut self, dropped: impl Fn(usize) -> bool, added: Vec<Vec<f32>>) {
        let stay: Vec<usize> = (0..self.vectors.len()).filter(|at| !dropped(*at)).collect();
        self.kept = stay.iter().map(|at| *at as u32).chain(added.iter().map(|_| NONE)).collect();
        self.vectors = stay.into_iter().map(|at| self.vectors[at].clone()).chain(added).collect();
    }

    fn merge(&self, metric: Metric, into: &Case) -> Case {
        let trained = into.ssd.trained().unwrap().unwrap();
        let kept = into.places(&self.kept);
        let prior = Prior { trained: &trained, kept: Some(&kept) };
        Case::with(metric, Element::F32, &self.vectors, Some(prior))
    }
}

impl Case {
    /// Where vectors are that came in these positions.
    pub(super) fn places(&self, positions: &[u32]) -> Vec<u32> {
        let mut places = vec![NONE; self.order.len()];
        self.order.iter().zip(0..).for_each(|(position, place)| places[*position as usize] = place);
        positions.iter().map(|at| if *at == NONE { NONE } else { places[*at as usize] }).collect()
    }
}

/// The bytes of a part of its section.
fn part(case: &Case, part: Part) -> &[u8] {
    let layout = &case.ssd.cells.layout;
    &case.section[layout.at(part) as usize..][..layout.bytes(part) as usize]
}

#[test]
fn nothing_new_changes_nothing() {
    let mut random = Random(5);
    let mixture = Mixture::new(&mut random, 64, 1);
    for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
        let mut rows = Rows::new((0..5_000).map(|_| mixture.vector(&mut random, 0.5)).collect());
        let built = Case::new(metric, Element::F32, &rows.vectors);
        rows.replace(|_| false, Vec::new());
        // Cells that are far too small do not stay.
        let before = rows.merge(metric, &built);
        let (cells, fewer) = (built.ssd.cells.layout.cells, before.ssd.cells.layout.cells);
        assert!(fewer <= cells && cells - fewer <= cells / 5, "{metric:?}: {fewer} of {cells} cells");
        let after = rows.merge(metric, &before);
        for same in [Part::Centroids, Part::Starts, Part::Groups, Part::Halves, Part::Refine, Part::Postings]
        {
            assert!(part(&after, same) == part(&before, same), "{metric:?}: {same:?} changed");
        }
    }
}

/// All are replaced, a fifth at a time, while their number goes up and down, and a part of what comes is
/// another kind of vector.
#[test]
fn recall_holds_while_all_vectors_are_replaced() {
    let seed = 17;
    let mut random = Random(seed);
    let mixture = Mixture::new(&mut random, 48, 60);
    let other = Mixture::new(&mut random, 48, 3);
    for metric in [Metric::L2, Metric::Ip] {
        let mut vectors = |count: usize, others: usize| -> Vec<Vec<f32>> {
            let mut of = |mixture: &Mixture| mixture.vector(&mut random, 0.5);
            (0..count).map(|at| of(if at < others { &other } else { &mixture })).collect()
        };
        let mut rows = Rows::new(vectors(8_000, 0));
        let mut case = Case::new(metric, Element::F32, &rows.vectors);
        let spread = case.ssd.cells.layout.spread;
        let mut placed_anew = 0;
        for step in 0..8 {
            let (dropped, added) = [(1_200, 1_600), (1_600, 1_600), (1_600, 800), (1_400, 1_800)][step % 4];
            rows.replace(|at| at < dropped, vectors(added, 60));
            let centroids = part(&case, Part::Centroids).to_vec();
            case = rows.merge(metric, &case);
            let layout = &case.ssd.cells.layout;
            assert_eq!((layout.learned, layout.spread), (8_000, spread), "{metric:?}: learned again, {step}");
            let stay = part(&case, Part::Centroids)
                .chunks_exact(4 * layout.coded())
                .filter(|centroid| centroids.chunks_exact(centroid.len()).any(|other| other == *centroid));
            placed_anew += usize::from(stay.count() == 0);
            let wanted = rows.vectors.len() as f64 / 98.0;
            let off = f64::from(layout.cells) / wanted;
            assert!((0.8..1.25).contains(&off), "{metric:?}, {step}: {} cells of {wanted}", layout.cells);
            let queries = vectors(100, 5);
            let allow = Allow::all(rows.vectors.len() as u32);
            for recall in [0.9, 0.99] {
                let found = case.recall(&queries, &allow, 10, recall);
                let what = format!("seed {seed}, {metric:?}, step {step}: {found}");
                assert!(found >= f64::from(recall) - 0.02, "{what}, asked {recall}");
            }
        }
        assert!(placed_anew <= 2, "{metric:?}: {placed_anew} times all were placed anew");
    }
}

#[test]
fn a_cell_of_vectors_that_are_all_alike_grows() {
    let mut random = Random(23);
    let mixture = Mixture::new(&mut random, 32, 40);
    let mut rows = Rows::new((0..6_000).map(|_| mixture.vector(&mut random, 0.5)).collect());
    let mut case = Case::new(Metric::L2, Element::F32, &rows.vectors);
    let one = mixture.vector(&mut random, 0.5);
    for _ in 0..3 {
        rows.replace(|_| false, vec![one.clone(); 900]);
        case = rows.merge(Metric::L2, &case);
        assert_eq!(case.ssd.cells.layout.learned, 6_000);
    }
    let allow = Allow::all(rows.vectors.len() as u32);
    let params = SearchParams { recall: 0.99, exact: false, rescore: true };
    let (found, _) = case.search(&one, &allow, 500, params);
    assert!(found.len() == 500 && found.iter().all(|hit| hit.score == 0.0));
}

#[test]
fn vectors_that_do_not_fit_are_not_merged_in() {
    let mut random = Random(29);
    let mixture = Mixture::new(&mut random, 32, 40);
    let mut rows = Rows::new((0..6_000).map(|_| mixture.vector(&mut random, 0.5)).collect());
    let before = Case::new(Metric::Ip, Element::F32, &rows.vectors);
    // Under inner product all places depend on the largest norm.
    let longest = rows.vectors.iter().max_by(|a, b| norm(a).total_cmp(&norm(b))).unwrap();
    let longer: Vec<f32> = longest.iter().map(|value| value * 1.005).collect();
    rows.replace(|_| false, vec![longer]);
    let after = rows.merge(Metric::Ip, &before);
    assert!(after.ssd.cells.layout.radius > before.ssd.cells.layout.radius);
    assert!(part(&after, Part::Centroids) != part(&before, Part::Centroids));
}

fn norm(vector: &[f32]) -> f64 {
    crate::simd::norm_squared(vector)
}

#[test]
fn damage_to_what_is_merged_into_is_told() {
    let mut random = Random(31);
    let mixture = Mixture::new(&mut random, 48, 40);
    let mut rows = Rows::new((0..5_000).map(|_| mixture.vector(&mut random, 0.5)).collect());
    let before = Case::new(Metric::L2, Element::F32, &rows.vectors);
    rows.replace(|at| at % 9 == 0, (0..500).map(|_| mixture.vector(&mut random, 0.5)).collect());
    let flat = flat_of(&before.spec, &rows.vectors);
    let row = |at: usize, out: &mut [f32]| flat.rows(at, out);
    let layout = &before.ssd.cells.layout;
    let (mut told, mut merged) = (0, 0);
    for round in 0..120 {
        let mut bytes = before.section.clone();
        let damaged = if round % 2 == 0 { Part::Postings } else { Part::Halves };
        let (at, len) = (layout.at(damaged) as usize, layout.bytes(damaged) as usize);
        for _ in 0..40 {
            bytes[at + random.below(len)] ^= 1 << random.below(8);
        }
        let source: Arc<dyn ChunkSource> = Arc::new(Bytes(bytes));
        let trained = Trained(parts::read_trained("test", &source, None).unwrap());
        let kept = before.places(&rows.kept);
        let prior = Prior { trained: &trained, kept: Some(&kept) };
        match build(&before.spec, Vectors::new(&row, flat.vectors()), Some(prior), Room::of_threads(1)) {
            Err(crate::Error::Section { .. }) => told += 1,
            Err(other) => panic!("{other}"),
            Ok(_) => merged += 1,
        }
    }
    assert!(told > 20, "{told} of {} times", told + merged);
}
