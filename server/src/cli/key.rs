//! `spandrel key create|list|revoke`: works on the keys file, which a running server reads again within a
//! second.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::{CliError, Common, output};
use crate::auth::keys::{self, KeyRecord, KeysError};
use crate::auth::{Access, Tenants};

/// Create, list and revoke API keys.
#[derive(clap::Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key and print it once; only its hash is kept
    #[command(after_help = "\
Examples:
  spandrel key create --name shop-frontend --access read --tenant acme
  spandrel key create --name intern --access read --tenant acme --label public --label handbook
  spandrel key create --name operator --access admin --tenant '*'")]
    Create(CreateArgs),
    /// List the keys, without their secrets
    #[command(after_help = "Example:\n  spandrel key list --json")]
    List(FileArgs),
    /// Take a key out of force
    #[command(after_help = "Example:\n  spandrel key revoke 5f0c2b7a9e11")]
    Revoke(RevokeArgs),
}

/// Where the keys are.
#[derive(clap::Args)]
pub(super) struct FileArgs {
    /// Data folder whose keys file is meant [default: the setting `data`, ./spandrel-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The keys file [default: the setting `auth.keys_file`, or beside the data folder]
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    keys_file: Option<PathBuf>,
}

/// What a new key is.
#[derive(clap::Args)]
pub(super) struct CreateArgs {
    /// What to call it in lists
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// read: search and fetch; write: also upsert and delete; admin: also drop, and with all tenants
    /// everything
    #[arg(long, value_enum)]
    access: Access,
    /// Tenant it is bound to (repeatable), or '*' for all
    #[arg(long = "tenant", required = true, value_name = "NAME")]
    tenants: Vec<String>,
    /// Access label it is bound to (repeatable): it sees rows that have one of them
    #[arg(long = "label", value_name = "NAME")]
    labels: Vec<String>,
    #[command(flatten)]
    file: FileArgs,
}

/// Which key.
#[derive(clap::Args)]
pub(super) struct RevokeArgs {
    /// The key's id, as `key list` shows it
    id: String,
    #[command(flatten)]
    file: FileArgs,
}

impl From<KeysError> for CliError {
    fn from(error: KeysError) -> Self {
        match error {
            KeysError::Invalid(message) => Self::usage(message),
            KeysError::NotFound(message) => Self { message, code: super::NOT_FOUND },
            other => Self::failed(other.to_string()),
        }
    }
}

impl FileArgs {
    fn path(&self, common: &Common) -> Result<PathBuf, CliError> {
        let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let config =
            common.config(vec![("data", text(&self.data)), ("auth.keys_file", text(&self.keys_file))])?;
        Ok(config.keys_file())
    }
}

fn tenants_of(names: Vec<String>) -> Result<Tenants, CliError> {
    if names.iter().any(|name| name == "*") {
        if names.len() > 1 {
            return Err(CliError::usage("--tenant '*' is all tenants; leave the others out"));
        }
        return Ok(Tenants::All);
    }
    Ok(Tenants::Only(names.into_iter().collect::<BTreeSet<_>>()))
}

fn tenants_text(tenants: &Tenants) -> String {
    match tenants {
        Tenants::All => "*".to_owned(),
        Tenants::Only(names) => names_text(names),
    }
}

fn names_text(names: &BTreeSet<String>) -> String {
    let name = |name: &String| if name.is_empty() { "''".to_owned() } else { output::one_line(name, 40) };
    names.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn record_json(record: &KeyRecord) -> Json {
    json!({
        "id": record.id,
        "name": record.name,
        "access": record.access,
        "tenants": record.tenants,
        "labels": record.labels,
        "created": instant(record.created_unix_s),
    })
}

/// Seconds since 1970 in RFC 3339, by the civil-from-days rule of H. Hinnant (2013).
fn instant(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

pub(super) fn run(common: &Common, command: KeyCommand) -> Result<(), CliError> {
    match command {
        KeyCommand::Create(args) => create(common, args),
        KeyCommand::List(args) => list(common, &args),
        KeyCommand::Revoke(args) => revoke(common, &args),
    }
}

fn create(common: &Common, args: CreateArgs) -> Result<(), CliError> {
    let path = args.file.path(common)?;
    let labels = (!args.labels.is_empty()).then(|| args.labels.into_iter().collect());
    let tenants = tenants_of(args.tenants)?;
    let (record, key) = keys::create_bound(&path, &args.name, args.access, tenants, labels)?;
    if common.json {
        let mut json = record_json(&record);
        json["key"] = json!(key);
        json["keys_file"] = json!(path);
        return output::print_json(&json);
    }
    output::print(&format!("{key}\n"))?;
    eprintln!(
        "key {} ({} access, tenants {}) is in {}\nThis is the only time it is shown. A server that runs knows it within a second.",
        record.id,
        record.access.name(),
        tenants_text(&record.tenants),
        path.display()
    );
    Ok(())
}

fn list(common: &Common, args: &FileArgs) -> Result<(), CliError> {
    let path = args.path(common)?;
    let records = keys::list(&path)?;
    if common.json {
        let records: Vec<_> = records.iter().map(record_json).collect();
        return output::print_json(&json!({"keys_file": path, "keys": records}));
    }
    if records.is_empty() {
        return output::print(&format!("no keys in {}\n", path.display()));
    }
    let line = |record: &KeyRecord| {
        vec![
            record.id.clone(),
            output::one_line(&record.name, 40),
            record.access.name().to_owned(),
            tenants_text(&record.tenants),
            record.labels.as_ref().map_or("*".to_owned(), names_text),
            instant(record.created_unix_s),
        ]
    };
    let lines: Vec<_> = records.iter().map(line).collect();
    output::print(&output::table(&["id", "name", "access", "tenants", "labels", "created"], &lines))
}

fn revoke(common: &Common, args: &RevokeArgs) -> Result<(), CliError> {
    let path = args.file.path(common)?;
    let record = keys::revoke(&path, &args.id)?;
    if common.json {
        return output::print_json(&json!({"revoked": record_json(&record), "keys_file": path}));
    }
    output::print(&format!("key {} is revoked; a server that runs refuses it within a second\n", record.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_as_dates() {
        assert_eq!(instant(0), "1970-01-01T00:00:00Z");
        assert_eq!(instant(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(instant(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(instant(1_767_225_600), "2026-01-01T00:00:00Z");
        assert_eq!(instant(4_102_444_799), "2099-12-31T23:59:59Z");
    }

    #[test]
    fn a_star_stands_alone() {
        assert_eq!(tenants_of(vec!["*".to_owned()]).unwrap(), Tenants::All);
        assert!(tenants_of(vec!["*".to_owned(), "acme".to_owned()]).is_err());
        let two = tenants_of(vec!["b".to_owned(), String::new()]).unwrap();
        assert_eq!(tenants_text(&two), "'', b");
    }
}
