//! `forkpy guide`: chapters of the guide, for people: with style and by a pager on a terminal, as Markdown elsewhere.
//!
//! Runs in: a process of its own. Starts the user's pager. Owns no text: the chapters are `guide`'s.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    process::{Command, Stdio},
};

use clap::Args;

use super::{error::SetupError, markdown};
use crate::guide::{CHAPTERS, Chapter, chapter};

/// Lines longer than this are hard to read.
const WIDEST: u16 = 100;
/// A terminal that does not say how wide it is.
const USUAL: u16 = 80;
/// What a shell says when there is no such program, or none that can be run.
const NO_PROGRAM: [i32; 2] = [126, 127];

/// What `forkpy guide` is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct GuideArgs {
    /// Chapter to show; their list when left out
    pub chapter: Option<String>,
}

/// Shows a chapter, or which there are.
///
/// # Errors
/// When there is no such chapter, or standard output takes no more.
pub(crate) fn guide(args: &GuideArgs) -> Result<(), SetupError> {
    let text = match &args.chapter {
        None => contents(),
        Some(name) => match meant(name) {
            Some(chapter) => chapter.text.to_owned(),
            None => return Err(SetupError::Chapter { name: name.clone(), known: names() }),
        },
    };
    let mut out = io::stdout();
    if !out.is_terminal() {
        return Ok(out.write_all(text.as_bytes())?);
    }
    let term = std::env::var("TERM").unwrap_or_default();
    let dumb = term.is_empty() || term == "dumb";
    let style = match (dumb, std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())) {
        (true, _) => markdown::Style::None,
        (false, true) => markdown::Style::Bold,
        (false, false) => markdown::Style::Colors,
    };
    let width = terminal_size::terminal_size().map_or(USUAL, |(width, _)| width.0);
    let shown = markdown::shown(&text, usize::from(width.clamp(20, WIDEST)), style);
    if !dumb && paged(&shown)? {
        return Ok(());
    }
    Ok(out.write_all(shown.as_bytes())?)
}

/// The chapter of this name, in whatever letters; the beginning of one name will do.
fn meant(name: &str) -> Option<&'static Chapter> {
    let name = name.to_lowercase().replace(['_', ' '], "-");
    chapter(&name).or_else(|| {
        let mut beginning = CHAPTERS.iter().filter(|chapter| !name.is_empty() && chapter.name.starts_with(&name));
        beginning.next().filter(|_| beginning.next().is_none())
    })
}

/// The list of chapters, as Markdown.
fn contents() -> String {
    let mut text = "# The guide to forkpy\n\n| chapter | tells of |\n|---|---|\n".to_owned();
    for chapter in CHAPTERS {
        text += &format!("| `{}` | {} |\n", chapter.name, chapter.about);
    }
    text + "\nOne of them: `forkpy guide sessions`. All options: `forkpy --help`.\n"
}

fn names() -> String {
    CHAPTERS.iter().map(|chapter| chapter.name).collect::<Vec<_>>().join(", ")
}

/// Whether the program that a shell would start is there.
fn is_there(command: &str) -> bool {
    let program = command.split_whitespace().next().unwrap_or_default();
    let search = std::env::var_os("PATH").unwrap_or_default();
    Path::new(program).is_file() || std::env::split_paths(&search).any(|folder| folder.join(program).is_file())
}

/// Whether the user's pager has shown it. None is needed where there is none.
fn paged(text: &str) -> io::Result<bool> {
    let named = |name| std::env::var(name).ok();
    let pager = named("FORKPY_PAGER").or_else(|| named("PAGER")).unwrap_or_else(|| "less".to_owned());
    if pager.trim().is_empty() || pager.trim() == "cat" || !is_there(&pager) {
        return Ok(false);
    }
    let mut command = Command::new("sh");
    command.args(["-c", &pager]).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        // Colors as they are, no pages for what fits on the screen, and it stays there at the end.
        command.env("LESS", "FRX");
    }
    // What the shell says about a pager that is missing helps no reader: the text is shown without one.
    let Ok(mut child) = command.spawn() else { return Ok(false) };
    if let Some(mut input) = child.stdin.take() {
        // A reader who leaves before the end has read enough.
        let _ = input.write_all(text.as_bytes());
    }
    let ended = child.wait()?;
    Ok(!ended.code().is_some_and(|code| NO_PROGRAM.contains(&code)))
}
