//! A notebook as one page that needs nothing else.
//!
//! Runs in: server, on blocking threads. Pure. Everything of the notebook is escaped. HTML and SVG that cells displayed are
//! shown where no script of theirs can run: in a sandboxed frame, and as an image; the page's own policy forbids scripts
//! and loading anything from anywhere.

use std::fmt::Write as _;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::document::{Document, text};

const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
<meta name=\"viewport\" content=\"width=device-width\">\n";
const STYLE: &str = "<style>\n\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }\n\
pre { font: 13px/1.45 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; padding: .6rem .8rem; }\n\
.code { background: #f5f6f8; border: 1px solid #dfe2e8; border-radius: 4px; }\n\
.cell { margin: 0 0 1.4rem; } .number { color: #778; font-size: 12px; }\n\
.stderr { background: #fdf4e7; } .error { background: #fdecec; color: #8a1f1f; }\n\
img { max-width: 100%; margin: .6rem .8rem; } iframe { width: 100%; height: 24rem; border: 1px solid #dfe2e8; resize: vertical; }\n\
</style>\n";
/// Pictures that a page can hold as they are.
const PICTURES: [&str; 4] = ["image/png", "image/jpeg", "image/gif", "image/webp"];

/// The page.
#[must_use]
pub fn page(title: &str, notebook: &Document) -> String {
    let mut page = format!("{HEAD}<title>{}</title>\n{STYLE}</head>\n<body>\n", escape(title));
    for cell in notebook.value()["cells"].as_array().into_iter().flatten() {
        page.push_str("<div class=\"cell\">\n");
        let source = escape(&text(&cell["source"]));
        if cell["cell_type"] == "code" {
            let number = cell["execution_count"].as_u64().map(|number| number.to_string()).unwrap_or_default();
            let _ = write!(page, "<div class=\"number\">[{number}]</div>\n<pre class=\"code\">{source}</pre>\n");
        } else {
            let _ = writeln!(page, "<pre>{source}</pre>");
        }
        for output in cell["outputs"].as_array().into_iter().flatten() {
            add(&mut page, output);
        }
        page.push_str("</div>\n");
    }
    page.push_str("</body>\n</html>\n");
    page
}

fn add(page: &mut String, output: &Value) {
    match output["output_type"].as_str() {
        Some("stream") => {
            let class = if output["name"] == "stderr" { "stderr" } else { "stdout" };
            let _ = writeln!(page, "<pre class=\"{class}\">{}</pre>", escape(&text(&output["text"])));
        }
        Some("error") => {
            let lines: Vec<&str> =
                output["traceback"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let _ = writeln!(page, "<pre class=\"error\">{}</pre>", escape(&lines.join("\n")));
        }
        _ => show(page, &output["data"]),
    }
}

/// The best representation that a page without scripts can show.
fn show(page: &mut String, data: &Value) {
    let words = text(&data["text/plain"]);
    if let Some(mime) = PICTURES.into_iter().find(|mime| data.get(mime).is_some()) {
        let encoded: String = text(&data[mime]).chars().filter(|letter| !letter.is_whitespace()).collect();
        let _ = writeln!(page, "<img alt=\"{}\" src=\"data:{mime};base64,{}\">", escape(&words), escape(&encoded));
    } else if data.get("image/svg+xml").is_some() {
        let encoded = STANDARD.encode(text(&data["image/svg+xml"]));
        let _ = writeln!(page, "<img alt=\"{}\" src=\"data:image/svg+xml;base64,{encoded}\">", escape(&words));
    } else if data.get("text/html").is_some() {
        let inner = escape(&text(&data["text/html"]));
        let _ = writeln!(page, "<iframe sandbox=\"\" srcdoc=\"{inner}\"></iframe>");
    } else {
        let readable = ["text/markdown", "text/latex"].iter().find(|mime| data.get(**mime).is_some());
        let words = readable.map_or(words, |mime| text(&data[*mime]));
        let _ = writeln!(page, "<pre>{}</pre>", escape(&words));
    }
}

/// For text and for attributes in quotes. Control characters that HTML has no place for become visible marks.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(letter),
            '\r' => {}
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_of_a_notebook_becomes_markup() {
        let evil = "</pre></iframe><script>alert(1)</script>\" onload='x' \u{0}";
        let bundle = |mime: &str| json!({"output_type": "display_data", "metadata": {}, "data": {mime: evil, "text/plain": evil}});
        let mut outputs: Vec<Value> =
            ["text/plain", "text/html", "image/png", "image/svg+xml", "text/markdown", "x/y"].map(bundle).into();
        outputs.push(json!({"output_type": "stream", "name": evil, "text": evil}));
        outputs.push(json!({"output_type": "error", "ename": evil, "evalue": evil, "traceback": [evil]}));
        let cells = json!([
            {"cell_type": "code", "source": evil, "outputs": outputs, "execution_count": 1, "metadata": {}},
            {"cell_type": "markdown", "source": evil, "metadata": {}},
        ]);
        let text = json!({"nbformat": 4, "cells": cells}).to_string();
        let page = page(evil, &Document::read("n", &text).expect("a notebook"));
        assert!(!page.contains("<script") && !page.contains("onload='x'") && !page.contains('\u{0}'), "{page}");
        assert_eq!(page.matches("</iframe>").count(), 1);
        assert!(page.contains("&lt;script&gt;"));
    }
}
