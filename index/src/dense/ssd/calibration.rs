//! What was measured about recalls and efforts, and what a search makes of it: the effort for a recall that
//! is asked for.
//!
//! Recalls are measured over a sample of queries ([`calibrate`](super::calibrate)), so that what is found of
//! others is by chance more or less. What is asked for is a promise: it is looked up with a margin.
//! Cost: 1 us a search.

use super::calibrate::{COUNTS, ENOUGH_RECALL, QUERIES};
use super::cells::Fineness;
use super::search::Effort;
use spandrel_storage::codec::{Decoder, Encoder, Truncated};

/// Most points there are: a header has room for them.
const POINTS_MAX: usize = 160;
/// What is added to the recall that is asked for, in standard errors of one that was measured, and how much
/// of what is missed of one query is missed together: the correlation of two of its results.
const MARGIN_ERRORS: f32 = 1.5;
const TOGETHER: f32 = 0.1;

/// What was measured at one setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// What candidates were ranked by.
    pub(super) fineness: Fineness,
    pub(super) k: u32,
    pub(super) recall: f32,
    pub(super) effort: Effort,
    /// Vectors scanned a query, and those refined as if they were scanned.
    pub(super) cost: f32,
}

/// All that was measured: ladders of points, by fineness, by k, then by slack, then by falling budget.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Calibration {
    /// Squared distances of the nearest centroid that nine in ten of the vectors have at most, and all but
    /// one in a hundred.
    pub(super) usual: [f32; 2],
    pub(super) points: Vec<Point>,
}

impl Calibration {
    /// Whether it can be from a measurement.
    pub(super) fn is_sound(&self) -> bool {
        let usual = self.usual[0] >= 0.0 && self.usual[0] <= self.usual[1];
        usual
            && self.points.iter().all(|point| {
                point.k > 0
                    && (0.0..=1.0).contains(&point.recall)
                    && (0.0..=1.0).contains(&point.effort.missing)
                    && (0.0..=1.0).contains(&point.effort.slack)
                    && point.cost.is_finite()
            })
    }

    /// Appends the bytes of it.
    pub(super) fn encode(&self, out: &mut Encoder) {
        for value in self.usual {
            out.f32(value);
        }
        out.u32(self.points.len() as u32);
        for point in &self.points {
            let Effort { missing, slack, .. } = point.effort;
            out.u8(point.fineness as u8).u32(point.k);
            out.f32(point.recall).f32(missing).f32(slack).f32(point.cost);
        }
    }

    /// Reads what [`encode`](Self::encode) wrote; none for what it never writes.
    pub(super) fn decode(bytes: &mut Decoder<'_>) -> Result<Option<Self>, Truncated> {
        let usual = [bytes.f32("usual distances")?, bytes.f32("usual distances")?];
        let count = bytes.u32("points")? as usize;
        let mut points = Vec::new();
        for _ in 0..count.min(POINTS_MAX) {
            let fineness = match bytes.u8("fineness")? {
                0 => Fineness::Bytes,
                1 => Fineness::Halves,
                _ => return Ok(None),
            };
            let k = bytes.u32("k")?;
            let mut float = || bytes.f32("point");
            let (recall, missing, slack, cost) = (float()?, float()?, float()?, float()?);
            points.push(Point { fineness, k, recall, effort: Effort::new(missing, slack), cost });
        }
        Ok((count <= POINTS_MAX).then_some(Self { usual, points }))
    }

    /// Whether something of this was measured.
    pub(super) fn has(&self, fineness: Fineness) -> bool {
        self.points.iter().any(|point| point.fineness == fineness)
    }

    /// The effort that finds `recall` of the `k` nearest, and what that costs. Between counts that were
    /// measured, and beyond the last, budgets and costs are a power of the count.
    pub(super) fn effort(&self, fineness: Fineness, k: f32, recall: f32) -> (Effort, f32) {
        let at = if k <= COUNTS[1] as f32 { 0 } else { 1 };
        // More than that is not told apart by the queries there are; the odds still know what was asked.
        let least = |at: usize| self.least(fineness, COUNTS[at], recall.min(ENOUGH_RECALL));
        let ((lower, lower_cost), (upper, upper_cost)) = (least(at), least(at + 1));
        let share =
            ((k / COUNTS[at] as f32).ln() / (COUNTS[at + 1] as f32 / COUNTS[at] as f32).ln()).max(0.0);
        if lower == Effort::ALL || upper == Effort::ALL {
            return if share < 1.0 && lower == Effort::ALL {
                (lower, lower_cost)
            } else {
                (upper, upper_cost)
            };
        }
        let cost = lower_cost * (upper_cost / lower_cost).max(1.0).powf(share);
        let missing = (lower.missing.ln() + (upper.missing / lower.missing).min(1.0).ln() * share).exp();
        // Beyond the last count nothing is known of slacks.
        let slack = lower.slack + (upper.slack - lower.slack) * share.min(1.0);
        // However few cells are enough for vectors of the field, other queries need what their odds say.
        (Effort { missing_far: missing.min(1.0 - recall), ..Effort::new(missing, slack) }, cost)
    }

    /// The cheapest effort that finds `recall` of the `k` nearest, `k` one that was measured.
    fn least(&self, fineness: Fineness, k: usize, recall: f32) -> (Effort, f32) {
        let of = |point: &Point| (point.fineness, point.k, point.effort.slack);
        let ladders = self.points.chunk_by(|a, b| of(a) == of(b));
        let wanted = ladders.filter(|ladder| (ladder[0].fineness, ladder[0].k as usize) == (fineness, k));
        let reached = wanted.filter_map(|ladder| reach(ladder, (recall, recall + margin(k, recall))));
        // Not reached on any ladder, or nothing was measured: every cell, and bounds that are.
        reached.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((Effort::ALL, f32::INFINITY))
    }
}

/// What a recall that was measured may be above that of other queries by chance: so many standard errors of
/// a mean over [`QUERIES`], where the results of one query are found or missed together.
fn margin(k: usize, recall: f32) -> f32 {
    let found = k as f32 / (1.0 + (k - 1) as f32 * TOGETHER);
    MARGIN_ERRORS * (recall * (1.0 - recall).max(0.0) / (found * QUERIES as f32)).sqrt()
}

/// Where a ladder reaches a recall, or one that is safer if it gets there, and what that costs: between two
/// rungs, linear in the logarithms of what may be and of what is missed.
fn reach(ladder: &[Point], (recall, safe): (f32, f32)) -> Option<(Effort, f32)> {
    let most = ladder.iter().map(|point| point.recall).fold(0.0, f32::max);
    let recall = recall.max(safe.min(most));
    let missed = |recall: f32| (1.0 - recall).max(1e-4).ln();
    let at = ladder.iter().position(|point| point.recall >= recall)?;
    let point = &ladder[at];
    let before = at.checked_sub(1).map(|at| &ladder[at]);
    Some(match before {
        Some(before) if missed(before.recall) > missed(point.recall) => {
            let share =
                (missed(before.recall) - missed(recall)) / (missed(before.recall) - missed(point.recall));
            let between = |before: f32, after: f32| (before.ln() + (after / before).ln() * share).exp();
            let missing = between(before.effort.missing, point.effort.missing);
            (Effort::new(missing, point.effort.slack), between(before.cost, point.cost))
        }
        _ => (point.effort, point.cost),
    })
}
