//! `spandrel retrieve`.

mod show;

use std::time::Instant;

use spandrel::select::mcts::MctsParams;
use spandrel::select::{Method, NODES_DEFAULT};
use spandrel::{Assemble, KvRequest, Order, PostStage, RetrieveRequest, Schema, Select};

use super::query::{QueryArgs, json_argument};
use super::target::TargetArgs;
use super::{CliError, Common, output};

/// What relevance counts against similarity unless it is said otherwise.
const LAMBDA_DEFAULT: f32 = 0.7;
/// See [`LAMBDA_DEFAULT`].
const QUALITY_DEFAULT: f32 = 1.0;
/// See [`LAMBDA_DEFAULT`].
const TOLERANCE_DEFAULT: f64 = 0.05;
/// Words a shingle, by which texts are nearly the same.
const SHINGLE_WORDS: usize = 5;

/// Finds chunks, chooses among them and packs them into a token budget: the context for a language model.
/// Unless it is said otherwise they are the best ones, whole and in rank order.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  spandrel retrieve -c docs --text 'how long may I return a purchase?' --budget 1500
  spandrel retrieve -c docs --text 'returns' --vector @question.json -k 50 --budget 4000 --json
  spandrel retrieve -c docs --text 'returns and refunds' --need returns --need refunds -k 100 --budget 1500 \
--select submodular --dedup 0.8 --order document --merge
  spandrel retrieve -c docs --text 'returns' -k 100 --budget 1500 --select mcts --dry-run
  spandrel retrieve -c docs --tenant acme --request @retrieve.json --json")]
pub(super) struct RetrieveArgs {
    #[command(flatten)]
    query: QueryArgs,
    /// Most tokens of the context
    #[arg(
        short, long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..),
        required_unless_present = "request", conflicts_with = "request",
    )]
    budget: Option<u32>,
    /// Text field whose value is packed [default: the schema's first]
    #[arg(long, value_name = "FIELD", conflicts_with = "request")]
    packed_field: Option<String>,
    /// What stands between two chunks [default: an empty line]
    #[arg(long, value_name = "TEXT", conflicts_with = "request")]
    separator: Option<String>,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    target: TargetArgs,
}

/// What happens to the candidates.
#[derive(clap::Args)]
#[command(next_help_heading = "Choice and assembly")]
struct ChoiceArgs {
    /// A part of the question (repeatable): what it finds is considered, and covering it is worth something.
    /// It is asked of the field of --text, or of --semantic where that is given without --text
    #[arg(long = "need", value_name = "TEXT", conflicts_with = "request")]
    needs: Vec<String>,
    /// Leave out candidates with the same words as a better one, or with as similar word shingles (Jaccard,
    /// above 0 to 1)
    #[arg(long, value_name = "JACCARD", num_args = 0..=1, conflicts_with = "request")]
    dedup: Option<Option<f32>>,
    /// At most so many candidates of one document
    #[arg(
        long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "request"
    )]
    per_document: Option<u32>,
    /// How chunks are chosen
    #[arg(long, value_enum, value_name = "METHOD", conflicts_with = "request")]
    select: Option<MethodName>,
    /// With --select mmr: what relevance counts against similarity, 0 to 1 [default: 0.7]
    #[arg(long, value_name = "SHARE", requires = "select", conflicts_with = "request")]
    lambda: Option<f32>,
    /// With --select dpp: what relevance counts against similarity, at least 0 [default: 1]
    #[arg(long, value_name = "WEIGHT", requires = "select", conflicts_with = "request")]
    quality: Option<f32>,
    /// Tokens of the budget to leave for what comes around the context
    #[arg(long, value_name = "TOKENS", default_value_t = 0, conflicts_with = "request")]
    reserve: u32,
    /// Most chunks [default: any number]
    #[arg(
        long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "request"
    )]
    max_chunks: Option<u32>,
    /// Of what is drawn by chance, by mcts
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "request")]
    seed: u64,
    /// In what order chunks stand
    #[arg(long, value_enum, value_name = "ORDER", default_value = "score", conflicts_with = "request")]
    order: OrderName,
    /// With --order cache_aware: how much of the discounted scores the order may lose by that of the best
    /// first, 0 to 1 [default: 0.05]
    #[arg(long, value_name = "SHARE", requires = "kv", conflicts_with = "request")]
    tolerance: Option<f64>,
    /// Tell which chunk caches of an LLM server can be reused: JSON such as {"model": {"model": "llama",
    /// "revision": "1", "tokenizer": "llama", "dtype": "bf16", "position_base": 0}, "block_tokens": 16}, or @FILE
    #[arg(long, value_name = "JSON", conflicts_with = "request")]
    kv: Option<String>,
    /// Make one of chunks of a document that touch or overlap
    #[arg(long, conflicts_with = "request")]
    merge: bool,
    /// Add so many chunks before and after each chosen one, while budget is left
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "request")]
    neighbours: u32,
    /// Only say what would be done and about what it costs
    #[arg(long, conflicts_with = "request")]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum MethodName {
    /// In rank order while they fit (the default)
    TopK,
    /// Maximal marginal relevance: relevance against similarity, one by one
    Mmr,
    /// A determinantal point process: relevant and different
    Dpp,
    /// Relevance less redundancy; leaves budget unused where nothing is gained
    Adagres,
    /// What is worth most together, greedily and by swaps
    Submodular,
    /// What is worth most together, by tree search
    Mcts,
    /// What is worth most together, proven
    Exact,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum OrderName {
    /// The best first
    Score,
    /// By document, and within one by position
    Document,
    /// The best last, next to the question
    BestLast,
    /// The best at both ends
    Edges,
    /// As reuses most of chunk caches, near the best first; needs --kv
    CacheAware,
}

impl ChoiceArgs {
    fn method(&self) -> Result<Option<Method>, CliError> {
        let only =
            |flag: &str, given: bool, of: MethodName, name: &str| match given && self.select != Some(of) {
                true => Err(CliError::usage(format!("{flag} goes with --select {name} only"))),
                false => Ok(()),
            };
        only("--lambda", self.lambda.is_some(), MethodName::Mmr, "mmr")?;
        only("--quality", self.quality.is_some(), MethodName::Dpp, "dpp")?;
        Ok(self.select.map(|name| match name {
            MethodName::TopK => Method::default(),
            MethodName::Mmr => Method::Mmr { lambda: self.lambda.unwrap_or(LAMBDA_DEFAULT) },
            MethodName::Dpp => Method::Dpp { quality: self.quality.unwrap_or(QUALITY_DEFAULT) },
            MethodName::Adagres => Method::Adagres { redundancy: None },
            MethodName::Submodular => Method::Submodular { swaps: true },
            MethodName::Mcts => Method::Mcts(MctsParams::default()),
            MethodName::Exact => Method::Exact { nodes_max: NODES_DEFAULT },
        }))
    }

    fn post(&self) -> Vec<PostStage> {
        let dedup = self.dedup.map(|near| PostStage::Dedup { near, shingle_words: SHINGLE_WORDS });
        let quota = self.per_document.map(|max| PostStage::PerDocument { max: max as usize });
        dedup.into_iter().chain(quota).collect()
    }

    fn assemble(&self) -> Result<Assemble, CliError> {
        let is_cache_aware = self.order == OrderName::CacheAware;
        if self.tolerance.is_some() && !is_cache_aware {
            return Err(CliError::usage("--tolerance goes with --order cache_aware only"));
        }
        if is_cache_aware && self.kv.is_none() {
            return Err(CliError::usage("--order cache_aware needs --kv, which says what caches are of"));
        }
        let kv = self.kv.as_deref().map(|text| json_argument::<KvRequest>("--kv", text)).transpose()?;
        let tolerance = self.tolerance.unwrap_or(TOLERANCE_DEFAULT);
        let order = match self.order {
            OrderName::Score => Order::Score,
            OrderName::Document => Order::Document,
            OrderName::BestLast => Order::BestLast,
            OrderName::Edges => Order::Edges,
            OrderName::CacheAware => Order::CacheAware { tolerance },
        };
        Ok(Assemble { order, merge_adjacent: self.merge, neighbours: self.neighbours as usize, kv })
    }
}

impl RetrieveArgs {
    /// The request of the flags, or the whole one.
    fn request(&self, schema: &Schema) -> Result<RetrieveRequest, CliError> {
        if let Some(request) = self.query.whole(|request: &mut RetrieveRequest| &mut request.search.tenant)? {
            return Ok(request);
        }
        let choice = &self.choice;
        let budget = self.budget.unwrap_or_default() as usize;
        let plain = RetrieveRequest::new(self.query.search(schema)?, budget);
        Ok(RetrieveRequest {
            text_field: self.packed_field.clone(),
            separator: self.separator.clone().unwrap_or(plain.separator),
            needs: self.query.needs(schema, &choice.needs)?,
            post: choice.post(),
            select: Select {
                method: choice.method()?,
                reserve_tokens: choice.reserve as usize,
                chunks_max: choice.max_chunks.unwrap_or_default() as usize,
                seed: choice.seed,
                ..Select::default()
            },
            assemble: choice.assemble()?,
            dry_run: choice.dry_run,
            ..plain
        })
    }
}

pub(super) fn run(common: &Common, args: RetrieveArgs) -> Result<(), CliError> {
    let target = args.target.open(common, false)?;
    let schema = target.schema(&args.query.collection)?;
    let request = args.request(&schema)?;
    let budget = request.budget_tokens;
    let started = Instant::now();
    let response = target.retrieve(&args.query.collection, request)?;
    let took = started.elapsed();
    match common.json {
        true => output::print_json(&show::json(&response, budget, took))?,
        false => output::print(&show::text(&response, budget, took))?,
    }
    target.close()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use spandrel::{Metric, Route, SearchRequest};

    use super::*;
    use crate::cli::{Cli, Command};

    fn request(flags: &[&str]) -> Result<RetrieveRequest, CliError> {
        let line = ["spandrel", "retrieve", "-c", "docs"].into_iter().chain(flags.iter().copied());
        let Ok(Cli { command: Command::Retrieve(args), .. }) = Cli::try_parse_from(line) else {
            panic!("{flags:?}");
        };
        args.request(&Schema::new().text("body").dense("v", 2, Metric::Ip))
    }

    fn plain() -> RetrieveRequest {
        RetrieveRequest::new(SearchRequest::new(Route::text("body", "q")), 9)
    }

    #[test]
    fn flags_become_a_request() {
        let with = |flags: &[&str]| request(&[&["--text", "q", "--budget", "9"], flags].concat()).unwrap();
        assert_eq!(with(&[]), plain());
        let methods = [
            ("top_k", Method::default()),
            ("mmr", Method::Mmr { lambda: 0.7 }),
            ("dpp", Method::Dpp { quality: 1.0 }),
            ("adagres", Method::Adagres { redundancy: None }),
            ("submodular", Method::Submodular { swaps: true }),
            ("mcts", Method::Mcts(MctsParams::default())),
            ("exact", Method::Exact { nodes_max: NODES_DEFAULT }),
        ];
        for (name, method) in methods {
            assert_eq!(with(&["--select", name]), plain().method(method));
        }
        assert_eq!(with(&["--select", "mmr", "--lambda", "0"]), plain().method(Method::Mmr { lambda: 0.0 }));
        let flags =
            ["--dedup", "--per-document", "2", "--order", "best_last", "--merge", "--neighbours", "1"];
        let expected = RetrieveRequest {
            assemble: Assemble { order: Order::BestLast, merge_adjacent: true, neighbours: 1, kv: None },
            ..plain()
                .post(PostStage::Dedup { near: None, shingle_words: 5 })
                .post(PostStage::PerDocument { max: 2 })
        };
        assert_eq!(with(&flags), expected);
        let kv = r#"{"model": {"model": "m", "revision": "r", "tokenizer": "t", "dtype": "fp8", "position_base": 0}}"#;
        let flags = ["--kv", kv, "--order", "cache_aware"];
        for (tolerance, flags) in
            [(0.05, flags.to_vec()), (0.5, [&flags[..], &["--tolerance", "0.5"]].concat())]
        {
            let expected = serde_json::from_str(kv).unwrap();
            let assemble = Assemble {
                order: Order::CacheAware { tolerance },
                kv: Some(expected),
                ..Assemble::default()
            };
            assert_eq!(with(&flags), RetrieveRequest { assemble, ..plain() });
        }
        let near = plain().post(PostStage::Dedup { near: Some(0.5), shingle_words: 5 });
        assert_eq!(with(&["--dedup", "0.5"]), near);
        let flags = ["--reserve", "3", "--max-chunks", "4", "--seed", "5", "--dry-run"];
        let select = Select { reserve_tokens: 3, chunks_max: 4, seed: 5, ..Select::default() };
        assert_eq!(with(&flags), RetrieveRequest { select, dry_run: true, ..plain() });
        let flags = ["--need", "a", "--need", "b"];
        let needs = vec![Route::text("body", "a"), Route::text("body", "b")];
        assert_eq!(with(&flags), RetrieveRequest { needs: needs.clone(), ..plain() });
        // With the question, in its field.
        let semantic = request(&["--semantic", "q", "--budget", "9", "--need", "a"]).unwrap();
        assert_eq!(semantic.needs, [Route::text("v", "a")]);
        let vector = request(&["--vector", "[1, 0]", "--budget", "9", "--need", "a"]).unwrap();
        assert_eq!(vector.needs, [Route::text("body", "a")]);
    }

    #[test]
    fn what_would_not_count_is_an_error() {
        let error = |flags: &[&str]| {
            let line = ["spandrel", "retrieve", "-c", "docs"].into_iter().chain(flags.iter().copied());
            Cli::try_parse_from(line).map(drop).unwrap_err().kind()
        };
        use clap::error::ErrorKind::{ArgumentConflict, MissingRequiredArgument};
        assert_eq!(error(&["--text", "q"]), MissingRequiredArgument);
        assert_eq!(error(&["--text", "q", "-b", "9", "--lambda", "1"]), MissingRequiredArgument);
        let flags: [&[&str]; 18] = [
            &["--budget", "1"],
            &["--packed-field", "x"],
            &["--separator", "x"],
            &["--need", "x"],
            &["--dedup"],
            &["--per-document", "1"],
            &["--select", "mmr"],
            &["--reserve", "1"],
            &["--max-chunks", "1"],
            &["--seed", "1"],
            &["--order", "edges"],
            &["--kv", "{}"],
            &["--kv", "{}", "--tolerance", "1"],
            &["--merge"],
            &["--neighbours", "1"],
            &["--dry-run"],
            &["--text", "x"],
            &["--label", "x"],
        ];
        for flags in flags {
            assert_eq!(error(&[&["--request", "{}"], flags].concat()), ArgumentConflict, "{flags:?}");
        }
        assert_eq!(error(&["--text", "q", "-b", "9", "--tolerance", "1"]), MissingRequiredArgument);
        let orders: [(&[&str], &str); 3] = [
            (&["--order", "cache_aware"], "needs --kv"),
            (&["--kv", "{}", "--tolerance", "1"], "--order cache_aware only"),
            (&["--kv", "{}"], "--kv: missing field `model`"),
        ];
        for (flags, part) in orders {
            let wrong = request(&[&["--text", "q", "--budget", "9"], flags].concat()).unwrap_err();
            assert!(wrong.message.contains(part), "{}", wrong.message);
        }
        for (method, flag) in [("dpp", "--lambda"), ("mmr", "--quality"), ("exact", "--quality")] {
            let wrong =
                request(&["--text", "q", "--budget", "9", "--select", method, flag, "1"]).unwrap_err();
            assert!(wrong.message.contains(flag) && wrong.message.contains("only"), "{}", wrong.message);
        }
    }

    #[test]
    fn a_whole_request_is_read() {
        let json = r#"{"search": {"tenant": "x", "routes": [{"field": "body", "query": {"text": "q"}}]},
            "budget_tokens": 9, "select": {"method": {"mmr": {"lambda": 0.5}}, "must_include": ["k"]}}"#;
        let read = request(&["--request", json, "--tenant", "acme"]).unwrap();
        let mut expected = plain().method(Method::Mmr { lambda: 0.5 });
        expected.search.tenant = "acme".to_owned();
        expected.select.must_include = vec!["k".to_owned()];
        assert_eq!(read, expected);
        let wrong = json.replace("must_include", "must_have");
        assert!(request(&["--request", &wrong]).unwrap_err().message.contains("must_have"));
    }
}
