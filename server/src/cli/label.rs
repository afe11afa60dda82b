//! `spandrel label grant|revoke|drop|list`.

use serde_json::json;

use super::target::TargetArgs;
use super::{CliError, Common, output};

/// Grant, revoke, drop and list access labels.
#[derive(clap::Subcommand)]
pub(super) enum LabelCommand {
    /// Give rows access labels: searches for one of these labels see them
    #[command(after_help = "\
Example:
  spandrel label grant docs --tenant acme --label staff --key faq-7 --key faq-8")]
    Grant(RowsArgs),
    /// Take access labels from rows
    #[command(after_help = "\
Example:
  spandrel label revoke docs --tenant acme --label staff --key faq-7")]
    Revoke(RowsArgs),
    /// Drop an access label: no row of any tenant has it any more
    #[command(after_help = "Example:\n  spandrel label drop docs staff")]
    Drop(DropArgs),
    /// List the access labels that there are
    #[command(after_help = "Example:\n  spandrel label list docs --json")]
    List(ListArgs),
}

/// Which rows, and which labels.
#[derive(clap::Args)]
pub(super) struct RowsArgs {
    /// The collection
    collection: String,
    /// The tenant [default: the default tenant, or the key's only one]
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "NAME")]
    tenant: String,
    /// A label (repeatable)
    #[arg(long = "label", required = true, value_name = "NAME")]
    labels: Vec<String>,
    /// Key of a row (repeatable)
    #[arg(long = "key", required = true, value_name = "KEY")]
    keys: Vec<String>,
    #[command(flatten)]
    target: TargetArgs,
}

/// Which label.
#[derive(clap::Args)]
pub(super) struct DropArgs {
    /// The collection
    collection: String,
    /// The label
    label: String,
    #[command(flatten)]
    target: TargetArgs,
}

/// Where.
#[derive(clap::Args)]
pub(super) struct ListArgs {
    /// The collection
    collection: String,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn run(common: &Common, command: LabelCommand) -> Result<(), CliError> {
    match command {
        LabelCommand::Grant(args) => change(common, &args, true),
        LabelCommand::Revoke(args) => change(common, &args, false),
        LabelCommand::Drop(args) => drop_label(common, &args),
        LabelCommand::List(args) => list(common, &args),
    }
}

fn change(common: &Common, args: &RowsArgs, granted: bool) -> Result<(), CliError> {
    let target = args.target.open(common, false)?;
    target.schema(&args.collection)?;
    let rows = (&*args.tenant, &*args.keys);
    let written = target.label(&args.collection, rows, &args.labels, granted)?;
    if common.json {
        output::print_json(&json!({"rows": written.rows, "last_row": written.last_row}))?;
    } else {
        let done = if granted { "have" } else { "do not have" };
        let of = args.keys.len();
        output::print(&format!("{} of {of} rows were there and {done} the labels now\n", written.rows))?;
    }
    target.close()
}

fn drop_label(common: &Common, args: &DropArgs) -> Result<(), CliError> {
    let target = args.target.open(common, false)?;
    target.schema(&args.collection)?;
    let dropped = target.drop_label(&args.collection, &args.label)?;
    if !dropped {
        let message = format!("there is no label '{}'", output::one_line(&args.label, 60));
        return Err(CliError { message, code: super::NOT_FOUND });
    }
    match common.json {
        true => output::print_json(&json!({"dropped": args.label}))?,
        false => output::print("dropped\n")?,
    }
    target.close()
}

fn list(common: &Common, args: &ListArgs) -> Result<(), CliError> {
    let target = args.target.open(common, false)?;
    target.schema(&args.collection)?;
    let labels = target.labels(&args.collection)?;
    match common.json {
        true => output::print_json(&json!({"labels": labels}))?,
        false => {
            let line = |label: &String| output::one_line(label, 200) + "\n";
            output::print(&labels.iter().map(line).collect::<String>())?;
        }
    }
    target.close()
}
