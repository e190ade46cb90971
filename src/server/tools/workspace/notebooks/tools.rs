//! `export_notebook` and `run_notebook`.
//!
//! Runs in: server. Brings sessions, files and the notebook format together; what may be large is read and written on
//! blocking threads.

use std::{sync::Arc, time::Instant};

use rmcp::model::{ContentBlock, JsonObject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    document::{Document, NotebookError, Step},
    gallery::Gallery,
    html, upgrade, whole,
};
use crate::{
    protocol::NotebookCell,
    server::{
        output::peephole::Past,
        sessions::{
            handle::Session,
            orders::{CellOrder, SessionError},
            outcome::{CellOutcome, Ending, Fate},
            outputs::{self, Output},
        },
        tools::{
            call::{
                arguments,
                error::ToolError,
                notices,
                patience::ahead,
                reply::Reply,
                request::Call,
                server::{Server, blocking},
                sight::{Doing, Sight},
                texts::{MAX_REPLY, fit_within, section},
            },
            cells::{
                pictures::{self, Picture},
                reply,
                result::CellException,
            },
        },
        workers::zygote::Stage,
        workspace::{
            handle::Files,
            write::{Body, Written},
        },
    },
    settings::bounds::MAX_CODE,
};

/// Largest notebook that is read.
const MAX_NOTEBOOK: u64 = 64 << 20;

/// Bytes of outputs that are kept of one run; pictures and displays beyond them are left out.
const MAX_OUTPUTS: usize = 64 << 20;

/// Failures that a reply names.
const MAX_FAILURES: usize = 20;

/// `export_notebook`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ExportNotebook {
    /// Default `outputs/SESSION.ipynb`.
    pub(crate) path: Option<String>,
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
    /// Default: by the ending of path.
    pub(crate) format: Option<Format>,
}

/// Of an exported notebook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// nbformat 4.5.
    Ipynb,
    /// One page.
    Html,
}

/// `run_notebook`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RunNotebook {
    /// Notebook (.ipynb), relative to the workspace.
    pub(crate) path: String,
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
    /// Values by name, set behind the cell tagged `parameters`.
    pub(crate) parameters: Option<JsonObject>,
    /// When a cell raises. Default stop.
    pub(crate) on_error: Option<OnError>,
    /// Where it is written. Default: over itself.
    pub(crate) output_path: Option<String>,
    /// Seconds each cell may run.
    pub(crate) timeout: Option<f64>,
}

/// What a cell that raises means for those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnError {
    /// They are not run.
    Stop,
    /// They are.
    Continue,
}

/// `export_notebook`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct ExportedNotebook {
    /// Relative to the workspace.
    pub(crate) path: String,
    /// Absolute.
    pub(crate) full_path: String,
    /// `ipynb` or `html`.
    pub(crate) format: &'static str,
    /// The session.
    pub(crate) session_id: String,
    /// Cells in it.
    pub(crate) cells: u64,
    /// Older cells of the session that are no longer kept.
    pub(crate) cells_left_out: u64,
    /// Bytes.
    pub(crate) size: u64,
}

/// `run_notebook`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct NotebookRun {
    /// `ok`: all cells were run; `error`: one raised (the first, unless on_error is `continue`); else how the last cell
    /// ended: `exited`, `timeout`, `died`, `cancelled`, `interrupted`, `refused`.
    pub(crate) status: &'static str,
    /// The notebook.
    pub(crate) path: String,
    /// Where it was written with its outputs, relative to the workspace.
    pub(crate) output_path: String,
    /// The session it ran in.
    pub(crate) session_id: String,
    /// Code cells that were run.
    pub(crate) executed: u64,
    /// Code cells that there were to run.
    pub(crate) total: u64,
    /// Cells that did not end well, in order; at most 20.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) failures: Vec<NotebookFailure>,
    /// Seconds.
    pub(crate) execution_time: f64,
    /// What to know about it, in sentences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) notice: Option<String>,
}

/// One cell of a notebook that did not end well.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct NotebookFailure {
    /// Its place among all cells of the notebook, from 0.
    pub(crate) index: u64,
    /// How it ended, as in run_python_code.
    pub(crate) status: &'static str,
    /// The exception.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<CellException>,
}

pub(crate) async fn export(
    server: &Server,
    call: &Call,
    asked: ExportNotebook,
) -> Result<Reply<ExportedNotebook>, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
    let ends_in_html = asked.path.as_ref().is_some_and(|path| path.ends_with(".html") || path.ends_with(".htm"));
    let format = asked.format.unwrap_or(if ends_in_html { Format::Html } else { Format::Ipynb });
    let word = if format == Format::Html { "html" } else { "ipynb" };
    let path = asked.path.unwrap_or_else(|| format!("outputs/{}.{word}", session.id));
    let python = match server.around.zygote.stage() {
        Stage::Warm { python, .. } => Some(python),
        Stage::Starting | Stage::Failed(_) => None,
    };
    let (mut cells, left_out) = session.history.cells();
    let count = cells.len() as u64;
    let (files, id) = (server.files(call)?, session.id.clone());
    let most = server.around.settings.max_notebook_output as u64;
    let written = blocking(move || {
        whole::fill(&mut cells, &files, most, MAX_OUTPUTS as u64);
        let document = Document::new(&id, python.as_deref(), &cells, left_out);
        let text = match format {
            Format::Ipynb => document.text(),
            Format::Html => html::page(&id, &document),
        };
        write(&files, &path, text)
    })
    .await?;
    let file = written.path.clone();
    let reply = Reply::of(ExportedNotebook {
        full_path: written.full_path.to_string_lossy().into_owned(),
        format: word,
        session_id: session.id.to_string(),
        cells: count,
        cells_left_out: left_out,
        size: written.size,
        path: written.path,
    });
    Ok(reply.files([&file]))
}

/// The notebook with its parameters, and what is to be run of it.
async fn opened(
    server: &Server,
    (files, path): (Files, String),
    parameters: JsonObject,
) -> Result<(Document, Vec<Step>), ToolError> {
    let place = path.clone();
    let content = blocking(move || files.text(&place, MAX_NOTEBOOK)).await?;
    let content = upgrade::upgraded(server, content).await;
    blocking(move || {
        let mut document = Document::read(&path, &content)?;
        document.inject(&parameters)?;
        let steps = document.begin();
        if let Some(step) = steps.iter().find(|step| step.code.len() > MAX_CODE || step.code.contains('\0')) {
            let reason = format!("cell {}: its code is too long, or holds a NUL character", step.index);
            return Err(ToolError::from(NotebookError::Shape { path, reason }));
        }
        Ok((document, steps))
    })
    .await
}

pub(crate) async fn run(server: &Server, call: &Call, asked: RunNotebook) -> Result<Reply<NotebookRun>, ToolError> {
    let session = server.session(call, asked.session_id.as_deref())?;
    let timeout = session.limits.cell_limit(arguments::cell_limit(asked.timeout)?.or(server.around.settings.timeout));
    let files = server.files(call)?;
    let named = (files.clone(), asked.path.clone());
    let (document, steps) = opened(server, named, asked.parameters.unwrap_or_default()).await?;
    let total = steps.len();
    let directory = directory_of(&files, &asked.path);
    let (sight, past) = (call.sight(), Arc::<Past>::default());
    let mut run = Run { document, goes_on: asked.on_error == Some(OnError::Continue), ..Run::default() };
    be_seen(&sight, &session, &past);
    let began = Instant::now();
    for (index, step) in steps.into_iter().enumerate() {
        let order = CellOrder {
            code: step.code.clone(),
            client: call.client.clone(),
            timeout,
            cancel: call.context.ct.clone(),
            asked: Instant::now(),
            live: sight.live(),
            on_error: Default::default(),
            questions: None,
            notebook: Some(NotebookCell { directory: directory.clone(), first: index == 0 }),
            max_output: Some(server.around.settings.max_notebook_output),
            trace: call.trace.clone(),
        };
        let deleted = || SessionError::Deleted(session.id.to_string());
        let submitted = session.run(order);
        at_cell(&sight, &session, &asked.path, (index + 1, total));
        let outcome = match submitted {
            Ok(answer) => answer.await.map_err(|_| deleted()),
            Err(error) => Err(error),
        };
        if let Ok(outcome) = &outcome {
            past.add(&outcome.stdout.text, &outcome.stderr.text);
        }
        if !run.take(&session.id, &step, outcome) {
            break;
        }
    }
    let execution_time = began.elapsed().as_secs_f64();
    let output = asked.output_path.unwrap_or_else(|| asked.path.clone());
    let document = run.document;
    let written = blocking(move || write(&files, &output, document.text())).await?;
    let value = NotebookRun {
        status: run.status.unwrap_or("ok"),
        path: asked.path,
        output_path: written.path,
        session_id: session.id.to_string(),
        executed: run.executed,
        total: total as u64,
        failures: run.failures,
        execution_time,
        notice: (!run.notices.is_empty()).then(|| run.notices.join(" ")),
    };
    let (pictures, earlier) = run.gallery.pictures().await;
    Ok(reply_of(value, pictures, earlier).failed(run.stopped_by_tool))
}

/// The reply to a run, with its last pictures.
fn reply_of(mut value: NotebookRun, pictures: Vec<Picture>, earlier: usize) -> Reply<NotebookRun> {
    let size: usize = pictures.iter().map(|picture| picture.base64.len() + 64).sum();
    let errors = value.failures.iter_mut().filter_map(|failure| failure.error.as_mut());
    let mut long: Vec<&mut String> = errors.flat_map(|error| [&mut error.traceback, &mut error.message]).collect();
    fit_within(&mut long, MAX_REPLY.saturating_sub(size));
    let (mut text, output) = (text(&value), value.output_path.clone());
    if !pictures.is_empty() {
        let mut lines = pictures::lines(&pictures).join("\n");
        if earlier > 0 {
            lines += &format!("\nand {earlier} before these, in the notebook");
        }
        section(&mut text, "pictures", &lines);
    }
    let pictures = pictures.into_iter().map(|picture| ContentBlock::image(picture.base64, picture.mime));
    Reply::of(value).text(text).pictures(pictures).files([&output])
}

/// What its cells have written so far can be looked at.
fn be_seen(sight: &Sight, session: &Session, past: &Arc<Past>) {
    let past = Arc::clone(past);
    sight.is_in(session);
    sight.shows(move |from| {
        let look = past.look(from);
        Box::pin(async move { Some(look) })
    });
}

/// A cell of it has been sent.
fn at_cell(sight: &Sight, session: &Session, path: &str, (index, total): (usize, usize)) {
    let (path, place, session) = (path.to_owned(), session.place(), session.clone());
    sight.accepted(move || match place.number() {
        Some(number) => Doing::waits(format!(
            "notebook {path:?}: cell {index} of {total} waits for its turn in session {:?} as number {number}: {}",
            session.id,
            ahead(&session)
        )),
        None => Doing::works(format!("notebook {path:?}: cell {index} of {total}")),
    });
}

/// A notebook that is being run.
#[derive(Default)]
struct Run {
    document: Document,
    goes_on: bool,
    executed: u64,
    /// How the first cell ended that did not end well.
    status: Option<&'static str>,
    failures: Vec<NotebookFailure>,
    notices: Vec<String>,
    /// What it has shown.
    gallery: Gallery,
    /// Bytes of outputs so far.
    kept: usize,
    /// It ended by something else than the code's own doing.
    stopped_by_tool: bool,
}

impl Run {
    /// Takes over what came of a cell; false when no further one is to be run.
    fn take(&mut self, session: &str, step: &Step, outcome: Result<CellOutcome, SessionError>) -> bool {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                self.note(error.to_string());
                self.fail(step.index, "refused", None);
                self.stopped_by_tool = true;
                return false;
            }
        };
        self.gallery.take(step.index, &outcome.displays);
        let mut outputs = outputs::of(&outcome);
        outputs.retain(|output| !output.is_empty());
        self.document.replace_shown(&mut outputs);
        self.bound(&mut outputs);
        self.document.set(step.index, outcome.cell, &outputs);
        self.executed += u64::from(outcome.cell > 0);
        if let Some(words) = notices::words(session, &outcome.notices, outcome.cell > 0) {
            self.note(words);
        }
        let status = outcome.ending.status();
        let is_own = matches!(outcome.ending, Ending::Raised);
        if status == "ok" || (is_own && step.may_raise) {
            return true;
        }
        if let Ending::Refused { reason } = &outcome.ending {
            self.note(reason.clone());
        }
        self.stopped_by_tool |= outcome.ending.is_tool_error();
        self.fail(step.index, status, outcome.error.map(reply::exception));
        // A run that goes on after errors does not go on in a session that has lost everything, or after a cancellation.
        self.goes_on
            && matches!(
                outcome.ending,
                Ending::Raised
                    | Ending::Exited(_)
                    | Ending::Interrupted
                    | Ending::TimedOut { .. }
                    | Ending::CpuUsedUp { .. }
            )
            && outcome.fate == Fate::Kept
    }

    fn fail(&mut self, index: usize, status: &'static str, error: Option<CellException>) {
        self.status.get_or_insert(status);
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(NotebookFailure { index: index as u64, status, error });
        }
    }

    fn note(&mut self, words: String) {
        if self.notices.len() < MAX_FAILURES && !self.notices.contains(&words) {
            self.notices.push(words);
        }
    }

    /// Leaves out displays beyond what one notebook is to hold.
    fn bound(&mut self, outputs: &mut [Output]) {
        for output in outputs {
            if self.kept + output.size() > MAX_OUTPUTS && output.leave_out_data() {
                self.note(format!("Displays and text beyond {} MiB are not in the notebook.", MAX_OUTPUTS >> 20));
            }
            self.kept += output.size();
        }
    }
}

fn text(run: &NotebookRun) -> String {
    let mut text = format!(
        "{}: {} of {} code cells of {} were run in session {:?}; written to {}",
        run.status, run.executed, run.total, run.path, run.session_id, run.output_path
    );
    for failure in &run.failures {
        let words = failure.error.as_ref().map_or_else(String::new, |error| error.traceback.clone());
        section(&mut text, &format!("cell {}: {}", failure.index, failure.status), &words);
    }
    if let Some(notice) = &run.notice {
        section(&mut text, "notice", notice);
    }
    text
}

/// Where a notebook is.
fn directory_of(files: &Files, path: &str) -> String {
    let path = files.root().join(path);
    path.parent().unwrap_or(files.root()).to_string_lossy().into_owned()
}

fn write(files: &Files, path: &str, content: String) -> Result<Written, ToolError> {
    Ok(files.write(path, &Body { content, base64: false, encoding: None })?)
}
