//! How far an import, a copy or an export has come, on standard error: a bar on a terminal, else a plain line
//! every few seconds.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use super::output::{bytes, thousands};

/// Time between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Rows done, rows in all where the file says so, else bytes of the file.
pub(super) struct Progress {
    rows: AtomicU64,
    rows_total: Option<u64>,
    bytes_total: Option<u64>,
    bytes_read: Arc<AtomicU64>,
    bar: Option<ProgressBar>,
    started: Instant,
    last_line: Mutex<Instant>,
}

impl Progress {
    /// Nothing done yet. `bytes_read` is moved on by whoever reads.
    pub(super) fn new(rows_total: Option<u64>, bytes_total: Option<u64>, bytes_read: Arc<AtomicU64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(rows_total, bytes_total));
        let started = Instant::now();
        let rows = AtomicU64::new(0);
        Self { rows, rows_total, bytes_total, bytes_read, bar, started, last_line: Mutex::new(started) }
    }

    /// More rows are written.
    pub(super) fn add(&self, rows: u64) {
        let done = self.rows.fetch_add(rows, Ordering::Relaxed) + rows;
        if let Some(bar) = &self.bar {
            let read = self.bytes_read.load(Ordering::Relaxed);
            bar.set_position(if self.rows_total.is_some() { done } else { read });
            bar.set_message(format!("{} rows, {} rows/s", thousands(done), thousands(self.rate(done))));
            return;
        }
        let mut last = self.last_line.lock();
        if last.elapsed() >= LINE_INTERVAL {
            *last = Instant::now();
            eprintln!("{}", self.line(done));
        }
    }

    /// Nothing more will come.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn rate(&self, done: u64) -> u64 {
        (done as f64 / self.started.elapsed().as_secs_f64().max(1e-3)) as u64
    }

    fn line(&self, done: u64) -> String {
        let rate = self.rate(done);
        let rest = match (self.rows_total, self.bytes_total) {
            (Some(total), _) => {
                let left_s = total.saturating_sub(done).checked_div(rate).unwrap_or(0);
                format!(" of {}, {left_s} s left", thousands(total))
            }
            (None, Some(total)) => {
                format!(", {} of {}", bytes(self.bytes_read.load(Ordering::Relaxed)), bytes(total))
            }
            (None, None) => String::new(),
        };
        format!("{} rows{rest}, {} rows/s", thousands(done), thousands(rate))
    }
}

fn bar(rows_total: Option<u64>, bytes_total: Option<u64>) -> ProgressBar {
    let (bar, template) = match (rows_total, bytes_total) {
        (Some(rows), _) => (ProgressBar::new(rows), "{bar:32} {percent:>3}%  {msg}  {eta} left"),
        (None, Some(bytes)) => (ProgressBar::new(bytes), "{bar:32} {percent:>3}%  {msg}  {eta} left"),
        (None, None) => (ProgressBar::new_spinner(), "{spinner} {msg}"),
    };
    // The templates are constants; the default style is no worse than none.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_say_what_is_known() {
        let read = Arc::new(AtomicU64::new(512));
        let progress = |rows, bytes| Progress::new(rows, bytes, Arc::clone(&read));
        let line = progress(Some(2_000), Some(1_024)).line(1_000);
        assert!(line.starts_with("1,000 rows of 2,000, ") && line.ends_with("rows/s"), "{line}");
        let line = progress(None, Some(1_024)).line(1_000);
        assert!(line.starts_with("1,000 rows, 512 B of 1.0 KiB, "), "{line}");
        assert!(progress(None, None).line(0).starts_with("0 rows, "));
    }
}
