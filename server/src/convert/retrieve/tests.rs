//! Round trips of retrieves and their answers, through bytes; and everything wrong is told with its path.

use std::time::Duration;

use spandrel::rag::kv::TokenHash;
use spandrel::retrieve::candidate::{Reason, Rejected, StageCount};
use spandrel::select::mcts::MctsParams;
use spandrel::select::meter::StoppedBy;
use spandrel::select::topk::Overflow;
use spandrel::{
    Aggregate, Assemble, Cut, Estimate, FunnelLevel, KnownChunk, KvChunk, KvRequest, Method, Order,
    PackedChunk, Parent, PostStage, RetrieveResponse, Route, Select, SelectionReport, Short, Weights,
};

use super::*;
use crate::convert::chunk_cache::tests::{model, reusable};
use crate::convert::tests::{explain, filter, hit, search, sent, told};

fn plain() -> RetrieveRequest {
    RetrieveRequest::new(search(), 99)
}

fn same(request: &RetrieveRequest) {
    assert_eq!(request_from_wire(sent(request_to_wire("c", request.clone()))).unwrap(), *request);
}

fn methods() -> Vec<Method> {
    vec![
        Method::TopK { overflow: Overflow::Skip },
        Method::TopK { overflow: Overflow::Stop },
        Method::Mmr { lambda: 0.0 },
        Method::Dpp { quality: 0.0 },
        Method::Adagres { redundancy: None },
        Method::Adagres { redundancy: Some(0.0) },
        Method::Submodular { swaps: true },
        Method::Submodular { swaps: false },
        Method::Mcts(MctsParams::default()),
        Method::Mcts(MctsParams { exploration: 0.0, budget_weight: 0.5, batch: 7 }),
        Method::Exact { nodes_max: 0 },
    ]
}

fn stages() -> Vec<PostStage> {
    vec![
        PostStage::AccessRecheck,
        PostStage::Dedup { near: None, shingle_words: 5 },
        PostStage::Dedup { near: Some(0.0), shingle_words: 0 },
        PostStage::Decontaminate { against: vec!["a".to_owned(), String::new()], run_words: 0, jaccard: 0.0 },
        PostStage::Quality { words_min: 0, letters_min: 0.0, repeats_max: 0.0 },
        PostStage::PerDocument { max: 2 },
        PostStage::PerValue { field: "f".to_owned(), max: 3 },
        PostStage::Subsample { share: 0.0, seed: u64::MAX },
        PostStage::Rerank { depth: 4 },
        PostStage::RerankPairs { depth: 5, share: 0.0 },
        PostStage::Cut(Cut::LargestGap { keep_min: 0, extra: 6 }),
        PostStage::Cut(Cut::Share(0.0)),
    ]
}

/// Everything set to what is not its default.
fn whole() -> RetrieveRequest {
    let level = |by, aggregate| FunnelLevel { by, keep: 3, tokens_max: 4, aggregate };
    RetrieveRequest {
        text_field: Some("body".to_owned()),
        separator: String::new(),
        tokenizer: Some("cl100k_base".to_owned()),
        question: Some(String::new()),
        needs: vec![Route::text("body", "one").weight(0.5), Route::dense("v", vec![1.0])],
        funnel: vec![
            level(Parent::Document, Aggregate::Max),
            level(Parent::Field("f".to_owned()), Aggregate::TopMean(0)),
            level(Parent::Chunk, Aggregate::RankSum),
        ],
        post: stages(),
        survivors: 5,
        select: Select {
            method: Some(Method::Submodular { swaps: false }),
            auto: true,
            context_scorer: true,
            weights: Some(Weights {
                relevance: 0.0,
                redundancy: 1.0,
                facility: 2.0,
                aspects: 3.0,
                references: 4.0,
                length: 5.0,
                sharpness: 0.0,
            }),
            vector_field: Some("v".to_owned()),
            reserve_tokens: 6,
            overhead_tokens: 7,
            chunks_max: 8,
            must_include: vec!["a".to_owned(), "b".to_owned()],
            exclude: vec!["c".to_owned()],
            fill: true,
            seed: u64::MAX,
            evaluations_max: 9,
            time_max: Some(Duration::from_micros(1_500)),
        },
        assemble: Assemble {
            order: Order::CacheAware { tolerance: 0.0 },
            merge_adjacent: true,
            neighbours: 2,
            kv: Some(KvRequest {
                model: model(),
                block_tokens: 16,
                known: vec![KnownChunk { key: "k".to_owned(), content: TokenHash([5; 16]), tokens: 4 }],
            }),
        },
        as_if: Some(AsIf { filter: Some(filter()), share: 0.25, seed: 3 }),
        dry_run: true,
        ..plain()
    }
}

#[test]
fn retrieves_come_back_as_they_were() {
    same(&plain());
    same(&whole());
    for method in methods() {
        same(&plain().method(method));
    }
    for stage in stages() {
        same(&plain().post(stage));
    }
    for order in [Order::Score, Order::Document, Order::BestLast, Order::Edges] {
        let assemble = Assemble { order, ..Assemble::default() };
        same(&RetrieveRequest { assemble, ..plain() });
    }
    same(&RetrieveRequest { as_if: Some(AsIf::default()), ..plain() });
    for weights in [Weights::default(), Weights::EVIDENCE] {
        let select = Select { weights: Some(weights), ..Select::default() };
        same(&RetrieveRequest { select, ..plain() });
    }
}

/// A time that the wire cannot say is rounded up: none at all would be something else.
#[test]
fn times_are_microseconds() {
    for (given, read) in [(Duration::ZERO, 0), (Duration::from_nanos(1), 1), (Duration::MAX, u64::MAX)] {
        let select = Select { time_max: Some(given), ..Select::default() };
        let wire = request_to_wire("c", RetrieveRequest { select, ..plain() });
        assert_eq!(wire.select.clone().unwrap().time_max_us, Some(read));
        let back = request_from_wire(sent(wire)).unwrap().select.time_max;
        assert_eq!(back, Some(Duration::from_micros(read)));
    }
}

/// What a client of the first version sends, or one that leaves everything out, is the engine's own default.
#[test]
fn what_is_left_out_has_its_default() {
    let bare = || pb::RetrieveRequest {
        search: Some(search_to_wire("c", search())),
        budget_tokens: 99,
        ..Default::default()
    };
    assert_eq!(request_from_wire(sent(bare())).unwrap(), plain());
    let empty = pb::RetrieveRequest {
        select: Some(pb::Select::default()),
        assemble: Some(pb::Assemble::default()),
        ..bare()
    };
    assert_eq!(request_from_wire(sent(empty)).unwrap(), plain());
    let as_if = pb::RetrieveRequest { as_if: Some(pb::AsIf::default()), ..bare() };
    assert_eq!(request_from_wire(as_if).unwrap().as_if, Some(AsIf::default()));
}

/// Defaults of parameters are those that the engine reads from JSON.
#[test]
fn parameters_have_the_engines_defaults() {
    use pb::post_stage::Stage;
    use pb::select_method::Method as Wire;
    let stage = |stage| stage_from_wire(pb::PostStage { stage: Some(stage) }).unwrap();
    let cut = pb::CutStage { r#where: Some(pb::cut_stage::Where::LargestGap(pb::LargestGap::default())) };
    let pairs = pb::RerankPairsStage { depth: 2, share: None };
    let stages = [
        (Stage::Dedup(pb::DedupStage::default()), r#"{"dedup": {}}"#),
        (Stage::Decontaminate(pb::DecontaminateStage::default()), r#"{"decontaminate": {"against": []}}"#),
        (Stage::Quality(pb::QualityStage::default()), r#"{"quality": {}}"#),
        (Stage::RerankPairs(pairs), r#"{"rerank_pairs": {"depth": 2}}"#),
        (Stage::Cut(cut), r#"{"cut": {"largest_gap": {}}}"#),
    ];
    for (wire, json) in stages {
        assert_eq!(stage(wire), serde_json::from_str::<PostStage>(json).unwrap(), "{json}");
    }
    let methods = [
        (Wire::TopK(pb::TopKMethod::default()), r#"{"top_k": {}}"#),
        (Wire::Adagres(pb::AdagresMethod::default()), r#"{"adagres": {}}"#),
        (Wire::Submodular(pb::SubmodularMethod::default()), r#"{"submodular": {}}"#),
        (Wire::Mcts(pb::MctsMethod::default()), r#"{"mcts": {}}"#),
        (Wire::Exact(pb::ExactMethod::default()), r#"{"exact": {}}"#),
    ];
    for (wire, json) in methods {
        let select =
            pb::Select { method: Some(pb::SelectMethod { method: Some(wire) }), ..Default::default() };
        let read = select_from_wire(select).unwrap().method;
        assert_eq!(read, Some(serde_json::from_str::<Method>(json).unwrap()), "{json}");
    }
    let select = pb::Select { weights: Some(pb::Weights::default()), ..Default::default() };
    assert_eq!(select_from_wire(select).unwrap().weights, Some(Weights::default()));
    let level = pb::FunnelLevel {
        by: Some(pb::funnel_level::By::Document(pb::ByDocument {})),
        keep: 1,
        ..Default::default()
    };
    let json = r#"{"by": "document", "keep": 1}"#;
    assert_eq!(level_from_wire(level).unwrap(), serde_json::from_str::<FunnelLevel>(json).unwrap());
}

#[test]
fn wrong_retrieves_name_the_field() {
    use pb::post_stage::Stage;
    use pb::select_method::Method as Wire;
    told(request_from_wire(pb::RetrieveRequest::default()), "search: is required");
    let bare = pb::RetrieveRequest { search: Some(pb::SearchRequest::default()), ..Default::default() };
    told(request_from_wire(bare), "search.routes: at least one is needed");
    let wire = |change: &dyn Fn(&mut pb::RetrieveRequest)| {
        let mut request = request_to_wire("c", whole());
        change(&mut request);
        request_from_wire(request)
    };
    told(wire(&|r| r.needs[1].query = None), "needs[1].query: is required");
    told(
        wire(&|r| r.needs[0].weight = Some(f32::NAN)),
        "needs[0].weight: NaN is not a finite number of at least 0",
    );
    told(wire(&|r| r.funnel[2].by = None), "funnel[2].by: is required");
    told(
        wire(&|r| r.funnel[0].aggregate = Some(pb::Aggregate::default())),
        "funnel[0].aggregate.how: is required",
    );
    told(wire(&|r| r.post[3].stage = None), "post[3].stage: is required");
    let subsample = |share| Some(Stage::Subsample(pb::SubsampleStage { share, seed: 0 }));
    told(wire(&|r| r.post[1].stage = subsample(None)), "post[1].subsample.share: is required");
    let cut = || Some(Stage::Cut(pb::CutStage::default()));
    told(wire(&|r| r.post[0].stage = cut()), "post[0].cut.where: is required");
    let method = |method| {
        wire(&|r| {
            r.select = Some(pb::Select { method: Some(pb::SelectMethod { method }), ..Default::default() })
        })
    };
    told(method(None), "select.method.method: is required");
    told(method(Some(Wire::Mmr(pb::MmrMethod::default()))), "select.method.mmr.lambda: is required");
    told(method(Some(Wire::Dpp(pb::DppMethod::default()))), "select.method.dpp.quality: is required");
    told(
        method(Some(Wire::TopK(pb::TopKMethod { overflow: 3 }))),
        "select.method.top_k.overflow: 3 is not a value that this server knows",
    );
    told(
        wire(&|r| r.assemble = Some(pb::Assemble { order: -1, ..Default::default() })),
        "assemble.order: -1 is not a value that this server knows",
    );
    let assemble = |change: &dyn Fn(&mut pb::Assemble)| {
        let mut assemble = request_to_wire("c", whole()).assemble.unwrap();
        change(&mut assemble);
        wire(&|r| r.assemble = Some(assemble.clone()))
    };
    told(assemble(&|a| a.tolerance = None), "assemble.tolerance: is required");
    told(
        assemble(&|a| a.order = pb::Order::Edges.into()),
        "assemble.tolerance: goes with ORDER_CACHE_AWARE only",
    );
    told(assemble(&|a| a.kv = Some(pb::KvRequest::default())), "assemble.kv.model: is required");
    let known = |kv: &mut pb::KvRequest| kv.known.push(pb::KnownChunk::default());
    told(
        assemble(&|a| a.kv.iter_mut().for_each(known)),
        "assemble.kv.known[1].content: 0 bytes; a token hash has 16",
    );
    let as_if = pb::AsIf { filter: Some(pb::Filter::default()), ..Default::default() };
    told(wire(&|r| r.as_if = Some(as_if.clone())), "as_if.filter.condition: is required");
}

fn answer() -> RetrieveResponse {
    let chunk = |rank, merged: &[&str], source_span| PackedChunk {
        hit: hit(),
        context_span: 2..5,
        tokens: 9,
        rank,
        merged_from: merged.iter().map(|key| (*key).to_owned()).collect(),
        source_span,
    };
    let reasons = [
        Reason::NoText,
        Reason::Budget,
        Reason::LowGain,
        Reason::DuplicateOf("k".to_owned()),
        Reason::Contaminated,
        Reason::LowQuality,
        Reason::Quota,
        Reason::NotSampled,
        Reason::Funnel,
        Reason::Cut,
        Reason::AccessLost,
        Reason::Excluded,
    ];
    RetrieveResponse {
        context: "context".to_owned(),
        tokens: 3,
        chunks: vec![chunk(0, &[], None), chunk(7, &["k", "l"], Some(0..u64::MAX))],
        skipped: 4,
        candidates: 5,
        short: Some(Short::FewMatches),
        selection: SelectionReport {
            method: "mcts".to_owned(),
            value: 1.5,
            greedy_value: Some(0.0),
            bound: Some(2.5),
            evaluations: 6,
            stopped_by: Some(StoppedBy::Converged),
            redundancy: Some(0.0),
            vendi: Some(1.25),
            order: Order::BestLast,
            unused_tokens: 8,
            seed: 9,
        },
        rejected: reasons.map(|reason| Rejected { key: "r".to_owned(), reason }).to_vec(),
        stages: vec![StageCount { name: "dedup".to_owned(), rows_in: 2, rows_out: 1 }],
        rounds: 2,
        estimate: Some(Estimate {
            tenant_rows: 1,
            matches: 2,
            candidates: 3,
            evaluations_max: 4,
            stages: vec!["x".to_owned()],
            time_us: 5,
        }),
        explain: Some(explain()),
        kv: vec![KvChunk { content: TokenHash([6; 16]), tokens: 32, reusable: reusable() }; 2],
    }
}

#[test]
fn contexts_come_back_as_they_were() {
    let same = |answer: RetrieveResponse| {
        assert_eq!(response_from_wire(sent(response_to_wire(answer.clone()))).unwrap(), answer);
    };
    same(answer());
    same(RetrieveResponse::default());
    let ends = [
        StoppedBy::Budget,
        StoppedBy::NoGain,
        StoppedBy::Chunks,
        StoppedBy::Converged,
        StoppedBy::Evaluations,
        StoppedBy::Time,
    ];
    for order in [Order::Score, Order::CacheAware { tolerance: 0.5 }] {
        same(RetrieveResponse {
            selection: SelectionReport { order, ..SelectionReport::default() },
            ..answer()
        });
    }
    for stopped_by in ends.map(Some).into_iter().chain([None]) {
        let selection = SelectionReport { stopped_by, ..SelectionReport::default() };
        same(RetrieveResponse { selection, ..answer() });
    }
    // What a server of the first version says.
    let old = pb::RetrieveResponse { selection: None, ..response_to_wire(RetrieveResponse::default()) };
    assert_eq!(response_from_wire(sent(old)).unwrap(), RetrieveResponse::default());
}

/// A client reads what a broken or hostile server may send.
#[test]
fn senseless_contexts_are_refused() {
    let wire = |change: &dyn Fn(&mut pb::RetrieveResponse)| {
        let mut response = response_to_wire(answer());
        change(&mut response);
        response_from_wire(response)
    };
    let span = |start, end| wire(&|r| (r.chunks[1].context_start, r.chunks[1].context_end) = (start, end));
    assert!(span(0, 7).is_ok());
    for (start, end) in [(0, 8), (2, 1), (u64::MAX, u64::MAX)] {
        told(span(start, end), "chunks[1].context_end: the span lies outside the context");
    }
    for (start, end) in [(Some(1), None), (None, Some(1)), (Some(2), Some(1))] {
        let source = wire(&|r| (r.chunks[0].source_start, r.chunks[0].source_end) = (start, end));
        told(source, "chunks[0].source_end: the span has no end after its start");
    }
    told(wire(&|r| r.chunks[0].hit = None), "chunks[0].hit: is required");
    told(wire(&|r| r.rejected[1].reason = 0), "rejected[1].reason: is required");
    told(
        wire(&|r| r.rejected[1].reason = 99),
        "rejected[1].reason: 99 is not a value that this client knows",
    );
    let report = |change: &dyn Fn(&mut pb::SelectionReport)| {
        let mut selection = response_to_wire(answer()).selection.unwrap();
        change(&mut selection);
        wire(&|r| r.selection = Some(selection.clone()))
    };
    told(wire(&|r| r.kv[1].reusable = None), "kv[1].reusable: is required");
    told(wire(&|r| r.kv[0].content = vec![1].into()), "kv[0].content: 1 bytes; a token hash has 16");
    told(report(&|s| s.order = 9), "selection.order: 9 is not a value that this client knows");
    told(report(&|s| s.stopped_by = 9), "selection.stopped_by: 9 is not a value that this client knows");
}
