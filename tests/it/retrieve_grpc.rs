//! Retrieves through gRPC: what was chosen and why, what was left out and why, what it would cost, and what
//! cannot be.

use std::collections::BTreeMap;

use prost::Message;
use spandrel_proto::v1 as pb;
use tonic::Code;

use crate::served::{Clients, Served, dense, field, named, row, rows, search, serve};

const SENTENCES: [&str; 4] = [
    "The river Aldo meets the tide at the old harbour. ",
    "Its lighthouse burns whale oil in winter. ",
    "The keeper counts the ships by night. ",
    "In spring the ice breaks and the ferries run. ",
];

/// A chunk of a document, as it is called when a document is ingested.
fn chunk(document: &str, at: usize, start: usize, text: &str) -> pb::Row {
    let span = (start as u64, (start + text.len()) as u64);
    pb::Row {
        key: format!("{document}#{at}"),
        fields: BTreeMap::from([
            (named("body"), field(pb::field_value::Kind::Text(named(text)))),
            (named("v"), field(pb::field_value::Kind::Dense(dense(&[1.0, at as f32 * 0.1, 0.0, 0.5])))),
        ]),
        chunk: Some(pb::Chunk { document: named(document), span_start: span.0, span_end: span.1, tokens: 0 }),
        ..Default::default()
    }
}

/// Chunks of a document and a copy of one, among others.
async fn filled() -> (Served, Clients) {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let mut written = Vec::new();
    let mut start = 0;
    for (at, text) in SENTENCES.into_iter().enumerate() {
        written.push(chunk("tides", at, start, text));
        start += text.len();
    }
    written.push(chunk("copy", 0, 0, SENTENCES[0]));
    written.extend(rows(0..30));
    clients.upsert("acme", written).await.unwrap();
    (served, clients)
}

fn asked(words: &str) -> pb::RetrieveRequest {
    let query = pb::route::Query::Text(named(words));
    pb::RetrieveRequest {
        search: Some(pb::SearchRequest { k: 20, ..search("acme", "body", query) }),
        budget_tokens: 60,
        ..Default::default()
    }
}

fn chosen_by(method: pb::select_method::Method) -> Option<pb::Select> {
    let method = Some(pb::SelectMethod { method: Some(method) });
    Some(pb::Select { method, ..Default::default() })
}

fn submodular() -> pb::Select {
    chosen_by(pb::select_method::Method::Submodular(pb::SubmodularMethod::default())).unwrap()
}

fn stage(stage: pb::post_stage::Stage) -> Vec<pb::PostStage> {
    vec![pb::PostStage { stage: Some(stage) }]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retrieve_says_what_it_chose_and_what_it_left_out() {
    let (served, mut clients) = filled().await;
    let request = pb::RetrieveRequest {
        needs: vec![pb::Route {
            field: named("body"),
            query: Some(pb::route::Query::Text(named("lighthouse"))),
            ..Default::default()
        }],
        post: stage(pb::post_stage::Stage::Dedup(pb::DedupStage::default())),
        select: Some(pb::Select {
            must_include: vec![named("tides#0"), named("tides#1")],
            exclude: vec![named("k00000")],
            reserve_tokens: 10,
            ..submodular()
        }),
        assemble: Some(pb::Assemble {
            order: pb::Order::Document.into(),
            merge_adjacent: true,
            ..Default::default()
        }),
        ..asked("river harbour tide")
    };
    let answer = clients.search.retrieve(request.clone()).await.unwrap().into_inner();
    let report = answer.selection.as_ref().unwrap();
    assert_eq!((report.method.as_str(), report.order()), ("submodular", pb::Order::Document));
    assert!(report.evaluations > 0 && report.stopped_by() != pb::StoppedBy::Unspecified, "{report:?}");
    assert_eq!(report.unused_tokens, 50 - answer.tokens);
    assert!(report.greedy_value.unwrap() <= report.value);
    assert_eq!((report.redundancy, report.vendi, report.bound), (None, None, None));

    let merged = answer.chunks.iter().find(|chunk| !chunk.merged_from.is_empty()).unwrap();
    assert_eq!(merged.merged_from, ["tides#0", "tides#1"]);
    let length = (SENTENCES[0].len() + SENTENCES[1].len()) as u64;
    assert_eq!((merged.source_start, merged.source_end), (Some(0), Some(length)));
    let text = &answer.context[merged.context_start as usize..merged.context_end as usize];
    assert_eq!(text, SENTENCES[..2].concat());
    assert!(answer.chunks.iter().all(|chunk| chunk.rank > 0));

    let reason = |key: &str| {
        let rejected = answer.rejected.iter().find(|rejected| rejected.key == key);
        rejected.map(|rejected| (rejected.reason(), rejected.duplicate_of.as_str()))
    };
    assert_eq!(reason("copy#0"), Some((pb::Reason::Duplicate, "tides#0")));
    assert_eq!(reason("k00000"), Some((pb::Reason::Excluded, "")));
    let packed: usize = answer.chunks.iter().map(|chunk| chunk.merged_from.len().max(1)).sum();
    assert_eq!(answer.candidates, packed as u64 + answer.skipped);
    let dedup = answer.stages.iter().find(|stage| stage.name == "dedup").unwrap();
    assert_eq!(dedup.rows_in, dedup.rows_out + 1);
    assert_eq!((answer.rounds, answer.estimate.is_none()), (1, true));

    let again = clients.search.retrieve(request).await.unwrap().into_inner();
    assert_eq!(again.encode_to_vec(), answer.encode_to_vec());
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_answers() {
    use pb::select_method::Method;
    let (served, mut clients) = filled().await;
    let methods = [
        ("top_k", Method::TopK(pb::TopKMethod { overflow: pb::Overflow::Stop.into() })),
        ("mmr", Method::Mmr(pb::MmrMethod { lambda: Some(0.5) })),
        ("dpp", Method::Dpp(pb::DppMethod { quality: Some(1.0) })),
        ("adagres", Method::Adagres(pb::AdagresMethod::default())),
        ("submodular", Method::Submodular(pb::SubmodularMethod::default())),
        ("mcts", Method::Mcts(pb::MctsMethod::default())),
        ("exact", Method::Exact(pb::ExactMethod::default())),
    ];
    for (name, method) in methods {
        let request = pb::RetrieveRequest { select: chosen_by(method), ..asked("river harbour") };
        let answer = clients.search.retrieve(request).await.unwrap().into_inner();
        let report = answer.selection.unwrap();
        assert_eq!((report.method.as_str(), report.order()), (name, pb::Order::Score));
        assert!(!answer.chunks.is_empty() && answer.tokens <= 60, "{name}");
        let compared = matches!(name, "mmr" | "dpp" | "adagres");
        assert_eq!((report.redundancy.is_some(), report.vendi.is_some()), (compared, compared), "{name}");
        assert_eq!(report.bound.is_some(), name == "exact");
    }
    let hurried = pb::Select { time_max_us: Some(0), ..submodular() };
    let request = pb::RetrieveRequest { select: Some(hurried), ..asked("river harbour") };
    let report = clients.search.retrieve(request).await.unwrap().into_inner().selection.unwrap();
    assert_eq!(report.stopped_by(), pb::StoppedBy::Time);
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_what_it_would_cost() {
    let (served, mut clients) = filled().await;
    let request = pb::RetrieveRequest {
        post: stage(pb::post_stage::Stage::PerDocument(pb::PerDocumentStage { max: 2 })),
        select: Some(submodular()),
        dry_run: true,
        ..asked("river harbour")
    };
    let answer = clients.search.retrieve(request.clone()).await.unwrap().into_inner();
    assert!(answer.chunks.is_empty() && answer.context.is_empty() && answer.rejected.is_empty());
    let report = answer.selection.unwrap();
    assert_eq!((report.method.as_str(), report.stopped_by()), ("submodular", pb::StoppedBy::Unspecified));
    let estimate = answer.estimate.unwrap();
    assert_eq!((estimate.tenant_rows, estimate.matches, estimate.candidates), (35, 35, 20));
    assert!(estimate.evaluations_max > 0 && estimate.time_us > 0);
    assert!(estimate.stages.iter().any(|stage| stage == "per_document"), "{:?}", estimate.stages);
    // What a filter matches is not told of rows without the labels.
    let labels = pb::LabelsCondition { labels: vec![named("board")] };
    clients.upsert("acme", vec![pb::Row { labels: vec![named("board")], ..row(3) }]).await.unwrap();
    for (labels, matches) in [(None, 35), (Some(labels), 1)] {
        let search = pb::SearchRequest { labels, ..request.search.clone().unwrap() };
        let request = pb::RetrieveRequest { search: Some(search), ..request.clone() };
        let answer = clients.search.retrieve(request).await.unwrap().into_inner();
        assert_eq!(answer.estimate.unwrap().matches, matches);
    }
    // It is checked as if it were done.
    let wrong = pb::RetrieveRequest { text_field: named("nowhere"), ..request };
    assert_eq!(clients.search.retrieve(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    served.server.shutdown().await.unwrap();
}

/// Rows without a text among candidates, with neighbours behind them.
#[tokio::test(flavor = "multi_thread")]
async fn rows_without_a_text_are_left_out() {
    let (served, mut clients) = filled().await;
    let bare = (100..105).map(|at| {
        let mut bare = row(at);
        bare.fields.remove("body");
        bare.chunk = None;
        bare
    });
    clients.upsert("acme", bare.collect()).await.unwrap();
    let query = pb::route::Query::Dense(dense(&[1.0, 0.2, 0.1, 0.5]));
    let request = pb::RetrieveRequest {
        search: Some(pb::SearchRequest { k: 40, ..search("acme", "v", query) }),
        budget_tokens: 1_000,
        // More than any group has members, and than memory has room for.
        funnel: vec![pb::FunnelLevel {
            by: Some(pb::funnel_level::By::Document(pb::ByDocument {})),
            keep: 100,
            aggregate: Some(pb::Aggregate { how: Some(pb::aggregate::How::TopMean(u32::MAX)) }),
            ..Default::default()
        }],
        assemble: Some(pb::Assemble { neighbours: 1, ..Default::default() }),
        ..Default::default()
    };
    let answer = clients.search.retrieve(request).await.unwrap().into_inner();
    let bare = answer.rejected.iter().filter(|rejected| rejected.reason() == pb::Reason::NoText);
    assert_eq!((bare.count(), answer.candidates, answer.skipped), (5, 40, 5));
    assert_eq!(answer.chunks.len(), 35);
    let mut ranks: Vec<u32> = answer.chunks.iter().map(|chunk| chunk.rank).collect();
    ranks.sort_unstable();
    assert_eq!(ranks, (1..=35).collect::<Vec<_>>());
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_names_the_field() {
    use pb::post_stage::Stage;
    use pb::select_method::Method;
    let (served, mut clients) = filled().await;
    let base = || asked("river harbour");
    let select = |select| pb::RetrieveRequest { select: Some(select), ..base() };
    let post = |one| pb::RetrieveRequest { post: stage(one), ..base() };
    let method = |method| pb::RetrieveRequest { select: chosen_by(method), ..base() };
    let assemble = |assemble| pb::RetrieveRequest { assemble: Some(assemble), ..base() };
    let plain = pb::Select::default;
    let route = asked("x").search.unwrap().routes.remove(0);
    let far = pb::Route { candidates: 10_001, ..route.clone() };
    let cases = [
        (
            select(pb::Select { must_include: vec![named("nobody")], ..plain() }),
            "select.must_include: 'nobody' is not among the 20 candidates",
        ),
        (
            select(pb::Select { must_include: vec![named("tides#0")], reserve_tokens: 55, ..plain() }),
            "must be included",
        ),
        (select(pb::Select { method: Some(pb::SelectMethod::default()), ..plain() }), "select.method.method"),
        (select(pb::Select { evaluations_max: Some(0), ..plain() }), "select.evaluations_max: 0"),
        (select(pb::Select { evaluations_max: Some(1_000_001), ..plain() }), "limits.evaluations_max"),
        (select(pb::Select { context_scorer: true, ..plain() }), "select.context_scorer"),
        (select(pb::Select { vector_field: named("body"), ..plain() }), "select.vector_field 'body'"),
        (select(pb::Select { overhead_tokens: u32::MAX, ..plain() }), "select.overhead_tokens"),
        (
            select(pb::Select {
                weights: Some(pb::Weights { aspects: -1.0, ..Default::default() }),
                ..plain()
            }),
            "select.weights.aspects is -1",
        ),
        (method(Method::Mmr(pb::MmrMethod { lambda: Some(f32::NAN) })), "mmr.lambda is NaN"),
        (method(Method::Dpp(pb::DppMethod { quality: None })), "select.method.dpp.quality: is required"),
        (method(Method::Mcts(pb::MctsMethod { batch: Some(0), ..Default::default() })), "mcts.batch is 0"),
        (post(Stage::Dedup(pb::DedupStage { near: Some(2.0), shingle_words: None })), "dedup: near is 2"),
        (post(Stage::PerDocument(pb::PerDocumentStage { max: 0 })), "per_document: max is 0"),
        (post(Stage::PerValue(pb::PerValueStage { field: named("nowhere"), max: 1 })), "nowhere"),
        (post(Stage::Rerank(pb::RerankStage { depth: 5 })), "reranker"),
        (post(Stage::Subsample(pb::SubsampleStage::default())), "post[0].subsample.share: is required"),
        (assemble(pb::Assemble { order: 9, ..Default::default() }), "assemble.order: 9"),
        (assemble(pb::Assemble { neighbours: 17, ..Default::default() }), "assemble.neighbours is 17"),
        (
            pb::RetrieveRequest {
                as_if: Some(pb::AsIf { share: Some(0.0), ..Default::default() }),
                ..base()
            },
            "as_if.share is 0",
        ),
        (pb::RetrieveRequest { survivors: 10_001, ..base() }, "survivors: 10001"),
        (pb::RetrieveRequest { needs: vec![route.clone(), far], ..base() }, "needs[1].candidates: 10001"),
        (pb::RetrieveRequest { needs: vec![route; 16], ..base() }, "routes and needs are 17"),
        (pb::RetrieveRequest { funnel: vec![pb::FunnelLevel::default()], ..base() }, "funnel[0].by"),
        (pb::RetrieveRequest { tokenizer: named("words"), ..base() }, "words"),
    ];
    for (request, part) in cases {
        let status = clients.search.retrieve(request).await.expect_err(part);
        assert_eq!(status.code(), Code::InvalidArgument, "{part}: {status}");
        assert!(status.message().contains(part), "{part}: {}", status.message());
    }
    served.server.shutdown().await.unwrap();
}
