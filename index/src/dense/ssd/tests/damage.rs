//! Sections that are damaged, and reads that fail.

use std::sync::atomic::{AtomicUsize, Ordering};

use spandrel_storage::io::Extent;

use super::*;
use crate::error::Error;

#[test]
fn damaged_sections_are_refused_or_searched_without_a_panic() {
    let mut random = Random(9);
    let vectors: Vec<Vec<f32>> = (0..4_200).map(|_| (0..8).map(|_| float(&mut random)).collect()).collect();
    let case = Case::new(Metric::L2, Element::F32, &vectors);
    let open = |bytes: Vec<u8>, spec: &DenseSpec, tier: Tier| {
        let source: Arc<dyn ChunkSource> = Arc::new(Bytes(bytes));
        Ssd::open("test", spec, flat_of(spec, &vectors).finish(), &source, tier)
    };
    for len in [0, 7, 4_095, 4_096, 5_000, case.section.len() - 1] {
        for tier in TIERS {
            assert!(open(case.section[..len].to_vec(), &case.spec, tier).is_err(), "{len} bytes");
        }
    }
    let other = DenseSpec { dim: 7, ..case.spec.clone() };
    assert!(open(case.section.clone(), &other, Tier::Hot).is_err(), "another field");
    let (mut refused, mut searched) = (0, 0);
    for (round, query) in vectors.iter().enumerate().take(200) {
        let mut bytes = case.section.clone();
        // Most of the damage where it matters: the header and the parts before the codes.
        let end = if round % 3 == 0 { bytes.len() } else { 40_000 };
        for _ in 0..1 + random.below(4) {
            let at = random.below(end);
            bytes[at] ^= 1 << random.below(8);
        }
        match open(bytes, &case.spec, TIERS[round % 3]) {
            Err(_) => refused += 1,
            Ok(ssd) => {
                let allow = Allow::all(4_200);
                let (mut top, mut counters) = (TopK::new(5), Counters::default());
                let ask = Ask::new(&case.rows, &allow);
                let _ = ssd.search(query, &ask, &mut top, &mut Scratch::new(), &mut counters);
                searched += 1;
            }
        }
    }
    assert!(refused > 0 && searched > 0, "{refused} refused, {searched} searched");
}

/// A section some of whose reads fail.
struct Failing {
    bytes: Bytes,
    /// Reads until one fails; it and all after it do.
    left: AtomicUsize,
}

impl Failing {
    fn step(&self) -> Result<()> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        taken.map(|_| ()).map_err(|_| Error::Invalid("a read that was to fail".into()))
    }
}

impl ChunkSource for Failing {
    fn bytes(&self) -> u64 {
        self.bytes.bytes()
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        self.step()?;
        self.bytes.read(at, out)
    }

    /// Some extents land before one fails.
    fn read_batch(&self, extents: &[Extent], done: &mut dyn FnMut(usize, &[u8])) -> Result<u64> {
        let mut read = 0;
        for (index, extent) in extents.iter().enumerate() {
            self.step()?;
            read += self.bytes.read_batch(&[*extent], &mut |_, bytes| done(index, bytes))?;
        }
        Ok(read)
    }
}

#[test]
fn whichever_read_fails_the_search_says_so_and_the_next_one_is_whole() {
    let mut random = Random(12);
    let mixture = Mixture::new(&mut random, 24, 30);
    let vectors: Vec<Vec<f32>> = (0..5_000).map(|_| mixture.vector(&mut random, 0.5)).collect();
    let [query, other] = [(); 2].map(|()| mixture.vector(&mut random, 0.5));
    let case = Case::new(Metric::L2, Element::F32, &vectors);
    let flat = || flat_of(&case.spec, &vectors);
    // Vectors are read too.
    let mut section = Vec::new();
    flat().write(&mut section).unwrap();
    let failing =
        |bytes: &[u8]| Arc::new(Failing { bytes: Bytes(bytes.to_vec()), left: AtomicUsize::new(usize::MAX) });
    for tier in TIERS {
        let (cells, vectors) = (failing(&case.section), failing(&section));
        let flat = Flat::open("flat", &case.spec, vectors.clone(), Residency::Disk).unwrap();
        let source: Arc<dyn ChunkSource> = cells.clone();
        let ssd = Ssd::open("cells", &case.spec, flat, &source, tier).unwrap();
        let (all, mut scratch) = (Allow::all(5_000), Scratch::new());
        let mut search = || {
            let (mut top, mut counters) = (TopK::new(10), Counters::default());
            let ask = Ask::new(&case.rows, &all);
            ssd.search(&query, &ask, &mut top, &mut scratch, &mut counters)?;
            let mut tops = vec![TopK::new(10); 3];
            let queries = [&query[..], &other, &query].concat();
            let queries = Matrix::new(&queries, 24);
            ssd.search_batch(queries, &ask, &mut tops, &mut scratch, &mut counters)?;
            tops.push(top);
            Ok::<_, Error>(tops.into_iter().map(TopK::into_sorted).collect::<Vec<_>>())
        };
        let whole = search().unwrap();
        for from in [&cells, &vectors] {
            let mut failed = 0;
            loop {
                from.left.store(failed, Ordering::Relaxed);
                let found = search();
                from.left.store(usize::MAX, Ordering::Relaxed);
                assert_eq!(search().unwrap(), whole, "{tier:?}, after read {failed} failed");
                if found.is_ok() {
                    break;
                }
                failed += 1;
            }
            let reads = Arc::ptr_eq(from, &vectors) || tier == Tier::Lean;
            assert_eq!(failed > 0, reads, "{tier:?}: {failed} reads failed");
        }
        // A section that cannot be opened says so, wherever reading it stops.
        let mut failed = 0;
        loop {
            cells.left.store(failed, Ordering::Relaxed);
            let flat = Flat::open("flat", &case.spec, vectors.clone(), Residency::Disk).unwrap();
            if Ssd::open("cells", &case.spec, flat, &source, tier).is_ok() {
                break;
            }
            failed += 1;
        }
        assert!(failed > 4, "{tier:?}: {failed} reads open the section");
    }
}
