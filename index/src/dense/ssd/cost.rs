//! What plans cost, in nanoseconds: what [`plan`](super::plan) compares.
//!
//! A line each, fitted to the times of every plan at selectivities from 0.01 to 100 %, forced in turn on an
//! AMD EPYC (Zen 4); `spandrel-bench tenants --workload filters` reports what they are off by. Machines
//! differ by a factor that all plans share, about; where two plans meet is what counts. How far a walk goes
//! is no constant: it was measured when the cells were built ([`calibrate`](super::calibrate)).

/// A search before its first vector: the query is made ready.
const BEGIN_NS: f32 = 2_000.0;
/// A walk before its first cell: centroids are compared.
const MEET_NS: f32 = 8_000.0;
/// What a calibration calls one: a vector scanned, with what refining it is worth.
const SCANNED_NS: f32 = 3.0;
/// That of all cells, by vector.
const ALL_SCANNED: f32 = 2.2;
/// A cell of which few vectors pass, which are looked up without its posting.
const CELL_NS: f32 = 20.0;
/// A vector ranked by its code, which lies somewhere or beside the one before.
const RANKED_NS: f32 = 8.0;
const RANKED_BYTE_NS: f32 = 0.11;
const RANKED_BYTE_IN_A_ROW_NS: f32 = 0.05;
/// Vectors by their posting codes: before the first one, one, and how many are ranked then.
const SIFT_NS: f32 = 5_000.0;
const SIFTED_NS: f32 = 12.0;
const SIFTED_LEFT: u64 = 100;
/// A vector scored, which lies somewhere or beside the one before.
const SCORED_NS: f32 = 15.0;
const SCORED_BYTE_NS: f32 = 0.1;
const SCORED_BYTE_IN_A_ROW_NS: f32 = 0.05;
/// Bytes from disk: an access, of which so many are in flight, and a byte.
const ACCESS_NS: f32 = 60_000.0;
const IN_FLIGHT: f32 = 16.0;
const DISK_BYTE_NS: f32 = 0.4;

/// Vectors that are read, one by one or side by side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    pub(super) count: u64,
    /// Bytes of each.
    pub(super) bytes: usize,
    pub(super) at_hand: bool,
    /// Whether one follows the other.
    pub(super) in_a_row: bool,
}

impl Read {
    fn disk_ns(self) -> f32 {
        if self.at_hand || self.count == 0 {
            return 0.0;
        }
        let (count, bytes) = (self.count as f32, self.bytes as f32);
        match self.in_a_row {
            true => ACCESS_NS + count * bytes * DISK_BYTE_NS,
            false => ACCESS_NS * (count / IN_FLIGHT).max(1.0) + count * (bytes + 4_096.0) * DISK_BYTE_NS,
        }
    }
}

/// Every vector is scored.
pub(super) fn scored_ns(read: Read) -> f32 {
    let byte_ns = if read.in_a_row { SCORED_BYTE_IN_A_ROW_NS } else { SCORED_BYTE_NS };
    BEGIN_NS + read.count as f32 * (SCORED_NS + read.bytes as f32 * byte_ns) + read.disk_ns()
}

/// Every vector is ranked by its code, and the best are scored.
pub(super) fn ranked_ns(codes: Read, best: Read) -> f32 {
    let byte_ns = if codes.in_a_row { RANKED_BYTE_IN_A_ROW_NS } else { RANKED_BYTE_NS };
    let ranked = codes.count as f32 * (RANKED_NS + codes.bytes as f32 * byte_ns);
    ranked + codes.disk_ns() + scored_ns(best)
}

/// Every vector is looked at by its posting code, those that it does not rule out are ranked, and the best
/// are scored.
pub(super) fn sifted_ns(count: u64, codes: Read, best: Read) -> f32 {
    let left = Read { count: count.min(SIFTED_LEFT), ..codes };
    SIFT_NS + count as f32 * SIFTED_NS + ranked_ns(left, best)
}

/// Cells are visited, whichever and however many.
pub(super) fn walk_least_ns(best: Read) -> f32 {
    MEET_NS + scored_ns(best)
}

/// So many of `vectors` in `cells` may be found, and cells are visited for `cost` of the calibration: their
/// postings are scanned, or what passes in them is ranked one by one, as it takes less.
pub(super) fn walked_ns(
    cost: f32,
    (vectors, cells): (u32, usize),
    (codes, sifts): (Read, bool),
    best: Read,
) -> f32 {
    let visited = (cost / (vectors as f32 * ALL_SCANNED)).min(1.0);
    let scanned = cost.min(vectors as f32 * ALL_SCANNED) * SCANNED_NS;
    let none = Read { count: 0, ..best };
    let each = if sifts { codes.count as f32 * SIFTED_NS } else { ranked_ns(codes, none) };
    let few = visited * (each + cells as f32 * CELL_NS);
    walk_least_ns(best) + scanned.min(few)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times that the constants were fitted to, in microseconds, on a machine that had other things to
    /// do.
    #[test]
    fn estimates_are_near_what_was_measured() {
        let of = |count: u64, bytes: usize| Read { count, bytes, at_hand: true, in_a_row: false };
        let best = of(12, 768);
        for (count, us) in [(1_000, 22.0), (10_000, 140.0)] {
            let ratio = sifted_ns(count, of(count, 384), best) / 1e3 / us;
            assert!((0.5..2.0).contains(&ratio), "{count} sifted: {ratio}");
        }
        for (count, scan_us, walk) in [
            (1_000, 62.0, (231e3, 116.0)),
            (10_000, 650.0, (54.6e3, 165.0)),
            (50_000, 5_500.0, (19.9e3, 120.0)),
            (100_000, 7_500.0, (12.9e3, 60.0)),
        ] {
            let near = |estimate_ns: f32, us: f32| {
                let ratio = estimate_ns / 1e3 / us;
                assert!((0.4..2.5).contains(&ratio), "{count}: {estimate_ns} ns, measured {us} us");
            };
            near(ranked_ns(of(count, 384), best), scan_us);
            near(walked_ns(walk.0, (100_000, 3_125), (of(count, 384), false), best), walk.1);
        }
    }

    #[test]
    fn what_comes_from_disk_takes_longer_and_less_where_it_is_read_at_once() {
        let read = Read { count: 1_000, bytes: 400, at_hand: true, in_a_row: true };
        let (memory, run) = (scored_ns(read), scored_ns(Read { at_hand: false, ..read }));
        let strewn = scored_ns(Read { at_hand: false, in_a_row: false, ..read });
        assert!(memory < run && run < strewn, "{memory} {run} {strewn}");
        assert_eq!(Read { count: 0, at_hand: false, ..read }.disk_ns(), 0.0);
    }
}
