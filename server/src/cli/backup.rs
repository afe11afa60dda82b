//! `spandrel backup`.

use serde_json::json;

use super::target::{Target, TargetArgs};
use super::{CliError, Common, output};

/// Copies everything acknowledged, consistently, into a new folder. Of a data folder: into the folder you
/// name. Of a server: into a folder of that name under the server's `backup_dir`, on its machine, while it
/// goes on serving.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  spandrel backup /backups/monday --data ./spandrel-data
  spandrel backup monday --url http://127.0.0.1:7780 --api-key \"$KEY\"")]
pub(super) struct BackupArgs {
    /// Folder that does not exist yet; with --url a plain name
    #[arg(value_name = "FOLDER")]
    to: String,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn run(common: &Common, args: BackupArgs) -> Result<(), CliError> {
    let target = args.target.open(common, false)?;
    let path = target.backup(&args.to)?;
    let place = if matches!(target, Target::Remote(_)) { " on the server's machine" } else { "" };
    if common.json {
        output::print_json(&json!({"backup": path}))?;
    } else {
        output::print(&format!(
            "backup in {path}{place}\nAPI keys are not in it; they are in the keys file beside the data folder.\n"
        ))?;
    }
    target.close()
}
