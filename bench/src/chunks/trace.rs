//! Contexts as retrieval would give them: a list of chunks a query, best first, out of popular topics.
//!
//! A query draws a topic by a Zipf law. Its chunks compete with a log-popularity plus Gumbel noise, so that
//! at noise 1 the first `k` are drawn without replacement by a Zipf law within the topic (Plackett and Luce),
//! and at less noise the same chunks come in nearly the same order; some of a second topic take part at a
//! handicap. Chunks of a topic thus come together, in varying order. Lengths are log-normal, cut to a quarter
//! and four times the mean, and rounded up to blocks.
//!
//! All laws are assumptions. Linear in queries times chunks of a topic; the same for the same seed.

use crate::ann::positive;
use crate::random::Random;
use spandrel::rag::kv::descriptor::{TokenHash, aligned_tokens, hash_tokens};

/// Assumptions of a trace, and of the machine that would serve it.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct Assumptions {
    /// Chunks in the store
    #[arg(long, default_value_t = Self::DEFAULT.chunks, value_parser = positive)]
    pub chunks: usize,
    /// Chunks of a topic
    #[arg(long, default_value_t = Self::DEFAULT.topic_chunks, value_parser = positive)]
    pub topic_chunks: usize,
    /// Queries
    #[arg(long, default_value_t = Self::DEFAULT.queries, value_parser = positive)]
    pub queries: usize,
    /// Chunks a query
    #[arg(long, default_value_t = Self::DEFAULT.k, value_parser = positive)]
    pub k: usize,
    /// Exponent of the Zipf laws of topics and of chunks within one
    #[arg(long, default_value_t = Self::DEFAULT.zipf)]
    pub zipf: f64,
    /// Scale of the noise of a chunk's score
    #[arg(long, default_value_t = Self::DEFAULT.noise)]
    pub noise: f64,
    /// Mean tokens a chunk
    #[arg(long, default_value_t = Self::DEFAULT.tokens_mean)]
    pub tokens_mean: f64,
    /// Topics that rise by a rank in 1,000 queries; the first becomes the last
    #[arg(long, default_value_t = Self::DEFAULT.drift)]
    pub drift: f64,
    /// Tokens of a block
    #[arg(long, default_value_t = Self::DEFAULT.block_tokens)]
    pub block_tokens: u32,
    /// Bytes of tensors a token: 128 KiB for 32 layers, 8 heads of 128, 16 bits
    #[arg(long, default_value_t = Self::DEFAULT.bytes_per_token)]
    pub bytes_per_token: u64,
    /// Mean context impact of chunks, 0 to 1
    #[arg(long, default_value_t = Self::DEFAULT.cci_mean)]
    pub cci_mean: f64,
    /// All chunks have the mean; else they are spread evenly around it as far as 0 and 1 allow
    #[arg(long)]
    pub cci_fixed: bool,
    /// Deviation of the logarithm of what computing a token takes, between chunks
    #[arg(long, default_value_t = Self::DEFAULT.cost_spread)]
    pub cost_spread: f64,
    /// What computing a token at the start takes, in microseconds
    #[arg(long, default_value_t = Self::DEFAULT.token_us)]
    pub token_us: f64,
    /// Tokens before a token that double that
    #[arg(long, default_value_t = Self::DEFAULT.double_tokens)]
    pub double_tokens: f64,
    /// Tokens of a query besides its chunks, always computed
    #[arg(long, default_value_t = Self::DEFAULT.question_tokens)]
    pub question_tokens: u32,
    /// Where random numbers begin
    #[arg(long, default_value_t = Self::DEFAULT.seed)]
    pub seed: u64,
}

impl Default for Assumptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Assumptions {
    const DEFAULT: Self = Self {
        chunks: 10_000,
        topic_chunks: 50,
        queries: 20_000,
        k: 6,
        zipf: 0.9,
        noise: 1.0,
        drift: 0.0,
        tokens_mean: 256.0,
        block_tokens: 16,
        bytes_per_token: 128 << 10,
        cci_mean: 0.3,
        cci_fixed: false,
        cost_spread: 0.5,
        token_us: 50.0,
        double_tokens: 32_768.0,
        question_tokens: 32,
        seed: 1,
    };

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first that is out of its range.
    pub fn check(&self) -> crate::Result<()> {
        let ranges = [
            ("zipf", self.zipf, 0.0..=4.0),
            ("noise", self.noise, 0.0..=100.0),
            ("tokens-mean", self.tokens_mean, 1.0..=65_536.0),
            ("drift", self.drift, 0.0..=1e6),
            ("block-tokens", f64::from(self.block_tokens), 1.0..=65_536.0),
            ("bytes-per-token", self.bytes_per_token as f64, 1.0..=16_777_216.0),
            ("cci-mean", self.cci_mean, 0.0..=1.0),
            ("cost-spread", self.cost_spread, 0.0..=4.0),
            ("token-us", self.token_us, 0.0..=1e6),
            ("double-tokens", self.double_tokens, 1.0..=1e9),
            ("question-tokens", f64::from(self.question_tokens), 0.0..=1_048_576.0),
        ];
        match ranges.iter().find(|(_, value, range)| !range.contains(value)) {
            Some((name, value, range)) => Err(format!("--{name} is {value}, must be in {range:?}").into()),
            None => Ok(()),
        }
    }

    /// What computing `tokens` of a chunk takes that begins behind `before` others.
    pub fn compute_us(&self, chunk: &Chunk, tokens: f64, before: f64) -> f64 {
        let middle = before + f64::from(chunk.tokens) / 2.0;
        tokens * self.token_us * chunk.cost_factor * (1.0 + middle / self.double_tokens)
    }
}

/// A chunk of the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Its name.
    pub content: TokenHash,
    /// Tokens, a multiple of the block.
    pub tokens: u32,
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Its context impact, 0 to 1.
    pub cci: f64,
    /// What computing it takes, by that of a chunk as long on the average.
    pub cost_factor: f64,
}

/// A chunk that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Which.
    pub chunk: u32,
    /// Its score, 0 to 1.
    pub score: f64,
}

/// Chunks, and the contexts that are made of them.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The store.
    pub chunks: Vec<Chunk>,
    /// Hits of each query, best first.
    pub queries: Vec<Vec<Hit>>,
}

impl Trace {
    /// Draws a trace. Counts of 0 count as 1; `k` is at most the chunks of a topic.
    pub fn new(assumed: &Assumptions) -> Self {
        let mut random = Random(assumed.seed);
        let count = assumed.chunks.max(1);
        let chunks = (0..count).map(|at| chunk(assumed, at, &mut random)).collect();
        let topic_chunks = assumed.topic_chunks.clamp(1, count);
        let topics = zipf(count / topic_chunks, assumed.zipf);
        let queries = (0..assumed.queries).map(|at| {
            let risen = (at as f64 * assumed.drift / 1_000.0) as usize;
            let draw = |random: &mut Random| {
                let point = random.unit();
                let rank = topics.partition_point(|sum| *sum < point).min(topics.len() - 1);
                (rank + risen) % topics.len() * topic_chunks
            };
            let (first, second) = (draw(&mut random), draw(&mut random));
            query(assumed, (first, second), topic_chunks, &mut random)
        });
        let queries = queries.collect();
        Self { chunks, queries }
    }

    /// Bytes of all chunks that are asked for, once each.
    pub fn working_bytes(&self) -> u64 {
        let mut is_asked = vec![false; self.chunks.len()];
        self.queries.iter().flatten().for_each(|hit| is_asked[hit.chunk as usize] = true);
        self.chunks.iter().zip(is_asked).filter(|(_, asked)| *asked).map(|(chunk, _)| chunk.bytes).sum()
    }
}

fn chunk(assumed: &Assumptions, at: usize, random: &mut Random) -> Chunk {
    let sigma = 0.5;
    let mean = assumed.tokens_mean.max(1.0);
    let length = mean * (sigma * normal(random) - sigma * sigma / 2.0).exp();
    let tokens = length.clamp(mean / 4.0, mean * 4.0).round().max(1.0) as u32;
    let tokens = aligned_tokens(tokens, assumed.block_tokens).unwrap_or(tokens);
    let reach = assumed.cci_mean.min(1.0 - assumed.cci_mean);
    let drawn = 2.0 * random.unit() - 1.0;
    let cci = assumed.cci_mean + if assumed.cci_fixed { 0.0 } else { reach * drawn };
    let spread = assumed.cost_spread;
    Chunk {
        content: hash_tokens(&[at as u32]),
        tokens,
        bytes: u64::from(tokens) * assumed.bytes_per_token,
        cci: cci.clamp(0.0, 1.0),
        cost_factor: (spread * normal(random) - spread * spread / 2.0).exp(),
    }
}

fn query(
    assumed: &Assumptions,
    (first, second): (usize, usize),
    topic_chunks: usize,
    random: &mut Random,
) -> Vec<Hit> {
    // A fourth of another topic takes part, its most popular chunks.
    let strangers = if first == second { 0 } else { topic_chunks / 4 };
    let own = (0..topic_chunks).map(|at| (first + at, at, 0.0));
    let candidates = own.chain((0..strangers).map(|at| (second + at, at, -2.0)));
    let mut scored: Vec<(f64, usize)> = candidates
        .map(|(chunk, at, handicap)| {
            let gumbel = -(-random.unit().max(1e-300).ln()).ln();
            let popularity = -assumed.zipf * (at as f64 + 1.0).ln();
            (popularity + handicap + assumed.noise * gumbel, chunk)
        })
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.truncate(assumed.k.max(1));
    let hit = |(relevance, chunk): (f64, usize)| Hit {
        chunk: chunk as u32,
        score: 1.0 / (1.0 + (-relevance / 2.0).exp()),
    };
    scored.into_iter().map(hit).collect()
}

/// Sums of the shares of a Zipf law.
fn zipf(count: usize, exponent: f64) -> Vec<f64> {
    let mut sums: Vec<f64> = Vec::with_capacity(count);
    let mut sum = 0.0;
    for rank in 1..=count.max(1) {
        sum += (rank as f64).powf(-exponent);
        sums.push(sum);
    }
    sums.iter_mut().for_each(|part| *part /= sum);
    sums
}

/// Normal, of variance 1 (Box and Muller, 1958).
fn normal(random: &mut Random) -> f64 {
    let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.unit()).cos()
}

#[cfg(test)]
mod tests;
