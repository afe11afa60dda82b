//! JSON lines: one object a line, read straight into rows.
//!
//! Messages count all lines from 1, blank ones, which are passed over, too. One pass, the memory of a line
//! and of the sampled lines.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::atomic::Ordering;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use spandrel_storage::{Metric, Row, Schema};

use super::cell::ColumnSeed;
use super::infer::Sample;
use super::lines::Lines;
use super::plan::{Draft, Plan, Target};
use super::source::bad;
use super::{ImportOptions, RowReader, SAMPLE_BYTES_MAX};
use crate::error::{Error, Result};

/// Rows of a file of JSON lines.
pub(super) struct JsonlRows {
    lines: Lines,
    options: ImportOptions,
    plan: Option<Plan>,
    /// Sampled lines that are not rows yet, with their numbers.
    sampled: VecDeque<(u64, Vec<u8>)>,
    /// The line at hand and its number.
    buffer: Vec<u8>,
    line: u64,
    rows: u64,
    cut_short: bool,
    /// What is wrong with the file after the sampled lines.
    unread: Option<Error>,
}

impl JsonlRows {
    pub(super) fn open(path: &Path, options: ImportOptions) -> Result<Self> {
        Ok(Self {
            lines: Lines::open(path)?,
            options,
            plan: None,
            sampled: VecDeque::new(),
            buffer: Vec::new(),
            line: 0,
            rows: 0,
            cut_short: false,
            unread: None,
        })
    }

    /// Puts the next line that is not blank into `buffer`; false at the end.
    fn next_line(&mut self) -> Result<bool> {
        if let Some((line, buffer)) = self.sampled.pop_front() {
            (self.line, self.buffer) = (line, buffer);
            return Ok(true);
        }
        self.read_line()
    }

    fn read_line(&mut self) -> Result<bool> {
        if let Some(error) = self.unread.take() {
            return Err(error);
        }
        let any = self.lines.next(&mut self.buffer)?;
        self.line = self.lines.number();
        Ok(any)
    }

    fn bad_line(&self, what: impl fmt::Display) -> Error {
        bad(self.lines.path(), format!("line {}: {what}", self.line))
    }

    /// What serde says of the line at hand, without its line number, which is always 1.
    fn bad_json(&self, column: Option<String>, error: &serde_json::Error) -> Error {
        let text = error.to_string();
        let what = text.split(" at line ").next().unwrap_or_default();
        let at = match error.column() {
            0 => String::new(),
            at => format!(" (at byte {at})"),
        };
        match column {
            Some(column) => self.bad_line(format!("field '{column}': {what}{at}")),
            None => self.bad_line(format!("{what}{at}")),
        }
    }

    /// Samples lines and makes the plan, once. A bad line ends the sample, and is an error where it is
    /// reached.
    fn make_plan(&mut self) -> Result<()> {
        if self.plan.is_some() {
            return Ok(());
        }
        let mut sample = Sample::default();
        let rows_max = self.options.sample_rows.max(1);
        let mut bytes = 0;
        while sample.rows() < rows_max && bytes < SAMPLE_BYTES_MAX {
            match self.read_line() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if sample.rows() == 0 => return Err(error),
                Err(error) => {
                    self.unread = Some(error);
                    break;
                }
            }
            bytes += self.buffer.len();
            let members = match serde_json::from_slice::<Members>(&self.buffer) {
                Ok(members) => members,
                Err(error) if sample.rows() == 0 => return Err(self.bad_json(None, &error)),
                Err(_) => {
                    self.sampled.push_back((self.line, std::mem::take(&mut self.buffer)));
                    break;
                }
            };
            sample.next_row();
            members.0.iter().for_each(|(column, value)| sample.see(column, value));
            self.sampled.push_back((self.line, std::mem::take(&mut self.buffer)));
        }
        let plan = Plan::new(self.options.clone(), &sample).map_err(|what| bad(self.lines.path(), what))?;
        self.plan = Some(plan);
        Ok(())
    }

    /// The row of the line at hand.
    fn row(&self, plan: &Plan) -> Result<Row> {
        let mut failed_column = None;
        let seed = RowSeed { plan, failed_column: &mut failed_column };
        let mut json = serde_json::Deserializer::from_slice(&self.buffer);
        let draft = seed.deserialize(&mut json).and_then(|draft| json.end().map(|()| draft));
        let draft = draft.map_err(|error| self.bad_json(failed_column, &error))?;
        plan.finish(draft, self.rows).map_err(|what| self.bad_line(what))
    }
}

impl RowReader for JsonlRows {
    fn next_batch(&mut self, rows_max: usize, rows: &mut Vec<Row>) -> Result<()> {
        rows.clear();
        self.make_plan()?;
        let Some(plan) = self.plan.take() else { return Ok(()) };
        let limit = self.options.limit.unwrap_or(u64::MAX);
        let outcome = loop {
            if rows.len() == rows_max {
                break Ok(());
            }
            match self.next_line() {
                Ok(true) if self.rows == limit => {
                    self.cut_short = true;
                    self.sampled.push_front((self.line, std::mem::take(&mut self.buffer)));
                    break Ok(());
                }
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
            match self.row(&plan) {
                Ok(row) => rows.push(row),
                Err(error) => break Err(error),
            }
            self.rows += 1;
        };
        self.plan = Some(plan);
        outcome
    }

    fn total_rows(&self) -> Option<u64> {
        None
    }

    fn infer_schema(&mut self, metric: Metric) -> Result<Schema> {
        self.make_plan()?;
        Ok(self.plan.as_ref().map(|plan| plan.schema(metric)).unwrap_or_default())
    }

    fn bytes_read(&self) -> u64 {
        self.lines.read_bytes().load(Ordering::Relaxed)
    }

    fn bytes_total(&self) -> Option<u64> {
        Some(self.lines.file_bytes())
    }

    fn is_cut_short(&self) -> bool {
        self.cut_short
    }
}

/// The members of an object in their order.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// Reads an object as a row; on failure says in which column.
struct RowSeed<'a> {
    plan: &'a Plan,
    failed_column: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for RowSeed<'_> {
    type Value = Draft;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Draft, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RowSeed<'_> {
    type Value = Draft;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Draft, A::Error> {
        let mut draft = self.plan.draft();
        while let Some(column) = map.next_key_seed(ColumnSeed)? {
            let value = match self.plan.target(&column) {
                Ok(target) => map.next_value_seed(ValueSeed { plan: self.plan, draft: &mut draft, target }),
                Err(what) => Err(A::Error::custom(what)),
            };
            if let Err(error) = value {
                *self.failed_column = Some(column.into_owned());
                return Err(error);
            }
        }
        Ok(draft)
    }
}

/// Reads one value into the row.
struct ValueSeed<'a> {
    plan: &'a Plan,
    draft: &'a mut Draft,
    target: Target,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.plan.set(self.draft, self.target, deserializer)
    }
}
