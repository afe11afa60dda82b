//! What results look like: tables and text for people, JSON for programs.

use std::io::Write;

use serde_json::{Map, Value as Json, json};
use spandrel::{Chunk, Explain, FieldValue, Hit, PackedChunk, Row, Value};

use super::CliError;

/// Width of text for people where the terminal does not say.
const WIDTH_DEFAULT: usize = 100;
/// Least room for a text, however wide the other columns are.
const TEXT_WIDTH_MIN: usize = 20;

/// Prints one JSON document.
pub(super) fn print_json(json: &Json) -> Result<(), CliError> {
    print(&format!("{json:#}\n"))
}

/// Prints text. A reader that went away, as `head` does, is not a failure.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::failed(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Columns of a terminal, as the shell says.
pub(super) fn width() -> usize {
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    columns.filter(|columns| *columns >= 40).unwrap_or(WIDTH_DEFAULT)
}

/// Lines of cells under their heads, columns as wide as their widest cell. Cells that are all numbers go to
/// the right.
pub(super) fn table(heads: &[&str], lines: &[Vec<String>]) -> String {
    let columns = heads.len();
    let cell = |line: &[String], at: usize| line.get(at).cloned().unwrap_or_default();
    let mut widths: Vec<usize> = heads.iter().map(|head| head.chars().count()).collect();
    let mut numeric = vec![true; columns];
    for line in lines {
        for at in 0..columns {
            let cell = cell(line, at);
            widths[at] = widths[at].max(cell.chars().count());
            numeric[at] &= cell.chars().all(|c| c.is_ascii_digit() || ".,-+%".contains(c));
        }
    }
    let mut text = String::new();
    let mut write = |cells: Vec<String>| {
        let mut line = String::new();
        for at in 0..columns {
            let pad = " ".repeat(widths[at].saturating_sub(cells[at].chars().count()));
            if numeric[at] {
                line.push_str(&pad);
                line.push_str(&cells[at]);
            } else {
                line.push_str(&cells[at]);
                line.push_str(&pad);
            }
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    write(heads.iter().map(|head| (*head).to_owned()).collect());
    for line in lines {
        write((0..columns).map(|at| cell(line, at)).collect());
    }
    text
}

/// `1234567` as `1,234,567`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a unit.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// One line of at most `width` characters; control characters, which a stored text may hold, become spaces.
pub(super) fn one_line(text: &str, width: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut words = String::new();
    for word in clean.split_whitespace() {
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
        if words.chars().count() > width {
            let cut: String = words.chars().take(width.saturating_sub(1)).collect();
            return format!("{cut}\u{2026}");
        }
    }
    words
}

fn value_json(value: &Value) -> Json {
    serde_json::to_value(value).unwrap_or(Json::Null)
}

fn field_json(value: &FieldValue) -> Json {
    match value {
        FieldValue::Dense(vector) => json!(vector),
        FieldValue::Sparse(vector) => json!({"dims": vector.dims, "weights": vector.weights}),
        FieldValue::Text(text) => json!(text),
        FieldValue::Payload(value) => value_json(value),
    }
}

fn chunk_json(chunk: &Chunk) -> Json {
    json!({"document": chunk.document, "span": [chunk.span.start, chunk.span.end], "tokens": chunk.tokens})
}

/// A row as JSON.
pub(super) fn row_json(row: &Row) -> Json {
    let fields: Map<String, Json> =
        row.fields.iter().map(|(name, value)| (name.clone(), field_json(value))).collect();
    let mut json = json!({"key": row.key, "tenant": row.tenant, "fields": fields});
    if let Some(chunk) = &row.chunk {
        json["chunk"] = chunk_json(chunk);
    }
    json
}

/// A hit as JSON: its row, score, and what the routes said.
pub(super) fn hit_json(hit: &Hit) -> Json {
    let mut json = row_json(&hit.row);
    json["score"] = json!(hit.score);
    json["routes"] = json!(hit.routes);
    json
}

/// Hits for people: rank, score, key and text on a line, payload below.
pub(super) fn hits_text(hits: &[Hit], offset: usize) -> String {
    let key_width = hits.iter().map(|hit| hit.row.key.chars().count()).max().unwrap_or(0).min(40);
    let mut text = String::new();
    for (at, hit) in hits.iter().enumerate() {
        let key = one_line(&hit.row.key, 40);
        let head = format!("{:>4}  {:>9.4}  {key:<key_width$}  ", offset + at + 1, hit.score);
        let room = width().saturating_sub(head.chars().count()).max(TEXT_WIDTH_MIN);
        let words = hit.row.fields.values().find_map(|value| match value {
            FieldValue::Text(text) => Some(one_line(text, room)),
            _ => None,
        });
        text.push_str(format!("{head}{}", words.unwrap_or_default()).trim_end());
        text.push('\n');
        let facts = facts(&hit.row);
        if !facts.is_empty() {
            let indent = " ".repeat(17);
            text.push_str(&format!(
                "{indent}{}\n",
                one_line(&facts, width().saturating_sub(17).max(TEXT_WIDTH_MIN))
            ));
        }
    }
    text
}

/// Payload and source of a row in one line.
fn facts(row: &Row) -> String {
    let mut facts = Vec::new();
    if !row.tenant.is_empty() {
        facts.push(format!("tenant={}", row.tenant));
    }
    if let Some(chunk) = &row.chunk {
        facts.push(format!("source={}[{}..{}]", chunk.document, chunk.span.start, chunk.span.end));
    }
    for (name, value) in &row.fields {
        if let FieldValue::Payload(value) = value {
            let text = match value {
                Value::String(text) => text.clone(),
                other => value_json(other).to_string(),
            };
            facts.push(format!("{name}={}", one_line(&text, 60)));
        }
    }
    facts.join(", ")
}

/// Sources of a context for people.
pub(super) fn chunks_text(chunks: &[PackedChunk]) -> String {
    let line = |(at, chunk): (usize, &PackedChunk)| {
        let source = chunk.hit.row.chunk.as_ref().map(|of| {
            // Of merged ones the whole.
            let span = chunk.source_span.as_ref().unwrap_or(&of.span);
            format!("{}[{}..{}]", of.document, span.start, span.end)
        });
        let keys = match chunk.merged_from.as_slice() {
            [] => chunk.hit.row.key.clone(),
            merged => merged.join(" + "),
        };
        vec![
            format!("{}", at + 1),
            // A neighbour was not found.
            if chunk.rank == 0 { "-".to_owned() } else { chunk.rank.to_string() },
            format!("{:.4}", chunk.hit.score),
            chunk.tokens.to_string(),
            one_line(&keys, 60),
            source.unwrap_or_default(),
        ]
    };
    let lines: Vec<_> = chunks.iter().enumerate().map(line).collect();
    table(&["#", "rank", "score", "tokens", "key", "source"], &lines)
}

/// Stages for people.
pub(super) fn explain_text(explain: &Explain) -> String {
    let line = |stage: &spandrel::Stage| {
        vec![
            stage.name.clone(),
            thousands(stage.rows_in),
            thousands(stage.rows_out),
            thousands(stage.scored),
            thousands(stage.read_bytes),
            thousands(stage.time_us),
        ]
    };
    let lines: Vec<_> = explain.stages.iter().map(line).collect();
    let planned = |(stage, plan): (&spandrel::Stage, &spandrel::Planned)| {
        vec![
            stage.name.clone(),
            plan.plan.clone(),
            thousands(plan.matches),
            plan.estimate_us.map_or_else(|| "-".to_owned(), |us| format!("{us:.0}")),
            format!("{:.0}", plan.time_us),
            thousands(plan.scored),
        ]
    };
    let plans = explain.stages.iter().flat_map(|stage| stage.plans.iter().map(move |plan| (stage, plan)));
    let plans: Vec<_> = plans.map(planned).collect();
    let plans = match plans.is_empty() {
        true => String::new(),
        false => table(&["each segment", "plan", "may match", "expected us", "us", "scored"], &plans) + "\n",
    };
    format!(
        "\n{}\n{plans}{} segments, {} rows of the tenant, {} us\n",
        table(&["stage", "rows in", "rows out", "scored", "read bytes", "us"], &lines),
        explain.segments,
        thousands(explain.tenant_rows),
        thousands(explain.total_us)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let lines =
            vec![vec!["a".to_owned(), "1".to_owned()], vec!["long one".to_owned(), "1,000".to_owned()]];
        assert_eq!(table(&["name", "rows"], &lines), "name       rows\na             1\nlong one  1,000\n");
        assert_eq!(table(&["name"], &[]), "name\n");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn stored_text_cannot_drive_the_terminal() {
        assert_eq!(one_line("a\x1b[31m\n  b\tc\u{7}", 80), "a [31m b c");
        assert_eq!(one_line("one two three", 8), "one two\u{2026}");
        assert_eq!(one_line("", 8), "");
    }

    #[test]
    fn rows_as_json() {
        let row = Row::new("k").tenant("t").text("body", "x").dense("v", vec![0.5, 1.0]).payload("n", 3_i64);
        let row = row.chunk(Chunk { document: "d".to_owned(), span: 1..4, tokens: 2 });
        let json = row_json(&row);
        assert_eq!(json["fields"], json!({"body": "x", "v": [0.5, 1.0], "n": 3}));
        assert_eq!(json["chunk"], json!({"document": "d", "span": [1, 4], "tokens": 2}));
        let hit =
            Hit { row, score: 0.5, routes: vec![None, Some(spandrel::RouteScore { score: 2.0, rank: 1 })] };
        assert_eq!(hit_json(&hit)["routes"], json!([null, {"score": 2.0, "rank": 1}]));
        let text = hits_text(&[hit], 10);
        assert!(text.starts_with("  11     0.5000  k  x\n"), "{text}");
        assert!(text.contains("tenant=t, source=d[1..4], n=3"), "{text}");
    }
}
