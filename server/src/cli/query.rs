//! The question of `search` and `retrieve`: routes, filter and fields from flags, or a whole request from a
//! file.

use std::io::Read;
use std::time::Duration;

use serde::de::DeserializeOwned;
use spandrel::{FieldKind, Fields, Filter, Fusion, Route, Schema, SearchRequest, SparseVector};

use super::CliError;

/// What is asked.
#[derive(clap::Args)]
pub(super) struct QueryArgs {
    /// Collection to ask
    #[arg(short, long, value_name = "NAME")]
    pub(super) collection: String,
    /// Tenant whose rows are searched; with a key of one tenant it need not be said
    #[arg(short, long, value_name = "NAME")]
    tenant: Option<String>,
    /// Words to find by BM25 in a text field
    #[arg(long, value_name = "WORDS", help_heading = "Routes (several are fused)")]
    text: Option<String>,
    /// Text field to search [default: the schema's first]
    #[arg(long, value_name = "FIELD", help_heading = "Routes (several are fused)")]
    text_field: Option<String>,
    /// Vector whose nearest are found: JSON such as [0.1, 0.9], @FILE, or - for standard input
    #[arg(
        long,
        value_name = "JSON",
        allow_hyphen_values = true,
        help_heading = "Routes (several are fused)"
    )]
    vector: Option<String>,
    /// Text whose embedding's nearest are found; needs an embedder, see docs/configuration.md
    #[arg(long, value_name = "TEXT", conflicts_with = "vector", help_heading = "Routes (several are fused)")]
    semantic: Option<String>,
    /// Dense field to search [default: the schema's first]
    #[arg(long, value_name = "FIELD", help_heading = "Routes (several are fused)")]
    vector_field: Option<String>,
    /// Sparse vector: JSON such as {"dims": [3, 17], "weights": [0.5, 1.2]}, @FILE, or -
    #[arg(long, value_name = "JSON", help_heading = "Routes (several are fused)")]
    sparse: Option<String>,
    /// Sparse field to search [default: the schema's first]
    #[arg(long, value_name = "FIELD", help_heading = "Routes (several are fused)")]
    sparse_field: Option<String>,
    /// How several routes become one ranking
    #[arg(long, value_enum, default_value = "rrf")]
    fusion: FusionName,
    /// Which rows may be found: JSON such as {"equals": {"field": "year", "value": 2026}}, @FILE, or -
    #[arg(short, long, value_name = "JSON")]
    filter: Option<String>,
    /// Hits wanted, or candidates considered
    #[arg(short, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    k: u32,
    /// Best hits to skip
    #[arg(long, default_value_t = 0, value_name = "N")]
    offset: u32,
    /// Leave out hits below this final score
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
    score_threshold: Option<f32>,
    /// Fields that come back: default (text and payload), all, none, or names with commas
    #[arg(long, default_value = "default", value_name = "FIELDS")]
    fields: String,
    /// Show counts and times of every stage
    #[arg(long)]
    explain: bool,
    /// Share of the nearest that dense routes are to find, on average
    #[arg(long, default_value_t = SearchRequest::default().recall, value_name = "SHARE")]
    recall: f32,
    /// Score every vector in dense routes
    #[arg(long)]
    exact: bool,
    /// Leave hits of dense routes the scores of their codes, where those are fine enough: no vector is read
    #[arg(long)]
    no_rescore: bool,
    /// Only rows with this access label (repeatable: one of them)
    #[arg(long = "label", value_name = "NAME")]
    labels: Vec<String>,
    /// Give up after this time
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    /// A whole request as JSON, @FILE or -, instead of all flags above but --tenant; docs/cli.md shows one
    #[arg(long, value_name = "JSON", conflicts_with_all = [
        "text", "text_field", "vector", "semantic", "vector_field", "sparse", "sparse_field", "fusion", "filter",
        "k", "offset", "score_threshold", "fields", "explain", "recall",
        "exact", "no_rescore", "labels", "timeout_ms",
    ])]
    request: Option<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum FusionName {
    /// By rank (reciprocal rank fusion)
    Rrf,
    /// By score, scaled to 0..=1
    Weighted,
}

impl QueryArgs {
    /// The whole request where one is given, with the tenant of the flags in its place.
    pub(super) fn whole<R: DeserializeOwned>(
        &self,
        place: impl FnOnce(&mut R) -> &mut String,
    ) -> Result<Option<R>, CliError> {
        let Some(request) = &self.request else { return Ok(None) };
        let mut request: R = json_argument("--request", request)?;
        if let Some(tenant) = &self.tenant {
            place(&mut request).clone_from(tenant);
        }
        Ok(Some(request))
    }

    /// Parts of the question as routes: in the dense field where the question is searched by its meaning
    /// alone, else by words.
    pub(super) fn needs(&self, schema: &Schema, texts: &[String]) -> Result<Vec<Route>, CliError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let field = match self.semantic.is_some() && self.text.is_none() {
            true => field(schema, &self.vector_field, "dense", |kind| matches!(kind, FieldKind::Dense(_)))?,
            false => field(schema, &self.text_field, "text", |kind| matches!(kind, FieldKind::Text(_)))?,
        };
        Ok(texts.iter().map(|text| Route::text(field.clone(), text.clone())).collect())
    }

    /// The request, with fields that are not named taken from the schema.
    pub(super) fn search(&self, schema: &Schema) -> Result<SearchRequest, CliError> {
        if let Some(request) = self.whole(|request: &mut SearchRequest| &mut request.tenant)? {
            return Ok(request);
        }
        let routes = self.routes(schema)?;
        if routes.is_empty() {
            return Err(CliError::usage(
                "nothing to look for: give --text WORDS, --vector JSON, --sparse JSON or --semantic TEXT",
            ));
        }
        let filter: Option<Filter> =
            self.filter.as_deref().map(|text| json_argument("--filter", text)).transpose()?;
        Ok(SearchRequest {
            tenant: self.tenant.clone().unwrap_or_default(),
            routes,
            fusion: match self.fusion {
                FusionName::Rrf => Fusion::default(),
                FusionName::Weighted => Fusion::Weighted,
            },
            filter,
            k: self.k as usize,
            offset: self.offset as usize,
            score_threshold: self.score_threshold,
            fields: fields(&self.fields),
            explain: self.explain,
            recall: self.recall,
            exact: self.exact,
            rescore: !self.no_rescore,
            labels: (!self.labels.is_empty()).then(|| self.labels.clone()),
            timeout: self.timeout_ms.map(Duration::from_millis),
        })
    }

    fn routes(&self, schema: &Schema) -> Result<Vec<Route>, CliError> {
        let mut routes = Vec::new();
        if let Some(text) = &self.text {
            let field = field(schema, &self.text_field, "text", |kind| matches!(kind, FieldKind::Text(_)))?;
            routes.push(Route::text(field, text.clone()));
        }
        let dense = || field(schema, &self.vector_field, "dense", |kind| matches!(kind, FieldKind::Dense(_)));
        if let Some(vector) = &self.vector {
            routes.push(Route::dense(dense()?, json_argument("--vector", vector)?));
        }
        if let Some(text) = &self.semantic {
            routes.push(Route::text(dense()?, text.clone()));
        }
        if let Some(sparse) = &self.sparse {
            let field =
                field(schema, &self.sparse_field, "sparse", |kind| matches!(kind, FieldKind::Sparse))?;
            routes.push(Route::sparse(field, json_argument::<SparseVector>("--sparse", sparse)?));
        }
        Ok(routes)
    }
}

fn field(
    schema: &Schema,
    named: &Option<String>,
    what: &str,
    fits: impl Fn(&FieldKind) -> bool,
) -> Result<String, CliError> {
    if let Some(name) = named {
        return Ok(name.clone());
    }
    let first = schema.fields.iter().find(|field| fits(&field.kind));
    first.map(|field| field.name.clone()).ok_or_else(|| {
        let fields: Vec<String> =
            schema.fields.iter().map(|field| format!("{} ({})", field.name, field.kind.name())).collect();
        CliError::usage(format!("the collection has no {what} field; it has {}", fields.join(", ")))
    })
}

fn fields(text: &str) -> Fields {
    match text {
        "default" => Fields::Default,
        "all" => Fields::All,
        "none" => Fields::None,
        names => Fields::Named(names.split(',').map(|name| name.trim().to_owned()).collect()),
    }
}

/// A schema given as JSON, in which no key may be misspelt: a schema stays as it is for ever.
pub(super) fn schema_argument(flag: &str, text: &str) -> Result<Schema, CliError> {
    let given: serde_json::Value = json_argument(flag, text)?;
    let schema = serde_json::from_value::<Schema>(given.clone());
    let schema = schema.map_err(|error| CliError::usage(format!("{flag}: {error}")))?;
    match unknown_key(&given, &serde_json::json!(schema)) {
        Some(key) => Err(CliError::usage(format!(
            "{flag}: unknown key '{key}'; `spandrel collection show NAME --json` prints a schema to start from"
        ))),
        None => Ok(schema),
    }
}

/// The first key of `given` whose value was not read: what was read does not have it.
fn unknown_key(given: &serde_json::Value, read: &serde_json::Value) -> Option<String> {
    use serde_json::Value as Json;
    match (given, read) {
        (Json::Object(given), Json::Object(read)) => {
            given.iter().find_map(|(key, value)| match read.get(key) {
                Some(read) => unknown_key(value, read),
                // The default, spelt out.
                None if value.is_null() => None,
                None => Some(key.clone()),
            })
        }
        (Json::Array(given), Json::Array(read)) => {
            given.iter().zip(read).find_map(|(given, read)| unknown_key(given, read))
        }
        _ => None,
    }
}

/// JSON given as text, as `@FILE`, or as `-` on standard input.
pub(super) fn json_argument<T: DeserializeOwned>(flag: &str, text: &str) -> Result<T, CliError> {
    let (origin, text) = match text.strip_prefix('@') {
        Some(path) => {
            let read = std::fs::read_to_string(path);
            let text = read.map_err(|error| CliError::usage(format!("{flag} @{path}: {error}")))?;
            (format!("{flag} @{path}"), text)
        }
        None if text == "-" => {
            let mut input = String::new();
            std::io::stdin()
                .read_to_string(&mut input)
                .map_err(|error| CliError::usage(format!("{flag} -: {error}")))?;
            (format!("{flag} -"), input)
        }
        None => (flag.to_owned(), text.to_owned()),
    };
    serde_json::from_str(&text).map_err(|error| CliError::usage(format!("{origin}: {error}")))
}
