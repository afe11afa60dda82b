//! What is asked of a walk between the counts that were measured, and beyond them.

use crate::dense::ssd::calibration::{Calibration, Point};
use crate::dense::ssd::cells::Fineness;
use crate::dense::ssd::search::Effort;

/// Ladders of two rungs: more results are found with less slack.
fn calibration() -> Calibration {
    let mut points = Vec::new();
    for (k, slack) in [(1, 0.7), (10, 0.4), (100, 0.1)] {
        for (missing, recall, cost) in [(0.1, 0.9, 1.0), (0.01, 0.99, 4.0)] {
            let (effort, cost) = (Effort::new(missing / k as f32, slack), cost * k as f32);
            points.push(Point { fineness: Fineness::Bytes, k, recall, effort, cost });
        }
    }
    Calibration { usual: [1.0, 2.0], points }
}

#[test]
fn an_effort_is_sound_however_many_results_are_wanted() {
    let calibration = calibration();
    for k in [1.0, 3.0, 10.0, 50.0, 100.0, 700.0, 20_000.0, 1e9_f32] {
        for recall in [0.5, 0.9, 0.95, 0.99] {
            let (effort, cost) = calibration.effort(Fineness::Bytes, k, recall);
            assert!((0.09..=0.71).contains(&effort.slack), "{k} of {recall}: {effort:?}");
            assert!(effort.missing >= 0.0 && cost > 0.0, "{k} of {recall}: {effort:?}, {cost}");
            let filtered = Effort { slack_far: 1.0, ..effort };
            for nearest in [0.0, 1.0, 1.5, 2.0, 9.0] {
                let (missing, slack) = filtered.at(nearest, calibration.usual);
                assert!(
                    (0.0..=1.0).contains(&missing) && (0.09..=1.0).contains(&slack),
                    "{k}: {missing} {slack}"
                );
            }
        }
    }
    let cost = |k: f32| calibration.effort(Fineness::Bytes, k, 0.95).1;
    assert!([10.0, 30.0, 100.0, 1_000.0].windows(2).all(|pair| cost(pair[0]) < cost(pair[1])));
}

/// One that is asked for as far as the ladder goes is found there, without a margin; less is with one.
#[test]
fn a_recall_is_looked_up_with_a_margin() {
    let calibration = calibration();
    for (k, error) in [(1.0, 0.0096), (10.0, 0.0042), (100.0, 0.0032)] {
        let missing = |recall: f32| calibration.effort(Fineness::Bytes, k, recall).0.missing * k;
        assert!((missing(0.99) - 0.01).abs() < 1e-5, "{k}: {}", missing(0.99));
        // Between rungs a tenth of what is missed goes with a tenth of what may be missing.
        let expected = 0.05 - 1.5 * error;
        assert!((missing(0.95) / expected - 1.0).abs() < 0.02, "{k}: {} for {expected}", missing(0.95));
    }
}
