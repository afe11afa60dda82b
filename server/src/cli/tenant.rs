//! `spandrel tenant list|show|warm|copy|export|drop|quota`.

mod copy;
mod export;
mod quota;
mod target;

use serde_json::json;
use spandrel::{Quota, TenantStats, TenantsRequest};

use super::output::{bytes, thousands};
use super::target::TargetArgs;
use super::{CliError, Common, output};

/// List, show, warm, copy, export, drop and limit tenants.
#[derive(clap::Subcommand)]
pub(super) enum TenantCommand {
    /// List tenants with what they have and use, by name
    #[command(after_help = "\
Examples:
  spandrel tenant list docs
  spandrel tenant list docs --limit 100 --after acme --json --url http://127.0.0.1:7780")]
    List(ListArgs),
    /// Show what a tenant has and uses, and what it may use
    #[command(after_help = "Example:\n  spandrel tenant show docs --tenant acme")]
    Show(OneArgs),
    /// Read from disk what the tenant's first search would have to
    #[command(after_help = "Example:\n  spandrel tenant warm docs --tenant acme --url http://127.0.0.1:7780")]
    Warm(OneArgs),
    /// Copy all rows of a tenant to another, where they replace those of the same keys
    #[command(after_help = "Example:\n  spandrel tenant copy docs --from acme --to acme-staging")]
    Copy(copy::CopyArgs),
    /// Write all rows of a tenant as JSON lines, which `spandrel import` reads
    #[command(after_help = "\
Examples:
  spandrel tenant export docs --tenant acme --out acme.jsonl
  spandrel tenant export docs --tenant acme --url http://127.0.0.1:7780 > acme.jsonl
  spandrel import acme.jsonl -c docs --tenant acme-staging --labels-field labels")]
    Export(export::ExportArgs),
    /// Drop a tenant with all its rows
    #[command(after_help = "Example:\n  spandrel tenant drop docs --tenant acme --yes")]
    Drop(DropArgs),
    /// Set what a tenant may use, or all that have no quota of their own; show what holds
    #[command(after_help = "\
Examples:
  spandrel tenant quota docs --rows-max 1000000 --queries-per-second 50
  spandrel tenant quota docs --tenant acme --bytes-max 10000000000 --in-flight-max 8
  spandrel tenant quota docs --tenant acme --none
  spandrel tenant quota docs --tenant acme --json")]
    Quota(quota::QuotaArgs),
}

/// Which page.
#[derive(clap::Args)]
pub(super) struct ListArgs {
    /// The collection
    collection: String,
    /// Only names greater, by bytes, than this one
    #[arg(long, value_name = "NAME")]
    after: Option<String>,
    /// Most tenants to list
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(flatten)]
    target: TargetArgs,
}

/// Which tenant.
#[derive(clap::Args)]
pub(super) struct OneArgs {
    /// The collection
    collection: String,
    /// The tenant [default: the default tenant, or the key's only one]
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "NAME")]
    tenant: String,
    #[command(flatten)]
    target: TargetArgs,
}

/// Which tenant to drop.
#[derive(clap::Args)]
pub(super) struct DropArgs {
    /// The collection
    collection: String,
    /// The tenant; '' is the default tenant
    #[arg(short, long, value_name = "NAME")]
    tenant: String,
    /// Say that you mean it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn run(common: &Common, command: TenantCommand) -> Result<(), CliError> {
    match command {
        TenantCommand::List(args) => list(common, &args),
        TenantCommand::Show(args) => show(common, &args),
        TenantCommand::Warm(args) => warm(common, &args),
        TenantCommand::Copy(args) => copy::run(common, &args),
        TenantCommand::Export(args) => export::run(common, &args),
        TenantCommand::Drop(args) => drop_one(common, &args),
        TenantCommand::Quota(args) => quota::run(common, &args),
    }
}

/// A tenant's name for people.
fn name(tenant: &str) -> String {
    if tenant.is_empty() { "(default)".to_owned() } else { output::one_line(tenant, 60) }
}

fn state(stats: &TenantStats) -> String {
    json!(stats.state).as_str().unwrap_or_default().to_owned()
}

/// The limits of a quota for people.
fn limits(quota: Option<Quota>) -> String {
    let quota = quota.unwrap_or_default();
    let parts = [
        quota.rows_max.map(|max| format!("{} rows", thousands(max))),
        quota.bytes_max.map(|max| format!("{} of rows", bytes(max))),
        quota.queries_per_second.map(|max| format!("{max} queries a second")),
        quota.in_flight_max.map(|max| format!("{max} queries at a time")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "no limits".to_owned() } else { format!("at most {}", parts.join(", ")) }
}

fn list(common: &Common, args: &ListArgs) -> Result<(), CliError> {
    let target = args.target.open(common, false)?;
    target.schema(&args.collection)?;
    let request =
        TenantsRequest { after: args.after.clone(), limit: usize::try_from(args.limit).unwrap_or(1) };
    let page = target.tenants(&args.collection, request)?;
    if common.json {
        output::print_json(&json!(page))?;
        return target.close();
    }
    let line = |one: &TenantStats| {
        vec![
            name(&one.tenant),
            state(one),
            thousands(one.rows),
            bytes(one.bytes),
            bytes(one.index_bytes),
            bytes(one.resident_bytes),
            thousands(one.queries.into()),
            thousands(one.refused),
            if one.quota.is_some() { "own" } else { "" }.to_owned(),
        ]
    };
    let lines: Vec<_> = page.tenants.iter().map(line).collect();
    let heads = ["tenant", "state", "rows", "bytes", "index", "in memory", "queries", "refused", "quota"];
    output::print(&output::table(&heads, &lines))?;
    if let Some(next) = page.next {
        eprintln!("there are more: --after '{next}'");
    }
    target.close()
}

fn show(common: &Common, args: &OneArgs) -> Result<(), CliError> {
    let target = args.target.open(common, false)?;
    target.schema(&args.collection)?;
    let stats = target.tenant(&args.collection, &args.tenant)?;
    let default = target.default_quota(&args.collection)?;
    if common.json {
        output::print_json(&json!({"tenant": stats, "default_quota": default}))?;
        return target.close();
    }
    let whose = if stats.quota.is_some() { "its own" } else { "the default" };
    let lines = [
        ("state", state(&stats)),
        ("rows", thousands(stats.rows)),
        ("bytes of rows", bytes(stats.bytes)),
        ("segments", thousands(stats.segments)),
        ("index", format!("{}, {} in memory", bytes(stats.index_bytes), bytes(stats.resident_bytes))),
        ("queries", format!("{}, {} under way", thousands(stats.queries.into()), stats.in_flight)),
        ("refused", thousands(stats.refused)),
        ("quota", format!("{} ({whose})", limits(stats.quota.or(default)))),
    ];
    let lines: Vec<_> = lines.into_iter().map(|(what, value)| vec![what.to_owned(), value]).collect();
    output::print(&output::table(&["tenant", &name(&stats.tenant)], &lines))?;
    target.close()
}

fn warm(common: &Common, args: &OneArgs) -> Result<(), CliError> {
    let target = args.target.open(common, false)?;
    target.schema(&args.collection)?;
    let read = target.warm_tenant(&args.collection, &args.tenant)?;
    match common.json {
        true => output::print_json(&json!({"read_bytes": read}))?,
        false => output::print(&format!("{} read from disk\n", bytes(read)))?,
    }
    target.close()
}

fn drop_one(common: &Common, args: &DropArgs) -> Result<(), CliError> {
    if !args.yes {
        return Err(CliError::usage(format!(
            "this deletes all rows of tenant '{}' in collection '{}', for ever; add --yes if you mean it",
            args.tenant, args.collection
        )));
    }
    let target = args.target.open(common, false)?;
    target.schema(&args.collection)?;
    let written = target.drop_tenant(&args.collection, &args.tenant)?;
    match common.json {
        true => output::print_json(&json!({"dropped": args.tenant, "rows": written.rows}))?,
        false => {
            let (name, rows) = (name(&args.tenant), thousands(written.rows));
            output::print(&format!("tenant {name} dropped, {rows} rows\n"))?;
        }
    }
    target.close()
}

#[cfg(test)]
mod tests;
