//! The command on a set that a test can make, and its figures on numbers with a known answer.

use clap::Parser;
use serde_json::Value;

use super::*;
use crate::{Cli, Command};

#[test]
fn exponents_are_those_of_powers() {
    let power = |by: f64| [1e4, 1e5, 1e6].map(|rows: f64| (rows, 3.0 * rows.powf(by)));
    for by in [-1.0, 0.0, 0.5, 1.0] {
        assert!((exponent(&power(by)).unwrap() - by).abs() < 1e-9);
    }
    assert_eq!(exponent(&[(1.0, 2.0)]), None);
    assert_eq!(exponent(&[]), None);
    let points: Vec<Row> = [(10.0, 1.0), (1e5, 1.0), (1e6, 10.0)]
        .map(|(rows, p50_us)| report::row(json!({"rows": rows, "p50_us": p50_us})).unwrap())
        .to_vec();
    let large = exponents("large", &points, LARGE_ROWS);
    assert!((large["p50_us"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    assert_eq!(large["build_s"], Value::Null);
}

#[test]
fn the_dimension_of_uniform_neighbours_is_found() {
    // The i-th of k nearest in d dimensions is at about (i / k)^(1/d).
    for d in [2.0, 20.0] {
        let scores: Vec<f64> = (1..=1_000).map(|i| -(f64::from(i) / 1e3).powf(2.0 / d)).collect();
        let found = dimension(&[scores], Metric::L2, false).unwrap();
        assert!((found / d - 1.0).abs() < 0.02, "{found} of {d}");
    }
    assert_eq!(dimension(&[vec![1.0, 0.5]], Metric::Ip, false), None);
    assert!(dimension(&[vec![0.9, 0.5]], Metric::Ip, true).is_some());
}

#[test]
fn the_command_measures_both_sets_and_fits_the_mixture() {
    let folder = tempfile::tempdir().unwrap();
    let (base, json) = (folder.path().join("base.fbin"), folder.path().join("out.json"));
    let value = |at: usize| ((at * 7_919 + at / 8 * 31) % 1_000) as f32 / 500.0 - 1.0;
    let data = Matrix { dim: 8, data: (0..8 * 400).map(value).collect() };
    write(&base, 8, 400, std::iter::once(data)).unwrap();
    let line = format!(
        "spandrel-bench scale --base {} --metric l2 --rows 500,250 --queries 20 --components 8 --repeat 1 \
         --dir {} --json {}",
        base.display(),
        folder.path().join("work").display(),
        json.display()
    );
    let Command::Scale(args) = Cli::parse_from(line.split_whitespace()).command else { panic!("not scale") };
    run(&args).unwrap();
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let of = |name: &str| rows.iter().map(|row| row[name].clone()).collect::<Vec<_>>();
    assert_eq!(of("rows"), [json!(380), json!(380), json!(250), json!(500), Value::Null, Value::Null]);
    assert!(rows[..4].iter().all(|row| row["recall"] == 1.0 && row["p50_us"].as_f64().unwrap() > 0.0));
    assert!(rows[4]["build_s"].is_number() && rows[5]["build_s"].is_null());
    assert_eq!(report["settings"]["arguments"]["seed"], 1);
}
