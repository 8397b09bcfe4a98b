//! Plots as inline SVG, coloured by the page's style.

// Places on a page, of at most as many bars and points as it has room for.
#![allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use std::fmt::Write;

use super::escape;
use crate::report::significant;

/// Marks beside each other in a plot; more points share them.
pub const COLUMNS: usize = 240;
/// Labels of an axis.
const LABELS: usize = 8;

/// A bar.
#[derive(Debug)]
pub struct Bar<'a> {
    /// What it is of.
    pub label: &'a str,
    /// The class that colours it.
    pub class: &'a str,
    /// Its length, not negative.
    pub value: f64,
    /// Its value in words.
    pub text: String,
}

/// Horizontal bars under their labels, from zero on.
pub fn bars(id: &str, title: &str, bars: &[Bar<'_>]) -> String {
    const WIDTH: f64 = 340.0;
    const STEP: usize = 36;
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let described: Vec<_> = bars.iter().map(|bar| format!("{} {}", bar.label, bar.text)).collect();
    let mut svg = open(id, title, &described.join("; "), (WIDTH, STEP * bars.len()), "class=\"bars\"");
    for (at, Bar { label, class, value, text }) in bars.iter().enumerate() {
        let (top, label) = (at * STEP, escape(label));
        let width = if most > 0.0 { (value / most * WIDTH).max(1.0) } else { 1.0 };
        let _ = writeln!(
            svg,
            "<text y=\"{}\">{label}</text><text x=\"{WIDTH}\" y=\"{0}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" y=\"{}\" width=\"{width:.1}\" height=\"10\" rx=\"2\"/>",
            top + 14,
            escape(text),
            top + 20,
        );
    }
    svg + "</svg>\n"
}

/// A point of a series.
#[derive(Debug)]
pub struct Point<'a> {
    /// What it is of.
    pub name: &'a str,
    /// The class of its series.
    pub class: &'a str,
    /// Its height, not negative.
    pub value: f64,
    /// The layer it is in.
    pub layer: Option<u64>,
}

/// Points from left to right, labelled with their layers.
pub fn points(id: &str, title: &str, points: &[Point<'_>]) -> String {
    const WIDTH: f64 = 480.0;
    const HEIGHT: usize = 210;
    const LEFT: f64 = 52.0;
    const RIGHT: f64 = 472.0;
    const TOP: f64 = 12.0;
    const BOTTOM: f64 = 178.0;
    let axis = Axis::new(points);
    let y = |value| BOTTOM - axis.place(value) * (BOTTOM - TOP);
    let (least, most) = axis.range;
    let described = format!(
        "{} tensors from left to right, from {} to {}{}",
        points.len(),
        significant(Some(least)),
        significant(Some(most)),
        if axis.logarithmic { ", on a logarithmic scale" } else { "" }
    );
    let per_column = points.len().div_ceil(COLUMNS).max(1);
    let columns = points.len().div_ceil(per_column).max(1);
    let dot = ((RIGHT - LEFT) / columns as f64).clamp(3.0, 6.0);
    let style = format!("class=\"layers\" style=\"--dot: {dot:.1}px\"");
    let mut svg = open(id, title, &described, (WIDTH, HEIGHT), &style);
    for tick in axis.ticks() {
        let (y, text) = (y(tick), tick_text(tick));
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            LEFT - 6.0,
            y + 4.0
        );
    }
    let x = |column: usize| LEFT + (column as f64 + 0.5) / columns as f64 * (RIGHT - LEFT);
    for (at, layer) in layer_labels(points) {
        let x = x(at / per_column);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{BOTTOM}\" y2=\"{}\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{layer}</text>",
            BOTTOM + 5.0,
            BOTTOM + 20.0
        );
    }
    for (column, points) in points.chunks(per_column).enumerate() {
        marks(&mut svg, x(column), y, points);
    }
    svg + "</svg>\n"
}

/// One mark for each series: a dot, or a line from its least to its largest point.
fn marks(svg: &mut String, x: f64, y: impl Fn(f64) -> f64, points: &[Point<'_>]) {
    let mut classes: Vec<_> = points.iter().map(|point| point.class).collect();
    classes.sort_unstable();
    classes.dedup();
    for class in classes {
        let series: Vec<_> = points.iter().filter(|point| point.class == class).collect();
        let [first, .., last] = &series[..] else {
            for Point { name, value, .. } in series {
                let (y, name, text) = (y(*value), escape(name), significant(Some(*value)));
                let _ = writeln!(
                    svg,
                    "<path class=\"{class}\" d=\"M{x:.1} {y:.1}h0\"><title>{name}: {text}</title></path>"
                );
            }
            continue;
        };
        let least = series.iter().map(|point| point.value).fold(f64::INFINITY, f64::min);
        let most = series.iter().map(|point| point.value).fold(0.0, f64::max);
        let _ = writeln!(
            svg,
            "<path class=\"{class}\" d=\"M{x:.1} {:.1}V{:.1}\"><title>{} tensors, {} to {}: {} to {}</title></path>",
            y(least),
            y(most),
            series.len(),
            escape(first.name),
            escape(last.name),
            significant(Some(least)),
            significant(Some(most)),
        );
    }
}

/// The first point of every layer, or of every few of them where there are many.
fn layer_labels(points: &[Point<'_>]) -> Vec<(usize, u64)> {
    let mut starts = Vec::new();
    let mut before = None;
    for (at, point) in points.iter().enumerate() {
        if let Some(layer) = point.layer
            && before != Some(layer)
        {
            starts.push((at, layer));
            before = Some(layer);
        }
    }
    let step = starts.len().div_ceil(LABELS).max(1);
    starts.into_iter().step_by(step).collect()
}

/// A vertical axis: from zero on, or logarithmic where values differ by more than a factor of twenty.
struct Axis {
    logarithmic: bool,
    /// Of the values.
    range: (f64, f64),
    /// Of the axis: powers of ten where it is logarithmic.
    ends: (f64, f64),
    step: f64,
}

impl Axis {
    fn new(points: &[Point<'_>]) -> Self {
        let values = || points.iter().map(|point| point.value);
        let most = values().fold(0.0, f64::max);
        let least = values().fold(f64::INFINITY, f64::min).min(most);
        let positive = values().filter(|&value| value > 0.0).fold(most, f64::min);
        if positive > 0.0 && most / positive > 20.0 {
            let (low, high) = (positive.log10().floor(), most.log10().ceil());
            let step = ((high - low) / LABELS as f64).ceil();
            return Self { logarithmic: true, range: (least, most), ends: (low, high), step };
        }
        let rough = if most > 0.0 { most / 4.0 } else { 0.25 };
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|nice| nice * power);
        let step = step.into_iter().find(|&step| step >= rough * 0.999).unwrap_or(rough);
        let high = (most / step).ceil().max(1.0) * step;
        Self { logarithmic: false, range: (least, most), ends: (0.0, high), step }
    }

    /// 0 at the low end, 1 at the high one.
    fn place(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.log10() } else { value };
        ((value - self.ends.0) / (self.ends.1 - self.ends.0)).clamp(0.0, 1.0)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.ends.1 - self.ends.0) / self.step).round() as usize;
        (0..=count).map(|tick| {
            let at = self.ends.0 + tick as f64 * self.step;
            if self.logarithmic { 10f64.powf(at) } else { at }
        })
    }
}

/// `0.05`, `1e-5`
fn tick_text(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e4).contains(&value) {
        return format!("{value:.0e}");
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').into()
}

/// The start of a drawing that says what it shows.
fn open(id: &str, title: &str, described: &str, (width, height): (f64, usize), style: &str) -> String {
    format!(
        "<svg {style} viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\
         <title id=\"{id}-t\">{}</title><desc id=\"{id}-d\">{}</desc>\n",
        escape(title),
        escape(described)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Vec<Point<'static>> {
        let layer = |at: usize| Some(at as u64 / 2);
        let point = |(at, &value)| Point { name: "w", class: "s0", value, layer: layer(at) };
        values.iter().enumerate().map(point).collect()
    }

    #[test]
    fn axes_hold_their_points() {
        for values in [
            &[0.09, 0.12][..],
            &[0.1],
            &[0.0],
            &[0.0, 0.2],
            &[5e-5, 0.1],
            &[1e-300, 1e300],
            &[0.0, 1e-9, 3.0],
            &[2e-310],
            &[],
        ] {
            let points = series(values);
            let axis = Axis::new(&points);
            let ticks: Vec<_> = axis.ticks().collect();
            assert!((2..=LABELS + 2).contains(&ticks.len()), "{values:?}: {ticks:?}");
            for &value in values {
                assert!((0.0..=1.0).contains(&axis.place(value)), "{values:?}");
                assert!(value <= ticks[ticks.len() - 1] * 1.0001, "{values:?}: {ticks:?}");
            }
            let svg = super::points("p", "t", &points);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn labels_are_few_and_layers_in_order() {
        assert_eq!(layer_labels(&series(&[0.1; 6])), [(0, 0), (2, 1), (4, 2)]);
        assert_eq!(layer_labels(&series(&[0.1; 1000])).len(), LABELS);
        let tick = [(0.0, "0"), (0.05, "0.05"), (1.0, "1"), (1e-5, "1e-5"), (0.001, "0.001"), (1e4, "1e4")];
        for (value, text) in tick {
            assert_eq!(tick_text(value), text);
        }
    }

    #[test]
    fn many_points_share_marks() {
        let points = series(&vec![0.25; 50_000]);
        let svg = super::points("p", "t", &points);
        assert!(svg.matches("<path").count() <= COLUMNS && svg.contains("<title>209 tensors"), "{svg}");
    }
}
