//! A notebook as JSON: made from cells, or read, checked, given parameters and outputs, and written again.
//!
//! Runs in: server, on blocking threads. Pure. What it does not know in an existing notebook it leaves as it is.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::server::{
    output::numbers,
    sessions::{
        history::Recorded,
        outputs::{self, Output},
    },
};

/// What papermill calls the cell that holds defaults, and the one that it puts behind it.
const PARAMETERS: &str = "parameters";
const INJECTED: &str = "injected-parameters";
/// Cells that nbclient leaves out, and those that may raise.
const SKIP: &str = "skip-execution";
const RAISES: &str = "raises-exception";

/// Why something is no notebook that can be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotebookError {
    /// Not even JSON.
    #[error("{path} is not a notebook: it is not JSON ({reason})")]
    NotJson {
        /// The file.
        path: String,
        /// The parser's words.
        reason: String,
    },
    /// JSON of another shape.
    #[error("{path} is not a notebook: {reason}")]
    Shape {
        /// The file.
        path: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// A format that is no longer, or not yet, the one.
    #[error(
        "{path} is of nbformat {found}, and nbformat 4 is read here; older ones are upgraded when the session's environment \
         has nbformat: install_dependencies with packages [\"nbformat\"], then run it again"
    )]
    Version {
        /// The file.
        path: String,
        /// Its version.
        found: u64,
    },
    /// Not Python.
    #[error("{path} is a notebook for {language:?}, and sessions run Python")]
    Language {
        /// The file.
        path: String,
        /// What it says of itself.
        language: String,
    },
    /// A name that Python cannot assign to.
    #[error("parameter {0:?} is not a name that Python can assign to")]
    Parameter(String),
}

/// A notebook.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Document {
    root: Value,
    /// Displays that have a name: where they are, by cell and output.
    shown: Vec<(String, usize, usize)>,
}

impl Document {
    /// A new one, of a session's cells.
    #[must_use]
    pub(crate) fn new(session: &str, python: Option<&str>, cells: &[Recorded], left_out: u64) -> Self {
        let cells: Vec<Value> = cells
            .iter()
            .map(|cell| {
                let outputs: Vec<Value> = cell.outputs.iter().map(outputs::Output::json).collect();
                json!({
                    "cell_type": "code",
                    "id": format!("cell-{}", cell.number),
                    "metadata": {"execution": execution(cell)},
                    "execution_count": cell.number,
                    "source": outputs::lines(&cell.code),
                    "outputs": outputs,
                })
            })
            .collect();
        let mut language = json!({"name": "python", "file_extension": ".py", "mimetype": "text/x-python"});
        if let Some(version) = python {
            language["version"] = json!(version);
        }
        let root = json!({
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {
                "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
                "language_info": language,
                "forkpy": {"session": session, "cells_left_out": left_out},
            },
            "cells": cells,
        });
        Self { root, shown: Vec::new() }
    }

    /// Reads one, and makes it nbformat 4.5.
    ///
    /// # Errors
    /// [`NotebookError`], with what is missing or wrong.
    pub(crate) fn read(path: &str, text: &str) -> Result<Self, NotebookError> {
        let shape = |reason: String| NotebookError::Shape { path: path.to_owned(), reason };
        let mut root = numbers::read(text.strip_prefix('\u{feff}').unwrap_or(text))
            .map_err(|error| NotebookError::NotJson { path: path.to_owned(), reason: error.to_string() })?;
        let object = root.as_object_mut().ok_or_else(|| shape("it is not a JSON object".to_owned()))?;
        match object.get("nbformat").map(Value::as_u64) {
            None => return Err(shape("`nbformat` is missing".to_owned())),
            Some(Some(4)) => {}
            Some(Some(found)) => return Err(NotebookError::Version { path: path.to_owned(), found }),
            Some(None) => return Err(shape("`nbformat` is not a number".to_owned())),
        }
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        if !metadata.is_object() {
            return Err(shape("`metadata` is not an object".to_owned()));
        }
        let language = [&metadata["kernelspec"]["language"], &metadata["language_info"]["name"]];
        if let Some(other) =
            language.into_iter().filter_map(Value::as_str).find(|name| !name.trim().is_empty() && !is_python(name))
        {
            return Err(NotebookError::Language { path: path.to_owned(), language: other.to_owned() });
        }
        let cells = match object.get_mut("cells") {
            None => return Err(shape("`cells` is missing".to_owned())),
            Some(Value::Array(cells)) => cells,
            Some(_) => return Err(shape("`cells` is not a list".to_owned())),
        };
        for (index, cell) in cells.iter_mut().enumerate() {
            check_cell(cell).map_err(|reason| shape(format!("cell {index}: {reason}")))?;
        }
        give_ids(cells);
        let minor = object.get("nbformat_minor").and_then(Value::as_u64).unwrap_or(0).max(5);
        object.insert("nbformat_minor".to_owned(), json!(minor));
        Ok(Self { root, shown: Vec::new() })
    }

    /// Puts values behind the cell tagged `parameters`, or first, in the place of those of an earlier run.
    ///
    /// # Errors
    /// [`NotebookError::Parameter`].
    pub(crate) fn inject(&mut self, parameters: &Map<String, Value>) -> Result<(), NotebookError> {
        if parameters.is_empty() {
            return Ok(());
        }
        let mut source = "# Parameters\n".to_owned();
        for (name, value) in parameters {
            if !is_assignable(name) {
                return Err(NotebookError::Parameter(name.chars().take(100).collect()));
            }
            source += &format!("{name} = {}\n", literal(value));
        }
        let cells = self.cells_mut();
        cells.retain(|cell| !has_tag(cell, INJECTED));
        let place = cells.iter().position(|cell| has_tag(cell, PARAMETERS)).map_or(0, |place| place + 1);
        cells.insert(
            place,
            json!({
                "cell_type": "code",
                "metadata": {"tags": [INJECTED]},
                "execution_count": null,
                "source": outputs::lines(source.trim_end()),
                "outputs": [],
            }),
        );
        give_ids(cells);
        Ok(())
    }

    /// Cells to run, with their code; outputs of all code cells are taken away.
    pub(crate) fn begin(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (index, cell) in self.cells_mut().iter_mut().enumerate() {
            if cell["cell_type"] != "code" {
                continue;
            }
            for (key, none) in [("outputs", json!([])), ("execution_count", Value::Null)] {
                if cell.get(key).is_none() {
                    cell[key] = none;
                }
            }
            let code = text(&cell["source"]);
            // What is not run stays as it is, as with nbclient.
            if !code.trim().is_empty() && !has_tag(cell, SKIP) {
                cell["outputs"] = json!([]);
                cell["execution_count"] = Value::Null;
                steps.push(Step { index, code, may_raise: has_tag(cell, RAISES) });
            }
        }
        steps
    }

    /// What came of a cell.
    pub(crate) fn set(&mut self, index: usize, number: u64, outputs: &[outputs::Output]) {
        for (place, output) in outputs.iter().enumerate() {
            if let Some(name) = output.display_name() {
                self.shown.push((name.to_owned(), index, place));
            }
        }
        if let Some(cell) = self.cells_mut().get_mut(index) {
            cell["execution_count"] = if number == 0 { Value::Null } else { json!(number) };
            cell["outputs"] = outputs.iter().map(outputs::Output::json).collect();
        }
    }

    /// Takes out those that replace what an earlier cell displayed under their name, and puts them there.
    pub(crate) fn replace_shown(&mut self, new: &mut Vec<Output>) {
        let updates: Vec<Output> = new.extract_if(.., |output| output.is_update()).collect();
        for update in updates {
            let name = update.display_name().map(str::to_owned);
            let mut replaced = outputs::replace(new, &update);
            if let Some(name) = name {
                let shown = self.shown.iter().filter(|(shown, ..)| *shown == name);
                for (_, cell, place) in shown.cloned().collect::<Vec<_>>() {
                    let output = &mut self.root["cells"][cell]["outputs"][place];
                    let json = update.json();
                    output["data"] = json["data"].clone();
                    output["metadata"] = json["metadata"].clone();
                    replaced = true;
                }
            }
            if !replaced {
                new.push(update);
            }
        }
    }

    /// The file's text.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        // With one space, as Jupyter writes it, so that a notebook under version control changes where it has changed.
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        let written = serde::Serialize::serialize(&self.root, &mut serializer);
        let mut text = match written {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => self.root.to_string(),
        };
        text.push('\n');
        numbers::unmark(text)
    }

    /// All of it.
    #[must_use]
    pub(crate) fn value(&self) -> &Value {
        &self.root
    }

    fn cells_mut(&mut self) -> &mut Vec<Value> {
        let cells = &mut self.root["cells"];
        if !cells.is_array() {
            *cells = json!([]);
        }
        match cells {
            Value::Array(cells) => cells,
            _ => unreachable!("it has just been made an array"),
        }
    }
}

/// When a cell ran, as Jupyter's tools write it down.
fn execution(cell: &Recorded) -> Value {
    let begun = cell.ended.checked_sub(cell.ran).unwrap_or(cell.ended);
    let word = |time: Timestamp| format!("{time:.6}");
    json!({"iopub.execute_input": word(begun), "shell.execute_reply": word(cell.ended)})
}

/// A cell to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// Its place among all cells, from 0.
    pub(crate) index: usize,
    /// Its code.
    pub(crate) code: String,
    /// An exception is what it is there for.
    pub(crate) may_raise: bool,
}

fn check_cell(cell: &mut Value) -> Result<(), String> {
    let object = cell.as_object_mut().ok_or("it is not an object")?;
    match object.get("cell_type").and_then(Value::as_str) {
        Some("code" | "markdown" | "raw") => {}
        Some(other) => return Err(format!("`cell_type` is {other:?}")),
        None => return Err("`cell_type` is missing".to_owned()),
    }
    let is_text = |source: &Value| {
        source.is_string() || source.as_array().is_some_and(|lines| lines.iter().all(Value::is_string))
    };
    match object.get("source") {
        None => return Err("`source` is missing".to_owned()),
        Some(source) if !is_text(source) => return Err("`source` is neither text nor a list of lines".to_owned()),
        Some(_) => {}
    }
    if !object.entry("metadata").or_insert_with(|| json!({})).is_object() {
        return Err("`metadata` is not an object".to_owned());
    }
    Ok(())
}

/// Every cell of nbformat 4.5 has an id, no two the same.
fn give_ids(cells: &mut [Value]) {
    let mut known = HashSet::new();
    let mut next = 1;
    let is_id = |id: &str| {
        (1..=64).contains(&id.len()) && id.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_".contains(letter))
    };
    let given: HashSet<String> = cells.iter().filter_map(|cell| cell["id"].as_str().map(str::to_owned)).collect();
    for cell in cells {
        if let Some(id) = cell["id"].as_str()
            && is_id(id)
            && known.insert(id.to_owned())
        {
            continue;
        }
        let id = loop {
            let id = format!("forkpy-{next}");
            next += 1;
            if !given.contains(&id) && known.insert(id.clone()) {
                break id;
            }
        };
        cell["id"] = json!(id);
    }
}

fn has_tag(cell: &Value, tag: &str) -> bool {
    cell["metadata"]["tags"].as_array().is_some_and(|tags| tags.iter().any(|found| found == tag))
}

/// Text that may be in lines.
#[must_use]
pub(crate) fn text(source: &Value) -> String {
    match source {
        Value::String(text) => text.clone(),
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
        _ => String::new(),
    }
}

fn is_python(language: &str) -> bool {
    matches!(language.to_ascii_lowercase().as_str(), "python" | "python3" | "ipython" | "ipython3")
}

const KEYWORDS: [&str; 35] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del",
    "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal",
    "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
];

fn is_assignable(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first == '_' || first.is_alphabetic())
        && letters.all(|letter| letter == '_' || letter.is_alphanumeric())
        && !KEYWORDS.contains(&name)
        && name != "__debug__"
}

/// A JSON value as Python writes it.
fn literal(value: &Value) -> String {
    let join = |parts: Vec<String>| parts.join(", ");
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::String(text) if numbers::marked(text).is_some() => match numbers::marked(text) {
            Some("NaN") => "float(\"nan\")".to_owned(),
            Some("Infinity") => "float(\"inf\")".to_owned(),
            Some("-Infinity") => "float(\"-inf\")".to_owned(),
            number => number.unwrap_or_default().to_owned(),
        },
        // Numbers and strings of JSON are literals of Python too.
        Value::Number(_) | Value::String(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", join(items.iter().map(literal).collect())),
        Value::Object(items) => {
            let pair = |(key, value): (&String, &Value)| format!("{}: {}", json!(key), literal(value));
            format!("{{{}}}", join(items.iter().map(pair).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Result<Document, String> {
        Document::read("n.ipynb", &value.to_string()).map_err(|error| error.to_string())
    }

    fn code(source: &str, tags: &[&str]) -> Value {
        json!({"cell_type": "code", "source": source, "metadata": {"tags": tags}, "outputs": [], "execution_count": null})
    }

    #[test]
    fn what_is_no_notebook_is_told_by_what_is_wrong() {
        let cases = [
            (json!([]), "not a JSON object"),
            (json!({"cells": []}), "`nbformat` is missing"),
            (json!({"nbformat": "4", "cells": []}), "`nbformat` is not a number"),
            (json!({"nbformat": 3, "worksheets": []}), "nbformat 3"),
            (json!({"nbformat": 4}), "`cells` is missing"),
            (json!({"nbformat": 4, "cells": {}}), "`cells` is not a list"),
            (json!({"nbformat": 4, "cells": [5]}), "cell 0: it is not an object"),
            (json!({"nbformat": 4, "cells": [{}]}), "cell 0: `cell_type` is missing"),
            (json!({"nbformat": 4, "cells": [{"cell_type": "code"}]}), "`source` is missing"),
            (json!({"nbformat": 4, "cells": [{"cell_type": "code", "source": [1]}]}), "neither text"),
            (json!({"nbformat": 4, "cells": [{"cell_type": "heading", "source": ""}]}), "\"heading\""),
            (json!({"nbformat": 4, "cells": [], "metadata": {"kernelspec": {"language": "R"}}}), "\"R\""),
        ];
        for (value, words) in cases {
            let said = read(value.clone()).expect_err("refused");
            assert!(said.contains(words) && said.contains("n.ipynb"), "{value}: {said}");
        }
        assert!(Document::read("n.ipynb", "{").expect_err("refused").to_string().contains("not JSON"));
    }

    #[test]
    fn parameters_stand_behind_their_defaults_and_are_python() {
        let cells = json!([code("a = 1", &["parameters"]), code("old", &["injected-parameters"]), code("a", &[])]);
        let mut notebook = read(json!({"nbformat": 4, "nbformat_minor": 2, "cells": cells})).expect("a notebook");
        let Value::Object(parameters) = json!({"a": [null, true, 1.5, "x\n\"é"], "b": {"k": false}}) else { panic!() };
        notebook.inject(&parameters).expect("names");
        let steps = notebook.begin();
        assert_eq!(steps[1].code, "# Parameters\na = [None, True, 1.5, \"x\\n\\\"é\"]\nb = {\"k\": False}");
        assert_eq!((steps.len(), steps[2].code.as_str()), (3, "a"));
        assert_eq!(notebook.value()["nbformat_minor"], 5);
        let ids: HashSet<&str> = notebook.value()["cells"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|cell| cell["id"].as_str())
            .collect();
        assert_eq!(ids.len(), 3);
        for bad in ["", "1a", "a b", "class", "a.b", "a;import os"] {
            let parameters = Map::from_iter([(bad.to_owned(), json!(1))]);
            assert!(notebook.inject(&parameters).is_err(), "{bad:?}");
        }
    }
}
