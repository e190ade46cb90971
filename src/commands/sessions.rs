//! `forkpy sessions`: what sleeps in `--state-dir`, and carrying it to another machine.
//!
//! Runs in: a process of its own; servers may run meanwhile. What is done is `server/moves`; here are the words.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde_json::json;

use super::passphrase::{PassphraseArgs, PassphraseError};
use crate::{
    server::moves::{self, Exported, Held, Imported, Listed, MoveError, Named, Secret, Variables, Wish},
    settings::paths::path,
    sys::signals,
};

/// Variables that are told by name.
const NAMED: usize = 20;

/// Sessions on disk.
#[derive(Debug, Args)]
pub(crate) struct SessionsArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Args)]
struct Folder {
    /// Folder of --state-dir of a server
    #[arg(long, value_name = "DIR", env = "FORKPY_STATE_DIR", value_parser = path)]
    state_dir: PathBuf,
}

#[derive(Debug, Args)]
struct Which {
    /// Only a session of this workspace
    #[arg(long, value_name = "DIR", value_parser = path)]
    workspace: Option<PathBuf>,
    /// Only a session of this owner, as `forkpy sessions list` names it
    #[arg(long)]
    owner: Option<String>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show the sessions that sleep there, and files that are none any more
    List {
        #[command(flatten)]
        folder: Folder,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a copy of a session that sleeps to a file, sealed with a passphrase
    Export {
        /// Name of the session
        name: String,
        /// The file; `-` is standard output
        file: PathBuf,
        #[command(flatten)]
        folder: Folder,
        #[command(flatten)]
        which: Which,
        /// Only its variables, as save_session writes them: any machine can have them
        #[arg(long)]
        values: bool,
        /// Replace the file when there is one
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        passphrase: PassphraseArgs,
    },
    /// Put the session of such a file there, for the next server or for one that runs
    Import {
        /// The file; `-` is standard input
        file: PathBuf,
        #[command(flatten)]
        folder: Folder,
        /// Give it this name
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
        /// Only its variables, as save_session writes them: any machine can have them
        #[arg(long)]
        values: bool,
        /// Workspace in which it is to work, when not in that which it had; needs --values, or a file of variables
        #[arg(long, value_name = "DIR", value_parser = path)]
        workspace: Option<PathBuf>,
        /// MB that all that sleeps there may take
        #[arg(long, value_name = "MB", env = "FORKPY_STATE_DISK", default_value_t = 4096,
              value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
        state_disk: u64,
        #[command(flatten)]
        passphrase: PassphraseArgs,
    },
    /// Delete a session that sleeps there and that no server has, or a file that is none any more
    Delete {
        /// Name of the session, or of the file as `forkpy sessions list` shows it
        name: String,
        #[command(flatten)]
        folder: Folder,
        #[command(flatten)]
        which: Which,
    },
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionsError {
    #[error("{}{}", .0, remedy(.0))]
    Move(MoveError),
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    #[error("{0}")]
    Output(#[from] io::Error),
    #[error("{}: {source}", path.display())]
    Workspace { path: PathBuf, source: io::Error },
}

impl From<MoveError> for SessionsError {
    fn from(error: MoveError) -> Self {
        Self::Move(error)
    }
}

/// Does it.
///
/// # Errors
/// [`SessionsError`], in words for the person who typed the command.
pub(crate) fn sessions(args: &SessionsArgs, out: &mut impl Write) -> Result<(), SessionsError> {
    signals::bear_file_size_limit();
    match &args.what {
        What::List { folder, json } => list(&folder.state_dir, *json, out),
        What::Export { name, file, folder, which, values, force, passphrase } => {
            let workspace = real(which.workspace.as_deref())?;
            let wanted = named(name, workspace.as_deref(), which);
            let secret = Secret { passphrase: passphrase.get(true, false)?, file: passphrase.file() };
            let done = moves::export(&folder.state_dir, &wanted, (file, *force), *values, &secret)?;
            // Standard output may be the file.
            Ok(writeln!(io::stderr(), "{}", exported(name, file, &done))?)
        }
        What::Import { file, folder, name, values, workspace, state_disk, passphrase } => {
            let secret = Secret { passphrase: passphrase.get(false, file == Path::new("-"))?, file: passphrase.file() };
            let workspace = real(workspace.as_deref())?;
            let wish = Wish {
                file,
                name: name.as_deref(),
                workspace: workspace.as_deref(),
                only_values: *values,
                limit: state_disk << 20,
            };
            let done = moves::import(&folder.state_dir, &wish, &secret)?;
            Ok(writeln!(out, "{}", imported(&folder.state_dir, &done))?)
        }
        What::Delete { name, folder, which } => {
            let workspace = real(which.workspace.as_deref())?;
            let gone = moves::delete(&folder.state_dir, &named(name, workspace.as_deref(), which))?;
            Ok(writeln!(out, "{name:?} is deleted: {} on disk are free", size(gone.bytes))?)
        }
    }
}

fn named<'a>(name: &'a str, workspace: Option<&'a Path>, which: &'a Which) -> Named<'a> {
    Named { name, workspace, owner: which.owner.as_deref() }
}

/// Servers know workspaces by their real paths.
fn real(workspace: Option<&Path>) -> Result<Option<PathBuf>, SessionsError> {
    let real =
        |path: &Path| path.canonicalize().map_err(|source| SessionsError::Workspace { path: path.to_owned(), source });
    workspace.map(real).transpose()
}

fn list(folder: &Path, as_json: bool, out: &mut impl Write) -> Result<(), SessionsError> {
    let all = moves::list(folder)?;
    if as_json {
        let entries: Vec<_> = all.iter().map(entry).collect();
        return Ok(writeln!(out, "{:#}", json!({ "sessions": entries }))?);
    }
    if all.is_empty() {
        return Ok(writeln!(out, "no session sleeps in {}", folder.display())?);
    }
    for one in &all {
        out.write_all(line(one).as_bytes())?;
    }
    Ok(())
}

fn entry(one: &Listed) -> serde_json::Value {
    let Listed { file, bytes, written, server, what } = one;
    let mut entry = json!({ "file": file, "bytes": bytes, "written": written.to_string(), "server": server });
    let more = match what {
        Held::Session { name, owner, workspace, python, cell, last_cell, is_memory, variables } => json!({
            "session_id": name, "owner": owner, "workspace": workspace, "python": python, "after_cell": cell,
            "last_cell": last_cell, "whole": is_memory,
            "by_value": variables.as_ref().map(|(names, _)| names),
            "left_out": variables.as_ref().map(|(_, left_out)| left_out.iter().cloned().collect::<std::collections::BTreeMap<_, _>>()),
        }),
        Held::Nothing(why) => json!({ "damaged": why }),
    };
    if let (Some(entry), serde_json::Value::Object(more)) = (entry.as_object_mut(), more) {
        entry.extend(more);
    }
    entry
}

fn line(one: &Listed) -> String {
    let Listed { file, bytes, written, server, what } = one;
    let when = written.strftime("%Y-%m-%d %H:%M:%S UTC");
    let (head, more) = match what {
        Held::Session { name, owner, workspace, cell, last_cell, is_memory, variables, .. } => {
            let by_value = if *is_memory { "" } else { ", by value" };
            let mut more = format!("  workspace {workspace}, owner {owner}, after cell {cell}{by_value}\n");
            if cell < last_cell {
                more += &format!("  without what cells up to {last_cell} did after that\n");
            }
            if let (false, Some(variables)) = (is_memory, variables) {
                more += &format!("  {}\n", told(variables));
            }
            (name.clone(), more)
        }
        Held::Nothing(why) => {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            (name.into_owned(), format!("  {why}\n  {}\n", file.display()))
        }
    };
    let server = server.map_or_else(String::new, |server| format!(", in the server {server}"));
    format!("{head}: {}, written at {when}{server}\n{more}", size(*bytes))
}

fn exported(name: &str, file: &Path, done: &Exported) -> String {
    let Exported { bytes, cell, lost, is_memory, variables } = done;
    let mut text = format!("session {name:?} as after cell {cell}: {} in {}", size(*bytes), file.display());
    if let Some((first, last)) = lost {
        text += &format!("; without what cells {first} to {last} did after that");
    }
    match (is_memory, variables) {
        (true, Some(_)) => text += ". Where it cannot be woken, it has its variables by value (--values)",
        (true, None) => {}
        (false, Some(variables)) => text += &format!(". By value: {}", told(variables)),
        (false, None) => text += ". By value",
    }
    text + ". The session stays where it is"
}

fn imported(folder: &Path, done: &Imported) -> String {
    let Imported { name, owner, workspace, python, is_memory, variables, servers } = done;
    let mut text =
        format!("session {name:?} sleeps in {}, for a server on the workspace {workspace}", folder.display());
    if owner != "user" {
        text += &format!(" and the owner {owner}");
    }
    match (is_memory, variables, python.is_empty()) {
        (true, _, false) => text += &format!(" with the environment of {python}"),
        (false, Some(variables), _) => text += &format!(". By value: {}", told(variables)),
        _ => {}
    }
    match servers.as_slice() {
        [] => text + ". The next server has it",
        [one] => text + &format!(". The server that runs (process {one}) has it when it is asked for, by its name"),
        _ => text + ". A server that runs has it when it is asked for, by its name",
    }
}

/// Names of variables by value, and of the others.
fn told((names, left_out): &Variables) -> String {
    let others: Vec<String> = left_out.iter().map(|(name, why)| format!("{name} ({why})")).collect();
    match others.is_empty() {
        true => some(names),
        false => format!("{}; not there are {}", some(names), some(&others)),
    }
}

fn some(names: &[String]) -> String {
    match names.len() {
        0 => "none".to_owned(),
        count if count > NAMED => format!("{} and {} more", names[..NAMED].join(", "), count - NAMED),
        _ => names.join(", "),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

/// What a person can do about it.
fn remedy(error: &MoveError) -> String {
    match error {
        MoveError::Unknown { known, .. } => {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            format!(
                "; there are: {known}. One that is awake is put to sleep by sleep_session, or by the end of its server"
            )
        }
        MoveError::Several { which, .. } => {
            let which: Vec<String> =
                which.iter().map(|(workspace, owner)| format!("workspace {workspace}, owner {owner}")).collect();
            format!(": {}. Say which with --workspace or --owner", which.join("; "))
        }
        MoveError::GoneOn { .. } => ". Put it to sleep: sleep_session".to_owned(),
        MoveError::Woken { server: Some(server), .. } => {
            format!(" by the server {server}. Nothing was written; put it to sleep and try again")
        }
        MoveError::Woken { server: None, .. } => ". Nothing was written; try again".to_owned(),
        MoveError::InUse { .. } => ". delete_session deletes it there".to_owned(),
        MoveError::Tied { is_export, instead, tie, .. } => {
            let nothing = if *is_export { ". Nothing was written" } else { ". Nothing was imported" };
            let way = tie.remedy().map_or_else(String::new, |remedy| format!(". {remedy}"));
            let instead = match instead {
                Some(variables) => format!(". Its variables can be had by value, with --values: {}", told(variables)),
                None => ". It has no variables by value beside its image".to_owned(),
            };
            format!("{nothing}{way}{instead}")
        }
        MoveError::NoValues { .. } => ": leave --values out".to_owned(),
        MoveError::Closed { .. } | MoveError::OtherForm { .. } | MoveError::Large { .. } => {
            ". Nothing was imported".to_owned()
        }
        MoveError::Taken { .. } => ". Nothing was imported; --as gives it another name".to_owned(),
        MoveError::OtherWorkspace { there, .. } => {
            format!(". Start the server with --workspace {there}, or take its variables alone with --values")
        }
        MoveError::Exists(_) => ". Nothing was written; --force replaces it".to_owned(),
        MoveError::Write { .. } => ". No file was written".to_owned(),
        MoveError::Exposed { .. } => ": put it elsewhere".to_owned(),
        MoveError::Folder { .. } | MoveError::Image { .. } | MoveError::BadName { .. } | MoveError::Put { .. } => {
            String::new()
        }
    }
}
