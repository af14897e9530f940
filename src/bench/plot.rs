//! Line charts as SVG, of text alone: no dependency, no clock, the same bytes for the same numbers. Pure.

use std::fmt::{self, Write};

/// Size of the picture, user units (pixels as browsers show it).
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 48.0;
/// Ticks wanted on an axis; there are between half and twice as many.
const TICKS: f64 = 8.0;
/// Width of a letter of the legend, about.
const LETTER: f64 = 6.6;
/// Colours that the colour-blind tell apart (Okabe and Ito, 2008).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// A chart of lines. Points that are not finite are left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plot {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    pub series: Vec<Series>,
    /// Horizontal lines with their names: a limit, a goal.
    pub marks: Vec<(String, f64)>,
}

/// One line, its points in the order in which they are joined.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

impl Series {
    #[must_use]
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Series { name: name.into(), points }
    }
}

/// Values from `low` to `high`, a round step between them.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// Round ends that hold `values`.
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.filter(|v| v.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        let span = if high > low { high - low } else { high.abs().max(1.0) };
        let step = round(span / TICKS);
        let low = (low / step).floor() * step;
        Axis { low, high: (high / step).ceil().max(low / step + 1.0) * step, step }
    }

    /// As [`Self::over`], but it ends where the values do: no empty room beside a line.
    fn until(values: impl Iterator<Item = f64> + Clone) -> Self {
        let last = values.clone().filter(|v| v.is_finite()).fold(f64::NEG_INFINITY, f64::max);
        let round = Self::over(values);
        Axis { high: if last > round.low { last } else { round.high }, ..round }
    }

    /// 0 at `low`, 1 at `high`.
    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        // Numbers at the edge of what a float can hold leave no steps to count.
        let count = ((self.high - self.low) / self.step + 1e-9).floor().min(4.0 * TICKS) as u32;
        (0..=count).map(|n| self.low + f64::from(n) * self.step)
    }

    fn label(&self, value: f64) -> String {
        let digits = (-self.step.log10().floor()).clamp(0.0, 9.0) as usize;
        match value.abs() {
            // What is left of 0.1 + 0.2 - 0.3.
            tiny if tiny < self.step / 1e6 => "0".into(),
            big if big >= 1e9 => format!("{}G", short(value / 1e9)),
            big if big >= 1e6 => format!("{}M", short(value / 1e6)),
            big if big >= 1e4 => format!("{}k", short(value / 1e3)),
            _ => format!("{value:.digits$}"),
        }
    }
}

/// At least `step`: 1, 2 or 5 times a power of ten.
fn round(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let times = [1.0, 2.0, 5.0].into_iter().find(|times| times * power >= step * (1.0 - 1e-9)).unwrap_or(10.0);
    times * power
}

fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&apos;"),
            // XML 1.0 has no way to write these.
            control if control.is_control() || matches!(control, '\u{fffe}' | '\u{ffff}') => safe.push(' '),
            _ => safe.push(letter),
        }
    }
    safe
}

impl Plot {
    /// The chart as one SVG document.
    #[must_use]
    pub fn svg(&self) -> String {
        let mut out = String::new();
        // Writing into a string does not fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let points = || self.series.iter().flat_map(|s| &s.points).filter(|(x, y)| x.is_finite() && y.is_finite());
        let marks = || self.marks.iter().filter(|(_, y)| y.is_finite());
        let x_axis = Axis::until(points().map(|p| p.0));
        // A line is judged by its height over nothing, where it is not below it.
        let y_axis = Axis::over(points().map(|p| p.1).chain(marks().map(|m| m.1)).chain([0.0]));
        let x = |value| LEFT + x_axis.share(value) * (WIDTH - LEFT - RIGHT);
        let y = |value| HEIGHT - BOTTOM - y_axis.share(value) * (HEIGHT - TOP - BOTTOM);
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);

        writeln!(
            out,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">"#
        )?;
        writeln!(out, r##"<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>"##)?;
        writeln!(out, r#"<text x="{LEFT}" y="20" font-size="15" font-weight="bold">{}</text>"#, escaped(&self.title))?;
        writeln!(out, r##"<g stroke="#ddd">"##)?;
        for value in y_axis.ticks() {
            writeln!(out, r#"<path d="M{LEFT} {:.1}H{right}"/>"#, y(value))?;
        }
        writeln!(out, "</g>\n<g text-anchor=\"end\">")?;
        for value in y_axis.ticks() {
            writeln!(out, r#"<text x="{}" y="{:.1}">{}</text>"#, LEFT - 6.0, y(value) + 4.0, y_axis.label(value))?;
        }
        writeln!(out, "</g>\n<g text-anchor=\"middle\">")?;
        for value in x_axis.ticks() {
            writeln!(out, r#"<text x="{:.1}" y="{}">{}</text>"#, x(value), bottom + 16.0, x_axis.label(value))?;
        }
        let (middle_x, middle_y) = (f64::midpoint(LEFT, right), f64::midpoint(TOP, bottom));
        writeln!(out, r#"<text x="{middle_x}" y="{}">{}</text>"#, HEIGHT - 10.0, escaped(&self.x_label))?;
        writeln!(out, r#"<text transform="translate(16 {middle_y}) rotate(-90)">{}</text>"#, escaped(&self.y_label))?;
        writeln!(out, "</g>\n<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#000\"/>")?;
        for (name, value) in marks() {
            writeln!(out, r##"<path d="M{LEFT} {0:.1}H{right}" stroke="#666" stroke-dasharray="5 4"/>"##, y(*value))?;
            writeln!(
                out,
                r##"<text x="{}" y="{:.1}" text-anchor="end" fill="#666">{}</text>"##,
                right - 4.0,
                y(*value) - 4.0,
                escaped(name)
            )?;
        }
        let mut legend_x = LEFT;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            write!(out, r#"<polyline fill="none" stroke="{colour}" stroke-width="1.5" points=""#)?;
            for (px, py) in series.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()) {
                write!(out, "{:.1},{:.1} ", x(*px), y(*py))?;
            }
            writeln!(out, r#""/>"#)?;
            writeln!(out, r#"<path d="M{legend_x:.1} 42h18" stroke="{colour}" stroke-width="3"/>"#)?;
            writeln!(out, r#"<text x="{:.1}" y="46">{}</text>"#, legend_x + 23.0, escaped(&series.name))?;
            legend_x += 23.0 + LETTER * series.name.chars().count() as f64 + 18.0;
        }
        writeln!(out, "</svg>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plot(points: Vec<(f64, f64)>) -> Plot {
        Plot { series: vec![Series::new("one", points)], ..Plot::default() }
    }

    #[test]
    fn ticks_are_round_and_hold_the_values() {
        let ticks = |values: &[f64]| {
            let axis = Axis::over(values.iter().copied());
            axis.ticks().map(|t| axis.label(t)).collect::<Vec<_>>()
        };
        assert_eq!(ticks(&[0.0, 3600.0]), ["0", "500", "1000", "1500", "2000", "2500", "3000", "3500", "4000"]);
        assert_eq!(ticks(&[0.13, 0.77]), ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8"]);
        assert_eq!(ticks(&[0.0, 130_000.0]), ["0", "20k", "40k", "60k", "80k", "100k", "120k", "140k"]);
        assert_eq!(ticks(&[-1.0, 1.0]).first().unwrap(), "-1.0");
        assert!(ticks(&[5.0]).len() > 1, "one value alone has an axis");
        assert_eq!(ticks(&[]).first().unwrap(), "0");
    }

    #[test]
    fn the_ends_of_a_line_lie_on_the_ends_of_the_axes() {
        let svg = plot(vec![(0.0, 0.0), (100.0, 50.0)]).svg();
        assert!(svg.contains(r#"points="72.0,352.0 840.0,64.0 ""#), "{svg}");
    }

    #[test]
    fn text_is_escaped() {
        let mut plot = plot(vec![]);
        plot.title = "a < b & \"c\" \u{1b}[0m".into();
        plot.series[0].name = "<script>".into();
        plot.marks = vec![("<&>".into(), 1.0)];
        let svg = plot.svg();
        assert!(svg.contains("a &lt; b &amp; &quot;c&quot;  [0m"), "{svg}");
        assert!(svg.contains("&lt;script&gt;") && svg.contains("&lt;&amp;&gt;"), "{svg}");
        assert!(!svg.contains("<script>"));
    }

    proptest! {
        #[test]
        fn any_numbers_make_a_chart(points in prop::collection::vec((any::<f64>(), any::<f64>()), 0..20)) {
            let svg = plot(points).svg();
            prop_assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
            prop_assert!(svg.len() < 100_000, "{} bytes", svg.len());
        }
    }
}
