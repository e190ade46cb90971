//! `forkpy bench`: what forkpy costs on the user's machine, with their interpreter and preloads, beside the floors of that
//! machine and, if asked, beside another server or ipykernel.
//!
//! Runs in: a process of its own, one thread but for the HTTP row; everything measured is a child of it, the servers being
//! this same binary. Knows forkpy only as any client does. Rows are timed in rounds, one after the other within each round, so
//! that what the machine does meanwhile falls on all of them. No Python here, and no tokio.

pub(crate) mod against;
pub(crate) mod behind;
pub(crate) mod client;
pub(crate) mod compare;
pub(crate) mod echo;
pub(crate) mod floors;
pub(crate) mod http;
pub(crate) mod options;
pub(crate) mod page;
pub(crate) mod report;
pub(crate) mod rounds;
pub(crate) mod rows;
pub(crate) mod sizes;
pub(crate) mod stage;
pub(crate) mod stats;
pub(crate) mod table;
pub(crate) mod timed;

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

pub(crate) use self::options::BenchArgs;

/// Why nothing, or not all, was measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// A server did not start, or ended.
    #[error("{who} {what}")]
    Server {
        who: String,
        /// What became of it.
        what: String,
    },
    /// A call was answered by an error.
    #[error("{who} answered {tool} with an error: {words}")]
    Refused { who: String, tool: String, words: String },
    /// A file to compare with.
    #[error("cannot compare with {path}: {reason}")]
    Compare { path: String, reason: String },
    #[error("{0}")]
    Option(String),
    #[error("failed to write the page {path}: {source}")]
    Page { path: PathBuf, source: io::Error },
    #[error("failed to write the result: {0}")]
    Output(#[source] io::Error),
    #[error("failed to {what}: {source}")]
    System { what: &'static str, source: io::Error },
}

impl BenchError {
    fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

pub(crate) fn run(args: &BenchArgs, server: Vec<String>, preload: &[String]) -> Result<(), BenchError> {
    let earlier = args.compare.as_deref().map(compare::read).transpose()?;
    let mut out = io::stdout().lock();
    if args.explain {
        return out.write_all(table::explained().as_bytes()).map_err(BenchError::Output);
    }
    let report = match &args.from {
        Some(file) => compare::read(file)?,
        None => rounds::measure(args, server, preload)?,
    };
    if let Some(file) = &args.html {
        let chart_alone = file.extension().is_some_and(|end| end == "svg");
        let text = if chart_alone { page::chart(&report, true) + "\n" } else { page::of(&report) };
        fs::write(file, text).map_err(|source| BenchError::Page { path: file.clone(), source })?;
    }
    let text = if args.json {
        let mut text = serde_json::to_string_pretty(&report).unwrap_or_default();
        text.push('\n');
        text
    } else {
        table::of(&report, earlier.as_ref())
    };
    out.write_all(text.as_bytes()).map_err(BenchError::Output)
}
