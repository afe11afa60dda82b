//! The catalogue: who sees what, limits under random calls, what is saved.

use super::super::descriptor::hash_tokens;
use super::super::descriptor::tests::variant;
use super::super::gdsf::{Gdsf, Lru};
use super::super::hash::hash_bytes;
use super::*;
use crate::rag::random::Random;

const MIB: u64 = 1 << 20;

fn caches(settings: KvSettings) -> ChunkCaches {
    ChunkCaches::new(settings).unwrap()
}

fn wanted(chunks: &[u32]) -> Vec<Wanted> {
    chunks.iter().map(|chunk| Wanted { content: hash_tokens(&[*chunk]), tokens: 256 }).collect()
}

fn with(variant: Variant, tenant: &str, labels: Option<&[&str]>) -> Variant {
    Variant { scope: scope(tenant, labels), ..variant }
}

fn scope(tenant: &str, labels: Option<&[&str]>) -> Scope {
    let labels = labels.map(|labels| labels.iter().map(|label| (*label).to_owned()).collect());
    Scope { labels, ..Scope::tenant("c", tenant) }
}

fn found(caches: &ChunkCaches, scope: &Scope, chunk: u32) -> Option<VariantId> {
    let model = variant(0, &[]).model;
    let found = caches.lookup(scope, &model, &wanted(&[chunk])).unwrap();
    found[0].best.map(|(_, reuse)| reuse.id)
}

#[test]
fn only_the_own_tenant_and_labels_are_seen() {
    let mut caches = caches(KvSettings::default());
    let a = caches.put(with(variant(1, &[]), "a", Some(&["x", "y"]))).unwrap();
    let b = caches.put(with(variant(1, &[]), "b", None)).unwrap();
    assert_eq!(found(&caches, &scope("a", None), 1), Some(a));
    assert_eq!(found(&caches, &scope("a", Some(&["y", "z"])), 1), Some(a));
    assert_eq!(found(&caches, &scope("b", None), 1), Some(b));
    for blind in [scope("a", Some(&["z"])), scope("a", Some(&[])), scope("b", Some(&["x"])), scope("c", None)]
    {
        assert_eq!(found(&caches, &blind, 1), None, "{blind:?}");
        assert!(caches.list(&blind, VariantId(0), 10).is_empty());
        assert_eq!(caches.touch(&blind, &[(a, 1.0), (b, 1.0)], 5), 0);
        assert!(caches.remove(&blind, a).is_none() && caches.remove(&blind, b).is_none());
    }
    assert_eq!(caches.touch(&scope("a", None), &[(a, 1.0), (b, 1.0)], 5), 1);
    assert_eq!(caches.list(&scope("b", None), VariantId(0), 10)[0].1.hits, 0);
    let other = ModelKey { revision: "2".into(), ..variant(0, &[]).model };
    assert!(caches.lookup(&scope("a", None), &other, &wanted(&[1])).unwrap()[0].best.is_none());
    assert_eq!(caches.stats(Some(("c", "a"))).descriptors, 1);
    assert_eq!((caches.stats(None).descriptors, caches.stats(Some(("c", "c"))).descriptors), (2, 0));
}

#[test]
fn one_tenant_is_not_told_what_it_cost_another() {
    let bytes_max = [2 * MIB, 0, 0];
    let mut caches = caches(KvSettings { bytes_max, ..KvSettings::default() });
    for chunk in 0..2 {
        caches.put(with(variant(chunk, &[]), "a", None)).unwrap();
    }
    for chunk in 2..4 {
        caches.put(with(variant(chunk, &[]), "b", None)).unwrap();
    }
    assert!(caches.take_notices(Some(("c", "b"))).is_empty());
    let freed = caches.take_notices(Some(("c", "a")));
    let uris: Vec<_> = freed.iter().map(|notice| (notice.uri.as_str(), notice.to)).collect();
    assert_eq!(uris, [("kv://0/[]", None), ("kv://1/[]", None)]);
    assert!(caches.take_notices(None).is_empty());
}

#[test]
fn a_lookup_says_what_to_compute_and_to_store() {
    let mut caches = caches(KvSettings::default());
    let ids = [(1, &[][..]), (2, &[1]), (2, &[]), (3, &[9])];
    let ids: Vec<_> =
        ids.iter().map(|(chunk, prefix)| caches.put(variant(*chunk, prefix)).unwrap()).collect();
    let (all, model) = (scope("a", None), variant(0, &[]).model);
    let found = caches.lookup(&all, &model, &wanted(&[1, 2, 3, 4])).unwrap();
    let best: Vec<_> = found.iter().map(|found| found.best.map(|(_, reuse)| reuse.id)).collect();
    assert_eq!(best, [Some(ids[0]), Some(ids[1]), Some(ids[3]), None]);
    let tokens: Vec<_> = found.iter().map(|found| found.recompute_tokens).collect();
    assert_eq!(tokens, [0, 0, 77, 256]);
    assert_eq!((found[3].advice, found[2].advice), (Advice::Alone, Advice::Nothing));
    let mut hot = variant(5, &[]);
    hot.cci = 0.9;
    caches.put(hot).unwrap();
    let found = caches.lookup(&all, &model, &wanted(&[1, 5])).unwrap();
    assert_eq!(found[1].advice, Advice::InContext);
    assert!(caches.lookup(&all, &model, &wanted(&[1; 1_025])).is_err());
}

#[test]
fn what_takes_a_place_and_what_is_forgotten() {
    let mut caches = caches(KvSettings { variants_per_chunk: 2, ..KvSettings::default() });
    let all = scope("a", None);
    let first = caches.put(variant(1, &[2])).unwrap();
    let again = caches.put(variant(1, &[2])).unwrap();
    assert!(first < again && caches.take_notices(None).is_empty(), "the same tensors are not freed");
    caches.put(Variant { uri: "new".into(), ..variant(1, &[2]) }).unwrap();
    assert_eq!(caches.take_notices(None)[0].uri, "kv://1/[2]");
    // The third variant of a chunk drives the least used out.
    let used = caches.put(variant(1, &[])).unwrap();
    caches.touch(&all, &[(used, 9_000.0); 4], 1);
    caches.put(variant(1, &[3])).unwrap();
    assert_eq!(caches.take_notices(None)[0].uri, "new");
    // Deleted, a chunk takes what was computed behind it along.
    caches.put(variant(4, &[1])).unwrap();
    caches.put(variant(5, &[4])).unwrap();
    assert_eq!(caches.forget_chunk(("c", "b"), hash_tokens(&[1])), 0);
    assert_eq!(caches.forget_chunk(("c", "a"), hash_tokens(&[1])), 3);
    assert_eq!((caches.stats(None).descriptors, caches.take_notices(None).len()), (1, 3));
    assert_eq!((caches.forget_tenant(("c", "a")), caches.stats(None).chunks), (1, 0));
    // Too large for any tier, and not worth loading.
    let large = Variant { bytes: 2 << 40, ..variant(1, &[]) };
    assert_eq!(caches.put(large).unwrap_err().kind(), ErrorKind::Exhausted);
    let slow = Variant { tier: Tier::Ssd, recompute_us: 100, ..variant(1, &[]) };
    assert_eq!(caches.put(slow).unwrap_err().kind(), ErrorKind::Exhausted);
}

fn any_variant(random: &mut Random) -> Variant {
    let prefix: Vec<u32> =
        (0..random.below(3) as u32).map(|at| 100 + at + random.below(2) as u32 * 10).collect();
    let made = variant(random.below(25) as u32, &prefix);
    Variant {
        scope: Scope::tenant("c", ["a", "b", "c"][random.below(3)]),
        bytes: 1 + random.next() % (2 * MIB),
        cci: random.unit(),
        recompute_us: random.next() % 20_000,
        tier: Tier::ALL[random.below(3)],
        uri: format!("u{}", random.below(1_000)),
        ..made
    }
}

/// Any call; those that are refused change nothing.
fn any_call(caches: &mut ChunkCaches, random: &mut Random) {
    let tenant = Scope::tenant("c", ["a", "b", "c"][random.below(3)]);
    let id = VariantId(caches.next_id.saturating_sub(random.below(60) as u64));
    match random.below(40) {
        0 => drop(caches.remove(&tenant, id)),
        1 => drop(caches.forget_chunk(tenant.owner(), hash_tokens(&[random.below(25) as u32]))),
        2 => drop(caches.take_notices(None)),
        3..20 => drop(caches.touch(&tenant, &[(id, random.unit() * 10_000.0)], random.next() % 1_000)),
        _ => drop(caches.put(any_variant(random))),
    }
}

fn small() -> KvSettings {
    KvSettings {
        variants_per_chunk: 3,
        descriptors_max: 40,
        bytes_max: [6 * MIB, 12 * MIB, 24 * MIB],
        ..KvSettings::default()
    }
}

/// Limits hold, and whoever follows the notices knows what is held.
#[test]
fn limits_hold_under_random_calls() {
    let seed = Random::new_seed();
    let (mut random, mut caches, mut uses) = (Random::new(seed), caches(small()), 0);
    for step in 0..6_000 {
        any_call(&mut caches, &mut random);
        let message = format!("seed {seed}, step {step}");
        assert!(caches.variants.len() <= 40 && caches.tiers.len() == caches.variants.len(), "{message}");
        let mut bytes = [0; 3];
        let mut chunks: BTreeMap<(String, TokenHash), usize> = BTreeMap::new();
        for (id, variant) in &caches.variants {
            bytes[variant.tier as usize] += variant.bytes;
            *chunks.entry((variant.scope.tenant.clone(), variant.content)).or_default() += 1;
            assert_eq!(caches.tiers.tier(*id), Some(variant.tier as usize), "{message}");
        }
        let stats = caches.stats(None);
        assert_eq!((stats.bytes, stats.chunks), (bytes, chunks.len() as u64), "{message}");
        assert!(bytes.iter().zip(small().bytes_max).all(|(bytes, most)| *bytes <= most), "{message}");
        assert!(chunks.values().all(|variants| *variants <= 3), "{message}");
        for tenant in ["a", "b", "c"] {
            let listed = caches.list(&Scope::tenant("c", tenant), VariantId(0), usize::MAX);
            assert!(listed.iter().all(|(_, variant)| variant.scope.tenant == tenant), "{message}");
            assert_eq!(listed.len() as u64, caches.stats(Some(("c", tenant))).descriptors);
        }
        uses += stats.hits.min(1);
    }
    assert!(uses > 3_000, "seed {seed}: {uses}");
}

#[test]
fn what_is_saved_comes_back_and_decides_the_same() {
    let seed = Random::new_seed();
    let (mut random, mut caches) = (Random::new(seed), caches(small()));
    (0..3_000).for_each(|_| any_call(&mut caches, &mut random));
    let bytes = caches.save().unwrap();
    let mut again = ChunkCaches::load(&bytes, small()).unwrap();
    assert_eq!(again.save().unwrap(), bytes, "seed {seed}");
    let mut replayed = random.clone();
    (0..500).for_each(|_| any_call(&mut caches, &mut random));
    (0..500).for_each(|_| any_call(&mut again, &mut replayed));
    assert_eq!(again.save().unwrap(), caches.save().unwrap(), "seed {seed}");
    // Smaller limits are kept to.
    let less = KvSettings { bytes_max: [2 * MIB, 3 * MIB, 0], descriptors_max: 5, ..small() };
    let mut less = ChunkCaches::<Gdsf>::load(&bytes, less).unwrap();
    assert!(less.stats(None).descriptors <= 5 && less.stats(None).bytes[0] <= 2 * MIB);
    assert!(!less.take_notices(None).is_empty());
}

#[test]
fn damaged_bytes_are_refused() {
    let seed = Random::new_seed();
    let (mut random, mut caches) = (Random::new(seed), caches(small()));
    (0..300).for_each(|_| any_call(&mut caches, &mut random));
    let bytes = caches.save().unwrap();
    let load = |bytes: &[u8]| ChunkCaches::<Gdsf>::load(bytes, small()).map(|_| ());
    load(&bytes).unwrap();
    for cut in (0..bytes.len()).step_by(97) {
        assert_eq!(load(&bytes[..cut]).unwrap_err().kind(), ErrorKind::Corrupt, "seed {seed}, cut {cut}");
    }
    for _ in 0..500 {
        let mut bad = bytes.clone();
        let at = random.below(bad.len());
        bad[at] ^= 1 << random.below(8);
        // The case of a digit of the checksum says nothing.
        let is_same = bad.eq_ignore_ascii_case(&bytes) && at + 64 > bytes.len();
        assert!(is_same || load(&bad).is_err(), "seed {seed}, byte {at}");
    }
    assert!(ChunkCaches::<Lru>::load(&bytes, small()).is_err(), "another policy");
    // With a checksum that is right, what is inside is still looked at.
    let text = String::from_utf8(bytes).unwrap();
    let body = &text[..text.trim_end().rfind('\n').unwrap() + 1];
    for (from, to) in
        [("\"cci\":0.", "\"cci\":7."), ("\"version\":1", "\"version\":2"), ("\"lines\":", "\"lines\":1")]
    {
        let body = body.replacen(from, to, 1);
        let tail = TokenHash(hash_bytes(body.as_bytes()));
        let sealed = format!("{body}{{\"sha256_128\":\"{tail}\"}}\n");
        assert!(load(sealed.as_bytes()).is_err(), "{from}");
    }
}
