//! `spandrel restore`.

use std::path::PathBuf;

use serde_json::json;
use spandrel::Database;

use super::{CliError, Common, output};

/// Makes a new data folder from a backup. The backup stays as it is.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  spandrel restore /backups/monday ./spandrel-data-restored
  spandrel serve --data ./spandrel-data-restored")]
pub(super) struct RestoreArgs {
    /// Folder that `spandrel backup` made
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
    /// Data folder to make; it does not exist yet, or is empty
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn run(common: &Common, args: RestoreArgs) -> Result<(), CliError> {
    if !args.backup.is_dir() {
        let message = format!("there is no folder {}", args.backup.display());
        return Err(CliError { message, code: super::NOT_FOUND });
    }
    Database::restore(&args.backup, &args.dir)?;
    if common.json {
        return output::print_json(&json!({"data": args.dir, "backup": args.backup}));
    }
    output::print(&format!(
        "restored into {0}; serve it with `spandrel serve --data {0}`\n",
        args.dir.display()
    ))
}
