//! Round trips of descriptors and what is said of them, through bytes; and everything wrong is told with its
//! path.

use super::*;
use crate::convert::tests::sent;

pub(crate) fn model() -> ModelKey {
    ModelKey {
        model: "m".to_owned(),
        revision: "r".to_owned(),
        tokenizer: "t".to_owned(),
        dtype: "bf16".to_owned(),
        position_base: 7,
        shared_prefix: Some(TokenHash([9; 16])),
    }
}

fn variant() -> Variant {
    let labels = Some(["board".to_owned(), "staff".to_owned()].into());
    Variant {
        content: TokenHash([1; 16]),
        model: model(),
        scope: Scope { labels, ..Scope::tenant("docs", "acme") },
        prefix: vec![TokenHash([2; 16]), TokenHash([3; 16])],
        tokens: 256,
        bytes: 32 << 20,
        tier: Tier::Dram,
        uri: "kv://1".to_owned(),
        cci: 0.25,
        inter: vec![Attention { chunk: TokenHash([3; 16]), share: 0.75 }],
        recompute_us: 12_800,
        created_us: 5,
        hits: 6,
        last_use_us: 8,
    }
}

pub(crate) fn reusable() -> Reusable {
    let reuse = Reuse {
        id: VariantId(4),
        exact: true,
        overlap: 0.5,
        recompute_tokens: 3,
        load_us: 1.5,
        saved_us: -2.5,
    };
    Reusable { best: Some((variant(), reuse)), recompute_tokens: 3, advice: Advice::InContext }
}

/// What is told begins so.
fn told<T: std::fmt::Debug>(result: Result<T>, start: &str) {
    let told = result.unwrap_err().to_string();
    assert!(told.starts_with(start), "{told}");
}

#[test]
fn caches_come_back_as_they_were() {
    let plain = Variant {
        model: ModelKey { shared_prefix: None, ..model() },
        scope: Scope::tenant("docs", ""),
        prefix: Vec::new(),
        inter: Vec::new(),
        tier: Tier::Hbm,
        ..variant()
    };
    for variant in [variant(), plain, Variant { tier: Tier::Ssd, cci: 0.0, ..variant() }] {
        let kept = (VariantId(u64::MAX), variant.clone());
        assert_eq!(kept_from_wire(sent(kept_to_wire(kept.clone()))).unwrap(), kept);
        // Uses are the catalogue's to count.
        let put = caches_from_wire(variant.scope.owner(), vec![sent(cache_to_wire(variant.clone()))]);
        assert_eq!(put.unwrap(), [Variant { hits: 0, last_use_us: 0, ..variant }]);
    }
}

#[test]
fn what_is_found_comes_back_as_it_was() {
    let found = [
        reusable(),
        Reusable { advice: Advice::Nothing, ..reusable() },
        Reusable { best: None, recompute_tokens: 9, advice: Advice::Alone },
    ];
    for found in found {
        assert_eq!(reusable_from_wire(sent(reusable_to_wire(found.clone()))).unwrap(), found);
    }
    let half = pb::Reusable { reuse: None, ..reusable_to_wire(reusable()) };
    told(reusable_from_wire(half), "reuse: goes with best");
    let wanted = [Wanted { content: TokenHash([1; 16]), tokens: 2 }; 3];
    let read = lookup_from_wire(Some(model_to_wire(model())), &wanted_to_wire(&wanted)).unwrap();
    assert_eq!(read, (model(), wanted.to_vec()));
    let uses = [(VariantId(1), -1.0), (VariantId(2), 3.6e9)];
    assert_eq!(uses_from_wire(uses_to_wire(&uses)).unwrap(), uses);
    let labels = Some(vec!["a".to_owned()]);
    assert_eq!(labels_from_wire(labels_to_wire(labels.clone())).unwrap(), labels);
}

#[test]
fn notices_and_counts_come_back_as_they_were() {
    let notice = |sequence, to| Notice {
        sequence,
        id: VariantId(3),
        collection: "docs".to_owned(),
        tenant: "acme".to_owned(),
        uri: "kv://3".to_owned(),
        from: Tier::Hbm,
        to,
    };
    let notices = vec![notice(1, Some(Tier::Ssd)), notice(2, None)];
    let page = NoticePage { notices, next: 2, more: true, lost: true };
    assert_eq!(notices_from_wire(sent(notices_to_wire(page.clone()))).unwrap(), page);
    let mut wrong = notices_to_wire(page);
    wrong.notices[1].from_tier = 0;
    told(notices_from_wire(wrong.clone()), "notices[1].from_tier: is required");
    wrong.notices[0].to_tier = 9;
    told(notices_from_wire(wrong), "notices[0].to_tier: 9 is not a value");
    let stats = Stats { descriptors: 1, chunks: 2, bytes: [3, 4, 5], hits: 6, notices_lost: 7 };
    assert_eq!(stats_from_wire(sent(stats_to_wire(stats))), stats);
}

#[test]
fn wrong_caches_name_the_field() {
    let wire = |change: &dyn Fn(&mut pb::ChunkCache)| {
        let mut wrong = cache_to_wire(variant());
        change(&mut wrong);
        caches_from_wire(("docs", "acme"), vec![cache_to_wire(variant()), wrong])
    };
    let bytes = |length: usize| vec![1_u8; length].into();
    told(wire(&|c| c.content = bytes(15)), "caches[1].content: 15 bytes; a token hash has 16");
    told(wire(&|c| c.prefix[1] = bytes(0)), "caches[1].prefix[1]: 0 bytes");
    told(wire(&|c| c.inter[0].chunk = bytes(17)), "caches[1].inter[0].chunk: 17 bytes");
    told(wire(&|c| c.inter[0].share = f64::NAN), "caches[1]: attention share is NaN");
    told(wire(&|c| c.model = None), "caches[1].model: is required");
    told(wire(&|c| c.tier = 0), "caches[1].tier: is required");
    told(wire(&|c| c.tier = 4), "caches[1].tier: 4 is not a value");
    told(wire(&|c| c.cci = None), "caches[1].cci: is required");
    told(wire(&|c| c.cci = Some(1.5)), "caches[1]: cci is 1.5");
    told(wire(&|c| c.tokens = 0), "caches[1]: tokens is 0");
    told(wire(&|c| c.labels.push(String::new())), "caches[1]: bytes of label is 0");
    let model = |change: &dyn Fn(&mut pb::ModelKey)| {
        let mut model = model_to_wire(model());
        change(&mut model);
        lookup_from_wire(Some(model), &wanted_to_wire(&[Wanted { content: TokenHash([1; 16]), tokens: 1 }]))
    };
    told(model(&|m| m.shared_prefix = bytes(3)), "model.shared_prefix: 3 bytes");
    told(model(&|m| m.dtype = String::new()), "model: bytes of dtype is 0");
}

#[test]
fn wrong_requests_name_the_field() {
    let chunk = pb::WantedChunk { content: vec![1_u8; 16].into(), tokens: 1 };
    let lookup = |chunks: &[pb::WantedChunk]| lookup_from_wire(Some(model_to_wire(model())), chunks);
    told(lookup_from_wire(None, std::slice::from_ref(&chunk)), "model: is required");
    told(lookup(&[]), "chunks: 0, must be 1 to 1024");
    assert!(lookup(&vec![chunk.clone(); 1_024]).is_ok());
    told(lookup(&vec![chunk.clone(); 1_025]), "chunks: 1025, must be 1 to 1024");
    told(lookup(&[chunk, pb::WantedChunk::default()]), "chunks[1].content: 0 bytes");
    for saved_us in [f64::NAN, f64::INFINITY, 3.7e9, -3.7e9] {
        let uses = vec![pb::CacheUse { id: 1, saved_us: 0.0 }, pb::CacheUse { id: 1, saved_us }];
        told(uses_from_wire(uses), "uses[1].saved_us: ");
    }
    let labels = pb::LabelsCondition { labels: vec![String::new(); 4_097] };
    told(labels_from_wire(Some(labels)), "labels: 4097, at most 4096");
}
