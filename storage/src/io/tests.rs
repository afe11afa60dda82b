//! Both implementations against the bytes of the file, on every filesystem at hand and from several threads.

use std::fs;
use std::sync::atomic::AtomicUsize;

use super::*;

/// xorshift64*, enough for tests.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn readers() -> Vec<Box<dyn BatchRead>> {
    let mut readers: Vec<Box<dyn BatchRead>> = vec![Box::new(Pread::buffered()), Box::new(Pread::direct())];
    #[cfg(target_os = "linux")]
    match Uring::new() {
        Ok(uring) => readers.push(Box::new(uring)),
        Err(error) => println!("io_uring is not tested: {error}"),
    }
    readers
}

/// Folders on a disk and, where there is one, on a tmpfs.
fn folders() -> Vec<tempfile::TempDir> {
    let mut folders = vec![tempfile::tempdir().unwrap()];
    folders.extend(tempfile::tempdir_in("/dev/shm"));
    folders
}

fn file_of(folder: &tempfile::TempDir, len: usize, random: &mut Random) -> (ReadFile, Vec<u8>) {
    let path = folder.path().join(format!("file-{len}"));
    let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
    fs::write(&path, &bytes).unwrap();
    (ReadFile::open(&path).unwrap(), bytes)
}

/// Reads `extents` and compares each with `bytes`; each must come once.
fn compare(reader: &dyn BatchRead, file: &ReadFile, bytes: &[u8], extents: &[Extent]) {
    let mut seen = vec![false; extents.len()];
    let mut done = |index: usize, found: &[u8]| {
        let Extent { offset, len } = extents[index];
        assert!(found == &bytes[offset as usize..offset as usize + len], "extent {index}: {len} at {offset}");
        assert!(!std::mem::replace(&mut seen[index], true), "extent {index} came twice");
        Ok(())
    };
    reader.read(file, extents, &mut done).unwrap();
    assert!(seen.iter().all(|seen| *seen));
}

fn random_extents(random: &mut Random, file_len: u64) -> Vec<Extent> {
    let count = [0, 1, 2, 7, 40, 300][random.below(6) as usize];
    let longest = [1, 100, 5000, 70_000, 3 << 20][random.below(5) as usize];
    let longest = if count > 40 { longest.min(70_000) } else { longest };
    // Clustered starts overlap and lie near each other.
    let (base, width) = if random.below(2) == 0 {
        (0, file_len + 1)
    } else {
        (random.below(file_len + 1), 1 + file_len / 50)
    };
    (0..count)
        .map(|_| {
            let offset = (base + random.below(width)).min(file_len);
            let len = random.below(longest + 1).min(file_len - offset) as usize;
            Extent { offset, len }
        })
        .collect()
}

#[test]
fn random_extents_come_back_right() {
    let seed = 0x5eed_0010_u64;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    for folder in folders() {
        for len in [0, 1, 4095, 4096, 4097, 100_000, 7_654_321] {
            let (file, bytes) = file_of(&folder, len, &mut random);
            for reader in readers() {
                for _ in 0..25 {
                    compare(&*reader, &file, &bytes, &random_extents(&mut random, len as u64));
                }
            }
        }
    }
}

#[test]
fn unaligned_overlapping_repeated_empty_and_long_extents() {
    let mut random = Random(0x5eed_0011);
    for folder in folders() {
        let (file, bytes) = file_of(&folder, 5_000_001, &mut random);
        let pairs = [
            (1, 1),
            (4095, 2),
            (0, 5_000_001),
            (5_000_001, 0),
            (5_000_000, 1),
            (77, 0),
            (1000, 600_000),
            (1000, 600_000),
            (2_000_000, 524_288),
            (2_097_152, 524_289),
        ];
        let extents: Vec<Extent> = pairs.iter().map(|&(offset, len)| Extent { offset, len }).collect();
        for reader in readers() {
            compare(&*reader, &file, &bytes, &extents);
            compare(&*reader, &file, &bytes, &[]);
        }
    }
}

#[test]
fn more_extents_than_fit_in_flight() {
    let mut random = Random(0x5eed_0012);
    for folder in folders() {
        let (file, bytes) = file_of(&folder, 12_000_000, &mut random);
        // Apart by more than the gap, so that nothing is joined: 600 reads of one page, 300 of five or six.
        let small: Vec<Extent> = (0..600).map(|i| Extent { offset: i * 20_000, len: 300 }).collect();
        let large: Vec<Extent> = (0..300).map(|i| Extent { offset: i * 39_000 + 5, len: 20_000 }).collect();
        for reader in readers() {
            compare(&*reader, &file, &bytes, &small);
            compare(&*reader, &file, &bytes, &large);
        }
    }
}

#[test]
fn an_extent_past_the_end_is_refused_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (file, _) = file_of(&folder, 10_000, &mut Random(1));
    for reader in readers() {
        for (offset, len) in [(10_000, 1), (9_999, 2), (10_001, 0), (u64::MAX, 1), (1, usize::MAX)] {
            let extents = [Extent { offset: 0, len: 10 }, Extent { offset, len }];
            let error =
                reader.read(&file, &extents, &mut |_, _| panic!("nothing is to be read")).unwrap_err();
            assert!(matches!(&error, Error::Invalid(what) if what.contains("10000 bytes")), "{error}");
        }
    }
}

#[test]
fn a_file_cut_after_open_is_damage() {
    for folder in folders() {
        for reader in readers() {
            let (file, bytes) = file_of(&folder, 50_000, &mut Random(2));
            fs::File::options().write(true).open(file.path()).unwrap().set_len(20_000).unwrap();
            compare(&*reader, &file, &bytes, &[Extent { offset: 19_000, len: 1000 }]);
            for (offset, len) in [(19_000, 1001), (30_000, 10), (49_999, 1), (0, 50_000)] {
                let error = reader.read(&file, &[Extent { offset, len }], &mut |_, _| Ok(())).unwrap_err();
                assert!(matches!(error, Error::Corrupt { .. }), "{}: {error}", reader.name());
            }
        }
    }
}

#[test]
fn an_error_of_done_ends_the_batch() {
    let mut random = Random(0x5eed_0013);
    for folder in folders() {
        let (file, bytes) = file_of(&folder, 8_000_000, &mut random);
        let extents: Vec<Extent> = (0..300).map(|i| Extent { offset: i * 25_000, len: 5000 }).collect();
        for reader in readers() {
            for stop in [1, 100, 129, 300] {
                let mut calls = 0;
                let error = reader.read(&file, &extents, &mut |_, _| {
                    calls += 1;
                    if calls == stop { Err(Error::Invalid("enough".into())) } else { Ok(()) }
                });
                assert!(matches!(error, Err(Error::Invalid(what)) if what == "enough"));
                assert_eq!(calls, stop);
                compare(&*reader, &file, &bytes, &extents);
            }
        }
    }
}

#[test]
fn a_panic_in_done_leaves_the_reader_usable() {
    let mut random = Random(0x5eed_0014);
    let folder = tempfile::tempdir().unwrap();
    let (file, bytes) = file_of(&folder, 8_000_000, &mut random);
    let extents: Vec<Extent> = (0..300).map(|i| Extent { offset: i * 25_000, len: 5000 }).collect();
    for reader in readers() {
        for stop in [1, 100, 200] {
            let mut calls = 0;
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                reader.read(&file, &extents, &mut |_, _| {
                    calls += 1;
                    // Not `panic!`: no message in the output of the tests.
                    if calls == stop { std::panic::resume_unwind(Box::new("stop")) } else { Ok(()) }
                })
            }));
            assert!(caught.is_err());
            compare(&*reader, &file, &bytes, &extents);
        }
    }
}

#[test]
fn done_may_read() {
    let mut random = Random(0x5eed_0015);
    let folder = tempfile::tempdir().unwrap();
    let (file, bytes) = file_of(&folder, 1_000_000, &mut random);
    let extents: Vec<Extent> = (0..10).map(|i| Extent { offset: i * 90_000, len: 500 }).collect();
    for reader in readers() {
        let mut calls = 0;
        let mut done = |_: usize, _: &[u8]| {
            calls += 1;
            compare(&*reader, &file, &bytes, &extents);
            Ok(())
        };
        reader.read(&file, &extents, &mut done).unwrap();
        assert_eq!(calls, 10);
    }
}

#[test]
fn threads_read_at_the_same_time() {
    let seed = 0x5eed_0016_u64;
    println!("seed {seed:#x}");
    let folder = tempfile::tempdir().unwrap();
    let (file, bytes) = file_of(&folder, 3_000_000, &mut Random(seed));
    for reader in readers() {
        // More threads than there may be rings: the others read in another way.
        let left = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..40 {
                let (reader, file, bytes, left) = (&reader, &file, &bytes, &left);
                scope.spawn(move || {
                    let mut random = Random(seed + thread);
                    for _ in 0..10 {
                        compare(&**reader, file, bytes, &random_extents(&mut random, bytes.len() as u64));
                    }
                    left.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(left.into_inner(), 40);
    }
}

#[test]
fn probe_gives_a_reader_that_reads() {
    let folder = tempfile::tempdir().unwrap();
    let (file, bytes) = file_of(&folder, 50_000, &mut Random(3));
    let reader = probe();
    println!("probe chose {}", reader.name());
    compare(&*reader, &file, &bytes, &[Extent { offset: 10, len: 40_000 }]);
}

#[test]
fn folders_and_missing_files_do_not_open() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(ReadFile::open(folder.path()), Err(Error::Io { action: "open", .. })));
    assert!(matches!(ReadFile::open(&folder.path().join("no")), Err(Error::Io { action: "open", .. })));
}
