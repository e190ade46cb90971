//! A cell's outcome as a notebook's outputs.
//!
//! Runs in: server. Pure.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use crate::{
    protocol::{CellError, Display},
    server::{
        output::captured::Method,
        sessions::outcome::{CellOutcome, Ending},
    },
};

/// One output.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// What it printed.
    Stream {
        /// `stdout` or `stderr`.
        name: &'static str,
        /// The text.
        text: String,
    },
    /// What it displayed, or its value.
    Shown {
        /// In which representations, and under which name.
        display: Display,
        /// Number of the cell whose value it is.
        result: Option<u64>,
    },
    /// How it failed.
    Error {
        /// Class of the exception.
        name: String,
        /// Its words.
        words: String,
        /// The traceback.
        traceback: String,
    },
}

/// All outputs of a cell, in the order a notebook shows them.
#[must_use]
pub fn of(outcome: &CellOutcome) -> Vec<Output> {
    let mut outputs = Vec::new();
    let mut stderr = outcome.stderr.text.as_str();
    if let Some(error) = &outcome.error {
        // It has an output of its own.
        stderr = stderr.strip_suffix(error.traceback.as_str()).unwrap_or(stderr);
    }
    for (name, text) in [("stdout", outcome.stdout.text.as_str()), ("stderr", stderr)] {
        if !text.is_empty() {
            outputs.push(Output::Stream { name, text: text.to_owned() });
        }
    }
    outputs.extend(
        outcome.displays.iter().map(|display| Output::Shown {
            display: display.clone(),
            result: display.is_result.then_some(outcome.cell),
        }),
    );
    outputs.extend(
        outcome.results.iter().map(|text| Output::Shown { display: plain(text.clone()), result: Some(outcome.cell) }),
    );
    outputs.extend(failure(outcome));
    outputs
}

fn plain(text: String) -> Display {
    Display { is_result: true, id: None, update: false, text, metadata: String::new(), data: Vec::new() }
}

fn failure(outcome: &CellOutcome) -> Option<Output> {
    if let Some(CellError { kind, message, traceback, .. }) = &outcome.error {
        return Some(Output::Error { name: kind.clone(), words: message.clone(), traceback: traceback.clone() });
    }
    let (name, words) = match &outcome.ending {
        Ending::TimedOut { limit, .. } => ("TimeoutError", format!("the limit of {} s was over", limit.as_secs_f64())),
        Ending::CpuUsedUp { .. } => ("TimeoutError", "its processor time was used up".to_owned()),
        Ending::Cancelled { method: Method::NotStarted } | Ending::Refused { .. } | Ending::Finished => return None,
        Ending::Cancelled { .. } | Ending::Interrupted => ("KeyboardInterrupt", "the cell was interrupted".to_owned()),
        Ending::Died(death) => ("DeadKernelError", format!("the worker {}", death.describe())),
        Ending::Exited(code) => ("SystemExit", code.to_string()),
        Ending::Raised => ("Exception", "the cell raised".to_owned()),
    };
    let traceback = format!("{name}: {words}");
    Some(Output::Error { name: name.to_owned(), words, traceback })
}

/// Puts an update into the place of what was displayed under its name; false when there is none.
pub fn replace(outputs: &mut [Output], update: &Output) -> bool {
    let Output::Shown { display: new, .. } = update else { return false };
    let mut found = false;
    for output in outputs {
        if let Output::Shown { display, .. } = output
            && display.id.is_some()
            && display.id == new.id
        {
            *display = Display { is_result: display.is_result, update: false, ..new.clone() };
            found = true;
        }
    }
    found
}

impl Output {
    /// Bytes that it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Stream { text, .. } => text.len(),
            Self::Shown { display, .. } => {
                let data: usize = display.data.iter().map(|data| data.bytes.len() + data.mime.len()).sum();
                display.text.len() + display.metadata.len() + data
            }
            Self::Error { words, traceback, .. } => words.len() + traceback.len(),
        }
    }

    /// It is to replace what an earlier cell displayed.
    #[must_use]
    pub fn is_update(&self) -> bool {
        matches!(self, Self::Shown { display, .. } if display.update)
    }

    /// The name by which it can be replaced.
    #[must_use]
    pub fn display_name(&self) -> Option<&str> {
        match self {
            Self::Shown { display, .. } => display.id.as_deref(),
            Self::Stream { .. } | Self::Error { .. } => None,
        }
    }

    /// Keeps of a display only its text, and where its data is; false when there is nothing to leave out.
    pub fn leave_out_data(&mut self) -> bool {
        let Self::Shown { display, .. } = self else { return false };
        let large = display.data.iter_mut().filter(|data| !data.bytes.is_empty());
        large.map(|data| data.bytes = Vec::new()).count() > 0
    }

    /// As nbformat has it.
    #[must_use]
    pub fn json(&self) -> Value {
        match self {
            Self::Stream { name, text } => json!({"output_type": "stream", "name": name, "text": lines(text)}),
            Self::Error { name, words, traceback } => {
                let traceback: Vec<&str> = traceback.lines().collect();
                json!({"output_type": "error", "ename": name, "evalue": words, "traceback": traceback})
            }
            Self::Shown { display, result } => {
                let metadata = serde_json::from_str::<Value>(&display.metadata).ok().filter(Value::is_object);
                let mut output = json!({"data": bundle(display), "metadata": metadata.unwrap_or_else(|| json!({}))});
                match result {
                    Some(number) => {
                        output["output_type"] = json!("execute_result");
                        output["execution_count"] = json!(number);
                    }
                    None => output["output_type"] = json!("display_data"),
                }
                output
            }
        }
    }
}

/// The mime bundle.
fn bundle(display: &Display) -> Map<String, Value> {
    let mut bundle = Map::new();
    let mut elsewhere = Vec::new();
    for data in &display.data {
        if data.bytes.is_empty() {
            elsewhere.extend(data.file.as_ref().map(|file| format!("[{}: in {file}]", data.mime)));
            continue;
        }
        let value = match text_of(&data.mime, &data.bytes) {
            Some(text) if is_json(&data.mime) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
            Some(text) => lines(text),
            None => json!(STANDARD.encode(&data.bytes)),
        };
        bundle.insert(data.mime.clone(), value);
    }
    if !bundle.contains_key("text/plain") {
        let text = if display.text.is_empty() { elsewhere.join("\n") } else { display.text.clone() };
        if !text.is_empty() || bundle.is_empty() {
            bundle.insert("text/plain".to_owned(), lines(&text));
        }
    }
    bundle
}

fn is_json(mime: &str) -> bool {
    mime == "application/json" || mime.ends_with("+json")
}

/// Text stands as text in a notebook, the rest in base64.
fn text_of<'a>(mime: &str, bytes: &'a [u8]) -> Option<&'a str> {
    let is_text = mime.starts_with("text/") || is_json(mime) || mime.ends_with("+xml") || mime.ends_with("javascript");
    if is_text { std::str::from_utf8(bytes).ok() } else { None }
}

/// A text as notebooks keep it: its lines, each with its end.
#[must_use]
pub fn lines(text: &str) -> Value {
    text.split_inclusive('\n').collect::<Vec<_>>().into()
}
