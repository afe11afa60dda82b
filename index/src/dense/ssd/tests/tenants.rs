//! Vectors of several tenants, and filters that have to do with where vectors lie.

use super::*;
use crate::dense::ssd::incremental::NONE;
use crate::dense::ssd::partition::VECTORS_MIN;
use crate::dense::ssd::plan::Plan;
use crate::simd::{nibble, nibble_rows};

/// Tenants of these sizes, each with clusters of its own, so that neighbours of another tenant would be seen.
fn tenants_of(random: &mut Random, sizes: &[usize]) -> (Vec<Vec<f32>>, Vec<u32>) {
    let mixture = Mixture::new(random, 40, 30);
    let (mut vectors, mut starts) = (Vec::new(), Vec::new());
    for size in sizes {
        starts.push(vectors.len() as u32);
        vectors.extend((0..*size).map(|_| mixture.vector(random, 0.5)));
    }
    (vectors, starts)
}

/// The docs of a tenant, and the end.
fn range(starts: &[u32], tenant: usize, count: usize) -> std::ops::Range<u32> {
    starts[tenant]..starts.get(tenant + 1).copied().unwrap_or(count as u32)
}

/// Every vector is in one partition or in none, and those of a cell lie side by side: what `firsts` says is
/// what postings say.
fn check_order(case: &Case) {
    let cells = &case.ssd.cells;
    let postings = cells.postings.at_hand().unwrap();
    let lookups = cells.codebook.lookups();
    let mut seen = vec![0; cells.layout.vectors as usize];
    for partition in &cells.partitions {
        for cell in partition.cells.clone() {
            let end = cells.firsts[cell as usize + 1].min(partition.vectors.end);
            let own = cells.firsts[cell as usize]..end;
            let posting = &postings[cells.posting(cell as usize)];
            let ids: Vec<u32> =
                super::super::patched::entries(posting, lookups).map(|(factors, _, _)| factors.id).collect();
            // Those that it is the first cell of come first.
            let (first, others) = ids.split_at(own.len());
            assert!(first.iter().all(|id| own.contains(id)), "cell {cell}: {first:?} before all of {own:?}");
            assert!(!others.iter().any(|id| own.contains(id)), "cell {cell}: {own:?} among {others:?}");
            let scanned = cells.own_posting(cell as usize);
            let all = cells.posting(cell as usize);
            assert!(
                scanned.start == all.start && scanned.end <= all.end,
                "cell {cell}: {scanned:?} of {all:?}"
            );
            let blocks = scanned.len() / cells.block_bytes();
            assert!(blocks >= own.len().div_ceil(nibble::BLOCK_ROWS), "cell {cell}: {blocks} for {own:?}");
            // Vectors without a cell may follow the last one's.
            let is_last = cell + 1 == partition.cells.end;
            assert!(is_last || blocks == own.len().div_ceil(nibble::BLOCK_ROWS), "cell {cell}: {blocks}");
            assert!(
                ids.iter().all(|id| partition.vectors.contains(id)),
                "cell {cell}: a vector from elsewhere"
            );
            ids.iter().for_each(|id| seen[*id as usize] += 1);
        }
    }
    for (vector, times) in (0..).zip(&seen) {
        let inside = cells.partitions.iter().any(|partition| partition.vectors.contains(&vector));
        assert!(if inside { (1..=2).contains(times) } else { *times == 0 }, "vector {vector}: {times} times");
    }
}

#[test]
fn a_tenant_finds_its_own_and_nothing_else() {
    let mut random = Random(41);
    let many = VECTORS_MIN as usize;
    let sizes = [3, many, 1, 700, 3 * many, 40, 12, many - 1];
    let (vectors, starts) = tenants_of(&mut random, &sizes);
    for metric in [Metric::L2, Metric::Ip] {
        let case = Case::of(metric, Element::F32, (&vectors, &starts), None);
        let has: Vec<u32> = case.ssd.cells.partitions.iter().map(|of| of.vectors.start).collect();
        assert_eq!(has, [starts[1], starts[4]], "{metric:?}: tenants with cells");
        check_order(&case);
        // Tenants keep their places.
        for tenant in 0..sizes.len() {
            let range = range(&starts, tenant, vectors.len());
            assert!(range.clone().all(|at| range.contains(&case.order[at as usize])));
            let deleted: RoaringBitmap = (0..vectors.len() as u32).filter(|doc| doc % 5 == 0).collect();
            // Queries among vectors of all tenants.
            let queries: Vec<Vec<f32>> =
                (0..25).map(|_| vectors[random.below(vectors.len())].clone()).collect();
            for deleted in [None, Some(&deleted)] {
                let allow = Allow { range: range.clone(), deleted, ..Allow::all(vectors.len() as u32) };
                let found = case.recall(&queries, &allow, 10, 0.95);
                assert!(found >= 0.94, "{metric:?}, tenant {tenant}: {found}");
            }
        }
        for (tier, ssd) in case.with_vectors_on_disk(&vectors) {
            for tenant in 0..sizes.len() {
                let allow = Allow {
                    range: range(&starts, tenant, vectors.len()),
                    ..Allow::all(vectors.len() as u32)
                };
                let queries: Vec<Vec<f32>> =
                    (0..10).map(|_| vectors[random.below(vectors.len())].clone()).collect();
                let found = case.recall_in(&ssd, &queries, &allow, 10, 0.95);
                assert!(found >= 0.9, "{metric:?}, tenant {tenant}, {tier:?}: {found}");
            }
        }
    }
}

/// Filters of any share, at random, around the query, or far from it.
#[test]
fn filters_find_what_they_let_through_wherever_it_lies() {
    let mut random = Random(42);
    let mixture = Mixture::new(&mut random, 32, 60);
    let count = 20_000;
    let vectors: Vec<Vec<f32>> = (0..count).map(|_| mixture.vector(&mut random, 0.6)).collect();
    for metric in [Metric::L2, Metric::Ip] {
        let case = Case::new(metric, Element::F32, &vectors);
        for share in [0.002, 0.02, 0.12, 0.4, 0.8] {
            let passing = (count as f64 * share) as usize;
            let (mut found, mut rounds) = ([0.0; 3], 0.0);
            for _ in 0..12 {
                let anchor = mixture.vector(&mut random, 0.6);
                let mut docs: Vec<u32> = (0..count as u32).collect();
                let mut scores = vec![0.0; count];
                let counters = &mut Counters::default();
                case.ssd.score(&anchor, &docs, &mut scores, &mut Scratch::new(), counters).unwrap();
                docs.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
                let near: RoaringBitmap = docs[..passing].iter().copied().collect();
                let far: RoaringBitmap = docs[count - passing..].iter().copied().collect();
                let any: RoaringBitmap =
                    (0..count as u32).filter(|_| (random.below(1000) as f64) < 1000.0 * share).collect();
                let deleted: RoaringBitmap = (0..count as u32).filter(|_| random.below(10) == 0).collect();
                let queries: Vec<Vec<f32>> = (0..8)
                    .map(|_| anchor.iter().map(|value| value + 0.2 * normal(&mut random)).collect())
                    .collect();
                for (found, filter) in found.iter_mut().zip([&any, &near, &far]) {
                    let deleted = Some(&deleted).filter(|_| random.below(2) == 0);
                    let allow = Allow { filter: Some(filter), deleted, ..Allow::all(count as u32) };
                    *found += case.recall(&queries, &allow, 10, 0.95);
                }
                rounds += 1.0;
            }
            for (what, found) in ["at random", "near", "far"].iter().zip(found) {
                let found = found / rounds;
                // Those just beyond a sphere around the query, all around it, are the hardest.
                let floor = if *what == "far" { 0.88 } else { 0.95 };
                assert!(found >= floor, "{metric:?}: {share} of the vectors, {what}: {found}");
            }
        }
    }
}

/// Every vector of a partition has the code of its own cell's posting by its position, and no other has one.
#[test]
fn codes_one_by_one_are_those_of_postings() {
    let mut random = Random(44);
    let many = VECTORS_MIN as usize;
    let (vectors, starts) = tenants_of(&mut random, &[70, many, 300, 2 * many]);
    let case = Case::of(Metric::Ip, Element::F32, (&vectors, &starts), None);
    let [hot, others @ ..] = case.with_vectors_on_disk(&vectors);
    assert!(others.iter().all(|(_, ssd)| ssd.cells.singles.is_none()), "there is memory for less");
    let cells = &hot.1.cells;
    let (singles, lookups) = (cells.singles.as_ref().unwrap(), cells.codebook.lookups());
    let postings = cells.postings.at_hand().unwrap();
    let mut expected = vec![0; vectors.len() * super::super::singles::stride(lookups)];
    let rows = expected.chunks_exact_mut(super::super::singles::stride(lookups));
    let mut rows: Vec<&mut [u8]> = rows.collect();
    rows.iter_mut().for_each(|row| nibble_rows::put_unknown(row, lookups, cells.radii.len() as u32));
    let mut coded = 0;
    for partition in &cells.partitions {
        for vector in partition.vectors.clone() {
            let mut own = partition.cells.clone().rev();
            let cell = own.find(|cell| cells.firsts[*cell as usize] <= vector).unwrap();
            for block in postings[cells.posting(cell as usize)].chunks_exact(nibble::block_bytes(lookups)) {
                for at in 0..nibble::BLOCK_ROWS {
                    if nibble::factors(block, lookups, at).id == vector {
                        nibble_rows::put_row(rows[vector as usize], block, lookups, at, cell);
                        coded += 1;
                    }
                }
            }
        }
    }
    assert_eq!(coded, 3 * many, "each has one in its own cell");
    for (vector, row) in rows.iter().enumerate() {
        assert!(singles.row(vector as u32) == &**row, "vector {vector}");
    }
}

/// Looking at codes first finds what ranking all does, but for what bounds are wrong about; and codes that
/// were gathered before are the same codes.
#[test]
fn a_sifted_scan_finds_what_a_whole_one_does() {
    let mut random = Random(45);
    let mixture = Mixture::new(&mut random, 48, 50);
    let count = 3 * VECTORS_MIN as usize;
    let vectors: Vec<Vec<f32>> = (0..count).map(|_| mixture.vector(&mut random, 0.6)).collect();
    for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
        let mut case = Case::new(metric, Element::F32, &vectors);
        let deleted: RoaringBitmap = (0..count as u32).filter(|_| random.below(9) == 0).collect();
        let mut asked = Vec::new();
        for passing in [200, 900, 6_000] {
            for _ in 0..10 {
                let filter: RoaringBitmap = (0..passing).map(|_| random.below(count) as u32).collect();
                asked.push((mixture.vector(&mut random, 0.8), filter));
            }
        }
        let found = |case: &Case, sifts: bool, gathers: bool| {
            let mut all = Vec::new();
            for (at, (query, filter)) in asked.iter().enumerate() {
                let deleted = Some(&deleted).filter(|_| at % 2 == 0);
                let allow = Allow { filter: Some(filter), deleted, ..Allow::all(count as u32) };
                let k = [1, 10, 40][at % 3];
                let ask = Ask::new(&case.rows, &allow);
                let singles = case.ssd.cells.singles.as_ref().filter(|_| gathers);
                let ids = filter.iter().collect();
                let gathered = singles.map(|singles| Gathered::of(case.ssd.kernels, singles, ids));
                let ask = Ask { gathered: gathered.as_ref(), ..ask };
                let (scratch, mut ids) = (&mut Scratch::new(), Vec::new());
                let depth = case.ssd.cells.fineness().depth(k) + 32;
                let sifts = sifts && filter.len() > 4 * depth as u64;
                assert_eq!(case.ssd.cells.sifts(Some(0), filter.len(), depth), sifts);
                let buffers = (&mut scratch.cells, &mut ids);
                let plan = Plan::Scan(Some(0));
                let counters = &mut Counters::default();
                assert!(case.ssd.by_codes(plan, query, &ask, k, buffers, counters).unwrap());
                assert!(ids.iter().all(|(_, id)| allow.contains(case.ssd.flat.doc(*id))));
                ids.truncate(k);
                all.extend(ids.iter().map(|(_, id)| (at, *id)));
            }
            all
        };
        let sifted = found(&case, true, false);
        let gathered = found(&case, true, true);
        assert_eq!(gathered, sifted, "{metric:?}");
        // Gathered is what would be scanned, of many, in the memory that there is.
        let mut some = 0;
        for passing in [100, 300, 1_000, 1_500, 3_000] {
            let filter: RoaringBitmap = (0..passing).map(|at| at * (count as u32 / passing)).collect();
            let allow = Allow { filter: Some(&filter), ..Allow::all(count as u32) };
            // So much that no walk is shorter.
            let params = SearchParams { recall: 1.0, ..SearchParams::default() };
            let ask = Ask { params, ..Ask::new(&case.rows, &allow) };
            let scans = case.ssd.plan(&ask, 10) == Plan::Scan(Some(0)) && passing > 4 * (12 + 32);
            let gather = |bytes_max: u32| case.ssd.gather(&ask, 10, bytes_max as usize).is_some();
            assert_eq!(gather(passing * 64), scans, "{metric:?}: {passing}");
            assert!(!gather(passing * 40), "{metric:?}: {passing}");
            some += usize::from(scans);
        }
        assert!(some > 0, "{metric:?}: nothing is scanned");
        case.ssd.cells.singles = None;
        let whole = found(&case, false, false);
        assert_eq!(sifted.len(), whole.len(), "{metric:?}: none is short");
        let same = sifted.iter().filter(|hit| whole.contains(hit)).count();
        assert!(same * 1000 >= whole.len() * 990, "{metric:?}: {same} of {}", whole.len());
    }
}

/// Tenants grow and shrink: they get cells and lose them, and keep them in between.
#[test]
fn tenants_get_cells_and_lose_them_as_they_grow_and_shrink() {
    let seed = 43;
    let mut random = Random(seed);
    let mixture = Mixture::new(&mut random, 40, 30);
    let many = VECTORS_MIN as usize;
    // Sizes of three tenants, step by step, and which have cells then.
    let steps: [([usize; 3], [bool; 3]); 6] = [
        ([3 * many, many / 2, many + 9], [true, false, true]),
        ([3 * many, many - 1, many - 9], [true, false, true]),
        ([2 * many, many + 10, many / 2 + 5], [true, true, true]),
        ([2 * many, many + 90, many / 2 - 5], [true, true, false]),
        ([many / 2 - 1, many * 3, many / 2 + 100], [false, true, false]),
        ([100, many * 3, many], [false, true, true]),
    ];
    for metric in [Metric::L2, Metric::Ip] {
        let mut tenants: Vec<Vec<Vec<f32>>> = vec![Vec::new(); 3];
        let mut before: Option<(Case, Vec<usize>)> = None;
        for (step, (sizes, expected)) in steps.into_iter().enumerate() {
            // A few of those that stay go, new ones come.
            let (mut vectors, mut starts, mut kept) = (Vec::new(), Vec::new(), Vec::new());
            for (at, size) in sizes.into_iter().enumerate() {
                let first = before.as_ref().map_or(0, |(_, sizes)| sizes[..at].iter().sum::<usize>());
                let old = std::mem::take(&mut tenants[at]);
                let stay = (0..old.len()).filter(|_| random.below(20) > 0).take(size).collect::<Vec<_>>();
                starts.push(vectors.len() as u32);
                kept.extend(stay.iter().map(|place| (first + place) as u32));
                tenants[at].extend(stay.iter().map(|place| old[*place].clone()));
                while tenants[at].len() < size {
                    tenants[at].push(mixture.vector(&mut random, 0.5));
                    kept.push(NONE);
                }
                vectors.extend(tenants[at].iter().cloned());
            }
            let case = match &before {
                None => Case::of(metric, Element::F32, (&vectors, &starts), None),
                Some((case, _)) => {
                    let trained = case.ssd.trained().unwrap().unwrap();
                    let kept = case.places(&kept);
                    let prior = Prior { trained: &trained, kept: Some(&kept) };
                    Case::of(metric, Element::F32, (&vectors, &starts), Some(prior))
                }
            };
            let what = format!("seed {seed}, {metric:?}, step {step}");
            let has = |start: &u32| case.ssd.cells.partitions.iter().any(|of| of.vectors.start == *start);
            assert_eq!(starts.iter().map(has).collect::<Vec<_>>(), expected, "{what}: tenants with cells");
            check_order(&case);
            for tenant in 0..3 {
                let range = range(&starts, tenant, vectors.len());
                let allow = Allow { range, ..Allow::all(vectors.len() as u32) };
                let queries: Vec<Vec<f32>> = (0..30).map(|_| mixture.vector(&mut random, 0.5)).collect();
                let found = case.recall(&queries, &allow, 10, 0.95);
                assert!(found >= 0.93, "{what}, tenant {tenant}: {found}");
            }
            before = Some((case, sizes.to_vec()));
        }
    }
}
