//! `spandrel demo`: the whole engine on real text in a few seconds. A temporary folder, a server in it, a
//! real corpus through the upsert stream, real questions through gRPC, recall against exact search, and
//! nothing left behind.

mod corpus;
mod show;

use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use serde_json::json;
use spandrel::{
    Database, Filter, Fusion, Hit, Metric, PayloadKind, RetrieveRequest, Route, Schema, SearchRequest,
    SearchResponse,
};

use self::corpus::{Corpus, DIM, Question};
use self::show::Show;
use super::{CliError, Common, output};
use crate::auth::{Access, Tenants, keys};
use crate::client::{Client, ClientSettings};
use crate::config::{Auth, Config};
use crate::serve;

/// The collection that the demo makes.
const COLLECTION: &str = "squad";
/// Rows of one message of the upsert stream.
const BATCH_ROWS: usize = 256;
/// Hits that recall is measured at.
const RECALL_K: usize = 10;
/// Tokens of the context that the demo packs.
const BUDGET_TOKENS: usize = 300;

/// Imports 2,067 real paragraphs of 48 articles (a tenant each) into a temporary folder, starts the server,
/// asks it real questions through gRPC, and compares with exact search. Nothing is left behind unless --data
/// is given.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  spandrel demo
  spandrel demo --data ./demo-data   keep the data, to look around with `spandrel search --data ./demo-data`

The API keys that the demo makes end with it: they are in its temporary folder.")]
pub(super) struct DemoArgs {
    /// Keep the data in this folder; a demo that ran there before is done again
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) fn run(common: &Common, args: DemoArgs) -> Result<(), CliError> {
    let started = Instant::now();
    let temporary =
        tempfile::tempdir().map_err(|error| CliError::failed(format!("temporary folder: {error}")))?;
    let kept = args.data.is_some();
    let data = args.data.unwrap_or_else(|| temporary.path().join("data"));
    let show = Show { json: common.json };
    let corpus = Corpus::read(temporary.path())?;
    show.opening(&corpus);

    let runtime = tokio::runtime::Runtime::new().map_err(|error| CliError::failed(error.to_string()))?;
    let config = Config {
        data: data.clone(),
        listen: ([127, 0, 0, 1], 0).into(),
        metrics_listen: None,
        // Not beside the data, which may be kept: these secrets are shown to nobody.
        auth: Auth { keys_file: Some(temporary.path().join("keys.json")) },
        ..Config::default()
    };
    let failed = |error: keys::KeysError| CliError::failed(error.to_string());
    let (_, admin_key) =
        keys::create(&config.keys_file(), "demo admin", Access::Admin, Tenants::All).map_err(failed)?;
    let one = Tenants::Only([corpus.questions[0].tenant.clone()].into());
    let (_, tenant_key) =
        keys::create(&config.keys_file(), "demo tenant", Access::Read, one).map_err(failed)?;
    let database = Database::open(&data, config.engine.clone())?;
    let server = runtime
        .block_on(serve::start(database.clone(), &config))
        .map_err(|error| CliError::failed(error.to_string()))?;
    let url = format!("http://{}", server.address());
    let connect = |key: &str| {
        Client::connect(&ClientSettings {
            url: url.clone(),
            api_key: Some(key.to_owned()),
            ..ClientSettings::default()
        })
    };
    let client = connect(&admin_key)?;
    show.serving(&url, &data);

    let import_s = import(&client, &corpus)?;
    show.imported(corpus.rows.len(), corpus.tenants(), import_s);
    ask(&show, &client, &connect(&tenant_key)?, &corpus)?;
    let measured = measure(&client, &corpus)?;
    show.measured(&measured);
    drop(client);
    runtime.block_on(server.shutdown()).map_err(|error| CliError::failed(error.to_string()))?;
    let total_s = started.elapsed().as_secs_f64();
    if common.json {
        output::print_json(&json!({
            "rows": corpus.rows.len(), "tenants": corpus.tenants(), "import_s": import_s,
            "recall_at_10": measured.recall, "gold_in_10": measured.gold, "questions": measured.questions,
            "p50_us": measured.p50_us, "p99_us": measured.p99_us, "total_s": total_s,
        }))?;
    } else {
        output::print(&format!("\nThe server has shut down; everything took {total_s:.1} s.\n"))?;
        if kept {
            let kept =
                format!("The data is in {0}, without keys: `spandrel serve --data {0}`\n", data.display());
            output::print(&kept)?;
        }
    }
    Ok(())
}

fn schema() -> Schema {
    Schema::new()
        .text("text")
        .dense("embedding", DIM as u32, Metric::Cosine)
        .payload("paragraph", PayloadKind::Integer)
}

/// Sends every row through the upsert stream; returns the seconds until all were acknowledged.
fn import(client: &Client, corpus: &Corpus) -> Result<f64, CliError> {
    match client.schema(COLLECTION) {
        // Of an earlier demo in this folder.
        Ok(there) if there == schema() => client.drop_collection(COLLECTION)?,
        Ok(_) => {
            let what = format!("there is a collection '{COLLECTION}' that no demo made; name another --data");
            return Err(CliError::usage(what));
        }
        Err(status) if status.code() == tonic::Code::NotFound => {}
        Err(status) => return Err(status.into()),
    }
    client.create_collection(COLLECTION, &schema())?;
    let started = Instant::now();
    let (sender, receiver) = sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // An error ends the stream, and the receiver reports it.
            let _ = corpus.rows.chunks(BATCH_ROWS).try_for_each(|rows| sender.send(rows.to_vec()));
        });
        client.upsert_stream(COLLECTION, receiver, |_| {})
    })?;
    Ok(started.elapsed().as_secs_f64())
}

/// The kinds of question, one real one each.
fn ask(show: &Show, client: &Client, stranger: &Client, corpus: &Corpus) -> Result<(), CliError> {
    let question = &corpus.questions[0];
    let timed = |what: &str, question: &Question, request: SearchRequest| -> Result<(), CliError> {
        let started = Instant::now();
        let response = client.search(COLLECTION, request)?;
        show.answers(what, question, &response, started.elapsed());
        Ok(())
    };
    timed("text (BM25)", question, question.search(vec![Route::text("text", &question.text)]))?;
    timed("dense (cosine of embeddings)", question, question.search(vec![question.dense()]))?;
    let second = corpus.later_in_its_article(corpus.another_tenant(question));
    let hybrid = SearchRequest {
        fusion: Fusion::Weighted,
        ..second.search(vec![Route::text("text", &second.text), second.dense()])
    };
    timed("hybrid (both, weighted)", second, hybrid)?;
    let gold = corpus.paragraph_of(second);
    let filter =
        Filter::Range { field: "paragraph".into(), gt: None, gte: Some(gold.into()), lt: None, lte: None };
    let what = format!("filtered (paragraph >= {gold}, reciprocal rank fusion)");
    timed(
        &what,
        second,
        second.search(vec![Route::text("text", &second.text), second.dense()]).filter(filter),
    )?;

    let foreign = SearchRequest { k: 3, ..second.search(vec![second.dense()]) };
    match stranger.search(COLLECTION, foreign) {
        Err(status) => show.refused(&question.tenant, &second.tenant, status.message()),
        Ok(_) => {
            return Err(CliError::failed("a key of one tenant read the rows of another; please report this"));
        }
    }

    let third = corpus.another_tenant(second);
    let search = third.search(vec![Route::text("text", &third.text), third.dense()]).k(20);
    let started = Instant::now();
    let context = client.retrieve(COLLECTION, RetrieveRequest::new(search, BUDGET_TOKENS))?;
    show.context(third, &context, BUDGET_TOKENS, started.elapsed());
    Ok(())
}

/// What all questions together showed.
struct Measured {
    questions: usize,
    recall: f64,
    gold: f64,
    p50_us: u64,
    p99_us: u64,
}

/// Asks every question and compares with exact search, computed here in plain f64 from the corpus file.
fn measure(client: &Client, corpus: &Corpus) -> Result<Measured, CliError> {
    let (mut found, mut wanted, mut gold) = (0, 0, 0);
    let mut times_us = Vec::with_capacity(corpus.questions.len());
    for question in &corpus.questions {
        let exact = corpus.exact(question, RECALL_K);
        let request = question.search(vec![question.dense()]).k(RECALL_K);
        let started = Instant::now();
        let response: SearchResponse = client.search(COLLECTION, request)?;
        times_us.push(started.elapsed().as_micros() as u64);
        let has = |key: &str| response.hits.iter().any(|hit: &Hit| hit.row.key == key);
        wanted += exact.len();
        found += exact.iter().filter(|key| has(key)).count();
        gold += usize::from(has(&question.gold));
    }
    times_us.sort_unstable();
    let questions = corpus.questions.len();
    Ok(Measured {
        questions,
        recall: found as f64 / wanted.max(1) as f64,
        gold: gold as f64 / questions.max(1) as f64,
        p50_us: times_us[questions / 2],
        p99_us: times_us[questions * 99 / 100],
    })
}
