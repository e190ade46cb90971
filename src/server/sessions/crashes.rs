//! Crash reports: one JSON file for each worker that died without having been asked to, in `outputs/crashes/`.
//!
//! Runs in: server, on blocking threads. Owns that folder, whose newest files are kept. A file there may have been changed
//! by user code: what does not read as a report is passed over.

use std::{
    io,
    path::{Path, PathBuf},
};

use cap_fs_ext::OpenOptionsFollowExt;
use cap_std::fs::{Dir, OpenOptions, PermissionsExt};
use cap_tempfile::TempFile;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::server::{health::evidence::Stacks, owner::Owner, workspace::outputs};

/// Reports that are kept.
pub(crate) const KEPT: usize = 50;
/// Largest file that is read back.
const MAX_FILE: u64 = 4 << 20;
/// Below the outputs.
const FOLDER: &str = "crashes";

/// Everything known about a death.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct CrashReport {
    /// Name of the report.
    pub id: String,
    /// The session.
    pub session_id: String,
    /// Whose the session was ([`Owner::mark`]); nothing for the user who runs the server. Not for replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub owner: Option<String>,
    /// When it was seen (RFC 3339).
    pub when: String,
    /// Process id of the worker.
    pub pid: i32,
    /// Why: `died`, `stack_overflow`, `out_of_memory`, `unresponsive`, `hung`, `protocol_broken`, …
    pub reason: String,
    /// All of it in a sentence.
    pub description: String,
    /// How, apart from why: `by itself`, or `killed by forkpy`.
    pub method: String,
    /// Name of the signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Its exit code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether the kernel ran out of memory, and how that is known.
    pub out_of_memory: OutOfMemory,
    /// The cell that was running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cell: Option<LastCell>,
    /// Seconds the worker had lived.
    pub uptime: f64,
    /// Memory and processor use before the end, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<Point>,
    /// Stacks, when they could be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stacks: Option<Stacks>,
}

/// Whether memory ran out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct OutOfMemory {
    /// It did.
    pub happened: bool,
    /// How that is known.
    pub evidence: String,
}

/// What ran last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LastCell {
    /// Its number.
    pub number: u64,
    /// Its code, cut when long.
    pub code: String,
    /// Seconds it had run.
    pub ran_for: f64,
    /// End of its standard output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stdout_tail: String,
    /// End of its standard error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr_tail: String,
}

/// One sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Point {
    /// Seconds before the end.
    pub seconds_before: f64,
    /// Resident memory, bytes.
    pub memory_usage: u64,
    /// Percent of one processor.
    pub cpu_percent: f64,
}

/// Whether a path of the workspace is one of this folder's, where the server alone writes.
pub(super) fn is_in(path: &str) -> bool {
    let below = path.strip_prefix("outputs/").and_then(|path| path.strip_prefix(FOLDER));
    below.is_some_and(|rest| rest.starts_with('/'))
}

/// The folder.
#[derive(Debug, Clone)]
pub(crate) struct Crashes {
    outputs: PathBuf,
}

impl Crashes {
    /// Below the outputs of a workspace; made when the first report is written.
    #[must_use]
    pub(crate) fn new(outputs: &Path) -> Self {
        Self { outputs: outputs.to_owned() }
    }

    /// Writes a report, whole or not at all, and forgets the oldest beyond [`KEPT`]. Returns its path relative to the
    /// workspace. Blocking.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, report: &CrashReport) -> io::Result<String> {
        let folder = self.folder()?;
        let mut file = TempFile::new(&folder)?;
        file.as_file().set_permissions(PermissionsExt::from_mode(0o600))?;
        serde_json::to_writer_pretty(&mut file, report)?;
        let name = format!("{}.json", report.id);
        file.replace(&name)?;
        for old in names(&folder).into_iter().rev().skip(KEPT) {
            let _ = folder.remove_file(old);
        }
        Ok(format!("outputs/{FOLDER}/{name}"))
    }

    /// An owner's newest reports, the newest first. The user who runs the server sees all. Blocking.
    #[must_use]
    pub(crate) fn list(&self, owner: &Owner, wanted: impl Fn(&CrashReport) -> bool, limit: usize) -> Vec<CrashReport> {
        let Ok(folder) = self.folder() else { return Vec::new() };
        let names = names(&folder).into_iter().rev();
        names.filter_map(|name| read(&folder, &name, owner)).filter(|report| wanted(report)).take(limit).collect()
    }

    /// One of an owner's reports by its id. Blocking.
    #[must_use]
    pub(crate) fn find(&self, owner: &Owner, id: &str) -> Option<CrashReport> {
        let (folder, name) = (self.folder().ok()?, format!("{id}.json"));
        names(&folder).contains(&name).then(|| read(&folder, &name, owner)).flatten()
    }

    /// All ids of an owner's, the newest first. Blocking.
    #[must_use]
    pub(crate) fn ids(&self, owner: &Owner) -> Vec<String> {
        self.list(owner, |_| true, KEPT).into_iter().map(|report| report.id).collect()
    }

    fn folder(&self) -> io::Result<Dir> {
        outputs::beneath(&outputs::open(&self.outputs)?, Path::new(FOLDER))
    }
}

/// What is no regular file, or reached through a link, is none of ours; another owner's is not this one's.
fn read(folder: &Dir, name: &str, owner: &Owner) -> Option<CrashReport> {
    let is_ours = folder.symlink_metadata(name).is_ok_and(|about| about.is_file() && about.len() <= MAX_FILE);
    let file = || folder.open_with(name, OpenOptions::new().read(true).follow(cap_fs_ext::FollowSymlinks::No)).ok();
    let report: Option<CrashReport> =
        is_ours.then(|| serde_json::from_reader(io::BufReader::new(file()?)).ok()).flatten();
    let report = report.filter(|report| *owner == Owner::User || report.owner == owner.mark())?;
    Some(CrashReport { owner: None, ..report })
}

/// File names in the order of time: that is how ids begin.
fn names(folder: &Dir) -> Vec<String> {
    let Ok(entries) = folder.entries() else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".json") && !name.starts_with('.'))
        .collect();
    names.sort_unstable();
    names
}

/// An id that sorts by time and names its session: `20261125T010203.456Z-default-4711`.
#[must_use]
pub(crate) fn id(when: jiff::Timestamp, session: &str, pid: i32) -> String {
    format!("{}-{session}-{pid}", when.strftime("%Y%m%dT%H%M%S.%3fZ"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(second: i64) -> CrashReport {
        let when = jiff::Timestamp::from_second(1_790_000_000 + second).expect("a time");
        CrashReport {
            id: id(when, "default", 7),
            session_id: "default".to_owned(),
            owner: None,
            when: when.to_string(),
            pid: 7,
            reason: "died".to_owned(),
            description: "was ended by SIGSEGV".to_owned(),
            method: "by itself".to_owned(),
            signal: Some("SIGSEGV".to_owned()),
            exit_code: None,
            out_of_memory: OutOfMemory { happened: false, evidence: "the counter did not rise".to_owned() },
            cell: None,
            uptime: 1.5,
            curve: Vec::new(),
            stacks: None,
        }
    }

    #[test]
    fn the_newest_are_kept_and_come_first() {
        let outputs = tempfile::tempdir().expect("a folder");
        let crashes = Crashes::new(outputs.path());
        for second in 0..60 {
            crashes.write(&report(second)).expect("written");
        }
        let found = crashes.list(&Owner::User, |_| true, 100);
        assert_eq!((found.len(), &found[0]), (KEPT, &report(59)));
        assert_eq!(crashes.find(&Owner::User, &report(30).id), Some(report(30)));
        assert_eq!(crashes.find(&Owner::User, &report(3).id), None, "dropped");
        assert_eq!(crashes.find(&Owner::User, "../../etc/passwd"), None);
    }

    #[test]
    fn what_is_no_report_is_passed_over() {
        let outputs = tempfile::tempdir().expect("a folder");
        let crashes = Crashes::new(outputs.path());
        crashes.write(&report(1)).expect("written");
        std::fs::write(outputs.path().join("crashes/20990101-junk.json"), "{").expect("written");
        std::os::unix::fs::symlink("/dev/zero", outputs.path().join("crashes/20990101-link.json")).expect("made");
        assert_eq!(crashes.list(&Owner::User, |_| true, 100), [report(1)]);
    }
}
