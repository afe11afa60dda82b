//! What is asked of `retrieve`: candidates, what happens to them, how some are chosen, how they are put
//! together.
//!
//! Plain data, checked when it runs. Every part but the search and the budget has a default, which is: the
//! best chunks whole and in rank order, with nothing done to them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::kv::KvRequest;
use crate::request::{Filter, K_MAX, Route, SearchRequest};
use crate::select::Method;
use crate::select::mix::Weights;

/// A search whose best chunks are packed into a token budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrieveRequest {
    /// Finds the candidates; `k` is how many are considered.
    pub search: SearchRequest,
    /// Most tokens the context may have, counted on the assembled string.
    pub budget_tokens: usize,
    /// The text field whose value is packed; none: the schema's first text field.
    #[serde(default)]
    pub text_field: Option<String>,
    /// Stands between two chunks.
    #[serde(default = "separator")]
    pub separator: String,
    /// The tokenizer that counts; none: the schema's.
    #[serde(default)]
    pub tokenizer: Option<String>,
    /// The question in words, for what looks at words: aspects, rerankers. None: the first route that is a
    /// text.
    #[serde(default)]
    pub question: Option<String>,
    /// Parts of the question, each a route of its own: candidates of every one are considered, and covering
    /// each is worth its weight.
    #[serde(default)]
    pub needs: Vec<Route>,
    /// Narrows the candidates level by level before their texts are read; empty: all are considered.
    #[serde(default)]
    pub funnel: Vec<FunnelLevel>,
    /// What happens to the candidates, in this order.
    #[serde(default)]
    pub post: Vec<PostStage>,
    /// Candidates wanted after the post stages: when fewer are left and the search has more, it is asked for
    /// twice as many, until it has no more or `depth_max` are reached. 0: they are asked for once.
    #[serde(default)]
    pub survivors: usize,
    /// How deep the search goes for that, and for `as_if`, at most: 1 to [`K_MAX`]. It goes as deep as the
    /// search's own `k` in any case.
    #[serde(default = "depth_max")]
    pub depth_max: usize,
    /// How chunks are chosen.
    #[serde(default)]
    pub select: Select,
    /// How they are put together.
    #[serde(default)]
    pub assemble: Assemble,
    /// Answers as a smaller or filtered datastore would, without building it.
    #[serde(default)]
    pub as_if: Option<AsIf>,
    /// Only says what would be done and about what it costs.
    #[serde(default)]
    pub dry_run: bool,
}

fn depth_max() -> usize {
    K_MAX
}

fn separator() -> String {
    "\n\n".to_owned()
}

impl RetrieveRequest {
    /// Packs what `search` finds into `budget_tokens`.
    pub fn new(search: SearchRequest, budget_tokens: usize) -> Self {
        Self {
            search,
            budget_tokens,
            text_field: None,
            separator: separator(),
            tokenizer: None,
            question: None,
            needs: Vec::new(),
            funnel: Vec::new(),
            post: Vec::new(),
            survivors: 0,
            depth_max: K_MAX,
            select: Select::default(),
            assemble: Assemble::default(),
            as_if: None,
            dry_run: false,
        }
    }

    /// Sets how chunks are chosen.
    pub fn method(mut self, method: Method) -> Self {
        self.select.method = Some(method);
        self
    }

    /// Adds a stage after the search.
    pub fn post(mut self, stage: PostStage) -> Self {
        self.post.push(stage);
        self
    }
}

/// A level of a funnel (FunnelRAG): candidates are grouped, groups are scored by their members, the best are
/// kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunnelLevel {
    /// What a group is.
    pub by: Parent,
    /// Groups that are kept, at least 1.
    pub keep: usize,
    /// Most tokens of the candidates kept, best groups first; 0: any.
    #[serde(default)]
    pub tokens_max: usize,
    /// How the scores of members become the group's.
    #[serde(default)]
    pub aggregate: Aggregate,
}

/// What candidates are grouped by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parent {
    /// The document of the chunk; one without a document is a group of its own.
    Document,
    /// The value of a payload field, such as a cluster, a section or a source.
    Field(String),
    /// The chunk itself.
    Chunk,
}

/// How scores go upward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// The best member's.
    #[default]
    Max,
    /// The mean of the best so many, missing ones counting as the worst score of all candidates.
    TopMean(usize),
    /// Reciprocal ranks of all members summed up, as in fusion with `k` = 60: many good members count.
    RankSum,
}

/// A stage after the search: which candidates go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PostStage {
    /// Rows that have lost the labels the search was made on behalf of, by now, are left out. It happens once
    /// more when the context is put together, asked for or not.
    AccessRecheck,
    /// Of candidates with the same words the best ranked stays; with `near`, of those whose shingles are as
    /// similar.
    Dedup {
        /// Jaccard similarity of word shingles from which two are the same, above 0 to 1. None: equal words
        /// only.
        #[serde(default)]
        near: Option<f32>,
        /// Words a shingle, 1 to 32.
        #[serde(default = "shingle_words")]
        shingle_words: usize,
    },
    /// Candidates that share too much with given texts, such as test questions, are left out.
    Decontaminate {
        /// The texts.
        against: Vec<String>,
        /// The longest run of words that a candidate may share with one of them, at least 1.
        #[serde(default = "run_words")]
        run_words: usize,
        /// Jaccard similarity of 13-word shingles from which one is left out.
        #[serde(default = "jaccard")]
        jaccard: f32,
    },
    /// Candidates that do not look like text worth reading are left out.
    Quality {
        /// Fewest words.
        #[serde(default = "words_min")]
        words_min: usize,
        /// Least share of letters and digits among characters that are no white space, 0..=1.
        #[serde(default = "letters_min")]
        letters_min: f32,
        /// Most that one word may be of all words, 0..=1.
        #[serde(default = "repeats_max")]
        repeats_max: f32,
    },
    /// At most so many of one document.
    PerDocument {
        /// At least 1.
        max: usize,
    },
    /// At most so many with the same value in a payload field; rows without the field are one group.
    PerValue {
        /// The field.
        field: String,
        /// At least 1.
        max: usize,
    },
    /// Each candidate stays with this chance, always the same for the same key and seed.
    Subsample {
        /// 0..=1.
        share: f64,
        /// Of the draw.
        #[serde(default)]
        seed: u64,
    },
    /// The best so many are ranked anew by the database's reranker; the rest follow in their order.
    Rerank {
        /// At least 1.
        depth: usize,
    },
    /// The best so many are compared in pairs by the database's reranker and ranked by what won.
    RerankPairs {
        /// At least 2.
        depth: usize,
        /// Share of all pairs that are compared, above 0 to 1 (Gienapp et al., 2022: a third is enough).
        #[serde(default = "pair_share")]
        share: f32,
    },
    /// The ranking ends where the score falls.
    Cut(Cut),
}

fn shingle_words() -> usize {
    5
}

fn run_words() -> usize {
    32
}

fn jaccard() -> f32 {
    0.8
}

fn words_min() -> usize {
    13
}

fn letters_min() -> f32 {
    0.6
}

fn repeats_max() -> f32 {
    0.5
}

fn pair_share() -> f32 {
    0.33
}

/// Where a ranking ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Cut {
    /// At the largest fall from one score to the next (Adaptive-k, Taguchi et al., 2025).
    LargestGap {
        /// Best ones that are never cut off.
        #[serde(default = "one")]
        keep_min: usize,
        /// How many stay that come after the fall.
        #[serde(default)]
        extra: usize,
    },
    /// Below this share of the way from the worst score to the best.
    Share(f32),
}

fn one() -> usize {
    1
}

/// How chunks are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Select {
    /// The method; none: chosen by the query and its candidates (`auto`) where that was asked for, else rank
    /// order.
    pub method: Option<Method>,
    /// Whether method and weights are chosen by the query and its candidates, as far as they are not given.
    pub auto: bool,
    /// Whether sets are worth what the database's context scorer says, instead of `weights`; for `submodular`
    /// and `mcts`.
    pub context_scorer: bool,
    /// What sets are worth, for methods that look for the best; none: relevance, aspects and references, as
    /// fitted.
    pub weights: Option<Weights>,
    /// The dense field that says how similar candidates are; none: that of the first dense route, else the
    /// first.
    pub vector_field: Option<String>,
    /// Tokens of the budget that are left for what the caller puts around the context.
    pub reserve_tokens: usize,
    /// Tokens that the caller puts around each chunk, such as a citation.
    pub overhead_tokens: usize,
    /// Most chunks; 0: any.
    pub chunks_max: usize,
    /// Keys of candidates that are in whatever they are worth; one that is no candidate is an error.
    pub must_include: Vec<String>,
    /// Keys of candidates that are not.
    pub exclude: Vec<String>,
    /// Whether the budget is filled also with what adds nothing by the objective.
    pub fill: bool,
    /// Of what is drawn by chance.
    pub seed: u64,
    /// Most evaluations of the objective.
    pub evaluations_max: u64,
    /// Most time; the best choice so far is the answer then, and the same request may have another answer.
    pub time_max: Option<Duration>,
}

/// Evaluations of the objective unless it is said otherwise: about two milliseconds of built-in ones.
pub const EVALUATIONS_DEFAULT: u64 = 5_000;

impl Default for Select {
    fn default() -> Self {
        Self {
            method: None,
            auto: false,
            context_scorer: false,
            weights: None,
            vector_field: None,
            reserve_tokens: 0,
            overhead_tokens: 0,
            chunks_max: 0,
            must_include: Vec::new(),
            exclude: Vec::new(),
            fill: false,
            seed: 0,
            evaluations_max: EVALUATIONS_DEFAULT,
            time_max: None,
        }
    }
}

/// How chosen chunks are put together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Assemble {
    /// In what order they stand.
    pub order: Order,
    /// Whether chunks of one document that touch or overlap become one, with what they share once.
    pub merge_adjacent: bool,
    /// Chunks before and after each chosen one, in its document, that are added while budget is left.
    pub neighbours: usize,
    /// What is reused of chunk caches that LLM servers keep; the response says so for each chunk.
    pub kv: Option<KvRequest>,
}

/// In what order chunks stand in the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// The best first.
    #[default]
    Score,
    /// By document, best document first, and within one by position (DOS RAG, Laitenberger et al., 2025).
    Document,
    /// The best last, next to the question.
    BestLast,
    /// The best at both ends, the worst in the middle.
    Edges,
    /// As reuses most of chunk caches, near the best first; needs [`Assemble::kv`].
    CacheAware {
        /// How much of the discounted scores, as in DCG, the order may lose by that of the best first, 0..=1.
        tolerance: f64,
    },
}

/// A smaller or filtered datastore to answer as (MassiveDS, Shao et al., 2024).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AsIf {
    /// Only rows that pass are in it.
    pub filter: Option<Filter>,
    /// Each row is in it with this chance, always the same for the same key and seed; above 0 to 1.
    pub share: f64,
    /// Of the draw.
    pub seed: u64,
}

impl Default for AsIf {
    fn default() -> Self {
        Self { filter: None, share: 1.0, seed: 0 }
    }
}
