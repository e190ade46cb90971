//! `forkpy doctor`: whether this machine has what sessions need, each check with its remedy.
//!
//! - `machine.rs`: the kernel, memory, limits, interpreter
//! - `session.rs`: a server of this very binary that runs cells, draws a plot, goes back to a checkpoint, imports and asks the
//!   index of packages
//! - `confined.rs`: what a sandbox keeps, tried from inside
//! - `clients.rs`: configurations of clients in which forkpy is entered
//!
//! Runs in: a process of its own. Each finding is told as soon as there is one.

mod clients;
mod confined;
mod finding;
mod machine;
pub(in crate::commands) mod options;
mod session;

use std::io::{IsTerminal, Write};

use self::{
    finding::{Finding, Grade},
    options::DoctorArgs,
};
use crate::{commands::error::SetupError, progress, settings::options::ServeOptions};

/// Looks at all, tells each finding as it comes, and at the end whether sessions run.
///
/// # Errors
/// [`SetupError::Unwell`], or that standard output takes no more.
pub(crate) fn doctor(options: &ServeOptions, args: &DoctorArgs, out: &mut dyn Write) -> Result<(), SetupError> {
    let mut findings = Vec::new();
    let mut told = Ok(());
    let color = std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var("TERM").is_ok_and(|term| !term.is_empty() && term != "dumb");
    examine(options, &mut |finding| {
        if !args.json && told.is_ok() {
            told = progress::aside(|| out.write_all(text(&finding, color).as_bytes()).and_then(|()| out.flush()));
        }
        findings.push(finding);
    });
    told?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings).unwrap_or_default())?;
    }
    match findings.iter().filter(|finding| finding.grade == Grade::Failed).count() {
        0 => Ok(()),
        failed => Err(SetupError::Unwell(failed)),
    }
}

/// All checks, with the options that sessions' Python would have.
fn examine(options: &ServeOptions, tell: &mut dyn FnMut(Finding)) {
    let shown = progress::of("looking at this machine");
    tell(machine::build());
    tell(machine::interpreter());
    tell(machine::environment(options));
    tell(machine::fork());
    tell(machine::pidfd());
    tell(machine::memory_file());
    tell(machine::landlock());
    tell(machine::open_files());
    tell(machine::processes());
    tell(machine::memory());
    tell(machine::installer());
    session::examine(options, &shown, tell);
    tell(confined::sandbox(options));
    tell(clients::clients());
}

/// For people.
fn text(finding: &Finding, color: bool) -> String {
    let Finding { check, grade, seen, remedy } = finding;
    let (mark, code) = match grade {
        Grade::Ok => ("ok     ", "32"),
        Grade::Warning => ("warning", "33"),
        Grade::Failed => ("FAILED ", "31"),
    };
    let mark = if color { format!("\u{1b}[{code}m{mark}\u{1b}[0m") } else { mark.to_owned() };
    let mut text = format!("{mark}  {check:<13} {seen}\n");
    if let Some(remedy) = remedy {
        text += &format!("{:23}→ {remedy}\n", "");
    }
    text
}
