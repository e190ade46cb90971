//! `run_script`: checks, finds the file, hands over to `server/scripts.rs`, shapes the reply.
//!
//! Runs in: server.

use std::time::Instant;

use rmcp::model::CallToolResult;

use crate::{
    protocol::WorkerExit,
    server::{
        output::streams::Course,
        scripts::{ScriptOrder, ScriptOutcome},
        sessions::outcome::signal_name,
        tools::{
            Call, ToolError,
            arguments::RunScript,
            call::{links, progress, server::Server},
            cells::reply,
            reply_with_text,
            results::ScriptRun,
        },
        workspace::handle::FileError,
    },
};

pub(in crate::server) async fn run(server: &Server, mut call: Call) -> Result<CallToolResult, ToolError> {
    let mut asked: RunScript = call.read("run_script")?;
    let limit = asked.limit()?;
    let args = asked.checked_args()?;
    let files = server.files.clone();
    let opened = tokio::task::spawn_blocking(move || files.open_script(&asked.path));
    let script = opened.await.map_err(FileError::Lost)??;
    let path = script.path.clone();
    let began = Instant::now();
    let live = progress::live(&call.context);
    let order = ScriptOrder { script, args, limit, cancel: call.context.ct.clone(), live: live.clone() };
    let doing = || format!("script {path:?}: {} s", began.elapsed().as_secs());
    let outcome = progress::told(&call.context, doing, live, server.scripts.run(order)).await?;
    let reply = shape(path.clone(), outcome);
    let text = text(&reply);
    let failed = matches!(reply.status, "died" | "timeout" | "cancelled");
    let mut result = reply_with_text(&reply, text, failed)?;
    let whole = reply.stdout_file.iter().chain(&reply.stderr_file);
    links::add(&mut result, &call.context, server.files.root(), whole.chain(&reply.new_files).map(String::as_str));
    Ok(result)
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
    let mut reply = ScriptRun {
        status,
        returncode,
        script,
        stdout: outcome.stdout.text,
        stderr: outcome.stderr.text,
        execution_time: outcome.ran.as_secs_f64(),
        queued_time: outcome.queued.as_secs_f64(),
        new_files: outcome.new_files.paths,
        new_files_omitted: outcome.new_files.omitted as u64,
        new_files_incomplete: outcome.new_files.incomplete,
        timed_out: matches!(outcome.course, Course::TimedOut { .. }),
        signal,
        notice,
        stdout_bytes: outcome.stdout.total,
        stderr_bytes: outcome.stderr.total,
        stdout_file: outcome.stdout.file,
        stderr_file: outcome.stderr.file,
    };
    reply::fit_texts(&mut [&mut reply.stdout, &mut reply.stderr]);
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
        reply::section(&mut text, "stderr", &reply.stderr);
    }
    if !reply.new_files.is_empty() {
        reply::section(&mut text, "new files", &reply.new_files.join("\n"));
    }
    let code = reply.returncode.filter(|code| *code != 0).map(|code| format!("exit code {code}"));
    if let Some(words) = reply.notice.as_ref().or(code.as_ref()) {
        reply::section(&mut text, reply.status, words);
    }
    if text.is_empty() {
        text.push_str("(no output)");
    }
    text
}
