//! `install_dependencies` and `list_packages`.
//!
//! Runs in: server.

use std::time::Instant;

use rmcp::model::CallToolResult;

use crate::{
    protocol::WorkerExit,
    server::{
        environment::packages::{Change, InstallOrder, InstallOutcome},
        output::streams::Course,
        tools::{
            Call, ToolError,
            arguments::{InstallDependencies, ListPackages},
            call::{progress, server::Server},
            cells::reply,
            reply, reply_with_text,
            results::{Installed, PackageChange, PackageEntry, PackageList, StalePackage},
        },
        workers::zygote::Stage,
    },
};

pub(in crate::server) async fn install(server: &Server, mut call: Call) -> Result<CallToolResult, ToolError> {
    let asked: InstallDependencies = call.read("install_dependencies")?;
    let limit = asked.limit()?;
    let began = Instant::now();
    let live = progress::live(&call.context);
    let order = InstallOrder { packages: asked.packages, limit, cancel: call.context.ct.clone(), live: live.clone() };
    let doing = || format!("installing: {} s", began.elapsed().as_secs());
    let outcome = progress::told(&call.context, doing, live, server.packages.install(order)).await?;
    let reply = shape(outcome);
    let text = text(&reply);
    let failed = matches!(reply.status, "timeout" | "cancelled");
    reply_with_text(&reply, text, failed)
}

pub(in crate::server) async fn list(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let asked: ListPackages = call.read("list_packages")?;
    let filter = asked.filter.unwrap_or_default().to_lowercase();
    let found = server.packages.list().await?.into_iter();
    let packages: Vec<PackageEntry> = found
        .filter(|package| package.name.to_lowercase().contains(&filter))
        .map(|package| PackageEntry { name: package.name, version: package.version })
        .collect();
    let python = match server.around.zygote.stage() {
        Stage::Warm { executable, .. } => Some(executable),
        Stage::Starting | Stage::Failed(_) => None,
    };
    reply(&PackageList { total: packages.len() as u64, packages, python })
}

fn shape(outcome: InstallOutcome) -> Installed {
    let returncode = match outcome.exit {
        WorkerExit::Code(code) => Some(code),
        WorkerExit::Signal(signal) => Some(-signal),
        WorkerExit::Unknown => None,
    };
    let status = match outcome.course {
        Course::TimedOut { .. } => "timeout",
        Course::Cancelled { .. } => "cancelled",
        Course::Itself if returncode == Some(0) => "ok",
        Course::Itself => "error",
    };
    let notice = notice(&outcome);
    let mut reply = Installed {
        status,
        returncode,
        stdout: outcome.stdout.text,
        stderr: outcome.stderr.text,
        installed_packages: outcome
            .installed
            .iter()
            .map(|found| format!("{}=={}", found.name, found.version))
            .collect(),
        changes: outcome.changes.into_iter().map(change).collect(),
        stale: outcome
            .stale
            .into_iter()
            .map(|stale| StalePackage {
                session_id: stale.session,
                package: stale.change.name,
                imported: stale.change.before,
                installed: stale.change.after,
            })
            .collect(),
        tool: outcome.tool,
        execution_time: outcome.ran.as_secs_f64(),
        notice: (!notice.is_empty()).then(|| notice.join(" ")),
        stdout_file: outcome.stdout.file,
        stderr_file: outcome.stderr.file,
    };
    reply::fit_texts(&mut [&mut reply.stdout, &mut reply.stderr]);
    reply
}

fn change(change: Change) -> PackageChange {
    PackageChange { name: change.name, before: change.before, after: change.after }
}

fn notice(outcome: &InstallOutcome) -> Vec<String> {
    let mut sentences: Vec<String> = outcome.course.sentence().into_iter().collect();
    if outcome.tool == "pip" && outcome.stderr.text.contains("No module named pip") {
        let words = "There is neither uv on PATH nor pip in the session environment: install one of them.";
        sentences.push(words.to_owned());
    }
    let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "gone".to_owned());
    for stale in &outcome.stale {
        let Change { name, before, after } = &stale.change;
        if !outcome.preloaded.contains(name) {
            let (before, after) = (version(before), version(after));
            sentences.push(format!(
                "Session {:?} has imported {name} {before}, which is now {after}: it keeps the old one until restart_kernel.",
                stale.session
            ));
        }
    }
    for name in &outcome.preloaded {
        sentences.push(format!(
            "{name} is loaded before sessions are forked: all of them have the old one until forkpy is started again."
        ));
    }
    for session in &outcome.untold {
        sentences.push(format!(
            "Session {session:?} did not answer: whether it has imported what has changed is not known."
        ));
    }
    sentences
}

fn text(reply: &Installed) -> String {
    let mut text = reply.stdout.clone();
    if !reply.stderr.is_empty() {
        reply::section(&mut text, "stderr", &reply.stderr);
    }
    if !reply.installed_packages.is_empty() {
        reply::section(&mut text, "installed", &reply.installed_packages.join("\n"));
    }
    let code = reply.returncode.filter(|code| *code != 0).map(|code| format!("{} ended with {code}", reply.tool));
    if let Some(words) = reply.notice.as_ref().or(code.as_ref()) {
        reply::section(&mut text, reply.status, words);
    }
    text
}
