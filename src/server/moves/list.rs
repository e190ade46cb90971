//! What lies in a folder, which of it a name means, and deleting it.
//!
//! Runs in: `forkpy sessions`, a process of its own.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::error::{MoveError, Variables, folder};
use crate::server::sessions::images::{
    about::{About, Lasting},
    outside::{Kind, StateFolder, Stored},
};

/// One of them, as a person sees it.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) file: PathBuf,
    /// With what lies beside it.
    pub(crate) bytes: u64,
    pub(crate) written: Timestamp,
    /// The process of the server that has it.
    pub(crate) server: Option<u32>,
    pub(crate) what: Held,
}

#[derive(Debug)]
pub(crate) enum Held {
    Session {
        name: String,
        owner: String,
        workspace: String,
        python: String,
        /// The last cell whose effects it has, and the last that began.
        cell: u64,
        last_cell: u64,
        /// It is memory, and these variables lie beside it; or these variables are all.
        is_memory: bool,
        variables: Option<Variables>,
    },
    /// Why it is none, in words.
    Nothing(String),
}

/// Which session is meant.
#[derive(Debug)]
pub(crate) struct Named<'a> {
    pub(crate) name: &'a str,
    pub(crate) workspace: Option<&'a Path>,
    pub(crate) owner: Option<&'a str>,
}

/// What lies in a folder, oldest first.
///
/// # Errors
/// [`MoveError`].
pub(crate) fn list(named: &Path) -> Result<Vec<Listed>, MoveError> {
    let stored = folder(named, StateFolder::open)?.stored();
    Ok(stored.into_iter().map(listed).collect())
}

fn listed(stored: Stored) -> Listed {
    let Stored { path, bytes, written, server, what } = stored;
    let mut written = Timestamp::try_from(written).unwrap_or_default();
    let what = match what {
        Kind::Session { about, since, instead } => {
            let about = *about;
            written = about.written_at();
            let is_memory = about.by_value.is_none();
            Held::Session {
                owner: owner_of(&about),
                workspace: about.workspace,
                python: about.python,
                cell: about.cell,
                last_cell: about.last_cell.max(since.unwrap_or(0)),
                is_memory,
                variables: about.by_value.or(instead),
                name: about.session,
            }
        }
        Kind::Damaged => {
            Held::Nothing("damaged: it was changed or cut short, or is sealed with another key".to_owned())
        }
        Kind::OtherVersion => Held::Nothing("written by another version of forkpy".to_owned()),
        Kind::Unreadable(error) => Held::Nothing(format!("cannot be read: {error}")),
    };
    Listed { file: path, bytes, written, server, what }
}

/// How a person calls an owner.
pub(super) fn owner_of(about: &About) -> String {
    match &about.owner {
        Some(Lasting::User) => "user".to_owned(),
        Some(Lasting::Bearer) => "token".to_owned(),
        Some(Lasting::Named(name)) => name.clone(),
        // It may be any text.
        Some(Lasting::Subject(subject)) => format!("subject:{}", subject.escape_debug()),
        Some(Lasting::Unnamed) => "all".to_owned(),
        None => "none".to_owned(),
    }
}

/// The one session that is meant, by its name.
pub(super) fn find(stored: Vec<Stored>, named: &Named, folder: &Path) -> Result<(Stored, Box<About>), MoveError> {
    let (mut found, mut known) = (Vec::new(), Vec::new());
    for stored in stored {
        let Kind::Session { about, .. } = &stored.what else { continue };
        let is_there = named.workspace.is_none_or(|workspace| Path::new(&about.workspace) == workspace);
        let is_owners = named.owner.is_none_or(|owner| owner_of(about) == owner);
        known.push(about.session.clone());
        if about.session == named.name && is_there && is_owners {
            let about = about.clone();
            found.push((stored, about));
        }
    }
    let (name, folder) = (named.name.to_owned(), folder.to_owned());
    match found.len() {
        0 => {
            known.sort();
            known.dedup();
            Err(MoveError::Unknown { name, folder, known })
        }
        1 => Ok(found.remove(0)),
        _ => {
            let which = found.iter().map(|(_, about)| (about.workspace.clone(), owner_of(about))).collect();
            Err(MoveError::Several { name, folder, which })
        }
    }
}

/// Deletes a session that no server has, or a file of which no session can be told, by its file's name.
///
/// # Errors
/// [`MoveError`].
pub(crate) fn delete(named: &Path, wanted: &Named) -> Result<Listed, MoveError> {
    let state = folder(named, StateFolder::open)?;
    let mut stored = state.stored();
    let is_file = |stored: &Stored| {
        stored.path.file_name().is_some_and(|file| file == wanted.name) || stored.path == Path::new(wanted.name)
    };
    let found = match stored.iter().position(is_file) {
        Some(place) => stored.swap_remove(place),
        None => find(stored, wanted, named)?.0,
    };
    let in_use = |server: u32| MoveError::InUse { name: wanted.name.to_owned(), server };
    if let Some(server) = found.server {
        return Err(in_use(server));
    }
    state.delete(&found).map_err(|source| MoveError::Folder { path: found.path.clone(), source })?;
    Ok(listed(found))
}
