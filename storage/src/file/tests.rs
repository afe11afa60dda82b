//! What holds of segment files: sections come back as written, every damaged byte is seen, hostile numbers
//! neither panic nor allocate.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::layout::{FOOTER_BYTES, Footer};
use super::*;
use crate::error::{Error, Result};
use crate::io::{BatchRead, Extent, PAGE_BYTES, Pread, probe};

fn pread() -> Arc<dyn BatchRead> {
    Arc::new(Pread::buffered())
}

/// xorshift64*, enough for tests.
fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

fn bytes_of(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len).map(|_| random(&mut state) as u8).collect()
}

/// Sections of no, few, exactly a page and several pages of bytes.
fn sections() -> Vec<(String, Vec<u8>)> {
    [0, 10, PAGE_BYTES, 0, PAGE_BYTES + 1, 3 * PAGE_BYTES - 5, 1]
        .iter()
        .enumerate()
        .map(|(index, &len)| (format!("section {index}"), bytes_of(len, index as u64)))
        .collect()
}

fn write(path: &Path, sections: &[(String, Vec<u8>)]) -> SegmentInfo {
    let mut writer = SegmentWriter::create(path, 77, *b"TEST").unwrap();
    for (name, bytes) in sections {
        writer.section(name).unwrap();
        // In pieces of uneven length.
        for piece in bytes.chunks(1777) {
            writer.write(piece).unwrap();
        }
        assert_eq!(writer.position(), bytes.len() as u64);
    }
    writer.finish().unwrap()
}

fn sample() -> (tempfile::TempDir, PathBuf, SegmentInfo) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1.seg");
    let info = write(&path, &sections());
    (folder, path, info)
}

/// Opens `path` and compares all sections with what [`sample`] wrote.
fn compare(path: &Path, expected: &[(String, Vec<u8>)]) -> Result<()> {
    let file = SegmentFile::open(path, pread())?;
    assert_eq!((file.id(), file.kind()), (77, *b"TEST"));
    let found: Vec<(&str, u64)> = file.sections().collect();
    let lens: Vec<(&str, u64)> = expected.iter().map(|(name, bytes)| (&**name, bytes.len() as u64)).collect();
    assert_eq!(found, lens);
    for (name, bytes) in expected {
        assert!(file.section(name).unwrap().read_all()? == *bytes, "section {name}");
    }
    Ok(())
}

#[test]
fn sections_come_back_as_written() {
    let (folder, path, info) = sample();
    compare(&path, &sections()).unwrap();
    let file = SegmentFile::open(&path, probe()).unwrap();
    assert_eq!((file.info(), info.bytes), (info, fs::metadata(&path).unwrap().len()));
    file.verify().unwrap();
    assert!(file.section("no such section").is_none());
    assert!(matches!(file.require("no such section"), Err(Error::Corrupt { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_file_without_sections_is_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1.seg");
    write(&path, &[]);
    compare(&path, &[]).unwrap();
}

#[test]
fn same_content_has_the_same_checksum_and_other_content_another() {
    let (folder, _, info) = sample();
    assert_eq!(write(&folder.path().join("2.seg"), &sections()), info);
    let mut other = sections();
    other[5].1[100] ^= 1;
    assert_ne!(write(&folder.path().join("3.seg"), &other).checksum, info.checksum);
}

#[test]
fn ranges_and_batches_of_large_sections() {
    let seed = 0x5eed_0020_u64;
    println!("seed {seed:#x}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1.seg");
    let large = bytes_of(5_300_001, seed);
    write(
        &path,
        &[("before".into(), vec![1; 5000]), ("large".into(), large.clone()), ("after".into(), vec![2])],
    );
    for reader in [pread(), Arc::new(Pread::direct()), probe()] {
        let section = SegmentFile::open(&path, reader).unwrap().section("large").unwrap();
        assert!(section.read_all().unwrap() == large);
        section.verify().unwrap();
        let aligned = section.read_aligned(64).unwrap();
        assert!(aligned.as_ptr().addr().is_multiple_of(64) && aligned[..] == large[..]);
        let mut state = seed;
        for _ in 0..50 {
            let start = random(&mut state) as usize % large.len();
            let end = start + random(&mut state) as usize % (large.len() - start + 1);
            assert!(section.read(start as u64..end as u64).unwrap() == large[start..end]);
        }
        let extents: Vec<Extent> = (0..500)
            .map(|_| Extent {
                offset: random(&mut state) % 5_290_000,
                len: (random(&mut state) % 10_000) as usize,
            })
            .collect();
        let mut seen = 0;
        let mut done = |index: usize, bytes: &[u8]| {
            let Extent { offset, len } = extents[index];
            assert!(bytes == &large[offset as usize..offset as usize + len]);
            seen += 1;
            Ok(())
        };
        section.read_batch(&extents, &mut done).unwrap();
        assert_eq!(seen, extents.len());
    }
}

#[test]
fn empty_extents_are_delivered_wherever_they_stand() {
    let (_folder, path, _) = sample();
    for reader in [pread(), Arc::new(Pread::direct()), probe()] {
        let section = SegmentFile::open(&path, reader).unwrap().section("section 4").unwrap();
        let offsets = [0, 1, 4095, 4096, section.len()];
        let extents: Vec<Extent> = offsets.map(|offset| Extent { offset, len: 0 }).to_vec();
        let mut seen = vec![0; extents.len()];
        let mut done = |index: usize, bytes: &[u8]| {
            assert!(bytes.is_empty());
            seen[index] += 1;
            Ok(())
        };
        section.read_batch(&extents, &mut done).unwrap();
        assert_eq!(seen, [1; 5]);
        assert!(section.read(7..7).unwrap().is_empty());
    }
}

#[test]
fn values_come_back_at_any_offset() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1.seg");
    let floats: Vec<f32> = (0..300_000).map(|i| i as f32 * 0.37 - 5.0).collect();
    let longs: Vec<u64> = (0..1000).map(|i| i * 0x0123_4567_89ab).collect();
    let shorts: Vec<u16> = (0..777).collect();
    let mut writer = SegmentWriter::create(&path, 1, *b"TEST").unwrap();
    writer.section("floats").unwrap();
    writer.write_values(&floats).unwrap();
    writer.section("mixed").unwrap();
    writer.write(b"abc").unwrap();
    writer.write_values(&longs).unwrap();
    writer.write_values(&floats).unwrap();
    writer.align(64).unwrap();
    assert_eq!(writer.position() % 64, 0);
    let at = writer.position();
    writer.align(64).unwrap();
    assert_eq!(writer.position(), at);
    writer.write_values(&shorts).unwrap();
    writer.finish().unwrap();
    let file = SegmentFile::open(&path, probe()).unwrap();
    assert_eq!(file.section("floats").unwrap().read_f32s().unwrap(), floats);
    let mixed = file.section("mixed").unwrap();
    assert_eq!(mixed.read_values::<u64>(3, 1000).unwrap(), longs);
    assert_eq!(mixed.read_values::<f32>(8003, 300_000).unwrap(), floats);
    assert_eq!(mixed.read_values::<f32>(8003 + 400, 5).unwrap(), floats[100..105]);
    assert_eq!(mixed.read_values::<u16>(at, 777).unwrap(), shorts);
    assert!(matches!(mixed.read_f32s(), Err(Error::Corrupt { .. })), "its length is no multiple of 4");
}

#[test]
fn ranges_past_the_end_are_refused() {
    let (_folder, path, _) = sample();
    let section = SegmentFile::open(&path, pread()).unwrap().section("section 4").unwrap();
    let len = section.len();
    assert_eq!(section.read(len..len).unwrap(), b"");
    for range in [0..len + 1, len..len + 1, len + 1..len + 1, 0..u64::MAX, u64::MAX..u64::MAX] {
        let error = section.read(range.clone()).unwrap_err();
        assert!(
            matches!(&error, Error::Corrupt { what, .. } if what.contains("asked for")),
            "{range:?}: {error}"
        );
    }
    assert!(matches!(section.read_values::<u64>(0, usize::MAX), Err(Error::Corrupt { .. })));
    assert!(matches!(section.read_into(u64::MAX, &mut vec![0u8; 1 << 20]), Err(Error::Corrupt { .. })));
}

#[test]
fn every_flipped_byte_is_seen() {
    let (_folder, path, info) = sample();
    let expected = sections();
    let file = fs::File::options().write(true).open(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let payload = PAGE_BYTES..info.bytes as usize - FOOTER_BYTES;
    for (at, byte) in bytes.iter().enumerate() {
        file.write_all_at(&[byte ^ (1 << (at % 8))], at as u64).unwrap();
        match compare(&path, &expected) {
            Err(Error::Corrupt { file, offset, .. }) => {
                assert_eq!(file, path);
                assert!(!payload.contains(&at) || offset <= at as u64, "flip at {at} seen at {offset}");
            }
            other => panic!("flip at {at}: {other:?}"),
        }
        file.write_all_at(&[*byte], at as u64).unwrap();
    }
    compare(&path, &expected).unwrap();
}

#[test]
fn damage_of_one_section_leaves_the_others_readable() {
    let (_folder, path, _) = sample();
    let file = fs::File::options().write(true).open(&path).unwrap();
    // Page 1 is section 1, page 2 section 2, pages 3 and 4 section 4.
    file.write_all_at(&[0xff, 0, 0xff], 4 * PAGE_BYTES as u64).unwrap();
    let file = SegmentFile::open(&path, pread()).unwrap();
    let damaged = file.section("section 4").unwrap();
    assert!(matches!(damaged.read_all(), Err(Error::Corrupt { offset: 16384, .. })));
    assert!(matches!(damaged.verify(), Err(Error::Corrupt { .. })));
    assert!(matches!(file.verify(), Err(Error::Corrupt { .. })));
    assert_eq!(damaged.read(0..100).unwrap(), sections()[4].1[..100]);
    assert_eq!(file.section("section 5").unwrap().read_all().unwrap(), sections()[5].1);
}

#[test]
fn every_truncation_is_seen() {
    let (_folder, path, info) = sample();
    let file = fs::File::options().write(true).open(&path).unwrap();
    for len in (0..info.bytes).rev() {
        file.set_len(len).unwrap();
        let opened = SegmentFile::open(&path, pread());
        assert!(matches!(opened, Err(Error::Corrupt { .. })), "cut to {len}: {opened:?}");
    }
}

#[test]
fn appended_bytes_are_seen() {
    let (_folder, path, _) = sample();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(&[0; 10]);
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(SegmentFile::open(&path, pread()), Err(Error::Corrupt { .. })));
}

#[test]
fn foreign_and_newer_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1.seg");
    for bytes in [&b"short"[..], &[0; 20], &bytes_of(100_000, 5)] {
        fs::write(&path, bytes).unwrap();
        assert!(
            matches!(SegmentFile::open(&path, pread()), Err(Error::Version { .. })),
            "{} bytes",
            bytes.len()
        );
    }
    write(&path, &sections());
    let mut bytes = fs::read(&path).unwrap();
    bytes[8..12].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..PAGE_BYTES - 4]);
    bytes[PAGE_BYTES - 4..PAGE_BYTES].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = SegmentFile::open(&path, pread()).unwrap_err();
    assert!(matches!(&error, Error::Version { what, .. } if what.contains("version 2")), "{error}");
}

#[test]
fn parts_of_two_files_do_not_make_one() {
    let (folder, path, _) = sample();
    let other = folder.path().join("2.seg");
    SegmentWriter::create(&other, 78, *b"TEST").unwrap().finish().unwrap();
    let header = fs::read(&other).unwrap()[..PAGE_BYTES].to_vec();
    fs::File::options().write(true).open(&path).unwrap().write_all_at(&header, 0).unwrap();
    assert!(matches!(SegmentFile::open(&path, pread()), Err(Error::Corrupt { .. })));
}

#[test]
fn wild_numbers_under_right_checksums_are_refused() {
    let seed = 0x5eed_0021_u64;
    println!("seed {seed:#x}");
    let mut state = seed;
    let (_folder, path, info) = sample();
    let good = fs::read(&path).unwrap();
    let at = good.len() - FOOTER_BYTES;
    let (footer, _) = Footer::decode(&good[at..], &path, info.bytes).unwrap();
    let tables_at = footer.tables_offset().unwrap() as usize;
    let file = fs::File::options().write(true).open(&path).unwrap();
    let wild = [0, 1, 2, u64::from(u32::MAX), u64::MAX / 4096, u64::MAX / 4 + 1, u64::MAX - 1, u64::MAX];
    let mut pick = |other: u64| {
        let index = random(&mut state) as usize % (wild.len() * 2);
        *wild.get(index).unwrap_or(&other)
    };
    for round in 0..1000 {
        let mut bad = good.clone();
        let mut changed = footer.clone();
        if round % 2 == 0 {
            changed.page_count = pick(changed.page_count);
            changed.section_count = pick(u64::from(changed.section_count)) as u32;
            changed.section_table_bytes = pick(u64::from(changed.section_table_bytes)) as u32;
        } else {
            // A length or a name of the section table.
            let at = tables_at + changed.page_count as usize * 4 + (pick(3) as usize % 100);
            bad[at..at + 4].copy_from_slice(&(pick(5) as u32).to_le_bytes());
            changed.tables_crc = crc32c::crc32c(&bad[tables_at..bad.len() - FOOTER_BYTES]);
        }
        if changed == footer || changed.file_bytes().is_none() {
            continue;
        }
        let (encoded, _) = changed.encode();
        bad[at..].copy_from_slice(&encoded);
        file.write_all_at(&bad, 0).unwrap();
        match SegmentFile::open(&path, pread()) {
            Err(Error::Corrupt { .. }) => {}
            // Changes within a name, or that move nothing between pages, are another valid file.
            Ok(file) => file.sections().for_each(|(name, _)| {
                let _ = file.section(name).unwrap().read_all();
            }),
            Err(error) => panic!("round {round}: {error}"),
        }
    }
}

#[test]
fn writer_refuses_bad_names_and_bytes_without_a_section() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = SegmentWriter::create(&folder.path().join("1.seg"), 1, *b"TEST").unwrap();
    assert!(matches!(writer.write(b"x"), Err(Error::Invalid(_))));
    assert!(matches!(writer.section(""), Err(Error::Invalid(_))));
    assert!(matches!(writer.section(&"n".repeat(256)), Err(Error::Invalid(_))));
    writer.section(&"n".repeat(255)).unwrap();
    writer.section("a").unwrap();
    assert!(matches!(writer.section("a"), Err(Error::Exists { .. })));
    assert!(matches!(writer.align(0), Err(Error::Invalid(_))));
    assert!(matches!(writer.align(4097), Err(Error::Invalid(_))));
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1.seg");
    let mut writer = SegmentWriter::create(&path, 1, *b"TEST").unwrap();
    writer.section("a").unwrap();
    writer.write(&[1; 3 << 20]).unwrap();
    assert!(!path.exists());
    drop(writer);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_failed_finish_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1.seg");
    fs::create_dir(&path).unwrap();
    let writer = SegmentWriter::create(&path, 1, *b"TEST").unwrap();
    assert!(matches!(writer.finish(), Err(Error::Io { action: "rename", .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
