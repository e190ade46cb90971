//! Completions and a man page, from what clap knows.
//!
//! Runs in: a process of its own.

use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::commands::cli::Cli;

fn command() -> Command {
    Cli::command()
}

/// Completions of a shell.
///
/// # Errors
/// When `out` takes no more.
pub(crate) fn completions(shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command(), "forkpy", &mut text);
    out.write_all(&text)
}

/// The page of forkpy, or of one of its commands.
///
/// # Errors
/// When there is no such command, or `out` takes no more.
pub(crate) fn man(of: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
    let mut command = command();
    command.build();
    let page = match of {
        None => command,
        Some(name) => {
            let found = command.get_subcommands().find(|known| known.get_name() == name && !known.is_hide_set());
            let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("forkpy has no command {name:?}"));
            found.cloned().ok_or_else(unknown)?.display_name(format!("forkpy-{name}")).name(format!("forkpy-{name}"))
        }
    };
    clap_mangen::Man::new(page).render(out)
}
