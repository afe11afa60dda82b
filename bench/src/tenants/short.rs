//! Whether answers are as long as they may be: random filters, which have to do with the query or not, of
//! random results and recalls. An answer has as many hits as were asked for, or all that pass.

use rayon::prelude::*;
use serde_json::json;
use spandrel::{Database, Filter, PayloadKind, Row, Schema, Settings, Value};
use tempfile::TempDir;

use super::{Args, load, search_for};
use crate::Result;
use crate::dataset::Matrix;
use crate::engine::{VECTOR, row_of};
use crate::exact::Exact;
use crate::random::Random;
use crate::report::{self, Goal};

/// Words drawn at random, and words of the rows nearest to a query.
const RANDOM_WORDS: usize = 40;
const NEAR_WORDS: usize = 24;
const WORDS: &str = "words";
const DEPTH: usize = 3;
const SEED: u64 = 23;

/// A filter, and the rows that pass.
struct Passing {
    filter: Filter,
    bits: Vec<u64>,
}

/// Asks so many random questions.
///
/// # Errors
/// The engine fails, or finds a row that does not pass.
pub fn measure(
    args: &Args,
    asks: usize,
    base: &Matrix,
    queries: &Matrix,
) -> Result<(Vec<report::Row>, Vec<Goal>)> {
    let mut random = Random(SEED);
    let words = words(args, base, queries, &mut random);
    let folder = TempDir::new()?;
    let database =
        Database::open(folder.path(), Settings { learn_from_queries: false, ..Settings::default() })?;
    let schema = Schema::new()
        .dense(VECTOR, u32::try_from(base.dim)?, args.metric)
        .payload(WORDS, PayloadKind::Keyword);
    let collection = database.create_collection("bench", schema)?;
    load(&collection, base.rows(), |at| {
        let has = |(_, bits): &(usize, &Vec<u64>)| bits[at / 64] >> (at % 64) & 1 == 1;
        let of = words.iter().enumerate().filter(has).map(|(word, _)| word_name(word).as_str().into());
        let row = Row::new(at.to_string()).dense(VECTOR, base.row(at).to_vec());
        row.payload(WORDS, Value::List(of.collect()))
    })?;
    collection.optimize()?;
    let (mut short, mut all_found, mut matches_mean) = (0_usize, 0_usize, 0.0);
    for ask in 0..asks {
        let Passing { filter, bits } = draw(&words, base.rows(), &mut random, DEPTH);
        let matches: usize = bits.iter().map(|word| word.count_ones() as usize).sum();
        let k = match random.below(10) {
            0 => 1,
            1..=6 => 10,
            7 | 8 => 1 + random.below(100),
            _ => 1 + random.below(2_000),
        };
        let recall = [0.8, 0.95, 0.99][random.below(3)];
        let request = search_for(queries.row(ask % queries.rows()), (k, recall)).filter(filter);
        let answer = collection.search(&request)?;
        for hit in &answer.hits {
            let row = row_of(&hit.row.key)? as usize;
            if bits[row / 64] >> (row % 64) & 1 == 0 {
                return Err(format!("row {row} does not pass {:?}", request.filter).into());
            }
        }
        let wanted = k.min(matches);
        if answer.hits.len() != wanted || answer.short.is_some() != (wanted < k) {
            short += 1;
            println!("{} of {k} hits where {matches} rows pass {:?}", answer.hits.len(), request.filter);
        }
        all_found += usize::from(wanted < k);
        matches_mean += matches as f64 / asks as f64;
    }
    let row = report::row(json!({
        "workload": format!("short:{asks}"),
        "class": "random filters",
        "asks": asks,
        "rows_mean": matches_mean,
        "short": short,
        "fewer_match": all_found,
    }))?;
    let what = format!("answers of {asks} that lack rows which pass");
    Ok((vec![row], vec![Goal::at_most(what, short as f64, 0.0)]))
}

fn word_name(word: usize) -> String {
    format!("w{word}")
}

/// The rows of each word.
fn words(args: &Args, base: &Matrix, queries: &Matrix, random: &mut Random) -> Vec<Vec<u64>> {
    let empty = || vec![0_u64; base.rows().div_ceil(64)];
    let mut words = Vec::new();
    // From a row in 20,000 to all but a few.
    for at in 0..RANDOM_WORDS {
        let share = 20_000_f64.powf(at as f64 / (RANDOM_WORDS - 1) as f64 - 1.0).min(0.995);
        let mut bits = empty();
        (0..base.rows())
            .filter(|_| (random.next() as f64) < share * u64::MAX as f64)
            .for_each(|row| bits[row / 64] |= 1 << (row % 64));
        words.push(bits);
    }
    let near: Vec<Vec<u64>> = (0..NEAR_WORDS)
        .into_par_iter()
        .map(|at| {
            let query = Exact::new(queries.row(at * 31 % queries.rows()));
            let score = |row: usize| query.score(&Exact::new(base.row(row)), args.metric);
            let mut scored: Vec<(f64, usize)> = (0..base.rows()).map(|row| (score(row), row)).collect();
            scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let count = base.rows() >> (1 + at / 2).min(16);
            // The nearest rows, or the farthest.
            let of: Vec<usize> = match at % 2 {
                0 => scored.iter().take(count.max(1)).map(|(_, row)| *row).collect(),
                _ => scored.iter().rev().take(count.max(1)).map(|(_, row)| *row).collect(),
            };
            let mut bits = empty();
            of.into_iter().for_each(|row| bits[row / 64] |= 1 << (row % 64));
            bits
        })
        .collect();
    words.extend(near);
    words
}

/// A random filter.
fn draw(words: &[Vec<u64>], rows: usize, random: &mut Random, depth: usize) -> Passing {
    let kind = if depth == 0 { 0 } else { random.below(8) };
    if kind < 4 {
        let word = random.below(words.len());
        let filter = Filter::Equals { field: WORDS.to_owned(), value: word_name(word).as_str().into() };
        return Passing { filter, bits: words[word].clone() };
    }
    if kind == 7 {
        let Passing { filter, bits } = draw(words, rows, random, depth - 1);
        let mut bits: Vec<u64> = bits.iter().map(|word| !word).collect();
        if let (Some(last), left @ 1..) = (bits.last_mut(), rows % 64) {
            *last &= (1 << left) - 1;
        }
        return Passing { filter: Filter::Not(Box::new(filter)), bits };
    }
    let parts: Vec<Passing> =
        (0..2 + random.below(2)).map(|_| draw(words, rows, random, depth - 1)).collect();
    let all = kind == 4 || kind == 5;
    let mut bits = parts[0].bits.clone();
    for part in &parts[1..] {
        bits.iter_mut().zip(&part.bits).for_each(|(to, from)| if all { *to &= from } else { *to |= from });
    }
    let filters = parts.into_iter().map(|part| part.filter).collect();
    Passing { filter: if all { Filter::And(filters) } else { Filter::Or(filters) }, bits }
}
