//! `spandrel tenant quota`.

use serde_json::json;
use spandrel::Quota;

use super::super::target::{Target, TargetArgs};
use super::super::{CliError, Common, NOT_FOUND, output};
use super::{limits, name};

/// Whose quota, and what it is to be; without a limit and without --none it is shown. The limits given are
/// the whole quota: those left out do not hold.
#[derive(clap::Args)]
pub(in crate::cli) struct QuotaArgs {
    /// The collection
    collection: String,
    /// The tenant; '' is the default tenant [default: all that have no quota of their own]
    #[arg(short, long, value_name = "NAME")]
    tenant: Option<String>,
    /// Most rows
    #[arg(long, value_name = "N", help_heading = "Limits")]
    rows_max: Option<u64>,
    /// Most bytes of rows as they are stored, vectors among them, before compression
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    bytes_max: Option<u64>,
    /// Most queries a second, on average; as many may come at once
    #[arg(long, value_name = "N", help_heading = "Limits")]
    queries_per_second: Option<f64>,
    /// Most queries under way at a time
    #[arg(long, value_name = "N", help_heading = "Limits")]
    in_flight_max: Option<u32>,
    /// Take the quota away: for a tenant the default holds again
    #[arg(
        long,
        conflicts_with_all = ["rows_max", "bytes_max", "queries_per_second", "in_flight_max"],
        help_heading = "Limits"
    )]
    none: bool,
    #[command(flatten)]
    target: TargetArgs,
}

impl QuotaArgs {
    /// The limits given; none where there are none.
    fn given(&self) -> Option<Quota> {
        let quota = Quota {
            rows_max: self.rows_max,
            bytes_max: self.bytes_max,
            queries_per_second: self.queries_per_second,
            in_flight_max: self.in_flight_max,
        };
        Some(quota).filter(|quota| *quota != Quota::default())
    }
}

/// A tenant's own quota; one that there is not has none.
fn own(target: &Target, collection: &str, tenant: &str) -> Result<Option<Quota>, CliError> {
    match target.tenant(collection, tenant) {
        Ok(stats) => Ok(stats.quota),
        Err(error) if error.code == NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn run(common: &Common, args: &QuotaArgs) -> Result<(), CliError> {
    let target = args.target.open(common, false)?;
    target.schema(&args.collection)?;
    let given = args.given();
    if args.none || given.is_some() {
        target.set_quota(&args.collection, args.tenant.as_deref(), given)?;
    }
    let default = target.default_quota(&args.collection)?;
    let own = match &args.tenant {
        Some(tenant) => own(&target, &args.collection, tenant)?,
        None => None,
    };
    let holds = own.or(default);
    if common.json {
        output::print_json(&json!({
            "tenant": args.tenant,
            "own": own,
            "default": default,
            "holds": holds,
        }))?;
        return target.close();
    }
    let who = args.tenant.as_deref().map_or_else(|| "each tenant".to_owned(), name);
    let whose = match (&args.tenant, own) {
        (None, _) => " (where it has no quota of its own)",
        (Some(_), Some(_)) => "",
        (Some(_), None) => " (the default)",
    };
    output::print(&format!("{who}: {}{whose}\n", limits(holds)))?;
    target.close()
}
