//! Chunk caches through gRPC, from the first put to the last notice; whose they are, who may see them, and
//! what cannot be.

use spandrel::KvSettings;
use spandrel::rag::kv::{Scope, TokenHash, VariantId, Wanted};
use spandrel_proto::v1 as pb;
use spandrel_server::auth::Access;
use spandrel_server::client::{Client, ClientSettings};
use tonic::{Code, Status};

use crate::served::{Clients, Served, named, row, rows, search, serve, serve_with};

const MIB: u64 = 1 << 20;

/// A change that makes a message wrong, and what is said of it.
type Wrong<M> = (fn(&mut M), &'static str);

/// A server whose accelerator has room for so many caches, and nothing below it.
async fn serve_room(caches: u64) -> Served {
    let bytes_max = [caches * MIB, 0, 0];
    let settings = KvSettings { bytes_max, ..KvSettings::default() };
    serve_with(|config| config.engine.chunk_caches = Some(settings)).await
}

fn model() -> Option<pb::ModelKey> {
    Some(pb::ModelKey {
        model: named("llama"),
        revision: named("1"),
        tokenizer: named("llama"),
        dtype: named("bf16"),
        ..pb::ModelKey::default()
    })
}

fn hash(chunk: u8) -> Vec<u8> {
    vec![chunk; 16]
}

/// A cache of a chunk, behind others, of 1 MiB in the accelerator.
pub fn cache(chunk: u8, prefix: &[u8]) -> pb::ChunkCache {
    pb::ChunkCache {
        content: hash(chunk).into(),
        model: model(),
        prefix: prefix.iter().map(|chunk| hash(*chunk).into()).collect(),
        tokens: 100,
        bytes: MIB,
        tier: pb::CacheTier::Hbm.into(),
        uri: format!("kv://{chunk}/{prefix:?}"),
        cci: Some(0.5),
        recompute_us: 10_000,
        ..pb::ChunkCache::default()
    }
}

fn labelled(chunk: u8, labels: &[&str]) -> pb::ChunkCache {
    pb::ChunkCache { labels: labels.iter().map(|label| named(label)).collect(), ..cache(chunk, &[]) }
}

fn asked(labels: &[&str]) -> Option<pb::LabelsCondition> {
    Some(pb::LabelsCondition { labels: labels.iter().map(|label| named(label)).collect() })
}

/// The requests, so that a test changes what it is about.
fn put(tenant: &str, caches: Vec<pb::ChunkCache>) -> pb::PutChunkCachesRequest {
    pb::PutChunkCachesRequest { collection: named("docs"), tenant: named(tenant), caches }
}

fn lookup(tenant: &str, chunks: &[u8]) -> pb::LookupChunkCachesRequest {
    let chunk = |chunk: &u8| pb::WantedChunk { content: hash(*chunk).into(), tokens: 100 };
    let chunks = chunks.iter().map(chunk).collect();
    let (collection, tenant) = (named("docs"), named(tenant));
    pb::LookupChunkCachesRequest { collection, tenant, labels: None, model: model(), chunks }
}

fn touch(tenant: &str, id: u64, saved_us: f64) -> pb::TouchChunkCachesRequest {
    let uses = vec![pb::CacheUse { id, saved_us }];
    pb::TouchChunkCachesRequest { collection: named("docs"), tenant: named(tenant), labels: None, uses }
}

fn remove(tenant: &str, ids: &[u64]) -> pb::RemoveChunkCachesRequest {
    let (collection, tenant) = (named("docs"), named(tenant));
    pb::RemoveChunkCachesRequest { collection, tenant, labels: None, ids: ids.to_vec() }
}

fn forget(tenant: &str, chunk: u8) -> pb::ForgetChunkRequest {
    pb::ForgetChunkRequest { collection: named("docs"), tenant: named(tenant), content: hash(chunk).into() }
}

fn list(tenant: &str, after: u64, limit: u32) -> pb::ListChunkCachesRequest {
    let (collection, tenant) = (named("docs"), named(tenant));
    pb::ListChunkCachesRequest { collection, tenant, labels: None, after, limit }
}

fn notices(tenant: &str, after: u64, limit: u32) -> pb::ChunkCacheNoticesRequest {
    let (collection, tenant) = (named("docs"), named(tenant));
    pb::ChunkCacheNoticesRequest { collection, tenant, all: false, after, limit }
}

fn all_notices(after: u64) -> pb::ChunkCacheNoticesRequest {
    pb::ChunkCacheNoticesRequest { all: true, after, limit: 100, ..Default::default() }
}

fn stats(tenant: &str) -> pb::ChunkCacheStatsRequest {
    pb::ChunkCacheStatsRequest { collection: named("docs"), tenant: named(tenant), all: false }
}

impl Clients {
    /// The ids of what was put.
    async fn put(&mut self, tenant: &str, caches: Vec<pb::ChunkCache>) -> Result<Vec<u64>, Status> {
        use pb::put_outcome::Outcome;
        let outcomes = self.caches.put(put(tenant, caches)).await?.into_inner().outcomes;
        let id = |one: pb::PutOutcome| match one.outcome {
            Some(Outcome::Id(id)) => id,
            other => panic!("{other:?}"),
        };
        Ok(outcomes.into_iter().map(id).collect())
    }

    /// Ids of the best caches of chunks, 0 where there is none.
    async fn best(&mut self, request: pb::LookupChunkCachesRequest) -> Result<Vec<u64>, Status> {
        let found = self.caches.lookup(request).await?.into_inner().chunks;
        Ok(found.into_iter().map(|chunk| chunk.best.map_or(0, |best| best.id)).collect())
    }

    async fn listed(&mut self, request: pb::ListChunkCachesRequest) -> Result<Vec<u64>, Status> {
        let page = self.caches.list(request).await?.into_inner();
        Ok(page.caches.into_iter().map(|kept| kept.id).collect())
    }

    /// What is told: number, id, and whether tensors are to be freed.
    async fn told(&mut self, request: pb::ChunkCacheNoticesRequest) -> Result<Vec<(u64, u64, bool)>, Status> {
        let page = self.caches.notices(request).await?.into_inner();
        let one = |notice: &pb::ChunkCacheNotice| {
            (notice.sequence, notice.id, notice.to_tier() == pb::CacheTier::Unspecified)
        };
        Ok(page.notices.iter().map(one).collect())
    }

    /// Every call once; which and what it answers.
    async fn everything(&mut self, tenant: &str) -> Vec<(&'static str, Option<Status>)> {
        let caches = &mut self.caches;
        vec![
            ("put", caches.put(put(tenant, vec![cache(1, &[])])).await.err()),
            ("lookup", caches.lookup(lookup(tenant, &[1])).await.err()),
            ("touch", caches.touch(touch(tenant, 1, 1.0)).await.err()),
            ("remove", caches.remove(remove(tenant, &[1])).await.err()),
            ("forget", caches.forget_chunk(forget(tenant, 1)).await.err()),
            ("list", caches.list(list(tenant, 0, 1)).await.err()),
            ("notices", caches.notices(notices(tenant, 0, 1)).await.err()),
            ("stats", caches.stats(stats(tenant)).await.err()),
        ]
    }
}

/// Those that were refused so.
fn refused(answers: &[(&'static str, Option<Status>)], code: Code) -> Vec<&'static str> {
    let is_so = |status: &Option<Status>| status.as_ref().is_some_and(|status| status.code() == code);
    answers.iter().filter(|(_, status)| is_so(status)).map(|(name, _)| *name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_lives_and_is_forgotten() {
    let served = serve_room(3).await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let ids = clients.put("acme", vec![cache(1, &[]), cache(2, &[1])]).await.unwrap();
    assert_eq!(ids, [1, 2]);

    let found = clients.caches.lookup(lookup("acme", &[1, 2, 9])).await.unwrap().into_inner().chunks;
    let behind = found[1].best.as_ref().unwrap();
    assert_eq!((behind.id, behind.tenant.as_str(), behind.hits), (2, "acme", 0));
    assert!(behind.cache.as_ref().unwrap().created_us > 0, "filled in");
    let reuse = found[1].reuse.unwrap();
    assert_eq!((reuse.exact, reuse.overlap, reuse.recompute_tokens), (true, 1.0, 0));
    assert_eq!((reuse.saved_us, found[1].recompute_tokens), (10_000.0, 0));
    assert_eq!(found[1].advice(), pb::CacheAdvice::Nothing);
    assert_eq!((&found[2].best, found[2].reuse, found[2].recompute_tokens), (&None, None, 100));
    assert_eq!(found[2].advice(), pb::CacheAdvice::Alone);
    let other_model = pb::ModelKey { revision: named("2"), ..model().unwrap() };
    let request = pb::LookupChunkCachesRequest { model: Some(other_model), ..lookup("acme", &[1]) };
    assert_eq!(clients.best(request).await.unwrap(), [0]);

    let known = clients.caches.touch(touch("acme", 2, 10_000.0)).await.unwrap().into_inner().known;
    assert_eq!(
        (known, clients.caches.touch(touch("acme", 77, 1.0)).await.unwrap().into_inner().known),
        (1, 0)
    );
    let page = clients.caches.list(list("acme", 0, 1)).await.unwrap().into_inner();
    assert_eq!((page.caches[0].id, page.next), (1, Some(1)));
    let page = clients.caches.list(list("acme", 1, 1)).await.unwrap().into_inner();
    assert_eq!((page.caches[0].id, page.caches[0].hits, page.next), (2, 1, None));
    assert!(page.caches[0].last_use_us > 0);
    assert_eq!(page.caches[0].cache.as_ref().unwrap().prefix, cache(2, &[1]).prefix);
    let held = clients.caches.stats(stats("acme")).await.unwrap().into_inner();
    assert_eq!((held.caches, held.chunks, held.hbm_bytes, held.hits), (2, 2, 2 * MIB, 1));

    // There is room for one more; then what is least used goes, and its tensors are to be freed.
    let ids = clients.put("acme", vec![cache(3, &[]), cache(4, &[])]).await.unwrap();
    assert_eq!(ids, [3, 4]);
    let page = clients.caches.notices(notices("acme", 0, 10)).await.unwrap().into_inner();
    let gone = &page.notices[0];
    assert_eq!((gone.id, gone.uri.as_str(), gone.from_tier()), (1, "kv://1/[]", pb::CacheTier::Hbm));
    assert_eq!(
        (gone.to_tier(), gone.collection.as_str(), gone.tenant.as_str()),
        (pb::CacheTier::Unspecified, "docs", "acme")
    );
    assert_eq!((page.notices.len(), page.next, page.more, page.lost), (1, gone.sequence, false, false));
    let again = clients.caches.notices(notices("acme", 0, 10)).await.unwrap().into_inner();
    assert_eq!(again, page, "an answer that got lost");
    assert_eq!(clients.told(notices("acme", page.next, 10)).await.unwrap(), []);

    // What is not worth its room is told, and the rest is taken in.
    let large = pb::ChunkCache { bytes: 4 * MIB, ..cache(5, &[]) };
    let outcomes =
        clients.caches.put(put("acme", vec![large, cache(4, &[])])).await.unwrap().into_inner().outcomes;
    let why = format!("{:?}", outcomes[0].outcome);
    assert!(why.contains("Refused") && why.contains("raise bytes_max"), "{why}");
    assert_eq!(outcomes[1].outcome, Some(pb::put_outcome::Outcome::Id(5)), "in place of the one before");

    let removed = clients.caches.remove(remove("acme", &[9, 3])).await.unwrap().into_inner().removed;
    assert_eq!((removed, clients.listed(list("acme", 0, 9)).await.unwrap()), (vec![3], vec![2, 5]));
    // The chunk that another was computed behind: both tell of it.
    assert_eq!(clients.caches.forget_chunk(forget("acme", 1)).await.unwrap().into_inner().removed, 1);
    assert_eq!(clients.told(notices("acme", page.next, 10)).await.unwrap(), [(page.next + 1, 2, true)]);

    // Of a collection that is gone, too.
    clients
        .collections
        .drop(pb::DropCollectionRequest { name: named("docs"), if_exists: false })
        .await
        .unwrap();
    let last = clients.told(notices("acme", page.next + 1, 10)).await.unwrap();
    assert_eq!(last, [(page.next + 2, 5, true)]);
    let lost = clients.caches.notices(notices("acme", 1 << 60, 10)).await.unwrap().into_inner();
    assert!(lost.lost && lost.notices.len() == 1, "a number that was never given drops nothing");
    let text = served.page("/metrics").await;
    assert!(
        text.contains("spandrel_requests_total{method=\"ChunkCacheService/Put\",code=\"OK\"} 3"),
        "{text}"
    );
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tenant_sees_anothers() {
    let served = serve_room(2).await;
    let mut all = served.clients_with(Access::Admin, &["*"]).await;
    all.create_docs().await;
    let mut acme = served.clients_with(Access::Write, &["acme"]).await;
    let mut beta = served.clients_with(Access::Write, &["beta"]).await;
    assert_eq!(acme.put("", vec![cache(1, &[])]).await.unwrap(), [1]);
    assert_eq!(beta.put("beta", vec![cache(2, &[])]).await.unwrap(), [2]);

    let everything = acme.everything("beta").await;
    assert_eq!(refused(&everything, Code::PermissionDenied).len(), everything.len(), "{everything:?}");
    assert_eq!(beta.best(lookup("", &[1, 2])).await.unwrap(), [0, 2]);
    assert_eq!(beta.listed(list("", 0, 9)).await.unwrap(), [2]);
    assert_eq!(beta.caches.touch(touch("", 1, 1e9)).await.unwrap().into_inner().known, 0);
    assert_eq!(beta.caches.remove(remove("", &[1])).await.unwrap().into_inner().removed, [] as [u64; 0]);
    assert_eq!(beta.caches.forget_chunk(forget("", 1)).await.unwrap().into_inner().removed, 0);
    assert_eq!(beta.caches.stats(stats("")).await.unwrap().into_inner().caches, 1);

    // Room is common: what goes is told to whose it was, and to who serves all.
    acme.caches.touch(touch("", 1, 10_000.0)).await.unwrap();
    assert_eq!(acme.put("acme", vec![cache(3, &[])]).await.unwrap(), [3]);
    assert_eq!(acme.told(notices("", 0, 9)).await.unwrap(), []);
    let told = beta.told(notices("", 0, 9)).await.unwrap();
    assert_eq!(told.iter().map(|(_, id, freed)| (*id, *freed)).collect::<Vec<_>>(), [(2, true)]);
    assert_eq!(all.told(all_notices(0)).await.unwrap(), told);
    for clients in [&mut acme, &mut beta] {
        let refused = clients.caches.notices(all_notices(0)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        let everything = pb::ChunkCacheStatsRequest { all: true, ..Default::default() };
        assert_eq!(clients.caches.stats(everything).await.unwrap_err().code(), Code::PermissionDenied);
    }
    let everything = pb::ChunkCacheStatsRequest { all: true, ..Default::default() };
    assert_eq!(all.caches.stats(everything).await.unwrap().into_inner().caches, 2);
    assert_eq!(all.told(all_notices(told[0].0)).await.unwrap(), []);
    assert_eq!(beta.told(notices("", 0, 9)).await.unwrap(), [], "done by who serves all");

    let mut read = served.clients_with(Access::Read, &["*"]).await;
    let answers = read.everything("acme").await;
    assert_eq!(
        refused(&answers, Code::PermissionDenied),
        ["put", "touch", "remove", "forget", "notices"],
        "{answers:?}"
    );
    served.server.shutdown().await.unwrap();
}

/// A key that is bound to labels sees what has one of them; what tells of the rest is refused.
#[tokio::test(flavor = "multi_thread")]
async fn labels_hide_caches() {
    let served = serve_room(100).await;
    let mut all = served.clients_with(Access::Admin, &["*"]).await;
    all.create_docs().await;
    let caches = vec![
        cache(1, &[]),
        labelled(2, &["board"]),
        labelled(3, &["staff"]),
        labelled(4, &["staff", "board"]),
    ];
    assert_eq!(all.put("acme", caches).await.unwrap(), [1, 2, 3, 4]);
    for (labels, seen) in [(None, vec![1, 2, 3, 4]), (asked(&["board"]), vec![2, 4]), (asked(&[]), vec![])] {
        let request = pb::ListChunkCachesRequest { labels, ..list("acme", 0, 9) };
        assert_eq!(all.listed(request).await.unwrap(), seen);
    }

    let mut bound = served.clients_bound(Access::Read, &["acme"], Some(&["staff"])).await;
    let answers = bound.everything("acme").await;
    let denied = refused(&answers, Code::PermissionDenied);
    assert_eq!(denied, ["put", "touch", "remove", "forget", "notices", "stats"], "{answers:?}");
    assert_eq!(bound.listed(list("", 0, 9)).await.unwrap(), [3, 4]);
    let request = pb::ListChunkCachesRequest { labels: asked(&["board"]), ..list("", 0, 9) };
    assert_eq!(bound.listed(request).await.unwrap(), [] as [u64; 0]);
    assert_eq!(bound.best(lookup("", &[1, 2, 3, 4])).await.unwrap(), [0, 0, 3, 4]);
    let on_behalf = |labels: &[&str]| pb::RemoveChunkCachesRequest {
        labels: asked(labels),
        ..remove("acme", &[1, 2, 3])
    };
    assert_eq!(all.caches.remove(on_behalf(&["staff"])).await.unwrap().into_inner().removed, [3]);
    let use_of = |id| pb::TouchChunkCachesRequest { labels: asked(&["staff"]), ..touch("acme", id, 1.0) };
    assert_eq!(all.caches.touch(use_of(2)).await.unwrap().into_inner().known, 0);
    assert_eq!(all.caches.touch(use_of(4)).await.unwrap().into_inner().known, 1);
    assert_eq!(all.listed(list("acme", 0, 9)).await.unwrap(), [1, 2, 4]);
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_names_the_field() {
    let served = serve_room(100).await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let invalid = |status: Status, part: &str| {
        assert_eq!(status.code(), Code::InvalidArgument, "{part}: {status}");
        assert!(status.message().contains(part), "{part}: {}", status.message());
    };
    let puts: [Wrong<pb::ChunkCache>; 9] = [
        (|c| c.content = vec![1; 15].into(), "caches[1].content: 15 bytes; a token hash has 16"),
        (|c| c.prefix = vec![Vec::new().into()], "caches[1].prefix[0]: 0 bytes"),
        (|c| c.model = None, "caches[1].model: is required"),
        (|c| c.tier = 0, "caches[1].tier: is required"),
        (|c| c.cci = None, "caches[1].cci: is required"),
        (|c| c.cci = Some(f64::NAN), "caches[1]: cci is NaN, must be 0 to 1"),
        (|c| c.tokens = u32::MAX, "caches[1]: tokens is 4294967295, must be 1 to 1048576: split the chunk"),
        (|c| c.uri = "x".repeat(1_025), "caches[1]: bytes of uri is 1025"),
        (|c| c.labels = (0..65).map(|at| at.to_string()).collect(), "caches[1]: labels is 65"),
    ];
    for (change, part) in puts {
        let mut wrong = cache(2, &[]);
        change(&mut wrong);
        let status = clients.caches.put(put("acme", vec![cache(1, &[]), wrong])).await.expect_err(part);
        invalid(status, part);
    }
    assert_eq!(clients.listed(list("acme", 0, 9)).await.unwrap(), [] as [u64; 0], "nothing is taken in");
    let empty = clients.caches.put(put("acme", Vec::new())).await.unwrap_err();
    invalid(empty, "caches: 0, at least 1 is needed");
    let many = clients.caches.put(put("acme", vec![pb::ChunkCache::default(); 16_385])).await.unwrap_err();
    invalid(many, "caches: 16385, at most 16384 (limits.batch_rows_max)");

    invalid(clients.best(lookup("acme", &[])).await.unwrap_err(), "chunks: 0, must be 1 to 1024");
    invalid(clients.best(lookup("acme", &[1; 1_025])).await.unwrap_err(), "chunks: 1025, must be 1 to 1024");
    let request = pb::LookupChunkCachesRequest { model: None, ..lookup("acme", &[1]) };
    invalid(clients.best(request).await.unwrap_err(), "model: is required");
    let request = pb::LookupChunkCachesRequest { model: Some(Default::default()), ..lookup("acme", &[1]) };
    invalid(clients.best(request).await.unwrap_err(), "model: bytes of model is 0, must be 1 to 256");
    let labels = Some(pb::LabelsCondition { labels: vec![named("x"); 4_097] });
    let request = pb::LookupChunkCachesRequest { labels, ..lookup("acme", &[1]) };
    invalid(clients.best(request).await.unwrap_err(), "labels: 4097, at most 4096");
    for saved_us in [f64::NAN, f64::INFINITY, -4e9] {
        let status = clients.caches.touch(touch("acme", 1, saved_us)).await.unwrap_err();
        invalid(status, "uses[0].saved_us");
    }
    let none = pb::TouchChunkCachesRequest { uses: Vec::new(), ..touch("acme", 1, 0.0) };
    invalid(clients.caches.touch(none).await.unwrap_err(), "uses: 0, at least 1 is needed");
    let status = clients.caches.remove(remove("acme", &[1; 16_385])).await.unwrap_err();
    invalid(status, "ids: 16385, at most 16384");
    let short = pb::ForgetChunkRequest { content: vec![1].into(), ..forget("acme", 1) };
    invalid(clients.caches.forget_chunk(short).await.unwrap_err(), "content: 1 bytes; a token hash has 16");
    for (limit, part) in [(0, "limit: 0"), (10_001, "limit: 10001, at most 10000 (limits.k_max)")] {
        invalid(clients.listed(list("acme", 0, limit)).await.unwrap_err(), part);
        invalid(clients.told(notices("acme", 0, limit)).await.unwrap_err(), part);
    }
    let both = pb::ChunkCacheNoticesRequest { all: true, ..notices("acme", 0, 9) };
    invalid(clients.told(both).await.unwrap_err(), "all: goes with no collection and no tenant");
    let nowhere = pb::ChunkCacheNoticesRequest { collection: String::new(), ..notices("acme", 0, 9) };
    invalid(clients.told(nowhere).await.unwrap_err(), "collection: is required");

    clients
        .collections
        .drop(pb::DropCollectionRequest { name: named("docs"), if_exists: false })
        .await
        .unwrap();
    let answers = clients.everything("acme").await;
    let missing = refused(&answers, Code::NotFound);
    assert_eq!(missing, ["put", "lookup", "touch", "remove", "forget", "list", "stats"], "{answers:?}");
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_catalogue_says_what_to_set() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    clients.upsert("acme", rows(0..3)).await.unwrap();
    let mut answers = clients.everything("acme").await;
    answers.push(("retrieve", clients.search.retrieve(retrieve(Some(0.5))).await.err()));
    for (name, status) in answers {
        let status = status.unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status}");
        assert!(status.message().contains("engine.chunk_caches.bytes_max"), "{name}: {status}");
    }
    served.server.shutdown().await.unwrap();
}

/// A page has few bytes, whatever its limit; a tenant asks as often as its quota says.
#[tokio::test(flavor = "multi_thread")]
async fn pages_and_queries_are_bounded() {
    let served = serve_room(1_000).await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let wide = |at: u8| {
        let labels = (0..64).map(|label| format!("{label:0256}")).collect();
        pb::ChunkCache { labels, ..cache(at, &[]) }
    };
    let ids = clients.put("acme", (1..=200).map(wide).collect()).await.unwrap();
    let (mut pages, mut seen, mut after) = (0, Vec::new(), Some(0));
    while let Some(from) = after {
        let page = clients.caches.list(list("acme", from, 10_000)).await.unwrap().into_inner();
        assert!(prost::Message::encoded_len(&page) <= (1 << 20) + 4_096);
        (pages, after) = (pages + 1, page.next);
        seen.extend(page.caches.iter().map(|kept| kept.id));
    }
    assert_eq!((pages, seen), (4, ids));

    let quota = Some(pb::Quota { queries_per_second: Some(0.001), ..Default::default() });
    let request = pb::SetQuotaRequest { collection: named("docs"), tenant: Some(named("acme")), quota };
    clients.tenants.set_quota(request).await.unwrap();
    clients.best(lookup("acme", &[1])).await.unwrap();
    let answers = clients.everything("acme").await;
    assert_eq!(refused(&answers, Code::ResourceExhausted), ["lookup", "list"], "{answers:?}");
    served.server.shutdown().await.unwrap();
}

/// A retrieve that asks what can be reused, with an order within this tolerance or best first.
fn retrieve(tolerance: Option<f64>) -> pb::RetrieveRequest {
    let order = tolerance.map_or(pb::Order::Score, |_| pb::Order::CacheAware);
    let query = pb::route::Query::Text(named("river number"));
    pb::RetrieveRequest {
        search: Some(pb::SearchRequest { k: 3, ..search("acme", "body", query) }),
        budget_tokens: 1_000,
        assemble: Some(pb::Assemble {
            order: order.into(),
            tolerance,
            kv: Some(pb::KvRequest { model: model(), block_tokens: 16, known: Vec::new() }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retrieve_orders_chunks_by_what_is_cached() {
    let served = serve_room(100).await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    clients.upsert("acme", (0..30).map(row).collect()).await.unwrap();
    let first = clients.search.retrieve(retrieve(None)).await.unwrap().into_inner();
    assert_eq!((first.chunks.len(), first.kv.len()), (3, 3));
    for kv in &first.kv {
        let reusable = kv.reusable.as_ref().unwrap();
        assert_eq!((kv.content.len(), kv.tokens % 16, &reusable.best), (16, 0, &None));
        assert_eq!((reusable.recompute_tokens, reusable.advice()), (kv.tokens, pb::CacheAdvice::Alone));
    }
    // The LLM server had the second chunk first, and the first one behind it.
    let of = |at: usize, prefix: &[usize]| pb::ChunkCache {
        content: first.kv[at].content.clone(),
        prefix: prefix.iter().map(|at| first.kv[*at].content.clone()).collect(),
        tokens: first.kv[at].tokens,
        ..cache(at as u8, &[])
    };
    clients.put("beta", vec![of(1, &[])]).await.unwrap();
    let alone = clients.search.retrieve(retrieve(Some(0.9))).await.unwrap().into_inner();
    assert_eq!((&alone.kv, &alone.context), (&first.kv, &first.context), "another tenant's are not seen");
    clients.put("acme", vec![of(1, &[]), of(0, &[1])]).await.unwrap();
    let ordered = clients.search.retrieve(retrieve(Some(0.9))).await.unwrap().into_inner();
    let keys = |answer: &pb::RetrieveResponse| -> Vec<String> {
        answer
            .chunks
            .iter()
            .map(|chunk| chunk.hit.as_ref().unwrap().row.as_ref().unwrap().key.clone())
            .collect()
    };
    let (first_keys, ordered_keys) = (keys(&first), keys(&ordered));
    assert_eq!(ordered_keys[..2], [first_keys[1].clone(), first_keys[0].clone()]);
    let report = ordered.selection.as_ref().unwrap();
    assert_eq!((report.order(), report.tolerance), (pb::Order::CacheAware, Some(0.9)));
    for kv in &ordered.kv[..2] {
        let reusable = kv.reusable.as_ref().unwrap();
        let best = reusable.best.as_ref().unwrap();
        assert_eq!((best.tenant.as_str(), reusable.recompute_tokens), ("acme", 0));
        assert!(reusable.reuse.unwrap().exact);
    }
    // Labels hide caches as they hide rows.
    let labels = asked(&["staff"]);
    clients.upsert("acme", vec![pb::Row { labels: vec![named("staff")], ..row(0) }]).await.unwrap();
    let mut hidden = retrieve(Some(0.9));
    hidden.search.as_mut().unwrap().labels = labels;
    let hidden = clients.search.retrieve(hidden).await.unwrap().into_inner();
    assert!(!hidden.kv.is_empty());
    assert!(hidden.kv.iter().all(|kv| kv.reusable.as_ref().unwrap().best.is_none()));
    // What the caller knows is believed.
    let mut known = retrieve(None);
    let chunk = pb::KnownChunk { key: first_keys[0].clone(), content: hash(7).into(), tokens: 5 };
    known.assemble.as_mut().unwrap().kv.as_mut().unwrap().known = vec![chunk];
    let known = clients.search.retrieve(known).await.unwrap().into_inner();
    assert!(known.kv.iter().any(|kv| kv.content == hash(7) && kv.tokens == 16));

    let assembles: [Wrong<pb::Assemble>; 5] = [
        (|a| a.tolerance = None, "assemble.tolerance: is required"),
        (|a| a.tolerance = Some(f64::NAN), "assemble.order: tolerance is NaN; it is 0 to 1"),
        (|a| a.order = pb::Order::Edges.into(), "assemble.tolerance: goes with ORDER_CACHE_AWARE only"),
        (|a| a.kv = None, "assemble.order is cache_aware: say which caches in assemble.kv"),
        (|a| a.kv = Some(pb::KvRequest::default()), "assemble.kv.model: is required"),
    ];
    for (change, part) in assembles {
        let mut request = retrieve(Some(0.5));
        change(request.assemble.as_mut().unwrap());
        let status = clients.search.retrieve(request).await.expect_err(part);
        assert_eq!(status.code(), Code::InvalidArgument, "{part}: {status}");
        assert!(status.message().contains(part), "{part}: {}", status.message());
    }
    served.server.shutdown().await.unwrap();
}

/// The client in the engine's words says and hears the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_blocking_client_speaks_it() {
    let served = serve_room(2).await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    clients.put("acme", vec![cache(1, &[]), cache(2, &[1])]).await.unwrap();
    let url = format!("http://{}", served.server.address());
    let spoken = move || {
        let client = Client::connect(&ClientSettings { url, ..ClientSettings::default() }).unwrap();
        let scope = Scope::tenant("docs", "acme");
        let (listed, next) = client.chunk_caches(&scope, VariantId(0), 9).unwrap();
        assert_eq!((listed.len(), next), (2, None));
        let (id, variant) = listed[1].clone();
        let order = [1, 2].map(|chunk| Wanted { content: TokenHash([chunk; 16]), tokens: 100 });
        let found = client.lookup_chunk_caches(&scope, variant.model.clone(), &order).unwrap();
        let (best, reuse) = found[1].best.clone().unwrap();
        assert_eq!((&best, reuse.id, reuse.exact), (&variant, id, true));
        assert_eq!(client.touch_chunk_caches(&scope, &[(id, reuse.saved_us)]).unwrap(), 1);
        let large = spandrel::rag::kv::Variant { bytes: 9 * MIB, ..variant.clone() };
        let other = spandrel::rag::kv::Variant { content: TokenHash([3; 16]), ..variant };
        let outcomes = client.put_chunk_caches(("docs", "acme"), vec![large, other]).unwrap();
        assert!(outcomes[0].is_err() && outcomes[1] == Ok(VariantId(3)), "{outcomes:?}");
        let page = client.chunk_cache_notices(Some(("docs", "acme")), 0, 9).unwrap();
        assert_eq!((page.notices[0].id, page.notices[0].to), (VariantId(1), None));
        assert!(client.chunk_cache_notices(None, page.next, 9).unwrap().notices.is_empty());
        assert_eq!(client.remove_chunk_caches(&scope, &[id, id]).unwrap(), [id]);
        assert_eq!(client.forget_chunk(("docs", "acme"), TokenHash([3; 16])).unwrap(), 1);
        assert_eq!(client.chunk_cache_stats(None).unwrap().descriptors, 0);
    };
    tokio::task::spawn_blocking(spoken).await.unwrap();
    served.server.shutdown().await.unwrap();
}
