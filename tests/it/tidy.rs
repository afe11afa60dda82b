//! The repository keeps its own rules: direction of dependencies, one home for each third-party crate, a
//! `//!` head on every file, bounded files and lines, unsafe only where it is listed.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file that is not a test.
const LINES_MAX: usize = 500;
/// Characters of a line, but for one with a string literal, which a formatter cannot break.
const LINE_CHARS_MAX: usize = 110;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                out.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    for part in ["proto", "storage", "index", "query", "server", "bench", "tests"] {
        walk(&root().join(part), &mut paths);
    }
    paths.sort();
    let relative = |path: &PathBuf| path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
    let target = |path: &PathBuf| path.components().any(|part| part.as_os_str() == "target");
    let paths = paths.into_iter().filter(|path| !target(path));
    paths.map(|path| (relative(&path), fs::read_to_string(&path).unwrap())).collect()
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/")
        || path.contains("/tests/")
        || path.ends_with("tests.rs")
        || path.contains("testing")
}

/// Fails with every line of `faults`.
fn none(what: &str, faults: Vec<String>) {
    assert!(faults.is_empty(), "{what}:\n  {}", faults.join("\n  "));
}

#[test]
fn every_file_says_what_it_is_for() {
    let headless = sources().into_iter().filter(|(_, text)| !text.starts_with("//!"));
    none("files without a //! head", headless.map(|(path, _)| path).collect());
}

#[test]
fn files_and_lines_are_bounded() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > LINES_MAX && !is_test(&path) {
            faults.push(format!("{path} has {lines} lines"));
        }
        for (at, line) in text.lines().enumerate() {
            let literal = line.contains('"') || line.trim_end().ends_with('\\');
            if line.chars().count() > LINE_CHARS_MAX && !literal {
                faults.push(format!("{path}:{} has {} characters", at + 1, line.chars().count()));
            }
        }
    }
    none("too long", faults);
}

#[test]
fn dependencies_go_one_way() {
    let forbidden = [
        ("proto", &["spandrel", "spandrel-storage", "spandrel-index", "spandrel-server"][..]),
        ("storage", &["spandrel", "spandrel-index", "spandrel-proto", "spandrel-server"]),
        ("index", &["spandrel", "spandrel-proto", "spandrel-server"]),
        ("query", &["spandrel-proto", "spandrel-server"]),
        ("server", &["spandrel-storage", "spandrel-index", "spandrel-bench"]),
    ];
    let mut faults = Vec::new();
    for (part, names) in forbidden {
        let manifest = fs::read_to_string(root().join(part).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split_once("[dependencies]").map_or("", |(_, rest)| rest);
        for line in dependencies.lines() {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if names.contains(&name) {
                faults.push(format!("{part} depends on {name}"));
            }
        }
    }
    none("dependencies against the direction", faults);
}

#[test]
fn third_party_crates_have_one_home() {
    // Crate, where it may be named. Tests and examples may name what they test.
    let homes = [
        ("rocksdb::", &["storage/src/store"][..]),
        ("tantivy::", &["index/src/text/"]),
        ("tonic::", &["proto/", "server/", "bench/"]),
        ("prost::", &["proto/", "server/", "bench/"]),
        ("tokio::", &["server/", "bench/"]),
        ("io_uring::", &["storage/src/io/uring"]),
        ("faer::", &["index/src/linalg.rs"]),
        ("hnsw_rs::", &["index/src/dense/hnsw/build.rs"]),
        ("plotters::", &["bench/src/plot.rs"]),
        ("tiktoken_rs::", &["query/src/rag/"]),
        ("text_splitter::", &["query/src/rag/"]),
        ("parquet::", &["query/src/import/"]),
        ("ureq::", &["query/src/rag/openai"]),
        ("clap::", &["server/", "bench/"]),
    ];
    let mut faults = Vec::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| !is_test(path)) {
        for (name, at) in homes {
            let named = text.lines().any(|line| {
                let code = line.trim_start();
                !code.starts_with("//")
                    && (code.contains(&format!("use {name}")) || code.contains(&format!(" {name}")))
            });
            if named && !at.iter().any(|home| path.starts_with(home)) {
                faults.push(format!("{path} names {name}"));
            }
        }
    }
    none("crates outside their home", faults);
}

#[test]
fn unsafe_code_is_where_it_is_listed() {
    let homes = ["index/src/simd/x86_64/", "index/src/large.rs", "storage/src/io/uring"];
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let uses = text.lines().map(str::trim_start).any(|line| {
            !line.starts_with("//")
                && !line.starts_with("//!")
                && (line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl"))
        });
        if uses && !homes.iter().any(|home| path.starts_with(home)) && path != "tests/it/tidy.rs" {
            faults.push(path);
        }
    }
    none("unsafe outside of its homes", faults);
    for (part, level) in [("query", "forbid"), ("server", "forbid"), ("storage", "deny"), ("index", "deny")] {
        let lib = fs::read_to_string(root().join(part).join("src/lib.rs")).unwrap();
        assert!(lib.contains(&format!("#![{level}(unsafe_code)]")), "{part} must {level} unsafe code");
    }
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("FIX", "ME"),
        concat!("#[ig", "nore"),
    ];
    let mut faults = Vec::new();
    for (path, text) in sources() {
        for mark in marks {
            if text.contains(mark) {
                faults.push(format!("{path} has {mark}"));
            }
        }
    }
    none("stubs and ignored tests", faults);
}

#[test]
fn the_documents_are_there_and_their_links_lead_somewhere() {
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "LICENSE", "Makefile", ".ci/run"] {
        assert!(root().join(name).exists(), "{name} is missing");
    }
    let mut documents: Vec<PathBuf> =
        fs::read_dir(root().join("docs")).unwrap().flatten().map(|e| e.path()).collect();
    documents.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(|name| root().join(name)));
    let mut faults = Vec::new();
    for path in documents.iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !path.parent().unwrap().join(target).exists() {
                faults.push(format!("{}: {link}", path.display()));
            }
        }
    }
    none("links that lead nowhere", faults);
}
