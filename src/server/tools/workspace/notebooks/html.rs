//! A notebook as one page that needs nothing else.
//!
//! Runs in: server, on blocking threads. Pure. Text is escaped, HTML in Markdown too; HTML and SVG that cells displayed are
//! shown where no script of theirs can run, in a sandboxed frame and as an image; the page's own policy forbids scripts and
//! loading anything from anywhere.

use std::fmt::Write as _;

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    document::{Document, text},
    markup::{ansi, escape, markdown, python},
};

const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
<meta name=\"viewport\" content=\"width=device-width\">\n<meta name=\"color-scheme\" content=\"light dark\">\n";
const STYLE: &str = include_str!("page.css");
/// What a frame begins with: a table in it looks as the page's own.
const FRAME: &str = "<style>:root{color-scheme:light dark}body{font:13px/19px system-ui,sans-serif;margin:4px;color:CanvasText}\
table{border-collapse:collapse;border:0;font-variant-numeric:tabular-nums}th,td{padding:4px 11px;border:0;text-align:right;\
vertical-align:top;white-space:nowrap}thead th{border-bottom:1px solid GrayText}tbody tr:nth-child(even){background:#8881}\
p{margin:6px 0}@media print{*{print-color-adjust:exact;-webkit-print-color-adjust:exact}table{font-size:9px}\
th,td{white-space:normal;padding:2px 5px}}</style>";
/// Pictures that a page can hold as they are.
const PICTURES: [&str; 4] = ["image/png", "image/jpeg", "image/gif", "image/webp"];
/// Least and greatest height of a frame, in lines, the height of a line, which is a table's row, and of what is around a table.
const FRAME_LINES: (usize, usize) = (2, 70);
const FRAME_LINE: usize = 27;
const AROUND: usize = 24;

/// The page.
#[must_use]
pub(crate) fn page(title: &str, notebook: &Document) -> String {
    let title = escape(title);
    let mut page = format!("{HEAD}<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n");
    for cell in notebook.value()["cells"].as_array().into_iter().flatten() {
        let source = text(&cell["source"]);
        match cell["cell_type"].as_str() {
            Some("code") => add_code(&mut page, cell, &source),
            Some("markdown") => {
                let rendered = markdown(&source, |name| attachment(cell, name));
                let _ = writeln!(page, "<section class=\"words\">\n{rendered}</section>");
            }
            _ => {
                let _ = writeln!(page, "<section><pre>{}</pre></section>", escape(&source));
            }
        }
    }
    page.push_str("</body>\n</html>\n");
    page
}

fn add_code(page: &mut String, cell: &Value, source: &str) {
    let number = cell["execution_count"].as_u64().map_or_else(|| " ".to_owned(), |number| number.to_string());
    let time =
        seconds(cell).map_or_else(String::new, |seconds| format!("<span class=\"time\">{}</span>", lasting(seconds)));
    let code = python(source);
    let _ = writeln!(
        page,
        "<section class=\"cell\">\n<div class=\"number\">[{number}]{time}</div>\n<pre class=\"code\">{code}</pre>"
    );
    for output in cell["outputs"].as_array().into_iter().flatten() {
        add(page, output);
    }
    page.push_str("</section>\n");
}

/// How long a cell ran, as Jupyter's tools write it down.
fn seconds(cell: &Value) -> Option<f64> {
    let execution = &cell["metadata"]["execution"];
    let time = |key: &str| execution[key].as_str()?.parse::<Timestamp>().ok();
    let begun = time("iopub.execute_input").or_else(|| time("iopub.status.busy"))?;
    let ended = time("shell.execute_reply").or_else(|| time("iopub.status.idle"))?;
    Some(ended.duration_since(begun).as_secs_f64())
}

fn lasting(seconds: f64) -> String {
    match seconds {
        _ if seconds < 0.0005 => "under 1 ms".to_owned(),
        _ if seconds < 1.0 => format!("{:.0} ms", seconds * 1000.0),
        _ if seconds < 100.0 => format!("{seconds:.1} s"),
        _ => format!("{:.0} min {:.0} s", (seconds / 60.0).floor(), seconds % 60.0),
    }
}

fn attachment(cell: &Value, name: &str) -> Option<String> {
    let bundle = cell["attachments"][name].as_object()?;
    let (mime, data) = bundle.iter().find(|(mime, _)| PICTURES.contains(&mime.as_str()))?;
    Some(format!("data:{mime};base64,{}", text(data).split_whitespace().collect::<String>()))
}

fn add(page: &mut String, output: &Value) {
    match output["output_type"].as_str() {
        Some("stream") => {
            let class = if output["name"] == "stderr" { "stderr" } else { "stdout" };
            let _ = writeln!(page, "<pre class=\"{class}\">{}</pre>", ansi(&text(&output["text"])));
        }
        Some("error") => {
            let lines: Vec<&str> =
                output["traceback"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let _ = writeln!(page, "<pre class=\"error\">{}</pre>", ansi(&lines.join("\n")));
        }
        _ => show(page, &output["data"]),
    }
}

/// The best representation that a page without scripts can show.
fn show(page: &mut String, data: &Value) {
    let words = text(&data["text/plain"]);
    let html = data.get("text/html").map(text);
    if let Some(mime) = PICTURES.into_iter().find(|mime| data.get(mime).is_some()) {
        let encoded: String = text(&data[mime]).chars().filter(|letter| !letter.is_whitespace()).collect();
        let _ = writeln!(page, "<img alt=\"{}\" src=\"data:{mime};base64,{}\">", escape(&words), escape(&encoded));
    } else if data.get("image/svg+xml").is_some() {
        let encoded = STANDARD.encode(text(&data["image/svg+xml"]));
        let _ = writeln!(page, "<img alt=\"{}\" src=\"data:image/svg+xml;base64,{encoded}\">", escape(&words));
    } else if let Some(html) = html.filter(|html| !html.trim().is_empty()) {
        show_html(page, &html, &words);
    } else if let Some(markup) = data.get("text/markdown").or_else(|| data.get("text/latex")) {
        let _ = writeln!(page, "<div class=\"words\">{}</div>", markdown(&text(markup), |_| None));
    } else if needs_scripts(data) {
        unable(page, &words);
    } else {
        let _ = writeln!(page, "<pre>{}</pre>", ansi(&words));
    }
}

fn needs_scripts(data: &Value) -> bool {
    let is_code = |mime: &String| mime.contains("javascript") || mime.starts_with("application/vnd.");
    data.as_object().is_some_and(|data| data.keys().any(is_code))
}

/// A line in the place of what only a script could draw.
fn unable(page: &mut String, words: &str) {
    let words = if words.trim().is_empty() { "a figure" } else { words.trim() };
    let _ = writeln!(
        page,
        "<p class=\"unable\">{} <em>(it needs scripts, which this page has none of: open the notebook itself)</em></p>",
        escape(words)
    );
}

fn show_html(page: &mut String, html: &str, words: &str) {
    let lower = html.to_ascii_lowercase();
    let has = |tag: &str| lower.contains(tag);
    if ["<script", "<canvas", "<iframe", "<object", "<embed"].into_iter().any(has) {
        return unable(page, words);
    }
    let count = |tags: &[&str]| tags.iter().map(|tag| lower.matches(tag).count()).sum::<usize>();
    // What is in a table's cells is on the lines of its rows.
    let is_table = has("<tr");
    let lines = if is_table { count(&["<tr", "<p>", "<br"]) } else { count(&["<br", "<li", "<p", "<div", "<h"]) + 1 };
    let height = lines.clamp(FRAME_LINES.0, FRAME_LINES.1) * FRAME_LINE + if is_table { AROUND } else { 0 };
    let inner = escape(&format!("{FRAME}{html}"));
    let _ = writeln!(
        page,
        "<iframe sandbox=\"\" title=\"{}\" style=\"height:{height}px\" srcdoc=\"{inner}\"></iframe>",
        escape(words.lines().next().unwrap_or_default()),
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(cells: &Value) -> String {
        let text = json!({"nbformat": 4, "cells": cells}).to_string();
        page("title", &Document::read("n", &text).expect("a notebook"))
    }

    fn shown(data: &Value) -> String {
        let output = json!({"output_type": "display_data", "metadata": {}, "data": data});
        of(&json!([{"cell_type": "code", "source": "x", "outputs": [output], "metadata": {}}]))
    }

    #[test]
    fn nothing_of_a_notebook_becomes_a_script() {
        let evil = "</pre></iframe><script>alert(1)</script>\" onload='x' <b onclick=alert(2)>x</b> \u{0}";
        let bundle = |mime: &str| json!({"output_type": "display_data", "metadata": {}, "data": {mime: evil, "text/plain": evil}});
        let mut outputs: Vec<Value> =
            ["text/plain", "text/html", "image/png", "image/svg+xml", "text/markdown", "text/latex", "x/y"]
                .map(bundle)
                .into();
        outputs.push(json!({"output_type": "display_data", "metadata": {}, "data": {"text/html": "<b onclick='x'>bold</b><table></table>"}}));
        outputs.push(json!({"output_type": "display_data", "metadata": {}, "data": {"text/html": "<style>b{}</style>\"></iframe><b>"}}));
        outputs.push(json!({"output_type": "stream", "name": evil, "text": evil}));
        outputs.push(json!({"output_type": "error", "ename": evil, "evalue": evil, "traceback": [evil]}));
        let cells = json!([
            {"cell_type": "code", "source": evil, "outputs": outputs, "execution_count": 1, "metadata": {}},
            {"cell_type": "markdown", "source": evil, "metadata": {}},
            {"cell_type": "raw", "source": evil, "metadata": {}},
        ]);
        let page = of(&cells);
        assert!(!page.contains("<script") && !page.contains("onclick=\"") && !page.contains('\u{0}'), "{page}");
        assert!(!page.contains("<b onclick"), "{page}");
        assert_eq!(page.matches("</iframe>").count(), 2);
        assert!(page.contains("&lt;script&gt;") && page.contains("&lt;b onclick"), "{page}");
    }

    #[test]
    fn tables_have_their_height_and_figures_of_scripts_are_named() {
        let table = shown(
            &json!({"text/html": "<div>\n<style scoped>\n.dataframe {}\n</style>\n<table border=\"1\" class=\"dataframe\"><tr><td>7</td></tr></table></div>"}),
        );
        assert!(table.contains("&lt;td&gt;7&lt;/td&gt;") && table.contains("style=\"height:78px\""), "{table}");
        let styled = shown(&json!({"text/html": "<style>#T {color: red}</style><table><tr><td>7</td></tr></table>"}));
        assert!(styled.contains("<iframe") && styled.contains("style=\"height:"), "{styled}");
        let figure =
            shown(&json!({"text/html": "<div></div><script>draw()</script>", "text/plain": "<plotly figure 'x'>"}));
        assert!(figure.contains("&lt;plotly figure &#39;x&#39;&gt; <em>(it needs scripts"), "{figure}");
    }

    #[test]
    fn timings_and_attachments_are_on_the_page() {
        let times = json!({"iopub.execute_input": "2026-01-01T00:00:00.000Z", "shell.execute_reply": "2026-01-01T00:00:01.260Z"});
        let cells = json!([
            {"cell_type": "code", "source": "x", "outputs": [], "metadata": {"execution": times}},
            {"cell_type": "markdown", "source": "![p](attachment:p.png)", "metadata": {}, "attachments": {"p.png": {"image/png": "AAAA"}}},
        ]);
        let page = of(&cells);
        assert!(
            page.contains("<span class=\"time\">1.3 s</span>") && page.contains("data:image/png;base64,AAAA"),
            "{page}"
        );
    }
}
