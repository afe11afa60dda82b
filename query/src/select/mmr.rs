//! Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): each step takes the candidate with the
//! largest `lambda * relevance - (1 - lambda) * similarity to the nearest chosen one`, of those that fit.
//!
//! The nearest is kept up to date, so a step costs one pass over the pool. The budget is filled: marginal
//! relevance that is negative does not end it.

use super::bits::Bits;
use super::meter::{Meter, StoppedBy};
use super::pool::Pool;
use crate::error::Result;

/// Chooses beside `must`; `lambda` is 0 (as different as possible) to 1 (rank order). Without similarities in
/// the pool it is rank order.
///
/// # Errors
/// The request's end.
pub fn mmr(
    pool: &Pool,
    (must, open): (&[u16], &[u16]),
    (budget_tokens, chunks_max): (u32, usize),
    lambda: f32,
    meter: &mut Meter<'_>,
) -> Result<(Vec<u16>, StoppedBy)> {
    let mut nearest = vec![0.0_f32; pool.len()];
    let (mut items, mut has, mut tokens) = (Vec::new(), Bits::default(), 0);
    let mut left = open.to_vec();
    let mut must = must.iter();
    loop {
        let next = match must.next() {
            Some(&at) => Some(at),
            None => {
                left.retain(|&at| !has.has(at) && tokens + pool.added_tokens(at, &has) <= budget_tokens);
                if left.is_empty() || items.len() >= chunks_max || !meter.take(left.len())? {
                    break;
                }
                let marginal =
                    |at: u16| lambda * pool.item(at).relevance - (1.0 - lambda) * nearest[usize::from(at)];
                left.iter()
                    .map(|&at| (at, marginal(at)))
                    .reduce(|a, b| if b.1 > a.1 { b } else { a })
                    .map(|it| it.0)
            }
        };
        let Some(at) = next else { break };
        tokens += pool.added_tokens(at, &has);
        has.add(at);
        items.push(at);
        if let Some(row) = pool.similarity(at) {
            nearest.iter_mut().zip(row).for_each(|(nearest, similar)| *nearest = nearest.max(*similar));
        }
    }
    let full = if items.len() >= chunks_max { StoppedBy::Chunks } else { StoppedBy::Budget };
    Ok((items, meter.over().unwrap_or(full)))
}
