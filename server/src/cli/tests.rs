//! The command line as it is typed.

use clap::{CommandFactory, Parser};

use super::*;

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn a_misspelt_key_of_a_schema_is_named() {
    let good = r#"{"fields": [{"name": "a", "type": "text", "language": null}, {"name": "v", "type": "dense", "dim": 3,
        "metric": "ip", "element": "f16"}], "tokenizer": "cl100k_base"}"#;
    let schema = query::schema_argument("--schema", good).unwrap();
    assert_eq!(schema.fields.len(), 2);
    for (right, wrong) in [("language", "langauge"), ("tokenizer", "tokeniser"), ("element", "elment")] {
        let text = good.replace("null", "\"english\"").replace(right, wrong);
        let error = query::schema_argument("--schema", &text).unwrap_err();
        assert!(
            error.message.contains(&format!("'{wrong}'")) && error.code == WRONG_INPUT,
            "{}",
            error.message
        );
    }
}

/// Every command that does something shows how it is used.
#[test]
fn every_command_has_an_example() {
    fn walk(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        if command.has_subcommands() {
            command.get_subcommands().filter(|sub| sub.get_name() != "help").for_each(|sub| walk(sub, &path));
            return;
        }
        let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(example.contains("Example"), "{path} has no example");
        assert!(command.get_about().is_some(), "{path} has no description");
        let docs = include_str!("../../../docs/cli.md");
        assert!(docs.contains(path.trim()), "docs/cli.md lacks `{}`", path.trim());
    }
    walk(&Cli::command(), "");
}

/// The examples in the help are commands that parse.
#[test]
fn examples_parse() {
    fn walk(command: &clap::Command, examples: &mut Vec<String>) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        examples
            .extend(help.lines().filter_map(|line| line.trim().strip_prefix("spandrel ").map(str::to_owned)));
        command.get_subcommands().for_each(|sub| walk(sub, examples));
    }
    let mut examples = Vec::new();
    walk(&Cli::command(), &mut examples);
    assert!(examples.len() > 20, "{}", examples.len());
    for example in examples {
        // A shell's redirection, and what stands after two spaces beside the command, are not for us.
        let line = example.split(" > ").next().unwrap().split("   ").next().unwrap();
        let words = std::iter::once("spandrel".to_owned()).chain(shell_words(line));
        if let Err(error) = Cli::try_parse_from(words) {
            panic!("spandrel {example}\n{error}");
        }
    }
}

/// Words between spaces; quotes hold words together.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.push(c),
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == ' ' => words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty())),
            None => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

/// A whole request leaves nothing for flags to say, and a flag that would not count is an error.
#[test]
fn a_whole_request_stands_alone() {
    let with = |flags: &[&str]| {
        let line = ["spandrel", "search", "-c", "docs", "--request", "{}"];
        Cli::try_parse_from(line.into_iter().chain(flags.iter().copied())).map(drop)
    };
    with(&[]).unwrap();
    with(&["--tenant", "acme", "--json"]).unwrap();
    let flags: [&[&str]; 16] = [
        &["--text", "x"],
        &["--text-field", "x"],
        &["--vector", "[1]"],
        &["--semantic", "x"],
        &["--vector-field", "x"],
        &["--sparse", "{}"],
        &["--sparse-field", "x"],
        &["--fusion", "weighted"],
        &["--filter", "{}"],
        &["-k", "3"],
        &["--offset", "3"],
        &["--score-threshold", "0.5"],
        &["--fields", "all"],
        &["--explain"],
        &["--timeout-ms", "5"],
        &["--label", "x"],
    ];
    for flags in flags {
        assert_eq!(with(flags).unwrap_err().kind(), clap::error::ErrorKind::ArgumentConflict, "{flags:?}");
    }
}

#[test]
fn failures_have_codes_of_their_own() {
    let of_kind = |kind| CliError::from(spandrel::Error::new(kind, "x")).code;
    assert_eq!(of_kind(ErrorKind::Invalid), WRONG_INPUT);
    assert_eq!(of_kind(ErrorKind::NotFound), NOT_FOUND);
    assert_eq!(of_kind(ErrorKind::Unavailable), TRY_LATER);
    assert_eq!(of_kind(ErrorKind::Corrupt), FAILED);
    assert_eq!(CliError::from(Status::permission_denied("x")).code, NOT_ALLOWED);
    let unknown = CliError::from(Status::unauthenticated("x"));
    assert_eq!(unknown.code, NOT_ALLOWED);
    assert!(unknown.message.contains("SPANDREL_API_KEY"));
    assert_eq!(CliError::from(Status::unavailable("x")).code, TRY_LATER);
    assert_eq!(CliError::from(Status::invalid_argument("x")).code, WRONG_INPUT);
}
