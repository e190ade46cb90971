//! A cell's outcome as a notebook's outputs.
//!
//! Runs in: server. Pure.

use serde::{Deserialize, Serialize};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use crate::{
    protocol::{CellError, Display, PlainResult, Representation},
    server::{
        output::{
            captured::{CapturedText, Method},
            marks::{Mark, MarkKind},
            numbers,
        },
        sessions::outcome::{CellOutcome, Ending},
    },
};

const PLAIN: &str = "text/plain";

/// Text of one stream that stays where a notebook's outputs are too many.
const SHORT: usize = 40_000;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Output {
    Stream {
        name: &'static str,
        text: String,
        /// Where the whole of it is, when `text` is not all.
        whole: Option<Part>,
    },
    /// What it displayed, or its value.
    Shown {
        /// In which representations, and under which name.
        display: Display,
        /// Number of the cell whose value it is.
        result: Option<u64>,
    },
    Error {
        /// Class of the exception.
        name: String,
        words: String,
        traceback: String,
    },
}

/// A part of a file with a stream's whole output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Relative to the workspace.
    pub file: String,
    /// First byte.
    pub from: u64,
    /// The byte behind the last.
    pub to: u64,
}

/// All outputs of a cell, in the order in which they came.
#[must_use]
pub(crate) fn of(outcome: &CellOutcome) -> Vec<Output> {
    // The traceback has an output of its own.
    let traceback = outcome.error.as_ref().map_or("", |error| error.traceback.as_str());
    let mut sequence = Sequence {
        streams: [Rest::new("stdout", &outcome.stdout, ""), Rest::new("stderr", &outcome.stderr, traceback)],
        outputs: Vec::new(),
        clears: false,
    };
    let shown = |display: &Display| Output::Shown {
        display: display.clone(),
        result: display.is_result.then_some(outcome.cell),
    };
    let (late, early): (Vec<&Display>, Vec<&Display>) = outcome.displays.iter().partition(|display| display.late);
    for display in early {
        sequence.go_to(Some(display.serial));
        sequence.add(shown(display));
    }
    sequence.go_to(None);
    for value in &outcome.results {
        sequence.add(Output::Shown { display: plain(value.clone()), result: Some(outcome.cell) });
    }
    if let Some(failure) = failure(outcome) {
        sequence.add(failure);
    }
    late.into_iter().for_each(|display| sequence.add(shown(display)));
    sequence.outputs
}

/// The outputs of a cell, as far as they have been put in order.
struct Sequence<'a> {
    streams: [Rest<'a>; 2],
    outputs: Vec<Output>,
    /// The next output takes back what there is.
    clears: bool,
}

/// What is left of a stream.
struct Rest<'a> {
    name: &'static str,
    text: &'a str,
    marks: &'a [(usize, Mark)],
    done: usize,
    filed: Option<Filed<'a>>,
}

/// The same in the file with the whole.
struct Filed<'a> {
    file: &'a str,
    /// Where the marks are in it.
    marks: &'a [u64],
    done: u64,
    end: u64,
}

impl<'a> Rest<'a> {
    /// All of a stream, but for what it ends with.
    fn new(name: &'static str, stream: &'a CapturedText, without: &str) -> Self {
        let text = stream.text.strip_suffix(without).unwrap_or(&stream.text);
        let end = stream.file_size.saturating_sub((stream.text.len() - text.len()) as u64);
        let filed = stream.file.as_deref().map(|file| Filed { file, marks: &stream.marks_in_file, done: 0, end });
        Self { name, text, marks: &stream.marks, done: 0, filed }
    }

    /// Takes what was printed before the mark of this number, or all, and forgets the marks up to it.
    fn take(&mut self, serial: Option<u64>) -> Option<Output> {
        let behind =
            serial.map_or(self.marks.len(), |serial| self.marks.partition_point(|(_, mark)| mark.serial <= serial));
        let end = match serial {
            None => self.text.len(),
            // Its own mark; where that is missing, that of what was displayed before it.
            Some(_) => self.marks[..behind].last().map_or(self.done, |(at, _)| *at),
        };
        self.marks = &self.marks[behind..];
        let end = self.text.floor_char_boundary(end.clamp(self.done, self.text.len().max(self.done)));
        let text = self.text.get(self.done..end).unwrap_or_default().to_owned();
        self.done = end;
        let whole = self.filed.as_mut().and_then(|filed| filed.take(serial.is_some().then_some(behind)));
        (!text.is_empty() || whole.is_some()).then_some(Output::Stream { name: self.name, text, whole })
    }
}

impl Filed<'_> {
    /// What is before the last of so many marks, or all.
    fn take(&mut self, behind: Option<usize>) -> Option<Part> {
        let to = match behind {
            None => self.end,
            Some(count) => {
                let (taken, left) = self.marks.split_at(count.min(self.marks.len()));
                self.marks = left;
                taken.last().map_or(self.done, |at| (*at).clamp(self.done, self.end.max(self.done)))
            }
        };
        let from = std::mem::replace(&mut self.done, to);
        (from < to).then(|| Part { file: self.file.to_owned(), from, to })
    }
}

impl Sequence<'_> {
    /// Adds what was printed up to the display of this number, or all; clearings before it are done.
    fn go_to(&mut self, serial: Option<u64>) {
        let is_before = |mark: &Mark| serial.is_none_or(|serial| mark.serial < serial);
        let next = |streams: &[Rest<'_>; 2]| {
            let first = |rest: &Rest<'_>| rest.marks.iter().find(|(_, mark)| mark.kind != MarkKind::Display).copied();
            streams.iter().filter_map(first).map(|(_, mark)| mark).filter(is_before).min_by_key(|mark| mark.serial)
        };
        while let Some(clearing) = next(&self.streams) {
            self.print(Some(clearing.serial));
            match clearing.kind {
                MarkKind::Clear => self.outputs.clear(),
                MarkKind::ClearLater => self.clears = true,
                MarkKind::Display => {}
            }
        }
        self.print(serial);
    }

    fn print(&mut self, serial: Option<u64>) {
        for place in 0..self.streams.len() {
            if let Some(printed) = self.streams[place].take(serial) {
                self.add(printed);
            }
        }
    }

    fn add(&mut self, output: Output) {
        if std::mem::take(&mut self.clears) {
            self.outputs.clear();
        }
        match (self.outputs.last_mut(), output) {
            (
                Some(Output::Stream { name, text, whole }),
                Output::Stream { name: next, text: more, whole: more_of_whole },
            ) if *name == next => {
                text.push_str(&more);
                match (whole, more_of_whole) {
                    (Some(whole), Some(more)) => whole.to = more.to,
                    (whole, Some(more)) => *whole = Some(more),
                    (_, None) => {}
                }
            }
            (_, output) => self.outputs.push(output),
        }
    }
}

/// A value of which there is text only. Where that is not all of it, the rest is a representation that is in a file.
fn plain(value: PlainResult) -> Display {
    let elsewhere = |file| Representation { mime: PLAIN.to_owned(), file: Some(file), bytes: Vec::new() };
    Display {
        is_result: true,
        id: None,
        update: false,
        serial: 0,
        late: false,
        text: value.text,
        metadata: String::new(),
        data: value.whole.map(elsewhere).into_iter().collect(),
    }
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
pub(crate) fn replace(outputs: &mut [Output], update: &Output) -> bool {
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
    /// The text that stands for a value, and the file that has all of it when the text is not all.
    pub(crate) fn shortened(&mut self) -> Option<(&mut String, String)> {
        let Self::Shown { display: Display { text, data, .. }, result: Some(_) } = self else { return None };
        let is_elsewhere = |data: &&Representation| data.mime == PLAIN && data.bytes.is_empty();
        let file = data.iter().find(is_elsewhere)?.file.clone()?;
        Some((text, file))
    }

    /// Bytes that it takes.
    #[must_use]
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Stream { text, .. } => text.len(),
            Self::Shown { display, .. } => {
                let data: usize = display.data.iter().map(|data| data.bytes.len() + data.mime.len()).sum();
                display.text.len() + display.metadata.len() + data
            }
            Self::Error { words, traceback, .. } => words.len() + traceback.len(),
        }
    }

    /// It has nothing to show: what it stands for is in a file alone.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Stream { text, .. } if text.is_empty())
    }

    /// It is to replace what an earlier cell displayed.
    #[must_use]
    pub(crate) fn is_update(&self) -> bool {
        matches!(self, Self::Shown { display, .. } if display.update)
    }

    /// The name by which it can be replaced.
    #[must_use]
    pub(crate) fn display_name(&self) -> Option<&str> {
        match self {
            Self::Shown { display, .. } => display.id.as_deref(),
            Self::Stream { .. } | Self::Error { .. } => None,
        }
    }

    /// Keeps of a display only its text, and where its data is, and of a long text its begin; false when there is nothing
    /// to leave out.
    pub(crate) fn leave_out_data(&mut self) -> bool {
        let display = match self {
            Self::Shown { display, .. } => display,
            Self::Stream { text, whole, .. } if text.len() > SHORT => {
                *whole = None;
                let left_out = text.len() - SHORT;
                text.truncate(text.floor_char_boundary(SHORT));
                text.push_str(&format!("\n[... {left_out} bytes left out ...]\n"));
                return true;
            }
            Self::Stream { .. } | Self::Error { .. } => return false,
        };
        let large = display.data.iter_mut().filter(|data| !data.bytes.is_empty());
        large.map(|data| data.bytes = Vec::new()).count() > 0
    }

    /// As nbformat has it.
    #[must_use]
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Stream { name, text, .. } => json!({"output_type": "stream", "name": name, "text": lines(text)}),
            Self::Error { name, words, traceback } => {
                let traceback: Vec<&str> = traceback.lines().collect();
                json!({"output_type": "error", "ename": name, "evalue": words, "traceback": traceback})
            }
            Self::Shown { display, result } => {
                let metadata = numbers::read(&display.metadata).ok().filter(Value::is_object);
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

fn bundle(display: &Display) -> Map<String, Value> {
    let mut bundle = Map::new();
    let mut elsewhere = Vec::new();
    for data in &display.data {
        if data.bytes.is_empty()
            && let Some(file) = &data.file
        {
            elsewhere.push(format!("[{}: in {file}]", data.mime));
            continue;
        }
        let value = match text_of(&data.mime, &data.bytes) {
            Some(text) if is_json(&data.mime) => numbers::read(text).unwrap_or_else(|_| json!(text)),
            Some(text) => lines(text),
            None => json!(STANDARD.encode(&data.bytes)),
        };
        bundle.insert(data.mime.clone(), value);
    }
    if !bundle.contains_key(PLAIN) {
        let text = if display.text.is_empty() { elsewhere.join("\n") } else { display.text.clone() };
        if !text.is_empty() || bundle.is_empty() {
            bundle.insert(PLAIN.to_owned(), lines(&text));
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
pub(crate) fn lines(text: &str) -> Value {
    text.split_inclusive('\n').collect::<Vec<_>>().into()
}
