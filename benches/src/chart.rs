//! Bar charts as SVG, for light and dark pages. Equal values give equal text. Written by hand: a plotting crate
//! would add dozens of dependencies for three kinds of shapes.

use std::fmt::Write as _;

const COLUMNS: usize = 3;
/// The size of a panel with its margins, in pixels.
const PANEL: (f64, f64) = (320.0, 200.0);
/// The width left of the bars, for the scale.
const SCALE: f64 = 52.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 26.0;
/// The height above all panels, for heading and legend.
const HEAD: f64 = 58.0;

/// Colours that colour-blind readers can tell apart, on both backgrounds.
const STYLE: &str = "
.page{fill:#fff}.ink{fill:#1f2328}.faint{fill:#59636e}.line{stroke:#d1d9e0}
.s0{fill:#818b98}.s1{fill:#0969da}.s2{fill:#e08600}.s3{fill:#1a9c6c}
text{font:12px system-ui,sans-serif}.head{font-size:15px;font-weight:600}.small{font-size:11px}
.name{font-weight:600}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117}.ink{fill:#f0f6fc}.faint{fill:#9198a1}.line{stroke:#3d444d}
.s0{fill:#9198a1}.s1{fill:#58a6ff}.s2{fill:#f0a030}.s3{fill:#3fc48e}}
";

/// A chart of several panels that share a legend.
#[derive(Debug)]
pub(crate) struct Chart<'a> {
    pub(crate) heading: &'a str,
    /// The meanings of the bars of a group, in order; at most four.
    pub(crate) legend: &'a [&'a str],
    pub(crate) panels: Vec<Panel>,
}

/// Groups of bars with their own scale.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) name: String,
    pub(crate) groups: Vec<Group>,
}

/// Bars side by side. A missing measurement leaves a gap.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) label: String,
    pub(crate) bars: Vec<Option<f64>>,
}

impl Chart<'_> {
    /// Returns the SVG document.
    pub(crate) fn svg(&self) -> String {
        let rows = self.panels.len().div_ceil(COLUMNS);
        let (width, height) = (PANEL.0 * COLUMNS as f64, HEAD + PANEL.1 * rows as f64);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\">\n\
             <title>{}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"page\" width=\"{width}\" height=\"{height}\"/>\n",
            escape(self.heading)
        );
        text(&mut svg, (16.0, 24.0), "ink head", "start", self.heading);
        let mut x = 16.0;
        for (n, name) in self.legend.iter().enumerate() {
            let _ = writeln!(
                svg,
                "<rect class=\"s{n}\" x=\"{x}\" y=\"37\" width=\"11\" height=\"11\" rx=\"2\"/>"
            );
            text(&mut svg, (x + 16.0, 47.0), "ink", "start", name);
            x += 44.0 + 7.0 * name.chars().count() as f64;
        }
        for (n, panel) in self.panels.iter().enumerate() {
            let (column, row) = (n % COLUMNS, n / COLUMNS);
            panel.draw(&mut svg, (PANEL.0 * column as f64, HEAD + PANEL.1 * row as f64));
        }
        svg + "</svg>\n"
    }
}

impl Panel {
    /// Draws the panel with its upper left corner at a point.
    fn draw(&self, svg: &mut String, (left, top): (f64, f64)) {
        text(svg, (left + 16.0, top + 20.0), "ink name", "start", &self.name);
        let values = self.groups.iter().flat_map(|it| &it.bars).flatten();
        let most = round_up(values.copied().fold(0.0, f64::max));
        let floor = top + PANEL.1 - BOTTOM;
        let height = PANEL.1 - TOP - BOTTOM;
        for share in [0.0, 0.5, 1.0] {
            let y = floor - share * height;
            let _ = writeln!(
                svg,
                "<line class=\"line\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                left + SCALE,
                left + PANEL.0 - 12.0
            );
            let at = (left + SCALE - 6.0, y + 4.0);
            text(svg, at, "faint small", "end", &number(share * most));
        }
        let width = (PANEL.0 - SCALE - 12.0) / self.groups.len().max(1) as f64;
        for (n, group) in self.groups.iter().enumerate() {
            let from = left + SCALE + width * n as f64;
            let at = (from + width / 2.0, floor + 16.0);
            text(svg, at, "faint small", "middle", &group.label);
            group.draw(svg, from + width * 0.1, width * 0.8, floor, height / most);
        }
    }
}

impl Group {
    fn draw(&self, svg: &mut String, from: f64, width: f64, floor: f64, pixels_each: f64) {
        let each = width / self.bars.len().max(1) as f64;
        for (n, bar) in self.bars.iter().enumerate() {
            let Some(value) = bar else { continue };
            let height = value * pixels_each;
            let _ = writeln!(
                svg,
                "<rect class=\"s{n}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
                from + each * n as f64,
                floor - height,
                each - 1.5
            );
        }
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), class: &str, anchor: &str, words: &str) {
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escape(words)
    );
}

fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Returns the end of a scale: 1, 2, 4, 6, 8 or 10 times a power of ten.
fn round_up(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(most.log10().floor());
    [1.0, 2.0, 4.0, 6.0, 8.0]
        .map(|it| it * power)
        .into_iter()
        .find(|it| *it >= most)
        .unwrap_or(10.0 * power)
}

/// Formats a number of a scale without trailing zeros.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers() {
        let ends = [0.0, 0.03, 0.9, 1.0, 1.1, 4.1, 95.0, 2500.0].map(round_up);
        for (end, expected) in ends.into_iter().zip([1.0, 0.04, 1.0, 1.0, 2.0, 6.0, 100.0, 4000.0])
        {
            assert!((end - expected).abs() < 1e-9, "{end} instead of {expected}");
        }
        assert_eq!([0.0, 0.05, 1.5, 2000.0].map(number), ["0", "0.05", "1.5", "2000"]);
    }

    #[test]
    fn a_bar_that_was_not_measured_is_not_drawn() {
        let groups = vec![Group { label: "16".to_owned(), bars: vec![Some(1.0), None, Some(0.5)] }];
        let panels = vec![Panel { name: "a < b".to_owned(), groups }];
        let svg = Chart { heading: "Rates", legend: &[], panels }.svg();
        assert_eq!(
            (svg.matches("class=\"s0\"").count(), svg.matches("class=\"s1\"").count()),
            (1, 0)
        );
        assert!(svg.contains("a &lt; b"), "{svg}");
    }
}
