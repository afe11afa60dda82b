//! The most probable set of a determinantal point process, greedily (Chen, Zhang and Zhou, NeurIPS 2018).
//!
//! The kernel is `L(i, j) = q(i) s(i, j) q(j)` with `q = exp(quality * relevance)`: its determinant grows
//! with relevance and shrinks with similarity. Each step takes the candidate that multiplies it most, of
//! those that fit, by an incremental Cholesky factor: `O(chosen)` a candidate a step. It ends where what is
//! left lies in the span of what is chosen.

use super::bits::Bits;
use super::meter::{Meter, StoppedBy};
use super::pool::Pool;
use crate::error::Result;

/// Below this a candidate adds nothing that is not there: its part outside of the span of the chosen ones.
const INDEPENDENT: f32 = 1e-4;

/// Chooses beside `must`; `quality` is what relevance counts against similarity, at least 0.
///
/// # Errors
/// The request's end.
pub fn dpp(
    pool: &Pool,
    (must, open): (&[u16], &[u16]),
    (budget_tokens, chunks_max): (u32, usize),
    quality: f32,
    meter: &mut Meter<'_>,
) -> Result<(Vec<u16>, StoppedBy)> {
    let mut search = Factor {
        pool,
        rows: vec![Vec::new(); pool.len()],
        // Without quality: both sides of a row are multiplied by it, so that it cancels out of the factor.
        rest: vec![1.0; pool.len()],
    };
    let (mut items, mut has, mut tokens) = (Vec::new(), Bits::default(), 0);
    for &at in must {
        tokens += pool.added_tokens(at, &has);
        has.add(at);
        items.push(at);
        search.choose(at);
    }
    let mut left = open.to_vec();
    let mut dependent = false;
    loop {
        left.retain(|&at| !has.has(at) && tokens + pool.added_tokens(at, &has) <= budget_tokens);
        if left.is_empty() || items.len() >= chunks_max || !meter.take(left.len())? {
            break;
        }
        let log_gain = |at: u16| {
            2.0 * quality * pool.item(at).relevance + search.rest[usize::from(at)].max(f32::MIN_POSITIVE).ln()
        };
        let independent = left.iter().filter(|&&at| search.rest[usize::from(at)] > INDEPENDENT);
        let best = independent.map(|&at| (at, log_gain(at))).reduce(|a, b| if b.1 > a.1 { b } else { a });
        let Some((at, _)) = best else {
            dependent = true;
            break;
        };
        tokens += pool.added_tokens(at, &has);
        has.add(at);
        items.push(at);
        search.choose(at);
    }
    let full = match dependent {
        true => StoppedBy::NoGain,
        false if items.len() >= chunks_max => StoppedBy::Chunks,
        false => StoppedBy::Budget,
    };
    Ok((items, meter.over().unwrap_or(full)))
}

/// The Cholesky factor of the chosen ones, as rows for all candidates.
struct Factor<'a> {
    pool: &'a Pool,
    rows: Vec<Vec<f32>>,
    /// Squared length of what of each lies outside of the span of the chosen ones.
    rest: Vec<f32>,
}

impl Factor<'_> {
    fn choose(&mut self, chosen: u16) {
        let Some(similar) = self.pool.similarity(chosen) else { return };
        let own = self.rows[usize::from(chosen)].clone();
        let length = self.rest[usize::from(chosen)].max(INDEPENDENT).sqrt();
        for (at, similar) in similar.iter().enumerate() {
            let row = &mut self.rows[at];
            let inner: f32 = row.iter().zip(&own).map(|(a, b)| a * b).sum();
            let part = (similar - inner) / length;
            row.push(part);
            self.rest[at] = (self.rest[at] - part * part).max(0.0);
        }
    }
}
