//! Curves of a report as a picture: one SVG file, drawn by plotters.

use std::ops::Range;
use std::path::Path;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::{Error, Result};

const SIZE: (u32, u32) = (900, 600);
/// What ranges are widened by on each side: a share of them, and a factor of the logarithmic one.
const MARGIN: f64 = 0.04;
const MARGIN_FACTOR: f64 = 1.25;

/// Points that a line is drawn through.
pub struct Curve {
    /// What the legend calls it.
    pub name: String,
    /// What is on the two axes.
    pub points: Vec<(f64, f64)>,
    /// Which colour it has; curves of the same belong together.
    pub color: usize,
    /// Whether it is drawn lighter than another of its colour.
    pub is_pale: bool,
}

/// Colours that are told apart, also by those who see few.
const COLORS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(60, 60, 60),
    RGBColor(204, 121, 167),
    RGBColor(170, 130, 0),
];
/// How much of its colour a pale curve has.
const PALE: f64 = 0.45;

/// Draws queries a second, on a logarithmic axis, over recall.
///
/// # Errors
/// There is no point above 0; the file cannot be written.
pub fn recall_over_rate(path: &Path, title: &str, curves: &[Curve]) -> Result<()> {
    let ((left, right), y) = ranges(curves)?;
    let margin = (right - left).max(0.01) * MARGIN;
    let x = left - margin..right + margin;
    let legend = SeriesLabelPosition::LowerLeft;
    let drawn = draw(path, [title, "recall", "queries a second"], (x, y.log_scale()), (curves, legend));
    drawn.map_err(|error| cannot(path, &error))
}

/// Draws microseconds over rows, both on logarithmic axes.
///
/// # Errors
/// As [`recall_over_rate`].
pub fn time_over_rows(path: &Path, title: &str, curves: &[Curve]) -> Result<()> {
    let ((left, right), y) = ranges(curves)?;
    if left <= 0.0 {
        return Err(cannot(path, &"a point has no rows".into()));
    }
    let x = (left / MARGIN_FACTOR..right * MARGIN_FACTOR).log_scale();
    let legend = SeriesLabelPosition::UpperLeft;
    let drawn =
        draw(path, [title, "rows that may be found", "microseconds"], (x, y.log_scale()), (curves, legend));
    drawn.map_err(|error| cannot(path, &error))
}

/// Draws shares over tokens or over other shares, on a logarithmic axis.
///
/// # Errors
/// As [`recall_over_rate`].
pub fn shares(path: &Path, [title, x_name, y_name]: [&str; 3], curves: &[Curve]) -> Result<()> {
    let ((left, right), _) = ranges(curves)?;
    if left <= 0.0 {
        return Err(cannot(path, &"a point lies at 0".into()));
    }
    let all = || curves.iter().flat_map(|curve| curve.points.iter().map(|at| at.1));
    let low = all().fold(f64::INFINITY, f64::min);
    let high = all().fold(0.0, f64::max);
    let (x, y) = ((left * 0.95..right * 1.05).log_scale(), low * 0.93..high * 1.04);
    let drawn = draw(path, [title, x_name, y_name], (x, y), (curves, SeriesLabelPosition::LowerRight));
    drawn.map_err(|error| cannot(path, &error))
}

fn cannot(path: &Path, error: &Error) -> Error {
    format!("cannot draw {}: {error}", path.display()).into()
}

/// From where to where points lie on the first axis, and the range of the second.
fn ranges(curves: &[Curve]) -> Result<((f64, f64), Range<f64>)> {
    let all = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let range = |of: fn((f64, f64)) -> f64| {
        all().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), at| (low.min(at), high.max(at)))
    };
    let (x, (low, high)) = (range(|at| at.0), range(|at| at.1));
    if !(x.0.is_finite() && low > 0.0) {
        return Err("there is no point to draw".into());
    }
    Ok((x, low / MARGIN_FACTOR..high * MARGIN_FACTOR))
}

fn draw<X, Y>(
    path: &Path,
    [title, x_name, y_name]: [&str; 3],
    (x, y): (X, Y),
    (curves, legend): (&[Curve], SeriesLabelPosition),
) -> Result<()>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(x, y)?;
    // Whole numbers as such, whatever the axis makes of them.
    let number = |value: &f64| format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_owned();
    chart
        .configure_mesh()
        .x_desc(x_name)
        .y_desc(y_name)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .draw()?;
    for curve in curves {
        let color = COLORS[curve.color % COLORS.len()].mix(if curve.is_pale { PALE } else { 1.0 });
        chart
            .draw_series(LineSeries::new(curve.points.iter().copied(), color.stroke_width(2)))?
            .label(&curve.name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], color.filled()));
        chart.draw_series(curve.points.iter().map(|at| Circle::new(*at, 4, color.filled())))?;
    }
    chart.configure_series_labels().position(legend).background_style(WHITE).border_style(BLACK).draw()?;
    Ok(area.present()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_curve_and_every_point_is_drawn() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("curves.svg");
        let curve = |name: &str, points: &[(f64, f64)]| {
            let (name, points) = (name.to_owned(), points.to_vec());
            Curve { name, points, color: 7, is_pale: false }
        };
        let one = curve("1 thread", &[(0.9, 900.0), (0.95, 500.0), (0.99, 80.0)]);
        let other = curve("2 threads", &[(0.95, 1000.0)]);
        recall_over_rate(&path, "a set", &[one, other]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!((text.matches("<circle").count(), text.trim_end().ends_with("</svg>")), (4, true));
        for part in ["a set", "1 thread", "2 threads", "recall", "queries a second"] {
            assert!(text.contains(part), "{part}");
        }
        let curves = [curve("p50", &[(10.0, 5.0), (1e5, 40.0)]), curve("p99", &[(10.0, 9.0)])];
        let both = [curve("top_k", &[(128.0, 0.3), (256.0, 0.5)]), curve("ceiling", &[(256.0, 0.8)])];
        shares(&path, ["a set", "tokens", "evidence"], &both).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("<circle").count(), 3);
        assert!(text.contains("tokens") && text.contains("evidence") && text.contains("ceiling"));
        time_over_rows(&path, "a set", &curves).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("<circle").count(), 3);
        for part in ["rows that may be found", "microseconds", "p50", "p99"] {
            assert!(text.contains(part), "{part}");
        }
        assert!(recall_over_rate(&path, "nothing", &[]).is_err());
        assert!(time_over_rows(&path, "no rows", &[curve("c", &[(0.0, 1.0)])]).is_err());
        assert!(
            recall_over_rate(&folder.path().join("no/such.svg"), "t", &[curve("c", &[(1.0, 1.0)])]).is_err()
        );
    }
}
