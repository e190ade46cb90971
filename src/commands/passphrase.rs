//! The passphrase of a file of sessions: from a file, from a variable, or asked for on the terminal, where it is not shown.
//!
//! Runs in: a process of its own.

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use nix::sys::termios::{self, LocalFlags, SetArg, Termios};

use crate::settings::paths::path;

const VARIABLE: &str = "FORKPY_PASSPHRASE";
const AGAIN: &str = "Passphrase again: ";

/// Where it comes from.
#[derive(Debug, Clone, Args)]
pub(crate) struct PassphraseArgs {
    /// File whose first line is the passphrase; `-` is standard input. Else FORKPY_PASSPHRASE, else the terminal is asked
    #[arg(long, value_name = "FILE", env = "FORKPY_PASSPHRASE_FILE", value_parser = path)]
    passphrase_file: Option<PathBuf>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassphraseError {
    #[error("--passphrase-file {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("--passphrase-file {}: its first line is empty", .0.display())]
    EmptyFile(PathBuf),
    #[error("{VARIABLE} is empty, or no text")]
    EmptyVariable,
    #[error("no passphrase was typed")]
    Empty,
    #[error("the two passphrases differ")]
    Differ,
    #[error(
        "there is no terminal to ask for the passphrase ({0}): name a file with --passphrase-file, or set {VARIABLE}"
    )]
    NoTerminal(io::Error),
    #[error("standard input cannot be both the passphrase and the file of the session")]
    Both,
}

impl PassphraseArgs {
    /// The file, where it comes from one.
    pub(super) fn file(&self) -> Option<&Path> {
        self.passphrase_file.as_deref().filter(|file| *file != Path::new("-"))
    }

    /// The passphrase. One that is new is asked for twice. `input_is_taken`: standard input is something else.
    pub(super) fn get(&self, is_new: bool, input_is_taken: bool) -> Result<String, PassphraseError> {
        if let Some(file) = &self.passphrase_file {
            return of_file(file, input_is_taken);
        }
        if let Some(text) = env::var_os(VARIABLE) {
            return text.into_string().ok().filter(|text| !text.is_empty()).ok_or(PassphraseError::EmptyVariable);
        }
        let mut terminal = Terminal::open().map_err(PassphraseError::NoTerminal)?;
        let mut ask = |words: &str| terminal.ask(words).map_err(PassphraseError::NoTerminal);
        let typed = ask(if is_new { "New passphrase: " } else { "Passphrase: " })?;
        if typed.is_empty() {
            return Err(PassphraseError::Empty);
        }
        if is_new && ask(AGAIN)? != typed {
            return Err(PassphraseError::Differ);
        }
        Ok(typed)
    }
}

/// The person's terminal, which does not show what is typed until this is dropped. (rpassword shows what comes before it has
/// changed the terminal, behind the prompt.)
struct Terminal {
    file: BufReader<File>,
    before: Termios,
}

impl Terminal {
    fn open() -> io::Result<Self> {
        let file = File::options().read(true).write(true).open("/dev/tty")?;
        let before = termios::tcgetattr(&file)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        silent.local_flags.insert(LocalFlags::ECHONL);
        termios::tcsetattr(&file, SetArg::TCSAFLUSH, &silent)?;
        Ok(Self { file: BufReader::new(file), before })
    }

    fn ask(&mut self, words: &str) -> io::Result<String> {
        self.file.get_mut().write_all(words.as_bytes())?;
        let mut line = String::new();
        self.file.read_line(&mut line)?;
        Ok(line.trim_end_matches(['\n', '\r']).to_owned())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(self.file.get_ref(), SetArg::TCSADRAIN, &self.before);
    }
}

fn of_file(file: &Path, input_is_taken: bool) -> Result<String, PassphraseError> {
    let failed = |source| PassphraseError::File { path: file.to_owned(), source };
    let text = match file == Path::new("-") {
        true if input_is_taken => return Err(PassphraseError::Both),
        true => io::read_to_string(io::stdin()).map_err(failed)?,
        false => fs::read_to_string(file).map_err(failed)?,
    };
    let line = text.lines().next().unwrap_or_default();
    match line.is_empty() {
        true => Err(PassphraseError::EmptyFile(file.to_owned())),
        false => Ok(line.to_owned()),
    }
}
