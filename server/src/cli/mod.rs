//! The program `spandrel`: one file a command; what they share is here, in `target`, `query` and `output`.
//!
//! Results go to standard output, for people or with `--json` as one JSON document; everything else goes to
//! standard error. Exit codes: 0 done, 1 failed, 2 the command or its input is wrong, 3 not found, 4 not
//! allowed (key), 5 try again later (unavailable, busy, out of time).

mod backup;
mod collection;
mod copies;
mod dedup;
mod demo;
mod import;
mod key;
mod label;
mod out;
mod output;
mod progress;
mod query;
mod restore;
mod retrieve;
mod search;
mod serve;
mod stats;
mod target;
mod tenant;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use spandrel::ErrorKind;
use tonic::{Code, Status};

use crate::config::{Config, ConfigError, Sources};

/// Vector retrieval and RAG database: rows with text, vectors and payload, for many tenants, on your own
/// disk.
#[derive(Parser)]
#[command(name = "spandrel", version, propagate_version = true, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

const EXAMPLES: &str = "\
Examples, in the order of a first day:
  spandrel import passages.jsonl --collection docs --create   read a file into ./spandrel-data
  spandrel search --collection docs --text 'free returns'     ask it
  spandrel serve                                              serve it on 127.0.0.1:7780
  spandrel search --url http://127.0.0.1:7780 --collection docs --text 'free returns'
  spandrel key create --access read --tenant acme             a key for one tenant

Commands work on a data folder in this process (--data DIR) or on a server (--url URL).
Exit codes: 0 done, 1 failed, 2 wrong input, 3 not found, 4 not allowed, 5 try again later.";

/// What every command takes.
#[derive(clap::Args)]
struct Common {
    /// Print one JSON document instead of text for people
    #[arg(long, global = true)]
    json: bool,
    /// TOML file with settings; see docs/configuration.md
    #[arg(long, global = true, env = "SPANDREL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, over environment and file: --set limits.k_max=1000 (repeatable)
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

impl Common {
    /// The configuration, with `flags` (keys and values) over `--set`, the environment and the file.
    fn config(&self, flags: Vec<(&str, Option<String>)>) -> Result<Config, CliError> {
        let mut all = Vec::new();
        for setting in &self.settings {
            let Some((key, value)) = setting.split_once('=') else {
                return Err(CliError::usage(format!("--set {setting}: write it as --set key=value")));
            };
            all.push((key.trim().to_owned(), value.to_owned()));
        }
        all.extend(flags.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        Ok(Config::load(&Sources::of_process(all, self.config.clone())?)?)
    }
}

#[derive(Subcommand)]
enum Command {
    /// Serve a data folder through gRPC
    Serve(serve::ServeArgs),
    /// Read a file of rows or vectors into a collection
    Import(import::ImportArgs),
    /// Write the lines of a corpus whose texts are no near copies of earlier ones
    Dedup(dedup::DedupArgs),
    /// Find the best rows of a tenant
    Search(search::SearchArgs),
    /// Find the best chunks and pack them into a token budget
    Retrieve(retrieve::RetrieveArgs),
    /// Create, list, show and drop collections
    #[command(subcommand)]
    Collection(collection::CollectionCommand),
    /// Grant, revoke, drop and list access labels
    #[command(subcommand)]
    Label(label::LabelCommand),
    /// List, show, warm, copy, export, drop and limit tenants
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// Show sizes and states
    Stats(stats::StatsArgs),
    /// Copy everything acknowledged into a new folder
    Backup(backup::BackupArgs),
    /// Make a data folder from a backup
    Restore(restore::RestoreArgs),
    /// Create, list and revoke API keys
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Try everything on real text, in a temporary folder
    Demo(demo::DemoArgs),
}

/// A failure as the user sees it.
#[derive(Debug)]
struct CliError {
    message: String,
    code: u8,
}

const FAILED: u8 = 1;
const WRONG_INPUT: u8 = 2;
const NOT_FOUND: u8 = 3;
const NOT_ALLOWED: u8 = 4;
const TRY_LATER: u8 = 5;

impl CliError {
    fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: WRONG_INPUT }
    }

    fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: FAILED }
    }

    /// The same with what to do about it.
    fn hint(mut self, hint: &str) -> Self {
        self.message = format!("{}\n{hint}", self.message);
        self
    }
}

impl From<spandrel::Error> for CliError {
    fn from(error: spandrel::Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Invalid => WRONG_INPUT,
            ErrorKind::NotFound => NOT_FOUND,
            ErrorKind::Exhausted | ErrorKind::Deadline | ErrorKind::Unavailable => TRY_LATER,
            _ => FAILED,
        };
        Self { message: error.message().to_owned(), code }
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        // Made here, by the connection: no server said it.
        if status.code() == Code::Unknown && status.message() == "transport error" {
            let what = std::error::Error::source(&status).map(crate::status::chain).unwrap_or_default();
            let message = format!("the connection to the server is lost ({what})");
            return Self { message, code: TRY_LATER }.hint(
                "it stopped, has too many connections, or wants a client certificate (--client-cert, --client-key)",
            );
        }
        let code = match status.code() {
            Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => WRONG_INPUT,
            Code::NotFound => NOT_FOUND,
            Code::Unauthenticated | Code::PermissionDenied => NOT_ALLOWED,
            Code::ResourceExhausted | Code::DeadlineExceeded | Code::Unavailable | Code::Cancelled => {
                TRY_LATER
            }
            _ => FAILED,
        };
        let message =
            if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() };
        let error = Self { message, code };
        match status.code() {
            Code::Unauthenticated => {
                error.hint("give a key with --api-key or SPANDREL_API_KEY; `spandrel key create` makes one")
            }
            _ => error,
        }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    // clap prints its own errors, and help, and ends the process with 2, or 0.
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.message);
            ExitCode::from(error.code)
        }
    }
}

fn run(cli: Cli) -> Result<(), CliError> {
    let common = &cli.common;
    match cli.command {
        Command::Serve(args) => serve::run(common, args),
        Command::Import(args) => import::run(common, args),
        Command::Dedup(args) => dedup::run(common, &args),
        Command::Search(args) => search::run(common, args),
        Command::Retrieve(args) => retrieve::run(common, args),
        Command::Collection(command) => collection::run(common, command),
        Command::Label(command) => label::run(common, command),
        Command::Tenant(command) => tenant::run(common, command),
        Command::Stats(args) => stats::run(common, args),
        Command::Backup(args) => backup::run(common, args),
        Command::Restore(args) => restore::run(common, args),
        Command::Key(command) => key::run(common, command),
        Command::Demo(args) => demo::run(common, args),
    }
}

#[cfg(test)]
mod tests;
