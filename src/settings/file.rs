//! The settings file: options of the command line under their long names, as TOML.
//!
//! Runs in: server, once, before anything else. What is typed wins over the environment, which wins over the file, which
//! wins over the defaults. Values are checked by the same rules as on the command line.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, Command, Parser};
use toml::{Table, Value};

/// Why a settings file cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The command line itself, where it does not end the process.
    #[error("{0}")]
    Words(String),
    /// It cannot be read.
    #[error("failed to read the settings file {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("settings file {path} is not TOML: {reason}")]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// An option that does not exist.
    #[error("settings file {path}: there is no option {name:?}; there are: {known}")]
    Unknown {
        /// Which.
        path: PathBuf,
        /// As written.
        name: String,
        /// All of them.
        known: String,
    },
    /// A value that this option cannot have.
    #[error("settings file {path}: {reason}")]
    Option {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A value that no option can have.
    #[error("settings file {path}: {name} cannot be {what}")]
    Value {
        /// Which.
        path: PathBuf,
        /// The option.
        name: String,
        /// What was given.
        what: &'static str,
    },
}

/// Reads the command line, and the settings file if `named` finds one in it, with the command whose options it sets. Ends the
/// process for a wrong command line, as clap does.
///
/// # Errors
/// [`FileError`], in words for the person who wrote the file.
pub(crate) fn parse<C: Parser>(named: impl Fn(&C) -> Option<(PathBuf, Option<&'static str>)>) -> Result<C, FileError> {
    complete(C::parse(), std::env::args_os().collect(), named)
}

/// The same of another command line, of which the first word is the program; ends nothing.
///
/// # Errors
/// [`FileError`].
pub(crate) fn parse_words<C: Parser>(
    words: Vec<OsString>,
    named: impl Fn(&C) -> Option<(PathBuf, Option<&'static str>)>,
) -> Result<C, FileError> {
    let first = C::try_parse_from(&words).map_err(|error| FileError::Words(reason(&error)))?;
    complete(first, words, named)
}

fn complete<C: Parser>(
    first: C,
    words: Vec<OsString>,
    named: impl Fn(&C) -> Option<(PathBuf, Option<&'static str>)>,
) -> Result<C, FileError> {
    let Some((path, of)) = named(&first) else { return Ok(first) };
    let command = match of {
        None => with_file(C::command(), &path)?,
        Some(name) => {
            let mut done = Ok(());
            let command = C::command().mut_subcommand(name, |command| {
                with_file(command.clone(), &path).unwrap_or_else(|error| {
                    done = Err(error);
                    command
                })
            });
            done.map(|()| command)?
        }
    };
    let parsed = command.try_get_matches_from(words).and_then(|found| C::from_arg_matches(&found));
    // The command line alone was fine, so the file it is.
    parsed.map_err(|error| FileError::Option { path, reason: reason(&error) })
}

/// What clap has to say, once: without its own heading, and without the hint to an option that was not typed.
fn reason(error: &clap::Error) -> String {
    let words = error.render().to_string();
    let words = words.strip_prefix("error: ").unwrap_or(&words);
    words.split("\n\nUsage:").next().unwrap_or(words).split("\n\nFor more").next().unwrap_or(words).trim().to_owned()
}

fn with_file(mut command: Command, path: &Path) -> Result<Command, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| FileError::Syntax {
        path: path.to_owned(),
        reason: error.to_string().trim_end().to_owned(),
    })?;
    for (name, value) in &table {
        let long = name.replace('_', "-");
        let options: Vec<(String, String)> = command.get_arguments().filter_map(option).collect();
        let Some((_, id)) = options.iter().find(|(known, _)| *known == long) else {
            let known = options.into_iter().map(|(known, _)| known).collect::<Vec<_>>().join(", ");
            return Err(FileError::Unknown { path: path.to_owned(), name: name.clone(), known });
        };
        let wrong = |what| FileError::Value { path: path.to_owned(), name: name.clone(), what };
        let words = match value {
            Value::Array(items) => items.iter().map(scalar).collect::<Result<Vec<_>, _>>().map_err(wrong)?,
            one => vec![scalar(one).map_err(wrong)?],
        };
        command = command.mut_arg(id, |arg| arg.default_values(words));
    }
    Ok(command)
}

/// An option that a file may set: its long name and clap's name for it.
fn option(arg: &Arg) -> Option<(String, String)> {
    let long = arg.get_long()?;
    let settable = !matches!(arg.get_action(), ArgAction::Help | ArgAction::Version) && long != "config";
    settable.then(|| (long.to_owned(), arg.get_id().to_string()))
}

fn scalar(value: &Value) -> Result<OsString, &'static str> {
    match value {
        Value::String(text) => Ok(text.into()),
        Value::Integer(number) => Ok(number.to_string().into()),
        Value::Float(number) => Ok(number.to_string().into()),
        Value::Boolean(truth) => Ok(truth.to_string().into()),
        Value::Datetime(_) => Err("a date"),
        Value::Array(_) => Err("an array of arrays"),
        Value::Table(_) => Err("a table"),
    }
}
