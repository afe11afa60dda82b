//! A writer that is killed loses nothing that it acknowledged.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use super::open::again;
use super::*;

const WRITE: &str = "SPANDREL_TEST_WRITE";

/// Not a test of its own: writes until it is killed; prints each row after its commit returned.
#[test]
fn writer() {
    let Some(path) = std::env::var_os(WRITE) else { return };
    let store = open(Path::new(&path));
    let c = match store.collections().unwrap().first() {
        Some(meta) => meta.id,
        None => store.create_collection("c", &schema()).unwrap().id,
    };
    let mut out = std::io::stdout();
    for row in store.last_row_id(c).unwrap().0 + 1.. {
        // Some commits are larger than a block of the log, some are buffered.
        let text_bytes = if row % 5 == 0 { 100_000 } else { 700 };
        let durability = if row % 3 == 0 { Durability::Buffered } else { Durability::Sync };
        store
            .commit(&commit_of(c, vec![put(row, 0, &format!("k{row}"), text_bytes, None)]), durability)
            .unwrap();
        writeln!(out, "row {row}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn acknowledged_rows_survive_a_kill() {
    let seed = 31;
    println!("seed {seed}");
    let mut chance = Chance(seed);
    let dir = scratch();
    for _ in 0..6 {
        let mut child = again("kill::writer", WRITE, dir.path()).stdin(Stdio::null()).spawn().unwrap();
        let mut lines =
            BufReader::new(child.stdout.take().unwrap()).lines().map_while(std::result::Result::ok);
        let rows =
            |line: String| line.rsplit_once("row ").and_then(|(_, row)| row.trim().parse::<u64>().ok());
        let some = 1 + chance.below(120);
        let mut last = lines.by_ref().filter_map(rows).take(some).last();
        child.kill().unwrap();
        last = lines.filter_map(rows).last().or(last);
        child.wait().unwrap();
        let store = open(dir.path());
        let c = store.collections().unwrap()[0].id;
        let found = store.last_row_id(c).unwrap().0;
        assert!(Some(found) >= last, "{found} rows, {last:?} acknowledged");
        let records = records(&store, c).unwrap();
        for row in 1..=found {
            let text_bytes = if row % 5 == 0 { 100_000 } else { 700 };
            assert_eq!(records[&row], Record::Row(row_of(row, 0, &format!("k{row}"), text_bytes)));
        }
    }
}
