//! What holds of manifests: they come back as saved, damage is seen, hostile bytes neither panic nor
//! allocate.

use super::*;
use crate::file::SegmentWriter;
use crate::io::Pread;

fn entry(id: u64, first: u64, last: u64, docs: u32, deleted: impl IntoIterator<Item = u32>) -> SegmentEntry {
    SegmentEntry {
        id,
        first: RowId(first),
        last: RowId(last),
        docs,
        bytes: 8192 + id,
        checksum: 0xdead_0000 + id as u32,
        deleted: deleted.into_iter().collect(),
        labels: Vec::new(),
        learned: vec![id as u8; id as usize],
    }
}

fn sample() -> Manifest {
    Manifest {
        collection: CollectionId(7),
        epoch: 41,
        covered: RowId(200_000),
        trimmed: RowId(150_000),
        last_row: RowId(200_500),
        next_segment: 10,
        segments: vec![
            entry(3, 1, 100_000, 90_000, (0..90_000).filter(|doc| doc % 3 == 0)),
            entry(9, 100_001, 100_010, 10, []),
            entry(4, 150_000, 200_000, 5, [0, 4]),
        ],
    }
}

fn decode(bytes: &[u8]) -> Result<Manifest> {
    Manifest::decode(bytes, Path::new("MANIFEST"))
}

/// xorshift64*, enough for tests.
fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[test]
fn comes_back_as_saved() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Manifest::load(folder.path()).unwrap(), None);
    for manifest in [Manifest::new(CollectionId(1)), sample()] {
        manifest.save(folder.path()).unwrap();
        assert_eq!(Manifest::load(folder.path()).unwrap(), Some(manifest));
    }
}

#[test]
fn the_first_version_has_nothing_learned() {
    let mut manifest = sample();
    manifest.segments.iter_mut().for_each(|entry| entry.learned.clear());
    let bytes = manifest.encode();
    let body = &bytes[HEAD_BYTES..bytes.len() - 4 - 4 * manifest.segments.len()];
    let first = Seal { version: 1, ..SEAL }.close(body);
    assert_eq!(decode(&first).unwrap(), manifest);
}

#[test]
fn every_flip_and_every_cut_is_damage() {
    let mut manifest = sample();
    manifest.segments[0].deleted = (0..50).map(|doc| doc * 1000).collect();
    let bytes = manifest.encode();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(matches!(decode(&bad), Err(Error::Corrupt { .. })), "flip at {at}");
        assert!(matches!(decode(&bytes[..at]), Err(Error::Corrupt { .. })), "cut at {at}");
    }
}

#[test]
fn a_file_that_is_far_too_long_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    sample().save(folder.path()).unwrap();
    let path = folder.path().join(MANIFEST_NAME);
    // Sparse: reading it whole would take all memory.
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(Manifest::load(folder.path()), Err(Error::Corrupt { .. })));
}

#[test]
fn newer_and_foreign_files_are_refused() {
    let newer = Seal { version: FORMAT_VERSION + 1, ..SEAL }.close(b"what a later build writes");
    for bytes in [&newer[..], b"{\"segments\": [], \"version\": 1}"] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(MANIFEST_NAME), bytes).unwrap();
        assert!(matches!(Manifest::load(folder.path()), Err(Error::Version { .. })));
    }
}

#[test]
fn contradictions_are_refused_on_both_sides() {
    let change: [fn(&mut Manifest); 9] = [
        |m| m.covered = RowId(199_999),
        |m| m.last_row = RowId(199_999),
        |m| m.next_segment = 9,
        |m| m.segments[1].id = 3,
        |m| m.segments.swap(0, 1),
        |m| m.segments[1].first = RowId(100_000),
        |m| m.segments[0].first = RowId(0),
        |m| m.segments[1].docs = 11,
        |m| m.segments[2].deleted = [5].into_iter().collect(),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (index, change) in change.iter().enumerate() {
        let mut manifest = sample();
        change(&mut manifest);
        assert!(matches!(decode(&manifest.encode()), Err(Error::Corrupt { .. })), "change {index}");
        assert!(matches!(manifest.save(folder.path()), Err(Error::Invalid(_))), "change {index}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn hostile_bodies_neither_panic_nor_pass() {
    let seed = 0x5eed_0001_u64;
    println!("seed {seed:#x}");
    let mut state = seed;
    let good = sample().encode();
    let body = &good[HEAD_BYTES..good.len() - 4];
    for _ in 0..20_000 {
        let mut bad = body[..(random(&mut state) as usize % 400).min(body.len())].to_vec();
        if random(&mut state).is_multiple_of(4) {
            bad.iter_mut().for_each(|byte| *byte = random(&mut state) as u8);
        }
        for _ in 0..1 + random(&mut state) % 6 {
            let at = random(&mut state) as usize % bad.len().max(1);
            if let Some(byte) = bad.get_mut(at) {
                *byte = [0, 1, 0x7f, 0x80, 0xff, random(&mut state) as u8][random(&mut state) as usize % 6];
            }
        }
        // With a right checksum, so that the body is decoded.
        match decode(&SEAL.close(&bad)) {
            Ok(manifest) => manifest.check().unwrap(),
            Err(Error::Corrupt { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn wild_counts_do_not_allocate() {
    let mut body = Encoder::default();
    body.u32(1).u64(0).u64(0).u64(0).u64(0).u64(1).u32(u32::MAX);
    let error = decode(&SEAL.close(&body.finish())).unwrap_err().to_string();
    assert!(error.contains("do not fit"), "{error}");
}

#[test]
fn hostile_bitmaps_neither_panic_nor_break() {
    let seed = 0x5eed_0002_u64;
    println!("seed {seed:#x}");
    let mut state = seed;
    let mut runs: RoaringBitmap = (0..100_000).chain(200_000..200_100).chain([400_000]).collect();
    runs.optimize();
    let arrays: RoaringBitmap = (0..300).map(|i| i * 7919).collect();
    let dense: RoaringBitmap = (0..70_000).filter(|i| i % 3 > 0).collect();
    let mut passed = 0;
    for round in 0..10_000 {
        let mut bytes = Vec::new();
        let bitmap = [&runs, &arrays, &dense][round % 3];
        bitmap.serialize_into(&mut bytes).unwrap();
        for _ in 0..1 + random(&mut state) % 4 {
            // The head, where counts and kinds stand, is hit more often than the rest.
            let span = if random(&mut state).is_multiple_of(2) { 64 } else { bytes.len() };
            let at = random(&mut state) as usize % span.min(bytes.len());
            bytes[at] = random(&mut state) as u8;
        }
        bytes.truncate(bytes.len() - (random(&mut state) as usize % 3).min(bytes.len()));
        if let Ok(mut bitmap) = decode_bitmap(&bytes) {
            passed += 1;
            let count = bitmap.iter().count() as u64;
            assert_eq!((bitmap.len(), bitmap.iter().max()), (count, bitmap.max()));
            bitmap |= &arrays;
            bitmap.insert(5);
            assert!(bitmap.contains(5));
        }
    }
    println!("{passed} changed bitmaps were still bitmaps");
}

#[test]
fn opens_exactly_the_file_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let write = |bytes: &[u8]| {
        let mut writer = SegmentWriter::create(&folder.path().join(segment_name(1)), 1, *b"TEST").unwrap();
        writer.section("data").unwrap();
        writer.write(bytes).unwrap();
        writer.finish().unwrap()
    };
    let reader: Arc<dyn BatchRead> = Arc::new(Pread::buffered());
    let info = write(b"first");
    let named = SegmentEntry { bytes: info.bytes, checksum: info.checksum, ..entry(1, 1, 5, 5, []) };
    assert_eq!(named.open(folder.path(), reader.clone()).unwrap().info(), info);
    write(b"other");
    assert!(matches!(named.open(folder.path(), reader.clone()), Err(Error::Corrupt { .. })));
    fs::remove_file(folder.path().join(segment_name(1))).unwrap();
    assert!(matches!(named.open(folder.path(), reader), Err(Error::Corrupt { .. })));
}

#[test]
fn removes_orphans_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = sample();
    manifest.save(folder.path()).unwrap();
    let keep =
        ["MANIFEST", "0000000000000003.seg", "3.seg", "notes.txt", "notes.tmp", "00000000000000AB.seg"];
    let lose = ["0000000000000005.seg", "0000000000000003.seg.tmp", "00000000000000ab.seg", "MANIFEST.tmp"];
    for name in keep[1..].iter().chain(&lose) {
        fs::write(folder.path().join(name), b"x").unwrap();
    }
    let removed = remove_orphans(folder.path(), &manifest).unwrap();
    let mut expected: Vec<PathBuf> = lose.iter().map(|name| folder.path().join(name)).collect();
    expected.sort_unstable();
    assert_eq!(removed, expected);
    assert!(keep.iter().all(|name| folder.path().join(name).exists()));
    assert_eq!(remove_orphans(folder.path(), &manifest).unwrap(), Vec::<PathBuf>::new());
}
