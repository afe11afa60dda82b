//! One flipped bit, one cut, anywhere: the store says that it is damaged, or everything it holds is right.

use super::*;

/// What the store holds before it is damaged: 40 rows, 15 of them written again.
fn build(path: &Path) -> (Store, CollectionId) {
    let store = open(path);
    let c = store.create_collection("c", &schema()).unwrap().id;
    let tenant = Commit { new_tenants: vec![(TenantId(0), "zero".into())], ..commit_of(c, vec![]) };
    store.commit(&tenant, Durability::Sync).unwrap();
    fill(&store, c, 1..=20, 900);
    store.engine.flush().unwrap();
    fill(&store, c, 21..=40, 100);
    store.engine.flush().unwrap();
    for row in 61..=75 {
        let entry = put(row, 0, &format!("k{}", row - 60), 2000, Some(RowId(row - 60)));
        store.commit(&commit_of(c, vec![entry]), Durability::Sync).unwrap();
    }
    (store, c)
}

/// More commits that stay in the log.
fn build_log(store: &Store, c: CollectionId) {
    let delete = |row, of| Entry::Delete {
        row: RowId(row),
        tenant: TenantId(0),
        key: format!("k{of}"),
        replaces: RowId(of),
        erase: Some(RowId(of)),
    };
    store.commit(&commit_of(c, vec![delete(76, 30), delete(77, 31)]), Durability::Sync).unwrap();
    fill(store, c, 78..=100, 5000);
}

/// All that can be read: records, keys, rows, catalogue.
#[derive(Debug, PartialEq)]
struct Contents {
    collections: Vec<CollectionMeta>,
    tenants: Vec<(TenantId, String)>,
    last: RowId,
    records: BTreeMap<u64, Record>,
    keys: Vec<(String, RowId)>,
    looked_up: Vec<Option<RowId>>,
    rows: Vec<Option<StoredRow>>,
}

fn contents(store: &Store, c: CollectionId) -> Result<Contents> {
    let snapshot = store.snapshot();
    let names: Vec<String> = (0..=110).map(|key| format!("k{key}")).collect();
    let names: Vec<_> = names.iter().map(|name| (TenantId(0), name.as_str())).collect();
    let rows: Vec<RowId> = (0..=110).map(RowId).collect();
    Ok(Contents {
        collections: store.collections()?,
        tenants: store.tenants(c)?,
        last: store.last_row_id(c)?,
        records: records(store, c)?,
        keys: snapshot.keys_after(c, TenantId(0), None, 1000)?,
        looked_up: snapshot.lookup(c, &names)?,
        rows: snapshot.get(c, &rows, &FieldSet::ALL)?,
    })
}

/// Counts of what came of the damage.
#[derive(Debug, Default)]
struct Tally {
    refused: usize,
    unreadable: usize,
    right: usize,
}

/// Damages a copy of the store in `sound` and opens it.
fn try_damaged(
    sound: &Path,
    c: CollectionId,
    expected: &Contents,
    tally: &mut Tally,
    what: &str,
    damage: impl Fn(&Path),
) {
    let dir = scratch();
    let path = dir.path().join("copy");
    copy_folder(sound, &path);
    damage(&path);
    let store = match Store::open(&path, &small()) {
        Ok(store) => store,
        Err(Error::Corrupt { .. }) => {
            tally.refused += 1;
            return;
        }
        Err(other) => panic!("{what}: {other:?}"),
    };
    match contents(&store, c) {
        Ok(found) => {
            assert!(&found == expected, "{what}: wrong contents, silently");
            tally.right += 1;
        }
        Err(Error::Corrupt { .. }) => tally.unreadable += 1,
        Err(other) => panic!("{what}: {other:?}"),
    }
}

fn flip(path: &Path, at: usize, bit: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1 << bit;
    fs::write(path, bytes).unwrap();
}

/// Flips random bits in the files that match, `per_file` in each.
fn flip_all(sound: &Path, c: CollectionId, expected: &Contents, parts: &[(&str, usize)], seed: u64) -> Tally {
    println!("seed {seed}");
    let mut chance = Chance(seed);
    let mut all = Tally::default();
    for (part, per_file) in parts {
        let mut tally = Tally::default();
        for file in files(sound, part) {
            let len = file.metadata().unwrap().len() as usize;
            for _ in 0..if len == 0 { 0 } else { *per_file } {
                let (at, bit) = (chance.below(len), chance.below(8));
                let name = file.file_name().unwrap();
                let what = format!("bit {bit} of byte {at} of {len} of {}", name.to_string_lossy());
                try_damaged(sound, c, expected, &mut tally, &what, |copy| {
                    flip(&copy.join("rocksdb").join(name), at, bit);
                });
            }
        }
        println!("{part}: {tally:?}");
        all.refused += tally.refused;
        all.unreadable += tally.unreadable;
        all.right += tally.right;
    }
    all
}

#[test]
fn flipped_bits_of_a_closed_store() {
    let dir = scratch();
    let sound = dir.path().join("sound");
    let (store, c) = build(&sound);
    build_log(&store, c);
    let expected = contents(&store, c).unwrap();
    // 40 rows, 15 of them written again, 2 deleted with a record each, 23 more.
    assert_eq!(expected.records.len(), 40 + 23);
    store.close().unwrap();
    let parts =
        [(".sst", 20), (".blob", 20), ("MANIFEST-", 60), ("CURRENT", 20), (".log", 10), ("OPTIONS-", 2)];
    let tally = flip_all(&sound, c, &expected, &parts, 41);
    assert!(tally.refused > 80 && tally.unreadable > 40, "{tally:?}");
}

/// The folder as a killed process leaves it: every commit is in the log.
fn killed(dir: &Path) -> (PathBuf, CollectionId, Contents) {
    let (store, c) = build(&dir.join("open"));
    build_log(&store, c);
    rest(&store);
    let sound = dir.join("sound");
    copy_folder(&dir.join("open"), &sound);
    let expected = contents(&store, c).unwrap();
    let mut tally = Tally::default();
    try_damaged(&sound, c, &expected, &mut tally, "nothing", |_| {});
    assert_eq!(tally.right, 1);
    (sound, c, expected)
}

#[test]
fn flipped_bits_of_a_killed_store() {
    let dir = scratch();
    let (sound, c, expected) = killed(dir.path());
    let tally = flip_all(&sound, c, &expected, &[(".log", 150), ("MANIFEST-", 60), ("CURRENT", 10)], 42);
    assert!(tally.refused > 150, "{tally:?}");
}

/// RocksDB's reader takes a flipped length in the last block for a torn tail, and a flipped type for a
/// recycled log.
#[test]
fn every_header_of_the_log_is_checked() {
    let dir = scratch();
    let (sound, c, expected) = killed(dir.path());
    let mut tally = Tally::default();
    for file in [files(&sound, ".log"), files(&sound, "MANIFEST-")].concat() {
        let bytes = fs::read(&file).unwrap();
        let name = file.file_name().unwrap();
        let mut at = 0;
        while at < bytes.len() {
            if at % (32 << 10) + 7 > 32 << 10 {
                at = at.next_multiple_of(32 << 10);
                continue;
            }
            let len = usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
            for (byte, bit) in [(4, 0), (5, 0), (5, 6), (6, 0), (6, 2), (6, 7)] {
                let what =
                    format!("bit {bit} of byte {byte} of the header at {at} of {}", name.to_string_lossy());
                try_damaged(&sound, c, &expected, &mut tally, &what, |copy| {
                    flip(&copy.join("rocksdb").join(name), at + byte, bit);
                });
            }
            at += 7 + len;
        }
    }
    println!("{tally:?}");
}

/// Cuts the log anywhere: every commit in it was acknowledged as durable, so every cut is a loss.
#[test]
fn a_shortened_log_is_noticed() {
    let seed = 43;
    println!("seed {seed}");
    let mut chance = Chance(seed);
    let dir = scratch();
    let (sound, c, expected) = killed(dir.path());
    let mut tally = Tally::default();
    let logs = files(&sound, ".log");
    let last = logs.last().unwrap();
    let len = last.metadata().unwrap().len() as usize;
    assert!(len > 100_000);
    let cuts: Vec<usize> = (0..30).map(|_| chance.below(len)).chain([0, 31, len - 1]).collect();
    for cut in cuts {
        try_damaged(&sound, c, &expected, &mut tally, &format!("cut at {cut} of {len}"), |copy| {
            let path = copy.join("rocksdb").join(last.file_name().unwrap());
            fs::OpenOptions::new().write(true).open(path).unwrap().set_len(cut as u64).unwrap();
        });
    }
    try_damaged(&sound, c, &expected, &mut tally, "no log", |copy| {
        files(copy, ".log").iter().for_each(|log| fs::remove_file(log).unwrap());
    });
    assert_eq!(tally.refused, 34, "{tally:?}");
}

/// A torn tail past what was acknowledged as durable is cut off, and the store goes on.
#[test]
fn a_torn_tail_of_a_buffered_commit_is_dropped() {
    let dir = scratch();
    let (store, c) = build(&dir.path().join("open"));
    build_log(&store, c);
    let expected = contents(&store, c).unwrap();
    let log = files(&dir.path().join("open"), ".log").pop().unwrap();
    let durable = log.metadata().unwrap().len();
    let big = commit_of(c, vec![put(200, 0, "k200", 80_000, None)]);
    store.commit(&big, Durability::Buffered).unwrap();
    let written = log.metadata().unwrap().len();
    assert!(written > durable + 80_000);
    rest(&store);
    let sound = dir.path().join("sound");
    copy_folder(&dir.path().join("open"), &sound);
    let mut tally = Tally::default();
    let name = log.file_name().unwrap();
    for end in [durable, durable + 1, durable + 10, durable + 4000, durable + 60_000, written - 1] {
        // What a power failure leaves: a shorter file, or one whose length is there and whose pages are not.
        for length in [end, written] {
            if length > end && length - end < 100 {
                continue;
            }
            try_damaged(&sound, c, &expected, &mut tally, &format!("cut at {end}, {length} long"), |copy| {
                let file = fs::OpenOptions::new().write(true).open(copy.join("rocksdb").join(name)).unwrap();
                file.set_len(end).unwrap();
                file.set_len(length).unwrap();
            });
        }
    }
    assert_eq!((tally.right, tally.refused), (11, 0), "{tally:?}");
    // A flipped bit inside it is not torn.
    let mut tally = Tally::default();
    try_damaged(&sound, c, &expected, &mut tally, "flip", |copy| {
        flip(&copy.join("rocksdb").join(name), durable as usize + 40_000, 3);
    });
    assert_eq!(tally.refused, 1);
}

#[test]
fn the_witness_outlives_a_damaged_slot() {
    let dir = scratch();
    let (sound, c, expected) = killed(dir.path());
    let mut tally = Tally::default();
    for at in (0..52).chain(4096..4148).step_by(3) {
        try_damaged(&sound, c, &expected, &mut tally, &format!("byte {at}"), |copy| {
            flip(&copy.join("WITNESS"), at, 0);
        });
    }
    assert_eq!(tally.right, 35);
    try_damaged(&sound, c, &expected, &mut tally, "both", |copy| {
        flip(&copy.join("WITNESS"), 20, 0);
        flip(&copy.join("WITNESS"), 4096 + 20, 0);
    });
    assert_eq!(tally.refused, 1);
}
