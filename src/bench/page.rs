//! The report as one page for people: charts and all figures, nothing loaded from outside, for light and dark screens; or its
//! chart alone, as a picture.
//!
//! Runs in: bench. Pure.

use std::fmt::Write as _;

use super::{
    report::{Measured, Report},
    rows,
    table::{figure, ratio},
};

/// Columns of the chart, in units of the picture.
const LABELS: f64 = 150.0;
const BARS: f64 = 500.0;
const NOTES: f64 = 250.0;
const ROW: f64 = 24.0;
/// Where the first row begins.
const TOP: f64 = 46.0;

/// Colors that both kinds of screen have, and what is drawn with them.
const STYLE: &str = "\
svg, body { --ink: #1f2328; --dim: #59636e; --line: #d1d9e0; --paper: #ffffff; --own: #0969da; --floor: #b6bec7; --other: #bc4c00; }
@media (prefers-color-scheme: dark) { svg, body { --ink: #f0f6fc; --dim: #9198a1; --line: #3d444d; --paper: #0d1117; --own: #4493f8; --floor: #656c76; --other: #db6d28; } }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink); }
svg .dim { fill: var(--dim); }
svg .grid { stroke: var(--line); }
svg .own { fill: var(--own); }
svg .floor { fill: var(--floor); }
svg .other { fill: var(--other); }
svg .spread { stroke: var(--ink); stroke-width: 1.5; }
svg .paper { fill: var(--paper); }
";

const PAGE_STYLE: &str = "\
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
p, td, th { color: var(--ink); } .dim { color: var(--dim); }
svg { width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, th:last-child { text-align: left; } td:last-child { text-align: left; white-space: normal; color: var(--dim); }
";

/// The whole page.
#[must_use]
pub(crate) fn of(report: &Report) -> String {
    let mut page = String::from("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n");
    page += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n";
    let _ = write!(
        page,
        "<title>forkpy bench, {}</title>\n<style>\n{STYLE}{PAGE_STYLE}</style>\n<h1>forkpy bench</h1>\n",
        escaped(&report.when)
    );
    for line in report.about().lines() {
        let _ = writeln!(page, "<p class=\"dim\">{}</p>", escaped(line));
    }
    page += "<h2>Times</h2>\n<p>Half of all turns took less than the bar shows. The scale is logarithmic: each line is ten times the one \
             before. The thin line is the spread: the smallest and the largest of the rounds' medians. The grey bar below is what \
             the row is held against.</p>\n";
    let _ = writeln!(page, "{}", chart(report, false));
    let rest: Vec<&Measured> = report.rows.iter().filter(|row| row.unit != "us").collect();
    if !rest.is_empty() {
        page += "<h2>Sizes and rates</h2>\n<div class=\"wide\"><table>\n<tr><th>row</th><th>seen</th><th>spread</th><th>what</th></tr>\n";
        for row in rest {
            let _ = writeln!(
                page,
                "<tr><td>{}</td><td>{}</td><td>{} – {}</td><td>{}</td></tr>",
                escaped(&row.name),
                figure(row, row.p50),
                figure(row, row.low),
                figure(row, row.high),
                what(&row.name)
            );
        }
        page += "</table></div>\n";
    }
    page += &figures(report);
    page
}

fn figures(report: &Report) -> String {
    let mut text =
        "<h2>All times</h2>\n<div class=\"wide\"><table>\n<tr><th>row</th><th>p50</th><th>p90</th><th>p99</th>\
                    <th>ratio</th><th>what</th></tr>\n"
            .to_owned();
    for row in times(report) {
        let cells = [figure(row, row.p50), figure(row, row.p90), figure(row, row.p99), ratio(row)];
        let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
        let _ = writeln!(text, "<tr><td>{}</td>{cells}<td>{}</td></tr>", escaped(&row.name), what(&row.name));
    }
    text += "</table></div>\n";
    for skipped in &report.skipped {
        let _ =
            writeln!(text, "<p class=\"dim\">Not measured: {}: {}.</p>", escaped(&skipped.name), escaped(&skipped.why));
    }
    text
}

fn what(name: &str) -> String {
    rows::find(name).map_or(String::new(), |row| with_code(row.what))
}

/// Text in which code stands between back quotes.
fn with_code(text: &str) -> String {
    let pieces = text.split('`').map(escaped).enumerate();
    pieces.map(|(index, piece)| if index % 2 == 1 { format!("<code>{piece}</code>") } else { piece }).collect()
}

fn times(report: &Report) -> impl Iterator<Item = &Measured> {
    report.rows.iter().filter(|row| row.unit == "us")
}

/// Bars of all times on a logarithmic scale. Alone it is a picture with a ground of its own.
#[must_use]
pub(crate) fn chart(report: &Report, alone: bool) -> String {
    let smallest = times(report).map(|row| row.low.min(row.p50)).fold(f64::INFINITY, f64::min);
    let largest = times(report).map(|row| row.high.max(row.p50)).fold(1.0, f64::max);
    let (first, last) = (smallest.max(0.1).log10().floor(), largest.log10().ceil());
    let place = |value: f64| LABELS + (value.max(0.1).log10() - first) / (last - first).max(1.0) * BARS;
    let (width, height) =
        (LABELS + BARS + NOTES, f64::from(u32::try_from(times(report).count()).unwrap_or(0)) * ROW + TOP + 8.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"times of forkpy bench\">\n"
    );
    if alone {
        let _ =
            writeln!(svg, "<style>\n{STYLE}</style>\n<rect class=\"paper\" width=\"{width}\" height=\"{height}\"/>");
    }
    let mut power = first;
    while power <= last {
        let (x, value) = (place(10f64.powf(power)), 10f64.powf(power));
        let _ =
            writeln!(svg, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"30\" y2=\"{:.1}\"/>", height - 6.0);
        let _ =
            writeln!(svg, "<text class=\"dim\" x=\"{x:.1}\" y=\"20\" text-anchor=\"middle\">{}</text>", scale(value));
        power += 1.0;
    }
    for (index, row) in times(report).enumerate() {
        let y = f64::from(u32::try_from(index).unwrap_or(0)).mul_add(ROW, TOP);
        bars(&mut svg, report, row, y, &place);
    }
    svg += "</svg>";
    svg
}

fn bars(svg: &mut String, report: &Report, row: &Measured, y: f64, place: &dyn Fn(f64) -> f64) {
    let (name, middle) = (escaped(&row.name), y + 6.0);
    let other = row.name.starts_with("ipykernel") || row.name == "other";
    let kind = if other { "other" } else { "own" };
    let meant = rows::find(&row.name).map_or(String::new(), |row| escaped(row.what));
    let _ = writeln!(svg, "<g><title>{meant}</title>");
    let _ = writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>", LABELS - 8.0, y + 10.0);
    let bar = |class: &str, top: f64, height: f64, value: f64| {
        let length = (place(value) - LABELS).max(1.0);
        format!(
            "<rect class=\"{class}\" x=\"{LABELS}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"{height}\" rx=\"1\"/>\n"
        )
    };
    *svg += &bar(kind, y, 11.0, row.p50);
    if let Some(floor) = row.floor.as_ref().and_then(|floor| report.row(floor)) {
        *svg += &bar("floor", y + 12.0, 4.0, floor.p50);
    }
    let (low, high) = (place(row.low), place(row.high));
    let _ = writeln!(
        svg,
        "<line class=\"spread\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>"
    );
    let note = match ratio(row) {
        ratio if ratio.is_empty() => figure(row, row.p50),
        ratio => format!("{}, {ratio}", figure(row, row.p50)),
    };
    let x = place(row.p50.max(row.high)) + 8.0;
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\">{}</text></g>", y + 10.0, escaped(&note));
}

/// A power of ten microseconds.
fn scale(value: f64) -> String {
    match value {
        value if value >= 999_999.0 => format!("{:.0} s", value / 1e6),
        value if value >= 999.0 => format!("{:.0} ms", value / 1e3),
        value if value >= 0.99 => format!("{value:.0} µs"),
        value => format!("{value:.1} µs"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
