//! The command as it is typed, on sets that a test can make.

use clap::Parser;
use serde_json::Value;

use super::*;
use crate::{Cli, Command};

const ROWS: usize = 300;
const QUERIES: usize = 20;
const DIM: usize = 8;

/// Numbers in -1..1, by a linear congruential generator (Knuth's MMIX).
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn write(path: &Path, rows: usize, width: usize, words: impl Iterator<Item = [u8; 4]>) {
    let mut bytes = Vec::new();
    for size in [rows, width] {
        bytes.extend(u32::try_from(size).unwrap().to_le_bytes());
    }
    bytes.extend(words.flatten());
    std::fs::write(path, bytes).unwrap();
}

fn write_vectors(path: &Path, vectors: &[f32]) {
    write(path, vectors.len() / DIM, DIM, vectors.iter().map(|element| element.to_le_bytes()));
}

/// A base, queries, and the 10 nearest by squared distance, in `folder`.
fn make_set(folder: &Path, seed: u64) {
    let (base, queries) = (numbers(seed, ROWS * DIM), numbers(seed + 1, QUERIES * DIM));
    let mut truth = Vec::new();
    for query in queries.chunks(DIM) {
        let distance = |row: &[f32]| -> f64 {
            row.iter().zip(query).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
        };
        let mut rows: Vec<(f64, i32)> = base.chunks(DIM).map(distance).zip(0..).collect();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        truth.extend(rows.iter().take(10).map(|(_, row)| row.to_le_bytes()));
    }
    write_vectors(&folder.join("base.fbin"), &base);
    write_vectors(&folder.join("queries.fbin"), &queries);
    write(&folder.join("truth.ibin"), QUERIES, 10, truth.into_iter());
}

/// The contract's line over a folder's set, with more flags at its end.
fn args(folder: &Path, more: &str) -> Args {
    let at = |name: &str| folder.join(name).display().to_string();
    let line = format!(
        "spandrel-bench ann --base {} --queries {} --truth {} --metric l2 --k 10 --threads 1 --memory-mb 64 \
         --recall 0.95 --index auto --json {} {more}",
        at("base.fbin"),
        at("queries.fbin"),
        at("truth.ibin"),
        at("out.json")
    );
    match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
        Command::Ann(args) => *args,
        _ => panic!("not ann"),
    }
}

#[test]
fn the_contracts_line_measures_everything_it_promises() {
    let folder = TempDir::new().unwrap();
    make_set(folder.path(), 7);
    run(&args(folder.path(), "")).unwrap();
    let text = std::fs::read_to_string(folder.path().join("out.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert!(report["machine"].is_object() && report["settings"]["command"] == "ann");
    assert_eq!(report["settings"]["set"]["rows"], ROWS);
    let [row] = report["rows"].as_array().unwrap().as_slice() else { panic!("{report}") };
    for figure in [
        "recall",
        "qps",
        "p50_us",
        "p95_us",
        "p99_us",
        "build_s",
        "disk_mb",
        "bytes_per_vector",
        "pages_per_query",
    ] {
        assert!(row[figure].is_number(), "{figure}: {row}");
    }
    // Known where the system tells it.
    assert!(row.get("rss_mb").is_some() && (row["rss_mb"].is_number() || !cfg!(target_os = "linux")));
    assert_eq!(row["recall"], 1.0);
    assert!(row["qps"].as_f64().unwrap() > 0.0 && row["disk_mb"].as_f64().unwrap() > 0.0);
    let [goal] = report["goals"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert_eq!((goal["goal"].as_f64(), goal["met"].as_bool()), (Some(0.95), Some(true)));
}

#[test]
fn a_folder_of_another_set_is_not_searched() {
    let (one, two, kept) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    make_set(one.path(), 7);
    make_set(two.path(), 8);
    let flag = |name: &str| format!("--{name} {}", kept.path().display());
    assert!(
        run(&args(one.path(), &flag("open"))).unwrap_err().to_string().contains("bench"),
        "nothing there"
    );
    run(&args(one.path(), &flag("keep"))).unwrap();
    // The same again is searched without a build, warm or cold.
    for cold in ["", " --cold --repeat 2 --residency lean"] {
        run(&args(one.path(), &(flag("open") + cold))).unwrap();
        let text = std::fs::read_to_string(one.path().join("out.json")).unwrap();
        let report: Value = serde_json::from_str(&text).unwrap();
        assert!(report["rows"][0]["build_s"].is_null() && report["rows"][0]["recall"] == 1.0);
    }
    assert!(
        run(&args(one.path(), &flag("keep"))).unwrap_err().to_string().contains("measure it with --open")
    );
    let error = run(&args(two.path(), &flag("open"))).unwrap_err().to_string();
    assert!(error.contains("holds other vectors: its row 0"), "{error}");
}

#[test]
fn a_sweep_is_drawn_as_one_curve_with_a_point_for_each_row() {
    let folder = TempDir::new().unwrap();
    make_set(folder.path(), 9);
    let path = folder.path().join("curve.svg");
    run(&args(folder.path(), &format!("--plot {} --recall 0.9,0.99", path.display()))).unwrap();
    let report = std::fs::read_to_string(folder.path().join("out.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let svg = std::fs::read_to_string(path).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!((rows.len(), svg.matches("<circle").count()), (3, 3));
    assert_eq!(svg.matches("1 threads, batch 1").count(), 1);
}

#[test]
fn indexes_have_the_names_of_their_folders() {
    let names = ["ssd", "auto", "hnsw", "flat"].map(|name| index(name).unwrap());
    assert_eq!(names, [IndexKind::Auto, IndexKind::Auto, IndexKind::Hnsw, IndexKind::Flat]);
    assert!(index("ivf").is_err());
}
