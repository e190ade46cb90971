//! `run_script`: checks, finds the file, hands over to `server/scripts.rs`, shapes the reply.
//!
//! Runs in: server.

use std::{sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    protocol::WorkerExit,
    server::{
        output::{captured::CapturedText, streams::Course},
        scripts::{ScriptOrder, ScriptOutcome},
        sessions::outcome::signal_name,
        tools::call::{
            arguments::seconds,
            error::{ToolError, refuse},
            reply::{A_MOMENT, Reply},
            request::Call,
            schema::{is_false, is_zero},
            server::{Server, blocking},
            sight::Doing,
            texts::{fit_texts, section},
        },
    },
    settings::bounds::MAX_SECONDS,
};

const DEFAULT_LIMIT: Duration = Duration::from_secs(120);
/// Bytes of all arguments together; they travel in one frame.
const MAX_ARGS: usize = 64 << 10;

/// `run_script`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RunScript {
    /// File; one in scripts/ also by name alone.
    pub(crate) path: String,
    /// For sys.argv.
    pub(crate) args: Option<Vec<String>>,
    /// Seconds. Default 120.
    pub(crate) timeout: Option<f64>,
}

impl RunScript {
    /// The time limit.
    ///
    /// # Errors
    /// When it is no sensible time.
    pub(crate) fn limit(&self) -> Result<Duration, ToolError> {
        Ok(seconds(self.timeout, MAX_SECONDS)?.unwrap_or(DEFAULT_LIMIT))
    }

    /// The arguments, if a process can have them.
    ///
    /// # Errors
    /// In words for the caller.
    pub(crate) fn checked_args(&mut self) -> Result<Vec<String>, ToolError> {
        let args = self.args.take().unwrap_or_default();
        if let Some(place) = args.iter().position(|arg| arg.contains('\0')) {
            let words = format!("`args[{place}]` holds a NUL character, which no argument can");
            return refuse(words);
        }
        let size: usize = args.iter().map(|arg| arg.len() + 1).sum();
        if size > MAX_ARGS {
            let words = format!(
                "`args` has {size} bytes and may have {MAX_ARGS}: write the data to a file in the workspace and pass its name"
            );
            return refuse(words);
        }
        Ok(args)
    }
}

/// `run_script`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct ScriptRun {
    /// `ok` (exit code 0), `error` (another exit code: it raised, or called sys.exit), `died` (a signal ended it),
    /// `timeout`, `cancelled`.
    pub(crate) status: &'static str,
    /// Exit code; 1 after an exception; -N when signal N ended it; null when it never began or it could not be read.
    pub(crate) returncode: Option<i32>,
    /// The script, relative to the workspace.
    pub(crate) script: String,
    /// What it wrote to standard output; head and tail when that was too much.
    pub(crate) stdout: String,
    /// What it wrote to standard error, the traceback of an exception included.
    pub(crate) stderr: String,
    /// Seconds it ran.
    pub(crate) execution_time: f64,
    /// Seconds it waited for other scripts to end, when that was more than a moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) queued_time: Option<f64>,
    /// Files that appeared in the workspace while it ran, relative to it.
    pub(crate) new_files: Vec<String>,
    /// New files that are not listed, because there were too many.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) new_files_omitted: u64,
    /// New files may be missing from the list.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) new_files_incomplete: bool,
    /// Its time was over.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) timed_out: bool,
    /// Name of the signal that ended it, `SIGSEGV` say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<String>,
    /// What to know about its end, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) notice: Option<String>,
    /// Bytes written to standard output in all, when `stdout` is not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stdout_bytes: Option<u64>,
    /// Bytes written to standard error in all, when `stderr` is not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stderr_bytes: Option<u64>,
    /// File with the whole standard output, relative to the workspace, when `stdout` is not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stdout_file: Option<String>,
    /// File with the whole standard error, when `stderr` is not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stderr_file: Option<String>,
}

pub(crate) async fn run(server: &Server, call: &Call, mut asked: RunScript) -> Result<Reply<ScriptRun>, ToolError> {
    let limit = asked.limit()?;
    let args = asked.checked_args()?;
    let place = server.place(call.owner())?;
    let files = place.files.clone();
    let script = blocking(move || files.open_script(&asked.path)).await?;
    let path = script.path.clone();
    let (sight, turn, most) = (call.sight(), server.scripts.turn(), server.scripts.most());
    let audience = sight.audience();
    let sandbox = server.around.quotas.rights(call.owner()).sandbox;
    let turn_of_it = Arc::clone(&turn);
    let cancel = call.context.ct.clone();
    let order = ScriptOrder { script, args, limit, cancel, audience, turn: turn_of_it, sandbox, place };
    let (name, scripts) = (path.clone(), Arc::clone(&server.scripts));
    sight.accepted(move || match turn.lasts() {
        Some(time) => Doing::works(format!("script {name:?}: {} s", time.as_secs())),
        None if !scripts.are_full() => Doing::works(format!("script {name:?} begins")),
        None => Doing::waits(format!(
            "script {name:?}: {most} scripts run, which is the limit (--max-scripts), and it waits as number {}",
            turn.place()
        )),
    });
    let outcome = server.scripts.run(order).await?;
    let reply = shape(path.clone(), outcome);
    let text = text(&reply);
    let failed = matches!(reply.status, "died" | "timeout" | "cancelled");
    let files = reply.new_files.clone();
    Ok(Reply::of(reply).text(text).failed(failed).files(&files))
}

fn shape(script: String, outcome: ScriptOutcome) -> ScriptRun {
    let notice = notice(&outcome);
    let (returncode, signal) = match outcome.exit {
        Some(WorkerExit::Code(code)) => (Some(code), None),
        Some(WorkerExit::Signal(number)) => (Some(-number), Some(signal_name(number))),
        Some(WorkerExit::Unknown) | None => (None, None),
    };
    let status = match (outcome.course, outcome.exit) {
        (Course::TimedOut { .. }, _) => "timeout",
        (Course::Cancelled { .. }, _) => "cancelled",
        (Course::Itself, Some(WorkerExit::Code(0))) => "ok",
        (Course::Itself, Some(WorkerExit::Code(_))) => "error",
        (Course::Itself, _) => "died",
    };
    let total = |stream: &CapturedText| (stream.total != stream.text.len() as u64).then_some(stream.total);
    let mut reply = ScriptRun {
        status,
        returncode,
        script,
        stdout_bytes: total(&outcome.stdout),
        stderr_bytes: total(&outcome.stderr),
        stdout: outcome.stdout.text,
        stderr: outcome.stderr.text,
        execution_time: outcome.ran.as_secs_f64(),
        queued_time: (outcome.queued >= A_MOMENT).then_some(outcome.queued.as_secs_f64()),
        new_files: outcome.new_files.paths,
        new_files_omitted: outcome.new_files.omitted as u64,
        new_files_incomplete: outcome.new_files.incomplete,
        timed_out: matches!(outcome.course, Course::TimedOut { .. }),
        signal,
        notice,
        stdout_file: outcome.stdout.file,
        stderr_file: outcome.stderr.file,
    };
    fit_texts(&mut [&mut reply.stdout, &mut reply.stderr]);
    reply
}

/// One sentence on an end that is not plain from output and exit code.
fn notice(outcome: &ScriptOutcome) -> Option<String> {
    if let Some(words) = outcome.course.sentence() {
        return Some(words);
    }
    match outcome.exit {
        Some(WorkerExit::Signal(_)) if outcome.out_of_memory => {
            Some("The kernel killed the script because memory ran out.".to_owned())
        }
        Some(WorkerExit::Signal(number)) => Some(format!("The script was ended by {}.", signal_name(number))),
        Some(WorkerExit::Unknown) | None => Some("The script ended; its exit status could not be read.".to_owned()),
        Some(WorkerExit::Code(_)) => None,
    }
}

fn text(reply: &ScriptRun) -> String {
    let mut text = reply.stdout.clone();
    if !reply.stderr.is_empty() {
        section(&mut text, "stderr", &reply.stderr);
    }
    if !reply.new_files.is_empty() {
        section(&mut text, "new files", &reply.new_files.join("\n"));
    }
    let code = reply.returncode.filter(|code| *code != 0).map(|code| format!("exit code {code}"));
    if let Some(words) = reply.notice.as_ref().or(code.as_ref()) {
        section(&mut text, reply.status, words);
    }
    if text.is_empty() {
        text.push_str("(no output)");
    }
    text
}
