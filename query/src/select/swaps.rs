//! Local search: one chosen for one or two others, two for one, while that is worth more.
//!
//! Each round takes members out in turn, looks at what fits in their place, and makes the best exchange of
//! the round. A round evaluates about `chosen * open` gains, and for two in place of one as many again for
//! each of the [`SECONDS`] best first ones. It ends where no exchange is left, or with the meter.

use super::meter::{Meter, StoppedBy};
use super::objective::{Objective, Set};
use super::problem::{Chosen, EPSILON, Problem};
use crate::error::Result;

/// How many of the best first ones get a second beside them.
const SECONDS: usize = 4;

/// Improves a choice; its worth never falls. Says why it ended: by convergence or by the meter.
///
/// # Errors
/// Those of a caller's reward, and of the request's end.
pub fn swaps<O: Objective>(
    problem: &Problem<'_, O>,
    mut best: Chosen,
    meter: &mut Meter<'_>,
) -> Result<(Chosen, StoppedBy)> {
    loop {
        let kept = problem.must.len();
        let mut round: Option<Chosen> = None;
        for out in kept..best.items.len() {
            exchange(problem, &best, &[out], &mut round, meter)?;
            if meter.over().is_some() {
                break;
            }
        }
        // Two for one only where one for one or two has nothing left: it is the dearest to look at.
        if round.is_none() && meter.over().is_none() {
            for first in kept..best.items.len() {
                for second in first + 1..best.items.len() {
                    exchange(problem, &best, &[first, second], &mut round, meter)?;
                }
            }
        }
        match round {
            Some(found) => best = found,
            None => return Ok((best, meter.over().unwrap_or(StoppedBy::Converged))),
        }
        if let Some(over) = meter.over() {
            return Ok((best, over));
        }
    }
}

/// Looks for what is best in place of the members at `out`, and keeps it in `round` where it is the best so
/// far.
fn exchange<O: Objective>(
    problem: &Problem<'_, O>,
    best: &Chosen,
    out: &[usize],
    round: &mut Option<Chosen>,
    meter: &mut Meter<'_>,
) -> Result<()> {
    let rest: Vec<u16> =
        (0..best.items.len()).filter(|at| !out.contains(at)).map(|at| best.items[at]).collect();
    let mut bar = round.as_ref().map_or(best.value, |found| found.value);
    let set = problem.set_of(&rest, meter)?;
    if meter.over().is_some() {
        return Ok(());
    }
    let Some(firsts) = ranked(problem, &set, |item| !best.items.contains(&item), meter)? else {
        return Ok(());
    };
    let value = problem.objective.value(&set.state);
    let mut offer = |items: Vec<u16>, value: f64| {
        if value > bar + EPSILON {
            bar = value;
            *round = Some(Chosen { items, value });
        }
    };
    // Leaving out what is worth less than nothing is an exchange, too.
    if problem.may_leave {
        offer(rest.clone(), value);
    }
    let with = |more: &[u16]| rest.iter().chain(more).copied().collect::<Vec<u16>>();
    if let Some(&(item, gain)) = firsts.first() {
        offer(with(&[item]), value + gain);
    }
    if out.len() > 1 {
        return Ok(());
    }
    for &(item, gain) in firsts.iter().take(SECONDS) {
        let mut set = set.clone();
        problem.add(&mut set, item, gain);
        let value = problem.objective.value(&set.state);
        let Some(seconds) = ranked(problem, &set, |item| !best.items.contains(&item), meter)? else { break };
        if let Some(&(second, gain)) = seconds.first() {
            offer(with(&[item, second]), value + gain);
        }
    }
    Ok(())
}

/// What fits the set, by gain, best first; none when the meter is over.
fn ranked<O: Objective>(
    problem: &Problem<'_, O>,
    set: &Set<O::State>,
    may: impl Fn(u16) -> bool,
    meter: &mut Meter<'_>,
) -> Result<Option<Vec<(u16, f64)>>> {
    let items: Vec<u16> =
        problem.open.iter().copied().filter(|&item| may(item) && problem.fits(set, item)).collect();
    let mut gains = Vec::with_capacity(items.len());
    if !problem.gains(&set.state, &items, &mut gains, meter)? {
        return Ok(None);
    }
    let mut ranked: Vec<(u16, f64)> = items.into_iter().zip(gains).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    Ok(Some(ranked))
}
