//! `forkpy install` and `forkpy uninstall`: an entry for forkpy in a client's configuration. What else is in that file stays as
//! it is, comments and all; the file before the change stays beside it.
//!
//! - `options.rs`: what is asked for
//! - `clients.rs`: which clients there are, where their configurations lie and how an entry looks, each with its source
//! - `via.rs`: entries for clients that run where forkpy does not
//! - `json.rs`, `toml.rs`, `yaml.rs`: one text changed, pure
//! - `file.rs`: the file read, and written whole
//!
//! Runs in: a process of its own.

pub(in crate::commands) mod clients;
mod file;
mod json;
pub(in crate::commands) mod options;
mod toml;
mod via;
mod yaml;

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use clap::Parser;
use serde_json::Value;

use self::{
    clients::{CLIENTS, Client, Entry, Syntax},
    options::{InstallArgs, Place, UninstallArgs},
    via::Via,
};
use crate::{
    commands::{cli::Cli, error::SetupError},
    settings::paths,
};

/// Writes the entry, or says what would be written.
///
/// # Errors
/// [`SetupError`]; the file is then as it was.
pub(crate) fn install(args: &InstallArgs, out: &mut dyn Write) -> Result<(), SetupError> {
    let project = args.place.project.as_deref().map(directory).transpose()?;
    let Some(client) = clients::find(&args.place.client) else {
        let entry = entry(args, project.as_deref(), None)?;
        if !args.print {
            tell(&format!("{}. Most clients take this:", unknown(&args.place.client)));
        }
        out.write_all(json::fragment(&clients::PASTED, &args.place.name, &entry).as_bytes())?;
        return if args.print { Ok(()) } else { Err(SetupError::NotInstalled) };
    };
    let entry = entry(args, project.as_deref(), Some(client))?;
    if args.print {
        return Ok(out.write_all(fragment(client, &args.place.name, &entry).as_bytes())?);
    }
    let named = file_of(client, args)?;
    change(client, &args.place, named, project.as_deref(), Some(&entry), out)
}

/// The file that a client on Windows reads; none where it is to be looked for here.
fn file_of(client: &Client, args: &InstallArgs) -> Result<Option<PathBuf>, SetupError> {
    if args.via != Some(Via::Wsl) || args.place.file.is_some() || args.place.project.is_some() {
        return Ok(None);
    }
    Ok(Some(client.of_windows_user(&via::windows_home()?)))
}

/// Takes the entry out again.
///
/// # Errors
/// [`SetupError`]; the file is then as it was.
pub(crate) fn uninstall(args: &UninstallArgs, out: &mut dyn Write) -> Result<(), SetupError> {
    let project = args.place.project.as_deref().map(directory).transpose()?;
    let client =
        clients::find(&args.place.client).ok_or_else(|| SetupError::Client { words: unknown(&args.place.client) })?;
    change(client, &args.place, None, project.as_deref(), None, out)
}

fn unknown(name: &str) -> String {
    let known: Vec<&str> = CLIENTS.iter().map(|client| client.name).collect();
    format!("forkpy does not know the client {name:?}; it knows {}", known.join(", "))
}

fn change(
    client: &Client,
    place: &Place,
    found_out: Option<PathBuf>,
    project: Option<&Path>,
    entry: Option<&Entry>,
    out: &mut dyn Write,
) -> Result<(), SetupError> {
    let named = match (found_out.as_ref().or(place.file.as_ref()), project) {
        (Some(file), _) => file.clone(),
        (None, Some(project)) => client.of_project(project)?,
        (None, None) => client.of_user()?,
    };
    let found = file::read(&named)?;
    let fail = |reason: String| SetupError::Configuration { path: found.path.clone(), reason };
    let text = edited(client, &found.text, &place.name, entry).map_err(fail)?;
    let path = found.path.display();
    if found.exists && text == found.text {
        let state = if entry.is_some() { "this entry already" } else { "no such entry" };
        tell(&format!("{path} has {state}"));
        return Ok(());
    }
    if entry.is_none() && !found.exists {
        tell(&format!("there is no {path}, and so no entry"));
        return Ok(());
    }
    if place.dry_run {
        tell(&format!("{path} would be:"));
        return Ok(out.write_all(text.as_bytes())?);
    }
    let backup = file::write(&found, &text)?;
    tell(&format!("{path} is written; restart the client to see it"));
    if let Some(backup) = backup {
        tell(&format!("as it was before: {}", backup.display()));
    }
    Ok(())
}

/// The text with the entry, or without it.
fn edited(client: &Client, text: &str, name: &str, entry: Option<&Entry>) -> Result<String, String> {
    match client.syntax {
        Syntax::Json => json::edited(client, text, name, entry),
        Syntax::Toml => toml::edited(client, text, name, entry),
        Syntax::Yaml => yaml::edited(client, text, name, entry),
    }
}

fn fragment(client: &Client, name: &str, entry: &Entry) -> String {
    match client.syntax {
        Syntax::Json => json::fragment(client, name, entry),
        Syntax::Toml => toml::edited(client, "", name, Some(entry)).unwrap_or_default(),
        Syntax::Yaml => yaml::edited(client, "", name, Some(entry)).unwrap_or_default(),
    }
}

/// The servers of a configuration, with what each is.
pub(in crate::commands) fn servers(client: &Client, text: &str) -> Result<Vec<(String, Value)>, String> {
    let whole: Value = match client.syntax {
        Syntax::Json => json::value(text)?,
        Syntax::Toml => toml::value(text)?,
        Syntax::Yaml => yaml::value(text, client.key)?,
    };
    let servers = whole.get(client.key).and_then(Value::as_object);
    Ok(servers.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// The command that the client is to run. Its options are parsed as forkpy will parse them.
fn entry(args: &InstallArgs, project: Option<&Path>, client: Option<&Client>) -> Result<Entry, SetupError> {
    if args.image.is_some() && args.via != Some(Via::Docker) {
        return Err(SetupError::Options("--image is for --via docker".to_owned()));
    }
    if args.via == Some(Via::Docker) {
        parse(&via::inside_image(&args.args)).map_err(SetupError::Options)?;
        return Ok(via::docker(&workspace(project, client), args.image.as_deref(), &args.args));
    }
    // Windows knows the folder of a project by another name.
    let client = client.filter(|_| args.via.is_none());
    let default = || vec!["--workspace".to_owned(), workspace(project, client)];
    let options = if args.args.is_empty() { default() } else { args.args.clone() };
    let attach = (!args.direct).then(|| "attach".to_owned());
    let words: Vec<String> = attach.into_iter().chain(options).collect();
    parse(&words).map_err(SetupError::Options)?;
    let command = own_path().to_string_lossy().into_owned();
    Ok(match args.via {
        Some(Via::Wsl) => via::wsl(command, words),
        _ => Entry { command, args: words },
    })
}

/// Whether forkpy can be started with these words.
pub(crate) fn parse(words: &[String]) -> Result<(), String> {
    // Clients put the folder there before they start a server.
    let words = words.iter().map(|word| word.replace(clients::FOLDER, "/"));
    match Cli::try_parse_from(std::iter::once("forkpy".to_owned()).chain(words)) {
        Ok(_) => Ok(()),
        Err(error) => {
            let words = error.render().to_string();
            let words = words.strip_prefix("error: ").unwrap_or(&words);
            Err(words.split("\n\n").next().unwrap_or(words).trim().to_owned())
        }
    }
}

/// Clients start servers from folders of their own.
fn workspace(project: Option<&Path>, client: Option<&Client>) -> String {
    match project {
        Some(_) if client.is_some_and(|client| client.puts_folder) => clients::FOLDER.to_owned(),
        Some(project) => project.to_string_lossy().into_owned(),
        None => paths::home().unwrap_or_else(|| "/".into()).join("forkpy").to_string_lossy().into_owned(),
    }
}

fn directory(path: &Path) -> Result<PathBuf, SetupError> {
    let found = path.canonicalize().map_err(|source| SetupError::File {
        what: "failed to find",
        path: path.to_owned(),
        source,
    })?;
    if found.is_dir() {
        Ok(found)
    } else {
        Err(SetupError::Configuration { path: found, reason: "it is no directory".to_owned() })
    }
}

/// This program, as it was started: a bundle's single file, not what it unpacked.
fn own_path() -> PathBuf {
    crate::bundle::single_file().or_else(|| std::env::current_exe().ok()).unwrap_or_else(|| "forkpy".into())
}

/// To the person, beside what programs read.
#[expect(clippy::print_stderr, reason = "a person asked")]
fn tell(words: &str) {
    eprintln!("{words}");
}
