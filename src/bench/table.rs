//! The report as a table for people, and `--explain`.
//!
//! Runs in: bench. Pure.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::ASCII_MARKDOWN};

use super::{
    report::{Measured, Report},
    rows::ROWS,
};

/// The table, with a column for an earlier run if there is one.
#[must_use]
pub(crate) fn of(report: &Report, earlier: Option<&Report>) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    let mut head = vec!["row", "p50", "p90", "p99", "rounds", "ratio"];
    if earlier.is_some() {
        head.extend(["before", "now/before"]);
    }
    table.set_header(head);
    for row in &report.rows {
        let mut cells = vec![row.name.clone(), figure(row, row.p50), figure(row, row.p90), figure(row, row.p99)];
        cells.push(format!("{} – {}", figure(row, row.low), figure(row, row.high)));
        cells.push(ratio(row));
        if let Some(earlier) = earlier {
            cells.extend(beside(row, earlier.row(&row.name)));
        }
        let cells = cells.into_iter().enumerate().map(|(place, text)| {
            Cell::new(text).set_alignment(if place == 0 { CellAlignment::Left } else { CellAlignment::Right })
        });
        table.add_row(cells.collect::<Vec<_>>());
    }
    format!("{}\n{table}\n{}", report.about(), notes(report))
}

fn notes(report: &Report) -> String {
    let mut text =
        "rounds: smallest and largest of the rounds' medians, which is the noise. What each row times: --explain\n"
            .to_owned();
    for skipped in &report.skipped {
        text += &format!("not measured: {}: {}\n", skipped.name, skipped.why);
    }
    text
}

/// A figure with its unit, in the unit that people read it in.
pub(super) fn figure(row: &Measured, value: f64) -> String {
    match row.unit.as_str() {
        "us" if value >= 1e6 => format!("{:.2} s", value / 1e6),
        "us" if value >= 1e4 => format!("{:.1} ms", value / 1e3),
        "us" if value >= 1e3 => format!("{:.2} ms", value / 1e3),
        "us" => format!("{value:.1} µs"),
        "cells/s" | "MB/s" => format!("{value:.0} {}", row.unit),
        unit => format!("{value:.2} {unit}"),
    }
}

pub(super) fn ratio(row: &Measured) -> String {
    let first = row.floor.as_ref().zip(row.ratio);
    let further = row.further.iter().map(|held| (&held.floor, held.ratio));
    let all: Vec<String> =
        first.into_iter().chain(further).map(|(floor, ratio)| format!("{ratio:.1} × {floor}")).collect();
    all.join(", ")
}

fn beside(row: &Measured, before: Option<&Measured>) -> [String; 2] {
    match before {
        Some(before) if before.unit == row.unit => [figure(before, before.p50), format!("{:.2}", row.p50 / before.p50)],
        _ => [String::new(), String::new()],
    }
}

/// What each row times.
#[must_use]
pub(crate) fn explained() -> String {
    let mut text = String::new();
    for row in ROWS {
        text += &format!("{} ({})\n    {}", row.name, row.unit.name(), row.what);
        if !row.floors.is_empty() {
            text += &format!(". Ratio to: {}", row.floors.join(", "));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Held;

    fn row(unit: &str) -> Measured {
        Measured {
            name: "1+1".to_owned(),
            unit: unit.to_owned(),
            count: 1,
            p50: 200.0,
            p90: 1500.0,
            p99: 2.5e6,
            low: 1.0,
            high: 15_000.0,
            floor: Some("ping".to_owned()),
            ratio: Some(2.04),
            further: vec![Held { floor: "chain".to_owned(), ratio: 1.26 }],
        }
    }

    #[test]
    fn figures_are_in_the_unit_that_people_read() {
        let row = row("us");
        let shown = [row.p50, row.p90, row.high, row.p99].map(|value| figure(&row, value));
        assert_eq!(shown, ["200.0 µs", "1.50 ms", "15.0 ms", "2.50 s"]);
        assert_eq!(ratio(&row), "2.0 × ping, 1.3 × chain");
        let before = Measured { p50: 400.0, ..row.clone() };
        assert_eq!(beside(&row, Some(&before)), ["400.0 µs".to_owned(), "0.50".to_owned()]);
        assert_eq!(beside(&row, None), [String::new(), String::new()]);
    }

    #[test]
    fn every_row_is_explained() {
        let text = explained();
        assert!(ROWS.iter().all(|row| text.contains(row.what)));
    }
}
