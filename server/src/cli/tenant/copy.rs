//! `spandrel tenant copy`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::output::{self, thousands};
use super::super::progress::Progress;
use super::super::target::{Target, TargetArgs};
use super::super::{CliError, Common};
use super::name;

/// Time between two looks at how far the copy has come.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// From whom to whom.
#[derive(clap::Args)]
pub(in crate::cli) struct CopyArgs {
    /// The collection
    collection: String,
    /// Whose rows; '' is the default tenant
    #[arg(long, value_name = "NAME")]
    from: String,
    /// Who gets them; '' is the default tenant
    #[arg(long, value_name = "NAME")]
    to: String,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn run(common: &Common, args: &CopyArgs) -> Result<(), CliError> {
    let target = args.target.open(common, false)?;
    target.schema(&args.collection)?;
    let total = target.tenant(&args.collection, &args.from)?.rows;
    let before = rows_of(&target, args).unwrap_or(0);
    let progress = Progress::new(Some(total), None, Arc::new(AtomicU64::new(0)));
    let started = Instant::now();
    let written = std::thread::scope(|scope| {
        let (done, is_done) = channel();
        scope.spawn(|| watch(&target, args, before, &progress, is_done));
        let written = target.copy_tenant(&args.collection, (&args.from, &args.to));
        drop(done);
        written
    });
    progress.finish();
    let again = "copy again when it is put right; rows repeat safely";
    let written = written.map_err(|error| error.hint(again))?;
    let seconds = started.elapsed().as_secs_f64();
    if common.json {
        let (from, to) = (&args.from, &args.to);
        output::print_json(&json!({"from": from, "to": to, "rows": written.rows, "seconds": seconds}))?;
    } else {
        let (rows, from, to) = (thousands(written.rows), name(&args.from), name(&args.to));
        output::print(&format!("{rows} rows of {from} copied to {to} in {seconds:.1} s\n"))?;
    }
    target.close()
}

/// Rows of the tenant that is copied to; none when it is not there.
fn rows_of(target: &Target, args: &CopyArgs) -> Option<u64> {
    target.tenant(&args.collection, &args.to).ok().map(|stats| stats.rows)
}

/// Shows by how much the tenant has grown, until `is_done` has no sender any more.
fn watch(target: &Target, args: &CopyArgs, before: u64, progress: &Progress, is_done: Receiver<()>) {
    let mut seen = 0;
    while is_done.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let grown = rows_of(target, args).unwrap_or(0).saturating_sub(before);
        progress.add(grown.saturating_sub(seen));
        seen = seen.max(grown);
    }
}
