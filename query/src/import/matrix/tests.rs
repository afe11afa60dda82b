//! Round trips of every format, packed and not, and headers that lie.

use super::super::tests::{TempFolder, npy};
use super::*;

const ROWS: [[f32; 3]; 4] = [[1.0, 2.0, 3.0], [0.0, 255.0, 7.0], [4.0, 5.0, 6.0], [9.0, 8.0, 127.0]];

fn bin(rows: u32, dim: u32, elements: &[u8]) -> Vec<u8> {
    [&rows.to_le_bytes()[..], &dim.to_le_bytes(), elements].concat()
}

fn flat() -> Vec<f32> {
    ROWS.concat()
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn vecs(element: impl Fn(&[f32]) -> Vec<u8>) -> Vec<u8> {
    ROWS.iter().flat_map(|row| [&3u32.to_le_bytes()[..], &element(row)].concat()).collect()
}

fn u8_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().map(|&value| value as u8).collect()
}

#[test]
fn every_format() {
    let folder = TempFolder::new();
    let half: Vec<u8> = flat().iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
    let files: [(&str, Vec<u8>, VectorElement); 8] = [
        ("a.fvecs", vecs(f32_bytes), VectorElement::F32),
        ("a.bvecs", vecs(u8_bytes), VectorElement::U8),
        ("a.fbin", bin(4, 3, &f32_bytes(&flat())), VectorElement::F32),
        ("a.u8bin", bin(4, 3, &u8_bytes(&flat())), VectorElement::U8),
        ("f32.npy", npy(1, "<f4", "(4, 3)", &f32_bytes(&flat())), VectorElement::F32),
        ("f16.npy", npy(2, "<f2", "(4, 3)", &half), VectorElement::F16),
        ("v3.npy", npy(3, "<f2", "(4, 3)", &half), VectorElement::F16),
        ("u8.npy", npy(1, "|u1", "(4, 3)", &u8_bytes(&flat())), VectorElement::U8),
    ];
    for (name, bytes, element) in &files {
        for path in [folder.write(name, bytes), folder.write_packed(name, bytes)] {
            let mut file = VectorFile::open(&path).unwrap();
            assert_eq!((file.dim(), file.element()), (3, *element), "{path:?}");
            let says_rows = !(path.extension().unwrap() == "zst" && name.ends_with("vecs"));
            assert_eq!(file.rows(), says_rows.then_some(4), "{path:?}");
            let mut chunk = vec![5.0];
            let mut all = Vec::new();
            let mut sizes = Vec::new();
            while file.next_chunk(3, &mut chunk).unwrap() > 0 {
                sizes.push(chunk.len() / 3);
                all.extend_from_slice(&chunk);
            }
            assert_eq!((all, sizes), (flat(), vec![3, 1]), "{path:?}");
            assert!(file.bytes_read() == file.bytes_total(), "{path:?}");
            assert_eq!(VectorFile::open(&path).unwrap().read_all_f32().unwrap(), flat(), "{path:?}");
        }
    }
    let signed = folder.write("a.i8bin", &bin(1, 3, &[0x80, 0xFF, 0x7F]));
    assert_eq!(VectorFile::open(signed).unwrap().read_all_f32().unwrap(), [-128.0, -1.0, 127.0]);
}

#[test]
fn chunks_cross_the_read_size() {
    let folder = TempFolder::new();
    let values: Vec<f32> = (0..500 * 999).map(|n| n as f32).collect();
    for (name, bytes) in [
        ("big.fbin", bin(500, 999, &f32_bytes(&values))),
        (
            "big.fvecs",
            values
                .chunks(999)
                .flat_map(|row| [&999u32.to_le_bytes()[..], &f32_bytes(row)].concat())
                .collect(),
        ),
    ] {
        for path in [folder.write(name, &bytes), folder.write_packed(name, &bytes)] {
            assert!(VectorFile::open(&path).unwrap().read_all_f32().unwrap() == values, "{path:?}");
        }
    }
}

#[test]
fn truth_and_plain_matrices() {
    let folder = TempFolder::new();
    let ids = [5i32, -1, i32::MAX, i32::MIN, 0, 3];
    let words: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let file = bin(3, 2, &words);
    assert_eq!(read_ibin(folder.write("t.ibin", &file)).unwrap(), (2, ids.to_vec()));
    assert_eq!(read_ibin(folder.write_packed("t.ibin", &file)).unwrap(), (2, ids.to_vec()));
    let prefixed: Vec<u8> = words.chunks(8).flat_map(|row| [&2u32.to_le_bytes()[..], row].concat()).collect();
    assert_eq!(read_ibin(folder.write("t.ivecs", &prefixed)).unwrap(), (2, ids.to_vec()));
    let matrix = folder.write("m.fbin", &bin(4, 3, &f32_bytes(&flat())));
    assert_eq!(read_fbin(&matrix).unwrap(), (3, flat()));
    assert!(read_ibin(&matrix).unwrap_err().message().contains("expected .ibin"));
}

#[test]
fn damaged_files_are_errors() {
    let folder = TempFolder::new();
    let elements = f32_bytes(&flat());
    let fbin = bin(4, 3, &elements);
    let half = npy(1, "<f2", "(9, 3)", &[0; 54]);
    let files: [(&str, Vec<u8>, &str); 16] = [
        ("empty.fbin", vec![], "the header"),
        ("header.fbin", fbin[..7].to_vec(), "the header"),
        ("short.fbin", fbin[..50].to_vec(), "cut short"),
        ("long.fbin", [&fbin[..], &[0]].concat(), "but the file has 57"),
        ("huge.fbin", bin(u32::MAX, 16_384, &elements), "but the file has"),
        ("dim0.fbin", bin(4, 0, &[]), "dimension 0"),
        ("dim.fbin", bin(1, u32::MAX, &elements), "dimension 4294967295"),
        ("empty.fvecs", vec![], "before its first row"),
        ("short.fvecs", vecs(f32_bytes)[..60].to_vec(), "cut short"),
        ("negative.fvecs", [0xFF; 16].to_vec(), "dimension"),
        ("mixed.fvecs", [vecs(f32_bytes), [&2u32.to_le_bytes()[..], &[0; 12]].concat()].concat(), "row 4"),
        ("no.npy", b"not numpy at all".to_vec(), "no npy file"),
        ("v9.npy", [b"\x93NUMPY\x09\x00", &[0; 20][..]].concat(), "version 9"),
        ("big.npy", [b"\x93NUMPY\x02\x00", &u32::MAX.to_le_bytes()[..], &[b' '; 99]].concat(), "claims"),
        ("size.npy", half[..half.len() - 2].to_vec(), "but the file has"),
        ("over.npy", npy(1, "<f4", "(18446744073709551615, 16384)", &[0; 4]), "too many"),
    ];
    for (name, bytes, expected) in &files {
        let outcome = VectorFile::open(folder.write(name, bytes)).and_then(|mut file| file.read_all_f32());
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(name), "{name}: {error}");
        // Packed, the size is not known before the end: still an error, and soon.
        let outcome =
            VectorFile::open(folder.write_packed(name, bytes)).and_then(|mut file| file.read_all_f32());
        assert!(outcome.is_err(), "{name}.zst");
    }
    let whole = folder.write_packed("cut.fbin", &fbin);
    let packed = std::fs::read(&whole).unwrap();
    for len in 0..packed.len() {
        std::fs::write(&whole, &packed[..len]).unwrap();
        let outcome = VectorFile::open(&whole).and_then(|mut file| file.read_all_f32());
        assert!(outcome.is_err(), "{len} of {} packed bytes", packed.len());
    }
    std::fs::write(&whole, b"no zstd data here").unwrap();
    assert!(VectorFile::open(&whole).unwrap_err().message().contains("zstd data is damaged"));
    assert!(VectorFile::open(folder.path.join("none.fbin")).is_err());
    assert!(VectorFile::open(folder.write("a.txt", &fbin)).unwrap_err().message().contains("fvecs"));
}
