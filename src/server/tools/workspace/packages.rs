//! `install_dependencies` and `list_packages`.
//!
//! Runs in: server.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    protocol::WorkerExit,
    server::{
        environment::{
            own,
            packages::{InstallOrder, InstallOutcome},
            survey::Change,
        },
        output::streams::Course,
        tools::call::{
            arguments::seconds,
            error::ToolError,
            reply::Reply,
            request::Call,
            server::Server,
            sight::Doing,
            texts::{fit_texts, section},
        },
        workers::zygote::Stage,
    },
    settings::bounds::MAX_SECONDS,
};

const DEFAULT_LIMIT: Duration = Duration::from_secs(600);

/// `install_dependencies`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct InstallDependencies {
    /// A requirement each: `numpy>=2,<3`, a wheel or `-r requirements.txt` of the workspace; `--upgrade`, `--pre`,
    /// `--no-deps`, `--force-reinstall`.
    pub(crate) packages: Vec<String>,
    /// Seconds. Default 600.
    pub(crate) timeout: Option<f64>,
}

/// `list_packages`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ListPackages {
    /// Only packages with this in their name.
    pub(crate) filter: Option<String>,
}

impl InstallDependencies {
    /// The time limit.
    ///
    /// # Errors
    /// When it is no sensible time.
    pub(crate) fn limit(&self) -> Result<Duration, ToolError> {
        Ok(seconds(self.timeout, MAX_SECONDS)?.unwrap_or(DEFAULT_LIMIT))
    }
}

/// `install_dependencies`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Installed {
    /// `ok`, `error` (the tool failed, see stderr), `timeout`, `cancelled`.
    pub(crate) status: &'static str,
    /// Exit code of the tool; -N when signal N ended it.
    pub(crate) returncode: Option<i32>,
    /// What the tool wrote to standard output.
    pub(crate) stdout: String,
    /// What it wrote to standard error.
    pub(crate) stderr: String,
    /// Packages that were asked for and are there now, as `name==version`.
    pub(crate) installed_packages: Vec<String>,
    /// All that is not as it was before, dependencies included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) changes: Vec<PackageChange>,
    /// Sessions that have imported a package which has changed: they keep the old one until restart_kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) stale: Vec<StalePackage>,
    /// `uv` or `pip`.
    pub(crate) tool: &'static str,
    /// Seconds the tool ran.
    pub(crate) execution_time: f64,
    /// What to know about it, in sentences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) notice: Option<String>,
    /// File with the whole standard output, relative to the workspace, when `stdout` is not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stdout_file: Option<String>,
    /// File with the whole standard error, when `stderr` is not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stderr_file: Option<String>,
}

/// One package that has changed.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct PackageChange {
    /// Its name.
    pub(crate) name: String,
    /// Version before, if it was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<String>,
    /// Version now, if it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<String>,
}

/// One session that has imported an older version.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct StalePackage {
    /// The session.
    pub(crate) session_id: String,
    /// The package.
    pub(crate) package: String,
    /// The version that the session has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) imported: Option<String>,
    /// The version that is installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) installed: Option<String>,
}

/// `list_packages`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct PackageList {
    /// By name.
    pub(crate) packages: Vec<PackageEntry>,
    /// How many there are.
    pub(crate) total: u64,
    /// `sys.executable` of sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) python: Option<String>,
    /// That more are to come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) incomplete: Option<&'static str>,
}

/// One installed package.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct PackageEntry {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
}

pub(crate) async fn install(
    server: &Server,
    call: &Call,
    asked: InstallDependencies,
) -> Result<Reply<Installed>, ToolError> {
    let limit = asked.limit()?;
    let wanted = server.packages.check(asked.packages, server.files(call)?).await?;
    let began = Instant::now();
    let (sight, turn) = (call.sight(), server.packages.turn());
    let (owner, cancel, audience) = (call.owner().clone(), call.context.ct.clone(), sight.audience());
    let order = InstallOrder { owner, wanted, limit, cancel, audience, turn: Arc::clone(&turn) };
    let packages = Arc::clone(&server.packages);
    sight.accepted(move || match turn.lasts() {
        Some(time) => Doing::works(format!("installing: {} s", time.as_secs())),
        None if packages.is_filling() => {
            Doing::waits(format!("making the session environment: {} s", began.elapsed().as_secs()))
        }
        None if !packages.is_installing() => Doing::works("installing".to_owned()),
        None => Doing::waits(format!("another install runs, and it waits as number {}", turn.place())),
    });
    let outcome = server.packages.install(order).await?;
    let reply = shape(outcome);
    let text = text(&reply);
    let failed = matches!(reply.status, "timeout" | "cancelled");
    Ok(Reply::of(reply).text(text).failed(failed))
}

pub(crate) async fn list(server: &Server, call: &Call, asked: ListPackages) -> Result<Reply<PackageList>, ToolError> {
    let filter = asked.filter.unwrap_or_default().to_lowercase();
    let (found, is_whole) = server.packages.list(call.owner()).await?;
    let incomplete = (!is_whole).then_some("the environment is still being filled: more packages come; ask again");
    let found = found.into_iter();
    let packages: Vec<PackageEntry> = found
        .filter(|package| package.name.to_lowercase().contains(&filter))
        .map(|package| PackageEntry { name: package.name, version: package.version })
        .collect();
    let own = server.place(call.visitor.peek())?.environment();
    let python = match server.around.zygote.stage() {
        Stage::Warm { executable, .. } => Some(own.as_deref().map_or(executable, own::python)),
        Stage::Starting | Stage::Failed(_) => None,
    };
    Ok(Reply::of(PackageList { total: packages.len() as u64, packages, python, incomplete }))
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
    fit_texts(&mut [&mut reply.stdout, &mut reply.stderr]);
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
        section(&mut text, "stderr", &reply.stderr);
    }
    if !reply.installed_packages.is_empty() {
        section(&mut text, "installed", &reply.installed_packages.join("\n"));
    }
    let code = reply.returncode.filter(|code| *code != 0).map(|code| format!("{} ended with {code}", reply.tool));
    if let Some(words) = reply.notice.as_ref().or(code.as_ref()) {
        section(&mut text, reply.status, words);
    }
    text
}
