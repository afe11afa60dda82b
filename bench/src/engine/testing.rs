//! An engine for tests of the bench itself: the hit of a query is the row that its first element names.

use super::{Engine, Found, Process, Result, Searcher, Size, Wanted, Work, Writer};

/// Answers at once; with `fails_at`, fails on queries whose first element is that.
#[derive(Default)]
pub struct Echo {
    pub fails_at: Option<u32>,
}

struct Calls<'a>(&'a Echo, Vec<Vec<u32>>);

impl Engine for Echo {
    fn writer(&self) -> Result<Box<dyn Writer + Send + '_>> {
        Err("read only".into())
    }

    fn searcher(&self, calls: &[Vec<&[f32]>], _wanted: Wanted) -> Result<Box<dyn Searcher + Send + '_>> {
        let rows = calls.iter().map(|call| call.iter().map(|query| query[0] as u32).collect()).collect();
        Ok(Box::new(Calls(self, rows)))
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn size(&self) -> Result<Size> {
        Ok(Size::default())
    }

    fn work(&self, _query: &[f32], _wanted: Wanted) -> Result<Work> {
        Ok(Work::default())
    }

    fn vectors(&self, _rows: &[usize]) -> Result<Vec<Option<Vec<f32>>>> {
        Err("keeps no vectors".into())
    }

    fn process(&self) -> Process {
        Process::This
    }

    fn close(&self) -> Result<u64> {
        Ok(0)
    }
}

impl Searcher for Calls<'_> {
    fn call(&mut self, call: usize) -> Result<Vec<Vec<Found>>> {
        let rows = &self.1[call];
        if rows.iter().any(|&row| Some(row) == self.0.fails_at) {
            return Err("asked to fail".into());
        }
        Ok(rows.iter().map(|&row| vec![Found { row, score: 0.0 }]).collect())
    }
}
