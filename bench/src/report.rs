//! What a bench command hands back: one JSON object for programs, one table for people.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::machine::Machine;
use crate::{Error, Result};

/// One measured point: figures by name. A figure that could not be measured is left out or null, never 0.
pub type Row = Map<String, Value>;

/// A line of a table of goals that this run measured.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    /// What was measured.
    pub what: String,
    /// What it came to.
    pub value: f64,
    /// What it should come to, at least or at most, as `what` says.
    pub goal: f64,
    /// Whether it did.
    pub met: bool,
}

impl Goal {
    /// A goal that is met by `value >= goal`; a value that is not a number never meets it.
    pub fn at_least(what: impl Into<String>, value: f64, goal: f64) -> Self {
        Self { what: what.into(), value, goal, met: value >= goal }
    }

    /// A goal that is met by `value <= goal`; a value that is not a number never meets it.
    pub fn at_most(what: impl Into<String>, value: f64, goal: f64) -> Self {
        Self { what: format!("{}, at most", what.into()), value, goal, met: value <= goal }
    }
}

/// Everything a run reports.
#[derive(Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// What was asked, and what the engine chose.
    pub settings: Value,
    /// Measured points.
    pub rows: Vec<Row>,
    /// Goals measured.
    pub goals: Vec<Goal>,
}

impl Report {
    /// Prints the table of `columns` and the goals, and writes the JSON object when a path is given.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn publish(&self, columns: &[Column], json: Option<&Path>) -> Result<()> {
        println!("{}", self.machine.line());
        print!("{}", table(&self.rows, columns));
        for goal in &self.goals {
            let verdict = if goal.met { "met" } else { "NOT met" };
            println!("{verdict}: {} = {} (goal {})", goal.what, short(goal.value, 3), short(goal.goal, 3));
        }
        if let Some(path) = json {
            let text = serde_json::to_string_pretty(self)? + "\n";
            std::fs::write(path, text)
                .map_err(|error| -> Error { format!("cannot write {}: {error}", path.display()).into() })?;
            println!("wrote {}", path.display());
        }
        Ok(())
    }
}

/// A column of the table: a figure's name, and digits after the point.
pub type Column = (&'static str, usize);

/// The rows as text, one line each, numbers right-aligned; a missing figure is `-`. Columns that no row has
/// are left out.
pub fn table(rows: &[Row], columns: &[Column]) -> String {
    let present = |name: &str| rows.iter().any(|row| row.get(name).is_some_and(|value| !value.is_null()));
    let columns: Vec<&Column> = columns.iter().filter(|(name, _)| present(name)).collect();
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()];
    lines.extend(
        rows.iter().map(|row| columns.iter().map(|(name, digits)| cell(row, name, *digits)).collect()),
    );
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:>width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn cell(row: &Row, name: &str, digits: usize) -> String {
    match row.get(name) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::Number(number)) => number.as_f64().map_or("-".to_owned(), |value| short(value, digits)),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn short(value: f64, digits: usize) -> String {
    format!("{value:.digits$}")
}

/// Any serializable thing as a row.
///
/// # Errors
/// It is not a struct or a map.
pub fn row(figures: impl Serialize) -> Result<Row> {
    match serde_json::to_value(figures)? {
        Value::Object(row) => Ok(row),
        other => Err(format!("a row is an object of figures, not {other}").into()),
    }
}

/// The middle of `values`; the mean of the two in the middle where their number is even; NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (len, middle) if len % 2 == 1 => sorted[middle],
        (_, middle) => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_aligns_and_leaves_out_what_nobody_measured() {
        let rows = vec![
            row(json!({"set": "a", "qps": 1234.56, "rss_mb": null})).unwrap(),
            row(json!({"set": "long", "qps": null})).unwrap(),
        ];
        let text = table(&rows, &[("set", 0), ("qps", 1), ("rss_mb", 0), ("disk_mb", 0)]);
        assert_eq!(text, " set     qps\n   a  1234.6\nlong       -\n");
        assert!(row(json!([1])).is_err());
    }

    #[test]
    fn goals_and_medians() {
        assert!(Goal::at_least("a", 1.0, 1.0).met);
        assert!(!Goal::at_least("a", f64::NAN, 1.0).met);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
