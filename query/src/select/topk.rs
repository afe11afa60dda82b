//! Top-k fill: candidates in rank order while they fit. What everybody does, and what the others have to
//! beat.
//!
//! Two rules that differ: `skip` leaves out one that does not fit and tries the next, `stop` ends there.
//! Nothing is evaluated.

use serde::{Deserialize, Serialize};

use super::bits::Bits;
use super::meter::StoppedBy;
use super::pool::Pool;

/// What happens at a candidate that does not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// It is left out and the next is tried.
    #[default]
    Skip,
    /// Nothing after it is looked at.
    Stop,
}

/// Fills from `open`, best first, beside `must`.
pub fn top_k(
    pool: &Pool,
    (must, open): (&[u16], &[u16]),
    (budget_tokens, chunks_max): (u32, usize),
    overflow: Overflow,
) -> (Vec<u16>, StoppedBy) {
    let (mut items, mut has, mut tokens) = (Vec::new(), Bits::default(), 0);
    let mut add = |at: u16| {
        let more = pool.added_tokens(at, &has);
        let fits = items.len() < chunks_max && tokens + more <= budget_tokens && !has.has(at);
        if fits {
            has.add(at);
            items.push(at);
            tokens += more;
        }
        fits
    };
    must.iter().for_each(|&at| _ = add(at));
    for &at in open {
        if !add(at) && overflow == Overflow::Stop {
            break;
        }
    }
    let why = if items.len() >= chunks_max { StoppedBy::Chunks } else { StoppedBy::Budget };
    (items, why)
}
