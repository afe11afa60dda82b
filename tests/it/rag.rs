//! What `retrieve` promises: budgets, stages, selection, access, and the same answer twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use spandrel::rag::tokens::Tokenizer;
use spandrel::retrieve::candidate::Reason;
use spandrel::select::mcts::MctsParams;
use spandrel::{
    AsIf, ChunkOptions, Collection, Components, ContextScorer, Cut, Database, Document, ErrorKind, Filter,
    FunnelLevel, Fusion, IngestOptions, Method, Metric, Order, Parent, PayloadKind, PostStage, Reranker,
    Result, RetrieveRequest, Route, Row, Schema, SearchRequest, Settings,
};
use tempfile::TempDir;

use crate::rng::Rng;

struct World {
    collection: Arc<Collection>,
    _database: Database,
    _folder: TempDir,
}

/// A seed that can be set, and its generator.
fn seeded() -> (u64, Rng) {
    let seed = Rng::announced("rag", 11).next();
    (seed, Rng::new(seed))
}

const WORDS: [&str; 24] = [
    "river", "bridge", "stone", "tower", "market", "harbour", "mill", "garden", "school", "theatre",
    "castle", "forest", "road", "valley", "island", "lake", "museum", "church", "station", "square",
    "festival", "king", "painter", "war",
];

fn schema() -> Schema {
    Schema::new().text("body").dense("v", 4, Metric::Cosine).payload("source", PayloadKind::Keyword)
}

fn world(components: Components) -> World {
    let folder = TempDir::new().unwrap();
    let database = Database::open_with(folder.path().join("data"), Settings::default(), components).unwrap();
    let collection = database.create_collection("c", schema()).unwrap();
    World { collection, _database: database, _folder: folder }
}

/// Rows of random sentences, with vectors and sources.
fn filled(rng: &mut Rng, rows: usize, components: Components) -> World {
    let world = world(components);
    let row = |at: usize| {
        let words: Vec<&str> = (0..4 + rng.below(20)).map(|_| WORDS[rng.below(WORDS.len())]).collect();
        let vector = (0..4).map(|_| rng.below(1000) as f32 / 500.0 - 1.0).collect();
        Row::new(format!("k{at}"))
            .text("body", format!("{} of {at}.", words.join(" ")))
            .dense("v", vector)
            .payload("source", ["a", "b", "c"][rng.below(3)])
    };
    world.collection.upsert((0..rows).map(row).collect()).unwrap();
    world
}

fn search(k: usize) -> SearchRequest {
    let routes =
        vec![Route::text("body", "the bridge over the river"), Route::dense("v", vec![1.0, 0.5, 0.1, 0.2])];
    SearchRequest { routes, fusion: Fusion::Weighted, k, ..SearchRequest::default() }
}

fn keys(found: &spandrel::RetrieveResponse) -> Vec<&str> {
    found.chunks.iter().map(|chunk| chunk.hit.row.key.as_str()).collect()
}

fn methods() -> Vec<Method> {
    vec![
        Method::default(),
        Method::Mmr { lambda: 0.6 },
        Method::Dpp { quality: 2.0 },
        Method::Adagres { redundancy: None },
        Method::Submodular { swaps: true },
        Method::Mcts(MctsParams::default()),
        Method::Exact { nodes_max: 200 },
    ]
}

#[test]
fn the_same_request_has_the_same_answer_within_its_budget() {
    let (seed, mut rng) = seeded();
    let world = filled(&mut rng, 300, Components::default());
    let tokenizer = Tokenizer::named(&world.collection.schema().tokenizer).unwrap();
    for method in methods() {
        for budget in [0, 7, 60, 500] {
            let mut request = RetrieveRequest::new(search(50), budget).method(method);
            request.select.seed = 3;
            request.post = vec![PostStage::Dedup { near: Some(0.9), shingle_words: 3 }];
            let found = world.collection.retrieve(&request).unwrap();
            assert_eq!(found.tokens, tokenizer.count(&found.context), "seed {seed} {method:?}");
            assert!(found.tokens <= budget, "seed {seed} {method:?}");
            assert_eq!(found.selection.method, method.name());
            assert_eq!(found.candidates as usize, found.chunks.len() + found.skipped as usize);
            assert_eq!(found, world.collection.retrieve(&request).unwrap(), "seed {seed} {method:?}");
        }
    }
}

#[test]
fn filtering_what_was_found_is_finding_what_is_filtered() {
    let (seed, mut rng) = seeded();
    let world = filled(&mut rng, 400, Components::default());
    let of_b = Filter::Equals { field: "source".into(), value: "b".into() };
    // Dense alone: scores of words depend on what else is there.
    let dense = |k| SearchRequest { routes: vec![Route::dense("v", vec![1.0, 0.5, 0.1, 0.2])], ..search(k) };
    let filtered = RetrieveRequest::new(dense(30).filter(of_b.clone()), 100_000);
    let as_if = AsIf { filter: Some(of_b), ..AsIf::default() };
    let simulated = RetrieveRequest { as_if: Some(as_if), ..RetrieveRequest::new(dense(30), 100_000) };
    let (filtered, simulated) =
        (world.collection.retrieve(&filtered).unwrap(), world.collection.retrieve(&simulated).unwrap());
    assert_eq!(filtered.context, simulated.context, "seed {seed}");

    // A sampled datastore is the same for any depth, and as deep as was asked for.
    let sampled = |k: usize, budget| RetrieveRequest {
        as_if: Some(AsIf { share: 0.25, seed: 5, ..AsIf::default() }),
        ..RetrieveRequest::new(dense(k), budget)
    };
    let all = world.collection.retrieve(&sampled(400, 100_000)).unwrap();
    let some = world.collection.retrieve(&sampled(20, 100_000)).unwrap();
    assert_eq!(some.chunks.len(), 20, "seed {seed}");
    assert_eq!(keys(&some), keys(&all)[..20], "seed {seed}");
    assert!((60..140).contains(&all.chunks.len()), "seed {seed}: {}", all.chunks.len());
    // A quarter of them, twice.
    let stage = PostStage::Subsample { share: 0.25, seed: 5 };
    let post = RetrieveRequest { survivors: 20, ..RetrieveRequest::new(dense(20), 100_000).post(stage) };
    let found = world.collection.retrieve(&post).unwrap();
    assert!(found.chunks.len() >= 20 && found.rounds > 1, "seed {seed}");
    assert_eq!(keys(&found)[..20], keys(&all)[..20], "seed {seed}");
}

#[test]
fn stages_leave_out_what_they_say() {
    let world = world(Components::default());
    let row = |key: &str, text: &str, source: &str| {
        Row::new(key).text("body", text).dense("v", vec![1.0, 0.0, 0.0, 0.1]).payload("source", source)
    };
    let long = "the old bridge over the river was built by the king of the island in the year of the war";
    world
        .collection
        .upsert(vec![
            row("first", long, "a"),
            row("copy", &format!("{}!", long.to_uppercase()), "b"),
            row("near", &format!("{long} again"), "b"),
            row("short", "bridge river", "a"),
            row("signs", "bridge river $$$ ### %%% &&& *** @@@ +++ === ~~~ bridge 1 2 3 4 5 6 7 8", "c"),
            row(
                "other",
                "another bridge stands where the mill and the market and the school were before",
                "a",
            ),
        ])
        .unwrap();
    let run = |stages: Vec<PostStage>| {
        let routes = vec![Route::text("body", "bridge river")];
        let mut request = RetrieveRequest::new(SearchRequest { routes, ..SearchRequest::default() }, 10_000);
        request.post = stages;
        world.collection.retrieve(&request).unwrap()
    };
    let has = |found: &spandrel::RetrieveResponse, key: &str| keys(found).contains(&key);
    let all = run(vec![]);
    assert_eq!(all.chunks.len(), 6);
    let exact = run(vec![PostStage::Dedup { near: None, shingle_words: 5 }]);
    assert!(has(&exact, "first") != has(&exact, "copy") && has(&exact, "near"));
    let near = run(vec![PostStage::Dedup { near: Some(0.8), shingle_words: 3 }]);
    assert_eq!(["first", "copy", "near"].iter().filter(|key| has(&near, key)).count(), 1);
    assert!(near.rejected.iter().any(|one| matches!(&one.reason, Reason::DuplicateOf(_))));
    assert_eq!((near.stages[0].rows_in, near.stages[0].rows_out), (6, 4));
    let against =
        vec!["Somebody asked: the old bridge over the river was built by the king, yes?".to_owned()];
    let clean = run(vec![PostStage::Decontaminate { against, run_words: 8, jaccard: 0.8 }]);
    assert!(!has(&clean, "first") && !has(&clean, "copy") && has(&clean, "other"));
    let good = run(vec![PostStage::Quality { words_min: 8, letters_min: 0.7, repeats_max: 0.5 }]);
    assert!(!has(&good, "short") && !has(&good, "signs") && has(&good, "other"));
    let one = run(vec![PostStage::PerValue { field: "source".into(), max: 1 }]);
    assert_eq!(one.chunks.len(), 3);
    let cut = run(vec![PostStage::Cut(Cut::Share(0.999))]);
    assert_eq!(cut.chunks.len(), 1);
    let unknown = RetrieveRequest::new(search(3), 9).post(PostStage::PerValue { field: "no".into(), max: 1 });
    assert_eq!(world.collection.retrieve(&unknown).unwrap_err().kind(), ErrorKind::Invalid);
    let rerank = RetrieveRequest::new(search(3), 9).post(PostStage::Rerank { depth: 3 });
    assert!(world.collection.retrieve(&rerank).unwrap_err().to_string().contains("no reranker"));
}

/// A document in chunks, another that has nothing to do with it.
fn documents() -> World {
    let world = world(Components::default());
    let text: String = (0..12).map(|n| format!("Sentence number {n} is about the {}. ", WORDS[n])).collect();
    let options = IngestOptions {
        chunk: ChunkOptions { tokens_max: 12, ..ChunkOptions::default() },
        ..IngestOptions::default()
    };
    for key in ["d", "e"] {
        let text =
            if key == "d" { text.clone() } else { text.replace("Sentence", "Line").replace("bridge", "x") };
        world
            .collection
            .ingest(&Document { key: key.into(), text, ..Document::default() }, &options)
            .unwrap();
    }
    world
}

fn words(text: &str, k: usize) -> SearchRequest {
    SearchRequest { routes: vec![Route::text("body", text)], k, ..SearchRequest::default() }
}

#[test]
fn neighbours_fill_what_is_left_and_merge_with_what_they_touch() {
    let world = documents();
    let mut request = RetrieveRequest::new(words("bridge", 1), 60);
    let alone = world.collection.retrieve(&request).unwrap();
    assert_eq!(keys(&alone), ["d#1"]);
    request.assemble.neighbours = 2;
    request.assemble.merge_adjacent = true;
    let found = world.collection.retrieve(&request).unwrap();
    assert_eq!(found.chunks.len(), 1, "{found:?}");
    let chunk = &found.chunks[0];
    assert_eq!(chunk.merged_from, ["d#0", "d#1", "d#2", "d#3"]);
    assert!(found.tokens <= 60 && found.context.starts_with("Sentence number 0"), "{}", found.context);
    assert_eq!(chunk.source_span.clone().unwrap().start, 0);
    request.budget_tokens = 30;
    let tight = world.collection.retrieve(&request).unwrap();
    assert!(tight.tokens <= 30 && tight.chunks[0].merged_from.contains(&"d#1".to_owned()));
    // What the filter rules out is no neighbour either.
    request.budget_tokens = 60;
    request.search.filter = Some(Filter::Not(Box::new(Filter::Keys(vec!["d#2".into()]))));
    let filtered = world.collection.retrieve(&request).unwrap();
    assert!(!filtered.context.contains("number 2"), "{}", filtered.context);
}

#[test]
fn funnels_keep_the_best_documents() {
    let world = documents();
    let level = FunnelLevel { by: Parent::Document, keep: 1, tokens_max: 0, aggregate: Default::default() };
    let mut request = RetrieveRequest::new(words("sentence number bridge", 24), 10_000);
    request.funnel = vec![level];
    let found = world.collection.retrieve(&request).unwrap();
    assert!(found.chunks.len() == 12 && keys(&found).iter().all(|key| key.starts_with("d#")));
    assert!(found.rejected.iter().all(|one| one.reason == Reason::Funnel));
    request.assemble.order = Order::Document;
    let ordered = world.collection.retrieve(&request).unwrap();
    let numbers: Vec<u32> = keys(&ordered).iter().map(|key| key[2..].parse().unwrap()).collect();
    assert!(numbers.is_sorted());
}

#[test]
fn needs_are_searched_and_covered() {
    let world = world(Components::default());
    let mut rows: Vec<Row> = (0..20)
        .map(|n| Row::new(format!("m{n}")).text("body", format!("mill number {n} by the mill")))
        .collect();
    rows.push(Row::new("castle").text("body", "a castle"));
    world.collection.upsert(rows).unwrap();
    let mut request = RetrieveRequest::new(words("mill", 10), 30).method(Method::Submodular { swaps: true });
    let without = world.collection.retrieve(&request).unwrap();
    assert!(!keys(&without).contains(&"castle"));
    request.needs = vec![Route::text("body", "castle")];
    request.search.fusion = Fusion::Rrf { k: 60.0 };
    let with = world.collection.retrieve(&request).unwrap();
    assert!(keys(&with).contains(&"castle"), "{:?}", keys(&with));
}

#[test]
fn what_must_be_in_is_in_and_what_is_excluded_is_not() {
    let (_, mut rng) = seeded();
    let world = filled(&mut rng, 60, Components::default());
    let found = world.collection.retrieve(&RetrieveRequest::new(search(40), 200)).unwrap();
    let (first, last) = (keys(&found)[0].to_owned(), found.rejected[0].key.clone());
    for method in methods() {
        let mut request = RetrieveRequest::new(search(40), 200).method(method);
        request.select.must_include = vec![last.clone()];
        request.select.exclude = vec![first.clone()];
        request.select.chunks_max = 3;
        request.select.overhead_tokens = 10;
        let found = world.collection.retrieve(&request).unwrap();
        assert!(
            keys(&found).contains(&last.as_str()) && !keys(&found).contains(&first.as_str()),
            "{method:?}"
        );
        assert!(found.chunks.len() <= 3 && found.tokens + 10 * found.chunks.len() <= 200, "{method:?}");
        assert!(found.rejected.iter().any(|one| one.key == first && one.reason == Reason::Excluded));
    }
    let mut unknown = RetrieveRequest::new(search(5), 200);
    unknown.select.must_include = vec!["nowhere".into()];
    assert!(world.collection.retrieve(&unknown).unwrap_err().to_string().contains("nowhere"));
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_not() {
    let (_, mut rng) = seeded();
    let world = filled(&mut rng, 60, Components::default());
    let filter = Filter::Equals { field: "source".into(), value: "b".into() };
    let mut request = RetrieveRequest::new(search(40).filter(filter.clone()), 200)
        .method(Method::Mcts(MctsParams::default()))
        .post(PostStage::AccessRecheck);
    request.dry_run = true;
    let planned = world.collection.retrieve(&request).unwrap();
    let estimate = planned.estimate.unwrap();
    assert_eq!(estimate.matches, world.collection.count("", Some(&filter)).unwrap());
    assert_eq!((estimate.tenant_rows, planned.chunks.len(), planned.context.len()), (60, 0, 0));
    assert!(estimate.candidates <= 40 && estimate.stages.contains(&"access_recheck".to_owned()));
    assert_eq!(estimate.evaluations_max, request.select.evaluations_max);
    // What is wrong is wrong in a dry run, too.
    request.search.k = 0;
    assert_eq!(world.collection.retrieve(&request).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn caps_on_evaluations_and_time_are_kept() {
    let (_, mut rng) = seeded();
    let world = filled(&mut rng, 300, Components::default());
    let mut request = RetrieveRequest::new(search(200), 2_000).method(Method::Mcts(MctsParams::default()));
    request.select.evaluations_max = 700;
    let found = world.collection.retrieve(&request).unwrap();
    assert!(found.selection.evaluations <= 700 && !found.chunks.is_empty());
    request.select.evaluations_max = 10_000_000;
    request.select.time_max = Some(Duration::from_millis(30));
    let started = Instant::now();
    assert!(!world.collection.retrieve(&request).unwrap().chunks.is_empty());
    assert!(started.elapsed() < Duration::from_secs(5));
    request.select.time_max = None;
    request.search.timeout = Some(Duration::from_millis(60));
    let late = world.collection.retrieve(&request);
    assert!(late.is_ok() || late.unwrap_err().kind() == ErrorKind::Deadline);
}

/// Judges by length, and takes a label away meanwhile.
struct Judge {
    asked: AtomicUsize,
    meanwhile: std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Reranker for Judge {
    fn rerank(&self, _: &str, texts: &[&str], _: Option<Instant>) -> Result<Vec<f32>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if let Some(meanwhile) = self.meanwhile.lock().unwrap().take() {
            meanwhile();
        }
        Ok(texts.iter().map(|text| text.len() as f32).collect())
    }

    fn name(&self) -> &str {
        "judge"
    }
}

impl ContextScorer for Judge {
    fn score(&self, _: &str, contexts: &[Vec<&str>], _: Option<Instant>) -> Result<Vec<f64>> {
        self.asked.fetch_add(contexts.len(), Ordering::Relaxed);
        // Worth what its last text is long, and something for every text.
        let worth =
            |context: &Vec<&str>| context.last().map_or(0, |text| text.len()) as f64 + context.len() as f64;
        Ok(contexts.iter().map(worth).collect())
    }

    fn name(&self) -> &str {
        "judge"
    }
}

fn judged() -> (Arc<Judge>, Components) {
    let judge = Arc::new(Judge { asked: AtomicUsize::new(0), meanwhile: std::sync::Mutex::new(None) });
    let components = Components {
        reranker: Some(Arc::clone(&judge) as Arc<dyn Reranker>),
        context_scorer: Some(Arc::clone(&judge) as Arc<dyn ContextScorer>),
        ..Components::default()
    };
    (judge, components)
}

#[test]
fn rerankers_and_context_scorers_are_asked() {
    let (_, mut rng) = seeded();
    let (judge, components) = judged();
    let world = filled(&mut rng, 60, components);
    for stage in [PostStage::Rerank { depth: 10 }, PostStage::RerankPairs { depth: 10, share: 1.0 }] {
        let found = world.collection.retrieve(&RetrieveRequest::new(search(20), 5_000).post(stage)).unwrap();
        let lengths: Vec<usize> = found.chunks[..10].iter().map(|chunk| chunk.context_span.len()).collect();
        assert!(lengths.windows(2).all(|pair| pair[0] >= pair[1]), "{lengths:?}");
    }
    assert_eq!(judge.asked.swap(0, Ordering::Relaxed), 2);
    let params = MctsParams { batch: 8, ..MctsParams::default() };
    let mut request = RetrieveRequest::new(search(12), 80).method(Method::Mcts(params));
    request.select.context_scorer = true;
    request.select.evaluations_max = 300;
    let found = world.collection.retrieve(&request).unwrap();
    let asked = judge.asked.load(Ordering::Relaxed) as u64;
    assert_eq!(asked, found.selection.evaluations);
    assert!(asked <= 300 && found.selection.value >= found.selection.greedy_value.unwrap());
}

#[test]
fn access_lost_while_it_runs_is_not_in_the_answer() {
    let (judge, components) = judged();
    let world = world(components);
    let rows = (0..6).map(|n| Row::new(format!("k{n}")).text("body", format!("bridge {n}")).label("team"));
    world.collection.upsert(rows.collect()).unwrap();
    let mut request = RetrieveRequest::new(words("bridge", 6), 1_000).post(PostStage::Rerank { depth: 6 });
    request.search.labels = Some(vec!["team".into()]);
    assert_eq!(world.collection.retrieve(&request).unwrap().chunks.len(), 6);
    let collection = Arc::clone(&world.collection);
    *judge.meanwhile.lock().unwrap() = Some(Box::new(move || {
        collection.revoke("", &["k2".to_owned(), "k4".to_owned()], &["team".to_owned()]).unwrap();
    }));
    let found = world.collection.retrieve(&request).unwrap();
    let mut left = keys(&found);
    left.sort_unstable();
    assert_eq!(left, ["k0", "k1", "k3", "k5"]);
    assert!(!found.context.contains("bridge 2"));
    assert!(found.rejected.iter().any(|one| one.key == "k2" && one.reason == Reason::AccessLost));
}

#[test]
fn neighbours_need_the_labels_too() {
    let world = documents();
    let own: Vec<String> = ["d#1", "d#2"].map(str::to_owned).to_vec();
    world.collection.grant("", &own, &["team".to_owned()]).unwrap();
    let mut request = RetrieveRequest::new(words("bridge", 1), 1_000);
    request.search.labels = Some(vec!["team".into()]);
    request.assemble.neighbours = 3;
    let found = world.collection.retrieve(&request).unwrap();
    let mut seen = keys(&found);
    seen.sort_unstable();
    assert_eq!(seen, ["d#1", "d#2"]);
}

#[test]
fn kept_answers_are_those_of_the_snapshot() {
    let folder = TempDir::new().unwrap();
    let settings = Settings { result_cache_bytes: 1 << 20, ..Settings::default() };
    let database = Database::open(folder.path().join("data"), settings).unwrap();
    let collection = database.create_collection("c", schema()).unwrap();
    let row = |n: usize| Row::new(format!("k{n}")).text("body", format!("bridge {n}")).label("team");
    collection.upsert((0..5).map(row).collect()).unwrap();
    let request = RetrieveRequest::new(words("bridge", 9), 1_000);
    let labelled = RetrieveRequest {
        search: SearchRequest { labels: Some(vec!["team".into()]), ..request.search.clone() },
        ..request.clone()
    };
    let chunks = |request: &RetrieveRequest| collection.retrieve(request).unwrap().chunks.len();
    let first = collection.retrieve(&request).unwrap();
    assert_eq!(first, collection.retrieve(&request).unwrap());
    assert_eq!((chunks(&request), chunks(&labelled), chunks(&labelled)), (5, 5, 5));
    collection.revoke("", &["k1".to_owned()], &["team".to_owned()]).unwrap();
    assert_eq!((chunks(&request), chunks(&labelled)), (5, 4));
    collection.upsert(vec![row(9)]).unwrap();
    assert_eq!((chunks(&request), chunks(&labelled)), (6, 5));
    collection.delete("", &["k0".to_owned()]).unwrap();
    assert_eq!((chunks(&request), chunks(&labelled)), (5, 4));
    let other = RetrieveRequest { search: request.search.clone().tenant("other"), ..request.clone() };
    assert_eq!(chunks(&other), 0);
    collection.drop_label("team").unwrap();
    assert_eq!((chunks(&request), chunks(&labelled)), (5, 0));
    collection.drop_tenant("").unwrap();
    assert_eq!(chunks(&request), 0);
}
