//! Logs made by hand.

use super::*;

/// Writes records as RocksDB does.
fn log(records: &[Vec<u8>]) -> Vec<u8> {
    let mut log = Vec::new();
    for record in records {
        let mut left = &record[..];
        let mut first = true;
        loop {
            let space = BLOCK_BYTES - log.len() % BLOCK_BYTES;
            if space < HEADER_BYTES {
                log.extend(std::iter::repeat_n(0, space));
                continue;
            }
            let (part, rest) = left.split_at(left.len().min(space - HEADER_BYTES));
            let kind = match (first, rest.is_empty()) {
                (true, true) => FULL,
                (true, false) => FIRST,
                (false, true) => LAST,
                (false, false) => MIDDLE,
            };
            let crc = crc32c::crc32c_append(crc32c::crc32c(&[kind]), part);
            log.extend(crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes());
            log.extend((part.len() as u16).to_le_bytes());
            log.push(kind);
            log.extend(part);
            (left, first) = (rest, false);
            if left.is_empty() {
                break;
            }
        }
    }
    log
}

fn batch(sequence: u64, bytes: usize) -> Vec<u8> {
    [&sequence.to_le_bytes()[..], &vec![0xab; bytes]].concat()
}

#[test]
fn whole_logs_are_walked_to_their_end() {
    for sizes in
        [vec![], vec![10], vec![32_753 - 7, 5], vec![32_747, 9], vec![100_000, 1, 70_000], vec![32_740; 5]]
    {
        let records: Vec<_> =
            sizes.iter().enumerate().map(|(i, bytes)| batch(7 + i as u64, *bytes)).collect();
        let log = log(&records);
        let walk = walk(&log[..], true).unwrap();
        let sequence = sizes.len().checked_sub(1).map(|last| last as u64 + 7);
        assert_eq!(walk, Walk { whole_bytes: log.len() as u64, sequence, ..Walk::default() }, "{sizes:?}");
    }
}

#[test]
fn every_cut_is_torn_and_every_flip_is_not() {
    let records: Vec<_> = [20, 3000, 40_000, 50, 10].iter().zip(1..).map(|(b, s)| batch(s, *b)).collect();
    let ends: Vec<usize> = (0..=records.len()).map(|count| log(&records[..count]).len()).collect();
    let log = log(&records);
    for cut in (0..log.len()).step_by(13).chain(log.len() - 20..log.len()) {
        let walk = walk(&log[..cut], true).unwrap();
        let whole = ends.iter().rposition(|end| *end <= cut).unwrap();
        assert_eq!(walk.whole_bytes as usize, ends[whole]);
        assert_eq!(walk.sequence, (whole > 0).then_some(whole as u64));
        assert!(walk.damage.is_none_or(|damage| damage.torn), "cut at {cut}");
        assert_eq!(cut == ends[whole], self::walk(&log[..cut], true).unwrap().damage.is_none());
    }
    let last = ends[records.len() - 1];
    for at in (0..log.len()).step_by(23).chain(last..last + 10) {
        for bit in 0..8 {
            let mut flipped = log.clone();
            flipped[at] ^= 1 << bit;
            let damage = walk(&flipped[..], true).unwrap().damage.expect("a flip is seen");
            // Only the length of the very last record cannot be told from a cut.
            assert!(!damage.torn || (last + 4..last + 6).contains(&at), "bit {bit} of {at}");
        }
    }
}

#[test]
fn unwritten_pages_are_torn() {
    let log = log(&[batch(1, 20), batch(2, 20_000)]);
    for page in 0..5 {
        let mut holed = log.clone();
        let end = holed.len().min((page + 1) * PAGE_BYTES);
        holed[page * PAGE_BYTES..end].fill(0);
        assert!(walk(&holed[..], true).unwrap().damage.unwrap().torn, "page {page}");
    }
    let mut longer = log.clone();
    longer.resize(log.len() + 10_000, 0);
    let walk = walk(&longer[..], true).unwrap();
    assert!(walk.whole_bytes as usize == log.len() && walk.damage.unwrap().torn);
}

#[test]
fn noise_never_panics() {
    let mut state = 77_u64;
    println!("seed {state}");
    for len in (0..3000).chain([BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1]) {
        let mut noise = vec![0; len];
        for byte in &mut noise {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
        let walk = walk(&noise[..], true).unwrap();
        assert!(walk.damage.is_some() || noise.is_empty());
    }
}
