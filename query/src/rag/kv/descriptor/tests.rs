//! Names, scopes and limits of descriptors; and variants for the tests beside these.

use super::*;

/// A variant of chunk `content` behind others, all named by numbers.
pub(crate) fn variant(content: u32, prefix: &[u32]) -> Variant {
    let model = ModelKey {
        model: "m".into(),
        revision: "1".into(),
        tokenizer: "t".into(),
        dtype: "bf16".into(),
        ..ModelKey::default()
    };
    Variant {
        content: hash_tokens(&[content]),
        model,
        scope: Scope::tenant("c", "a"),
        prefix: prefix.iter().map(|chunk| hash_tokens(&[*chunk])).collect(),
        tokens: 256,
        bytes: 1 << 20,
        uri: format!("kv://{content}/{prefix:?}"),
        cci: 0.3,
        recompute_us: 10_000,
        ..Variant::default()
    }
}

#[test]
fn token_hashes_are_the_same_on_every_machine() {
    assert_eq!(hash_tokens(&[]).to_string(), "e3b0c44298fc1c149afbf4c8996fb924");
    // The bytes of "abcd" are token 0x64636261.
    assert_eq!(hash_tokens(&[0x6463_6261]).to_string(), "88d4266fd4e6338d13b845fcf289579d");
    let hash = hash_tokens(&[1, 2, 3]);
    assert_ne!(hash, hash_tokens(&[1, 2, 3, 4]), "the separator counts");
    assert_eq!(hash.to_string().parse::<TokenHash>().unwrap(), hash);
    for bad in ["", "88d4", "+8d4266fd4e6338d13b845fcf289579d", "g8d4266fd4e6338d13b845fcf289579d"] {
        assert!(bad.parse::<TokenHash>().is_err(), "{bad}");
    }
}

#[test]
fn tokens_are_rounded_up_to_blocks() {
    let cases = [(0, 16, 0), (1, 16, 16), (16, 16, 16), (17, 16, 32), (5, 0, 5)];
    cases.iter().for_each(|(tokens, block, want)| {
        assert_eq!(aligned_tokens(*tokens, *block), Some(*want), "{tokens} {block}");
    });
    assert_eq!(aligned_tokens(u32::MAX, 16), None);
}

#[test]
fn scopes_cover_their_tenant_and_labels() {
    let scope = |tenant: &str, labels: &[&str]| Scope {
        labels: Some(labels.iter().map(|label| label.to_string()).collect()),
        ..Scope::tenant("c", tenant)
    };
    assert!(Scope::tenant("c", "a").covers(&Scope::tenant("c", "a")));
    assert!(Scope::tenant("c", "a").covers(&scope("a", &["x"])));
    assert!(scope("a", &["x", "y"]).covers(&scope("a", &["y", "z"])));
    assert!(!scope("a", &["x"]).covers(&Scope::tenant("c", "a")));
    assert!(!scope("a", &["x"]).covers(&scope("a", &["y"])));
    assert!(!scope("a", &[]).covers(&scope("a", &["y"])));
    assert!(!Scope::tenant("c", "a").covers(&Scope::tenant("c", "b")));
    assert!(!scope("a", &["x"]).covers(&scope("b", &["x"])));
    assert!(!Scope::tenant("d", "a").covers(&Scope::tenant("c", "a")));
}

#[test]
fn json_goes_around_and_values_out_of_range_are_refused() {
    let mut good = variant(1, &[2, 3]);
    good.inter = vec![Attention { chunk: good.prefix[1], share: 0.1 }];
    good.check().unwrap();
    let json = serde_json::to_string(&good).unwrap();
    assert_eq!(serde_json::from_str::<Variant>(&json).unwrap(), good);
    assert!(serde_json::from_str::<Variant>(&json.replace("\"cci\"", "\"cc\"")).is_err());
    let share = |share| vec![Attention { chunk: hash_tokens(&[2]), share }];
    type Spoil<'a> = &'a dyn Fn(&mut Variant);
    let bad: [(&str, Spoil<'_>); 14] = [
        ("tokens is 0", &|v| v.tokens = 0),
        ("bytes is 0", &|v| v.bytes = 0),
        ("bytes of uri is 0", &|v| v.uri.clear()),
        ("bytes of uri is 1025", &|v| v.uri = "u".repeat(1_025)),
        ("cci is -0.1", &|v| v.cci = -0.1),
        ("cci is NaN", &|v| v.cci = f64::NAN),
        ("recompute_us", &|v| v.recompute_us = u64::MAX),
        ("bytes of tenant is 300", &|v| v.scope.tenant = "t".repeat(300)),
        ("bytes of model is 257", &|v| v.model.model = "m".repeat(257)),
        ("labels is 65", &|v| v.scope.labels = Some((0..65).map(|at| at.to_string()).collect())),
        ("prefix chunks is 65", &|v| v.prefix = (10..75).map(|at| hash_tokens(&[at])).collect()),
        ("twice", &|v| v.prefix.push(v.content)),
        ("not in prefix", &|v| v.inter[0].chunk = v.content),
        ("attention share is 1.5", &|v| v.inter = share(1.5)),
    ];
    for (message, spoil) in bad {
        let mut variant = good.clone();
        spoil(&mut variant);
        let error = variant.check().unwrap_err();
        assert!(error.message().contains(message), "{message}: {error}");
    }
    good.inter.push(Attention { chunk: good.prefix[0], share: 0.95 });
    assert!(good.check().unwrap_err().message().contains("sum of attention"));
}
