//! The curves of the tables: evidence by budget, and by how good the search is.

use std::path::Path;

use serde_json::Value;

use crate::Result;
use crate::plot::{Curve, shares};
use crate::report::Row;

/// What is drawn of the selectors, in the order of the legend.
const DRAWN: [&str; 6] =
    ["submodular evidence", "auto", "submodular aspects", "mmr 0.7", "top_k skip", "adagres"];

fn text<'a>(row: &'a Row, name: &str) -> &'a str {
    row.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn number(row: &Row, name: &str) -> Option<f64> {
    row.get(name).and_then(Value::as_f64)
}

/// The points of rows that are of a set and a selector.
fn points(
    rows: &[Row],
    (set, selector): (&str, &str),
    x: &str,
    y: impl Fn(&Row) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let of = rows.iter().filter(|row| text(row, "set") == set && text(row, "selector") == selector);
    of.filter_map(|row| number(row, x).zip(y(row))).collect()
}

/// Draws what there is to draw of the rows.
///
/// # Errors
/// A file cannot be written.
pub fn all(folder: &Path, rows: &[Row]) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for (set, file) in [("multi-hop", "evidence.svg"), ("single-hop", "evidence-single-hop.svg")] {
        let recall = |row: &Row| number(row, "recall");
        let ceiling = |row: &Row| Some(number(row, "recall")? / number(row, "of_ceiling")?);
        let curve = |(color, name): (usize, &&str)| Curve {
            name: (*name).to_owned(),
            points: points(rows, (set, name), "budget", recall),
            color,
            is_pale: false,
        };
        let mut curves: Vec<Curve> = DRAWN.iter().enumerate().map(curve).collect();
        let best = points(rows, (set, "top_k skip"), "budget", ceiling);
        curves.insert(0, Curve { name: "best of any set".into(), points: best, color: 3, is_pale: true });
        curves.retain(|curve| !curve.points.is_empty());
        if !curves.is_empty() {
            let title = format!("{set} questions, 60 candidates");
            shares(&folder.join(file), [&title, "tokens", "share of the evidence in the context"], &curves)?;
        }
    }
    let mut curves = Vec::new();
    for (color, selector) in ["submodular evidence", "top_k skip"].into_iter().enumerate() {
        for budget in [1_024.0, 512.0, 256.0] {
            let of = rows
                .iter()
                .filter(|row| text(row, "selector") == selector && number(row, "budget") == Some(budget));
            let points: Vec<(f64, f64)> =
                of.filter_map(|row| number(row, "ann_recall").zip(number(row, "recall"))).collect();
            let name = format!("{selector}, {budget} tokens");
            curves.push(Curve { name, points, color, is_pale: budget < 1_000.0 });
        }
    }
    curves.retain(|curve| !curve.points.is_empty());
    if curves.is_empty() {
        return Ok(());
    }
    let names = ["evidence by recall of the search", "share of the true 60 nearest", "share of the evidence"];
    shares(&folder.join("evidence-by-recall.svg"), names, &curves)
}
