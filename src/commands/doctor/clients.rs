//! The configurations of clients: those in which forkpy is entered, and whether the client can start it so.
//!
//! Runs in: a process of its own. Reads the files; starts nothing.

use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::finding::Finding;
use crate::commands::install::{
    self,
    clients::{CLIENTS, Client, Entry},
};

pub(super) fn clients() -> Finding {
    let (mut well, mut wrong) = (Vec::new(), Vec::new());
    for client in CLIENTS {
        let Ok(file) = client.of_user() else { continue };
        let Ok(bytes) = std::fs::read(&file) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        match install::servers(client, text.trim_start_matches('\u{feff}')) {
            Err(reason) => wrong.push(format!("{}: {} is not read: {reason}", client.name, file.display())),
            Ok(servers) => {
                let entries = servers.iter().filter_map(|(name, value)| Some((name, client.command(value)?)));
                for (name, entry) in entries.filter(|(_, entry)| entry.is_forkpy()) {
                    match trouble(&entry) {
                        None => well.push(format!("{} ({name})", client.name)),
                        Some(reason) => wrong.push(told(client, name, &reason)),
                    }
                }
            }
        }
    }
    if wrong.is_empty() {
        return match well.is_empty() {
            true => Finding::ok("clients", "forkpy is entered in none; `forkpy install --client NAME` does it"),
            false => Finding::ok("clients", format!("forkpy is entered in {}", well.join(", "))),
        };
    }
    Finding::warning("clients", wrong.join("; "), "mend the file, or enter forkpy anew: forkpy install --client NAME")
}

fn told(client: &Client, name: &str, reason: &str) -> String {
    format!("{}: the entry {name:?} does not start: {reason}", client.name)
}

/// Why this cannot be started. A name without a folder is searched by the client, on a path that is not known here.
fn trouble(entry: &Entry) -> Option<String> {
    let program = Path::new(&entry.command);
    if program.is_absolute() && access(program, AccessFlags::X_OK).is_err() {
        return Some(format!("there is no program {}", program.display()));
    }
    // Of uvx and the like the first words are not forkpy's.
    let own = program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("forkpy"));
    if own { install::parse(&entry.args).err() } else { None }
}
