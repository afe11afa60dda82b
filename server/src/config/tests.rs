//! Precedence, names, kinds, and that keys, types and docs say the same.

use super::*;

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spandrel.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn load(flags: &[(&str, &str)], env: &[(&str, &str)], text: &str) -> Result<Config, ConfigError> {
    let (_folder, path) = file(text);
    Config::load(&Sources { flags: pairs(flags), env: pairs(env), file: Some(path) })
}

#[test]
fn flags_over_environment_over_file_over_defaults() {
    let text = "listen = '127.0.0.1:1'\n[limits]\nk_max = 11\ndim_max = 12\nbatch_rows_max = 13\n";
    let env = [("SPANDREL_LIMITS_K_MAX", "21"), ("SPANDREL_LIMITS_DIM_MAX", "22")];
    let flags = [("limits.k_max", "31")];
    let config = load(&flags, &env, text).unwrap();
    assert_eq!(config.limits.k_max, 31);
    assert_eq!(config.limits.dim_max, 22);
    assert_eq!(config.limits.batch_rows_max, 13);
    assert_eq!(config.listen.port(), 1);
    assert_eq!(config.limits.streams_max, Limits::default().streams_max);
    assert_eq!(Config::load(&Sources::default()).unwrap(), Config::default());
}

#[test]
fn unknown_keys_name_the_nearest() {
    let cases = [
        (load(&[("limits.kmax", "1")], &[], ""), "limits.k_max"),
        (load(&[], &[("SPANDREL_LIMIT_K_MAX", "1")], ""), "SPANDREL_LIMITS_K_MAX"),
        (load(&[], &[], "[limits]\nk_maxx = 1\n"), "limits.k_max"),
        (load(&[], &[], "lisen = '127.0.0.1:1'\n"), "listen"),
        (load(&[], &[], "[tls]\ncertificate = 'x'\n"), "tls."),
        (load(&[], &[], "[engin]\ndurability = 'sync'\n"), "engine.durability"),
    ];
    for (result, nearest) in cases {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("did you mean") && error.contains(nearest), "{error}");
    }
}

#[test]
fn wrong_values_name_where_they_stand_and_what_is_wanted() {
    let cases = [
        (load(&[], &[("SPANDREL_LIMITS_K_MAX", "many")], ""), ["SPANDREL_LIMITS_K_MAX", "whole number"]),
        (load(&[("limits.k_max", "-1")], &[], ""), ["limits.k_max", "whole number"]),
        (load(&[], &[], "limits.k_max = 'x'"), ["spandrel.toml, key limits.k_max", "whole number"]),
        (load(&[], &[], "listen = 7780"), ["key listen", "an address and port"]),
        (load(&[], &[], "reflection = 'yes'"), ["key reflection", "true or false"]),
        (load(&[], &[], "log.format = 'xml'"), ["log.format", "one of text, json"]),
        (load(&[], &[], "engine.fresh_bytes_max = '3 stones'"), ["fresh_bytes_max", "64MiB"]),
        (load(&[], &[], "limits.k_max = 10001"), ["limits.k_max", "outside 1..=10000"]),
        (load(&[], &[], "tls.cert = 'a.pem'"), ["tls.key", "both or neither"]),
        (load(&[], &[], "tls.client_ca = 'a.pem'"), ["tls.client_ca", "needs tls.cert"]),
        (
            load(&[], &[], "listen = '127.0.0.1:9'\nmetrics_listen = '127.0.0.1:9'"),
            ["metrics_listen", "listen"],
        ),
        (load(&[], &[], "listen = "), ["configuration file", "spandrel.toml"]),
    ];
    for (result, expected) in cases {
        let error = result.unwrap_err().to_string();
        for part in expected {
            assert!(error.contains(part), "{error} / {part}");
        }
    }
    let missing = Sources { file: Some("/nowhere/x.toml".into()), ..Sources::default() };
    assert!(Config::load(&missing).unwrap_err().to_string().contains("/nowhere/x.toml"));
}

#[test]
fn text_stands_for_every_kind() {
    let env = [
        ("SPANDREL_METRICS_LISTEN", "off"),
        ("SPANDREL_REFLECTION", "false"),
        ("SPANDREL_ENGINE_MEMORY_BUDGET_BYTES", "2 GiB"),
        ("SPANDREL_ENGINE_ROW_CACHE_BYTES", "10MB"),
        ("SPANDREL_LIMITS_BATCH_ROWS_MAX", "1_000"),
        ("SPANDREL_ENGINE_DURABILITY", "buffered"),
        ("SPANDREL_LISTEN", "[::1]:99"),
        ("SPANDREL_LOG_FORMAT", "json"),
    ];
    let config = load(&[], &env, "").unwrap();
    assert_eq!(config.metrics_listen, None);
    assert!(!config.reflection);
    assert_eq!(config.engine.memory_budget_bytes, 2 << 30);
    assert_eq!(config.engine.row_cache_bytes, 10_000_000);
    assert_eq!(config.limits.batch_rows_max, 1_000);
    assert_eq!(config.engine.durability, spandrel::Durability::Buffered);
    assert!(config.listen.ip().is_loopback());
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn variables_of_others_are_left_alone() {
    let env = [
        ("SPANDREL_CONFIG", "x"),
        ("SPANDREL_URL", "x"),
        ("SPANDREL_API_KEY", "x"),
        ("SPANDREL_CA_CERT", "x"),
        ("SPANDREL_CACHE", "x"),
        ("SPANDREL_SETUP", "check"),
        ("SPANDREL_PYTHON_TESTS", "required"),
        ("SPANDREL_SERVICE_HOST", "10.0.0.1"),
        ("SPANDREL_PORT", "tcp://10.0.0.1:7780"),
        ("SPANDREL_PORT_7780_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(load(&[], &env, "").unwrap(), Config::default());
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_unicode_matters_only_where_it_is_a_setting() {
    use std::os::unix::ffi::OsStringExt;
    let of = |name: &str| std::iter::once((OsString::from(name), OsString::from_vec(vec![b'a', 0xff])));
    for name in ["LANG", "SPANDREL_CACHE", "SPANDREL_URL", "SPANDREL_SERVICE_HOST"] {
        assert_eq!(settings_in(of(name)).unwrap(), [], "{name}");
    }
    let error = settings_in(of("SPANDREL_DATA")).unwrap_err().to_string();
    assert!(error.contains("SPANDREL_DATA: is not UTF-8"), "{error}");
}

#[test]
fn siblings_lie_beside_the_folder_however_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().canonicalize().unwrap().join("data");
    std::fs::create_dir_all(data.join("inner")).unwrap();
    for spelled in ["data", "data/", "data//", "data/.", "data/./", "data/inner/.."] {
        let config = Config { data: data.parent().unwrap().join(spelled), ..Config::default() };
        assert_eq!(config.backup_folder(), data.with_file_name("data.backups"), "{spelled}");
        assert_eq!(config.keys_file(), data.with_file_name("data.keys.json"), "{spelled}");
    }
    let here = std::env::current_dir().unwrap();
    let name = here.file_name().unwrap().to_str().unwrap();
    assert_eq!(sibling(Path::new("."), ".x"), here.with_file_name(format!("{name}.x")));
    assert_eq!(sibling(Path::new("data"), ".x"), Path::new("data.x"));
    assert_eq!(sibling(Path::new("/"), ".x"), Path::new("/x"));
}

/// The list of keys has exactly what the types have, with the same defaults.
#[test]
fn keys_and_types_agree() {
    let mut defaults = BTreeMap::new();
    let table = toml::Value::try_from(Config::default()).unwrap();
    flatten("", &table, &mut |name, value| {
        defaults.insert(name.to_owned(), value.clone());
        Ok(())
    })
    .unwrap();
    for key in keys::KEYS {
        match defaults.remove(key.name) {
            Some(value) => {
                let listed = key.kind.read(&toml::Value::from(key.default)).unwrap();
                assert_eq!(listed, value, "default of {}", key.name);
            }
            None => assert_eq!(key.default, "", "{} has a default that the types lack", key.name),
        }
        assert!(!key.about.is_empty());
    }
    assert!(defaults.is_empty(), "settings missing in KEYS: {:?}", defaults.keys().collect::<Vec<_>>());
    // A key without a default is read, too.
    let config = load(&[("auth.keys_file", "k"), ("backup_dir", "b")], &[], "").unwrap();
    assert_eq!((config.keys_file(), config.backup_folder()), ("k".into(), "b".into()));
    let config = load(&[("data", "/d/x")], &[], "").unwrap();
    assert_eq!(config.keys_file(), Path::new("/d/x.keys.json"));
    assert_eq!(config.backup_folder(), Path::new("/d/x.backups"));
}

/// Chunk caches are known of when anything is said of them; the rest has the engine's defaults, which the
/// list of keys tells.
#[test]
fn chunk_caches_are_off_until_something_is_said_of_them() {
    use spandrel::KvSettings;
    use spandrel::rag::kv::Load;
    assert_eq!(load(&[], &[], "[engine.chunk_caches]\n").unwrap().engine.chunk_caches, None);
    let prefix = "engine.chunk_caches.";
    let mut defaults = BTreeMap::new();
    let table = toml::Value::try_from(KvSettings::default()).unwrap();
    flatten("engine.chunk_caches", &table, &mut |name, value| {
        defaults.insert(name.to_owned(), value.clone());
        Ok(())
    })
    .unwrap();
    for key in keys::KEYS.iter().filter(|key| key.name.starts_with(prefix)) {
        let told = key.about.split_once("Not set: ").unwrap().1.strip_suffix('.').unwrap();
        let read = key.kind.read(&toml::Value::from(told)).unwrap();
        assert_eq!(Some(read), defaults.remove(key.name), "{}", key.name);
        let config = load(&[(key.name, told)], &[], "").unwrap();
        assert_eq!(config.engine.chunk_caches, Some(KvSettings::default()), "{}", key.name);
    }
    assert!(defaults.is_empty(), "settings missing in KEYS: {:?}", defaults.keys().collect::<Vec<_>>());

    let text = "[engine.chunk_caches]\nbytes_max = ['1GiB', 2, '3 kib']\nvariants_per_chunk = 7\n\
                rule = {alpha = 2, load = [{latency_us = 1}, {latency_us = 2, bytes_per_us = 3}, \
                {latency_us = 4, bytes_per_us = 5}]}";
    let env = [("SPANDREL_ENGINE_CHUNK_CACHES_RULE_COUNT_UNSEEN", "false")];
    let flags = [("engine.chunk_caches.descriptors_max", "9"), ("engine.chunk_caches.history_chunks", "0")];
    let settings = load(&flags, &env, text).unwrap().engine.chunk_caches.unwrap();
    let load_of = |latency_us, bytes_per_us| Load { latency_us, bytes_per_us };
    let mut expected = KvSettings {
        bytes_max: [1 << 30, 2, 3 << 10],
        variants_per_chunk: 7,
        descriptors_max: 9,
        history_chunks: 0,
        ..KvSettings::default()
    };
    expected.rule.alpha = 2.0;
    expected.rule.count_unseen = false;
    expected.rule.load = [load_of(1.0, f64::INFINITY), load_of(2.0, 3.0), load_of(4.0, 5.0)];
    assert_eq!(settings, expected);

    let wrong = [
        ("bytes_max", "1GiB, 2GiB", "three tiers"),
        ("bytes_max", "1, 2, many", "three tiers"),
        ("bytes_max", "0, 0, 0", "bytes_max of a tier must be more than 0"),
        ("variants_per_chunk", "65", "variants_per_chunk is 65, must be 1 to 64"),
        ("rule.alpha", "inf", "a number"),
        ("rule.alpha", "9", "alpha is 9, must be 0 to 8"),
        ("rule.load", "[{latency_us = 1}]", "each of three tiers"),
        ("rule.load", "25000", "each of three tiers"),
    ];
    for (name, value, part) in wrong {
        let error = load(&[(&format!("{prefix}{name}"), value)], &[], "").unwrap_err().to_string();
        assert!(error.contains(part), "{name} = {value}: {error}");
    }
}

#[test]
fn the_docs_list_every_key() {
    let docs = include_str!("../../../docs/configuration.md");
    for key in keys::KEYS {
        let default =
            if key.default.is_empty() { "not set".to_owned() } else { format!("`{}`", key.default) };
        let row = format!("| `{}` | `{}` | {default} | {} |", key.name, key.variable(), key.about);
        assert!(docs.contains(&row), "docs/configuration.md lacks the line\n{row}");
    }
}
