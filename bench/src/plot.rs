//! Curves of a report as a picture: one SVG file, drawn by plotters.

use std::path::Path;

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
    /// Recall and queries a second.
    pub points: Vec<(f64, f64)>,
}

/// Draws queries a second, on a logarithmic axis, over recall.
///
/// # Errors
/// There is no point above 0; the file cannot be written.
pub fn recall_over_rate(path: &Path, title: &str, curves: &[Curve]) -> Result<()> {
    let all = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let range = |of: fn((f64, f64)) -> f64| {
        all().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), at| (low.min(at), high.max(at)))
    };
    let ((left, right), (low, high)) = (range(|at| at.0), range(|at| at.1));
    if !(left.is_finite() && low > 0.0) {
        return Err("there is no point to draw".into());
    }
    let margin = (right - left).max(0.01) * MARGIN;
    let draw = || -> Result<()> {
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(
                left - margin..right + margin,
                (low / MARGIN_FACTOR..high * MARGIN_FACTOR).log_scale(),
            )?;
        chart.configure_mesh().x_desc("recall").y_desc("queries a second").draw()?;
        for (at, curve) in curves.iter().enumerate() {
            let color = Palette99::pick(at).to_rgba();
            chart
                .draw_series(LineSeries::new(curve.points.iter().copied(), color.stroke_width(2)))?
                .label(&curve.name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], color.filled()));
            chart.draw_series(curve.points.iter().map(|at| Circle::new(*at, 4, color.filled())))?;
        }
        chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
        Ok(area.present()?)
    };
    draw().map_err(|error| -> Error { format!("cannot draw {}: {error}", path.display()).into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_curve_and_every_point_is_drawn() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("curves.svg");
        let curve = |name: &str, points: &[(f64, f64)]| Curve { name: name.into(), points: points.to_vec() };
        let one = curve("1 thread", &[(0.9, 900.0), (0.95, 500.0), (0.99, 80.0)]);
        let other = curve("2 threads", &[(0.95, 1000.0)]);
        recall_over_rate(&path, "a set", &[one, other]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!((text.matches("<circle").count(), text.trim_end().ends_with("</svg>")), (4, true));
        for part in ["a set", "1 thread", "2 threads", "recall", "queries a second"] {
            assert!(text.contains(part), "{part}");
        }
        assert!(recall_over_rate(&path, "nothing", &[]).is_err());
        assert!(
            recall_over_rate(&folder.path().join("no/such.svg"), "t", &[curve("c", &[(1.0, 1.0)])]).is_err()
        );
    }
}
