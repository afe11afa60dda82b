//! Every key of the configuration: name, kind, default, meaning. `docs/configuration.md` shows this list and
//! a test holds the two, and the Rust types, together.

use spandrel::rag::kv::{Load, Tier};

/// One key.
pub struct Key {
    /// Its dotted name.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Its default, as it would be written in the file; empty: not set.
    pub default: &'static str,
    /// What it means.
    pub about: &'static str,
}

impl Key {
    /// Its environment variable.
    pub fn variable(&self) -> String {
        format!("{}{}", super::ENV_PREFIX, self.name.replace('.', "_").to_uppercase())
    }
}

/// What values a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path.
    Path,
    /// `address:port`.
    Address,
    /// `address:port`, or `off`.
    AddressOrOff,
    /// A whole number, at least 0.
    Whole,
    /// Bytes: a whole number, or text with a unit such as `64MiB`.
    Bytes,
    /// A finite number.
    Number,
    /// Bytes of each tier of chunk caches, fastest first: a list, or text with commas.
    BytesByTier,
    /// What loading from each tier of chunk caches takes, fastest first: a list of tables, or its TOML text.
    LoadByTier,
    /// `true` or `false`.
    Flag,
    /// One of these.
    Choice(&'static [&'static str]),
}

impl Kind {
    /// Says that something is not wanted.
    pub const OFF: &'static str = "off";

    /// The value in the form that the types take. Text, which is all that flags and variables have, stands
    /// for the other kinds, too.
    ///
    /// # Errors
    /// What was found and what is wanted.
    pub fn read(self, raw: &toml::Value) -> Result<toml::Value, String> {
        let text = raw.as_str().map(str::trim);
        let wrong = || format!("{raw} is not {}", self.wanted());
        match self {
            Self::Text => text.map(toml::Value::from).ok_or_else(wrong),
            Self::Path => {
                let text = raw.as_str().filter(|text| !text.is_empty()).ok_or_else(wrong)?;
                Ok(toml::Value::from(text))
            }
            Self::AddressOrOff if text == Some(Self::OFF) => Ok(toml::Value::from(Self::OFF)),
            Self::Address | Self::AddressOrOff => {
                let text = text.ok_or_else(wrong)?;
                let address: std::net::SocketAddr = text.parse().map_err(|_| wrong())?;
                Ok(toml::Value::from(address.to_string()))
            }
            Self::Whole => {
                let number = raw.as_integer().or_else(|| text?.replace('_', "").parse().ok());
                number.filter(|number| *number >= 0).map(toml::Value::from).ok_or_else(wrong)
            }
            Self::Bytes => {
                let number = raw.as_integer().or_else(|| bytes(text?));
                number.filter(|number| *number >= 0).map(toml::Value::from).ok_or_else(wrong)
            }
            Self::Number => {
                let number = raw.as_float().or_else(|| Some(raw.as_integer()? as f64));
                let number = number.or_else(|| text?.parse().ok());
                number.filter(|number| number.is_finite()).map(toml::Value::from).ok_or_else(wrong)
            }
            Self::BytesByTier => {
                let listed = raw.as_array().cloned();
                let listed = listed.or_else(|| Some(text?.split(',').map(toml::Value::from).collect()));
                let listed = listed.ok_or_else(wrong)?;
                let bytes: Result<Vec<_>, _> = listed.iter().map(|one| Self::Bytes.read(one)).collect();
                let bytes = bytes.map_err(|_| wrong())?;
                let is_each = bytes.len() == Tier::ALL.len();
                Some(bytes).filter(|_| is_each).map(toml::Value::Array).ok_or_else(wrong)
            }
            Self::LoadByTier => {
                let parsed = || {
                    let table: toml::Table = format!("load = {}", text?).parse().ok()?;
                    table.get("load").cloned()
                };
                let listed = raw.as_array().cloned().map(toml::Value::Array);
                let loads = listed.or_else(parsed).ok_or_else(wrong)?;
                loads.clone().try_into::<[Load; Tier::ALL.len()]>().map(|_| loads).map_err(|_| wrong())
            }
            Self::Flag => {
                let flag = raw.as_bool().or_else(|| text?.parse().ok());
                flag.map(toml::Value::from).ok_or_else(wrong)
            }
            Self::Choice(choices) => {
                let text = text.filter(|text| choices.contains(text)).ok_or_else(wrong)?;
                Ok(toml::Value::from(text))
            }
        }
    }

    /// What is wanted, for messages and docs.
    pub fn wanted(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Address => "an address and port such as 127.0.0.1:7780".to_owned(),
            Self::AddressOrOff => "an address and port such as 127.0.0.1:7781, or `off`".to_owned(),
            Self::Whole => "a whole number, at least 0".to_owned(),
            Self::Bytes => "a number of bytes such as 67108864 or \"64MiB\"".to_owned(),
            Self::Number => "a number".to_owned(),
            Self::BytesByTier => "numbers of bytes of three tiers such as \"8GiB, 64GiB, 1TiB\"".to_owned(),
            Self::LoadByTier => {
                "a list of what loading from each of three tiers takes, such as {latency_us = 20, bytes_per_us = 25000}"
                    .to_owned()
            }
            Self::Flag => "true or false".to_owned(),
            Self::Choice(choices) => format!("one of {}", choices.join(", ")),
        }
    }
}

/// `64MiB`, `1_000`, `2 GB`; none where it is no number of bytes or too large.
fn bytes(text: &str) -> Option<i64> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let number: i64 = digits.replace('_', "").parse().ok()?;
    let factor: i64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { name, kind, default, about }
}

/// Every key, in the order of the docs.
pub const KEYS: &[Key] = &[
    key("data", Kind::Path, "spandrel-data", "The data folder; made if it is not there."),
    key(
        "listen",
        Kind::Address,
        "127.0.0.1:7780",
        "Where gRPC is served; other than on loopback it needs API keys.",
    ),
    key(
        "metrics_listen",
        Kind::AddressOrOff,
        "127.0.0.1:7781",
        "Where `/metrics` and `/healthz` are served, without keys; or `off`.",
    ),
    key(
        "backup_dir",
        Kind::Path,
        "",
        "Where AdminService.Backup makes folders. Not set: `data` with `.backups`.",
    ),
    key("shutdown_grace_ms", Kind::Whole, "30000", "Time that requests in progress get at shutdown."),
    key(
        "reflection",
        Kind::Flag,
        "true",
        "Whether clients may ask for the services' descriptors, as grpcurl does.",
    ),
    key("auth.keys_file", Kind::Path, "", "The file of API keys. Not set: `data` with `.keys.json`."),
    key("tls.cert", Kind::Path, "", "PEM file with the server's certificate chain; turns TLS on."),
    key("tls.key", Kind::Path, "", "PEM file with the certificate's private key."),
    key(
        "tls.client_ca",
        Kind::Path,
        "",
        "PEM file with the authorities of client certificates, then required.",
    ),
    key("limits.message_bytes_max", Kind::Bytes, "67108864", "Bytes of one message."),
    key(
        "limits.batch_rows_max",
        Kind::Whole,
        "16384",
        "Rows of one upsert; keys of one get or delete; chunk caches of one call.",
    ),
    key("limits.search_batch_max", Kind::Whole, "1024", "Searches of one SearchBatch."),
    key(
        "limits.k_max",
        Kind::Whole,
        "10000",
        "`offset + k` of a search, candidates of a route, rows of a page.",
    ),
    key("limits.dim_max", Kind::Whole, "16384", "Dimension of a dense field."),
    key("limits.budget_tokens_max", Kind::Whole, "1000000", "Token budget of a retrieve."),
    key(
        "limits.evaluations_max",
        Kind::Whole,
        "1000000",
        "Evaluations that the selection of a retrieve may ask for.",
    ),
    key("limits.requests_max", Kind::Whole, "1024", "Requests of all clients in progress; more are refused."),
    key("limits.streams_max", Kind::Whole, "64", "Upsert streams of all clients; more are refused."),
    key("limits.connections_max", Kind::Whole, "512", "Connections of all clients; more are closed."),
    key(
        "limits.connection_requests_max",
        Kind::Whole,
        "256",
        "Requests of one connection in progress; more wait.",
    ),
    key(
        "limits.handshake_timeout_ms",
        Kind::Whole,
        "10000",
        "Time of a connection's handshake, TLS included.",
    ),
    key(
        "limits.stream_idle_timeout_ms",
        Kind::Whole,
        "300000",
        "Time between two messages of an upsert stream, or of an export.",
    ),
    key(
        "limits.read_timeout_ms",
        Kind::Whole,
        "60000",
        "Time of a search or fetch, where the client's deadline is not sooner.",
    ),
    key("pool.read_threads", Kind::Whole, "0", "Searches and fetches that run at once; 0: one a core."),
    key("pool.write_threads", Kind::Whole, "4", "Upserts and deletes that run at once."),
    key("pool.queue_max", Kind::Whole, "512", "Calls that wait in front of each pool; more are refused."),
    key(
        "log.level",
        Kind::Text,
        "info",
        "`error` to `trace`, or directives such as `info,spandrel_server=debug`.",
    ),
    key(
        "log.format",
        Kind::Choice(&["text", "json"]),
        "text",
        "Lines for people, or one JSON object a line.",
    ),
    key(
        "engine.durability",
        Kind::Choice(&["sync", "buffered"]),
        "sync",
        "A write is acknowledged when it is on disk, or when the system has it.",
    ),
    key(
        "engine.memory_budget_bytes",
        Kind::Bytes,
        "1073741824",
        "Caps dense vectors, cells and keys in memory; with less room, shorter codes are kept and vectors read from disk.",
    ),
    key(
        "engine.residency",
        Kind::Choice(&["auto", "lean", "default", "hot"]),
        "auto",
        "The most of cells that is kept in memory, within the budget: see docs/dense.md.",
    ),
    key(
        "engine.fresh_rows_max",
        Kind::Whole,
        "16384",
        "Fresh rows of a collection before they are built into a segment.",
    ),
    key(
        "engine.fresh_bytes_max",
        Kind::Bytes,
        "67108864",
        "Bytes of fresh rows before they are built into a segment.",
    ),
    key("engine.backlog_bytes_max", Kind::Bytes, "536870912", "Bytes of fresh rows at which writers wait."),
    key(
        "engine.build_threads",
        Kind::Whole,
        "0",
        "Threads that build a segment's index; 0: as many as the machine runs at once.",
    ),
    key(
        "engine.build_memory_bytes",
        Kind::Bytes,
        "2147483648",
        "Memory that the build of a segment's cells may take, about; what needs more is built on disk, slower.",
    ),
    key(
        "engine.learn_from_queries",
        Kind::Flag,
        "true",
        "Keep a sample of queries in memory and measure by it how far searches have to go for a recall.",
    ),
    key(
        "engine.filter_cache_bytes",
        Kind::Bytes,
        "33554432",
        "Memory for what filters let through that are asked again and again; 0: none.",
    ),
    key(
        "engine.result_cache_bytes",
        Kind::Bytes,
        "0",
        "Memory for answers of retrievals, given again to the same request while nothing is written; 0: none.",
    ),
    key("engine.row_cache_bytes", Kind::Bytes, "67108864", "Cache of the row store."),
    key(
        "engine.response_bytes_max",
        Kind::Bytes,
        "268435456",
        "Bytes of rows that one answer may hold; more is refused.",
    ),
    key(
        "engine.chunk_caches.bytes_max",
        Kind::BytesByTier,
        "",
        "Bytes of tensors by tier: accelerator, host, disk; 0 where there is none. Not set: 8GiB, 64GiB, 1TiB.",
    ),
    key(
        "engine.chunk_caches.descriptors_max",
        Kind::Whole,
        "",
        "Chunk caches, each of about half a KB of memory. Not set: 100000.",
    ),
    key(
        "engine.chunk_caches.variants_per_chunk",
        Kind::Whole,
        "",
        "Chunk caches of one chunk and model, 1 to 64. Not set: 5.",
    ),
    key(
        "engine.chunk_caches.history_chunks",
        Kind::Whole,
        "",
        "Chunks whose uses are remembered when all their caches are gone, 16 bytes each. Not set: 65536.",
    ),
    key(
        "engine.chunk_caches.rule.alpha",
        Kind::Number,
        "",
        "What the share of tokens to compute again is multiplied by, 0 to 8. Not set: 1.",
    ),
    key(
        "engine.chunk_caches.rule.count_unseen",
        Kind::Flag,
        "",
        "Whether chunks that a cache has not seen lessen its overlap. Not set: true.",
    ),
    key(
        "engine.chunk_caches.rule.load",
        Kind::LoadByTier,
        "",
        "What loading from each tier takes; without `bytes_per_us` nothing has to be moved. Not set: \
         [{latency_us = 0.0}, {latency_us = 20.0, bytes_per_us = 25000.0}, {latency_us = 200.0, bytes_per_us = 6000.0}].",
    ),
    key(
        "embedder.model",
        Kind::Text,
        "",
        "Model of an OpenAI-compatible embeddings endpoint; empty: no embedder.",
    ),
    key(
        "embedder.base_url",
        Kind::Text,
        "https://api.openai.com/v1",
        "The endpoint, up to and including the version.",
    ),
    key(
        "embedder.api_key",
        Kind::Text,
        "",
        "The endpoint's bearer token; give it as the environment variable.",
    ),
    key("embedder.dimensions", Kind::Whole, "", "Asks for vectors of this many elements."),
    key("embedder.encoding_format", Kind::Choice(&["float", "base64"]), "float", "How vectors come back."),
    key("embedder.passage_prefix", Kind::Text, "", "Stands before every stored passage."),
    key("embedder.query_prefix", Kind::Text, "", "Stands before every question."),
    key("embedder.batch_texts_max", Kind::Whole, "64", "Texts of one request."),
    key("embedder.batch_chars_max", Kind::Whole, "200000", "Characters of one request."),
    key("embedder.text_chars_max", Kind::Whole, "100000", "Characters of one text; a longer one is refused."),
    key("embedder.connect_timeout_ms", Kind::Whole, "5000", "Time to connect."),
    key("embedder.timeout_ms", Kind::Whole, "30000", "Time of one request with its reply."),
    key(
        "embedder.total_timeout_ms",
        Kind::Whole,
        "120000",
        "Time of a batch of passages with all its retries.",
    ),
    key("embedder.query_timeout_ms", Kind::Whole, "10000", "Time of a question with all its retries."),
    key("embedder.retries_max", Kind::Whole, "6", "Retries of one batch."),
    key("embedder.backoff_ms", Kind::Whole, "500", "Wait before the first retry; it doubles with each."),
];

/// The name that takes the fewest insertions, deletions and replacements to reach from `name`.
pub fn nearest(name: &str, names: impl Iterator<Item = String>) -> String {
    names.min_by_key(|candidate| distance(name, candidate)).unwrap_or_default()
}

/// Levenshtein's distance over bytes; O(|a| |b|) time, O(|b|) space.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, left) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (at, right) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
