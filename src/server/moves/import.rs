//! A session comes from a file: opened with the passphrase, compared with what is here, sealed with this installation's key, and
//! put where the next server finds it.
//!
//! Runs in: `forkpy sessions import`, a process of its own. Everything is checked before the first byte goes to the folder, and what
//! goes there is seen when it is whole.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use super::{
    age::Closed,
    error::{MoveError, Secret, Tie, Variables, folder},
    export::digest,
    list::owner_of,
    packed::{self, Manifest, Unpacked, Useless},
};
use crate::{
    server::sessions::{
        images::{
            about::About,
            outside::{Contents, Kind, StateFolder},
        },
        names::is_name,
    },
    sys::image,
};

/// What is wished of it.
#[derive(Debug)]
pub(crate) struct Wish<'a> {
    /// `-` is standard input.
    pub(crate) file: &'a Path,
    /// Another name than it had.
    pub(crate) name: Option<&'a str>,
    /// Where it is to work, when not where it did.
    pub(crate) workspace: Option<&'a Path>,
    /// Its variables, and not its memory.
    pub(crate) only_values: bool,
    /// Bytes that all that lies in the folder may take.
    pub(crate) limit: u64,
}

/// What was imported.
#[derive(Debug)]
pub(crate) struct Imported {
    pub(crate) name: String,
    pub(crate) owner: String,
    pub(crate) workspace: String,
    /// The interpreter of the environment that it needs; empty where any will do.
    pub(crate) python: String,
    pub(crate) is_memory: bool,
    pub(crate) variables: Option<Variables>,
    /// Servers that run with this folder.
    pub(crate) servers: Vec<u32>,
}

/// Puts the session of a file into a folder.
///
/// # Errors
/// [`MoveError`]: nothing is in the folder that was not there before.
pub(crate) fn import(named: &Path, wish: &Wish, secret: &Secret) -> Result<Imported, MoveError> {
    let Unpacked { manifest, contents } = unpacked(wish.file, &secret.passphrase)?;
    let Manifest { mut about, needs, instead } = manifest;
    secret.is_out_of(
        wish.workspace.map_or(about.workspace.as_str(), |workspace| workspace.to_str().unwrap_or_default()),
    )?;
    if let Some(name) = wish.name {
        name.clone_into(&mut about.session);
    }
    if !is_name(&about.session) {
        return Err(MoveError::BadName { name: about.session });
    }
    let contents = match contents.base.is_some() && !wish.only_values {
        true => {
            is_in_its_workspace(&about, wish)?;
            refuse_taken(named, &about)?;
            settle(&about, &needs, &contents, instead.as_ref())?;
            contents
        }
        false => {
            let contents = by_value(&mut about, contents, wish)?;
            refuse_taken(named, &about)?;
            contents
        }
    };
    let state = folder(named, StateFolder::make)?;
    let is_memory = contents.base.is_some();
    let put = state.put(&about, contents, wish.limit);
    put.map_err(|error| MoveError::Put { folder: named.to_owned(), why: error.to_string() })?;
    Ok(Imported {
        owner: owner_of(&about),
        name: about.session,
        workspace: about.workspace,
        python: about.python,
        is_memory,
        variables: about.by_value.or(instead),
        servers: state.servers(),
    })
}

fn unpacked(path: &Path, passphrase: &str) -> Result<Unpacked, MoveError> {
    let closed = |closed| MoveError::Closed { path: path.to_owned(), closed };
    let mut file: Box<dyn BufRead> = match path == Path::new("-") {
        true => Box::new(BufReader::new(io::stdin())),
        false => {
            let file = File::open(path).map_err(|error| closed(Closed::Read(error)))?;
            Box::new(BufReader::with_capacity(256 << 10, file))
        }
    };
    packed::read(&mut file, passphrase, free_memory).map_err(|useless| match useless {
        Useless::Closed(why) => closed(why),
        Useless::OtherForm(version) => MoveError::OtherForm { path: path.to_owned(), version },
        Useless::Large(size, free) => MoveError::Large { path: path.to_owned(), size, free },
    })
}

/// Its memory knows its workspace by the path that it had.
fn is_in_its_workspace(about: &About, wish: &Wish) -> Result<(), MoveError> {
    match wish.workspace.is_none_or(|workspace| workspace == Path::new(&about.workspace)) {
        true => Ok(()),
        false => Err(MoveError::OtherWorkspace { name: about.session.clone(), there: about.workspace.clone() }),
    }
}

/// One that sleeps there stays what it is.
fn refuse_taken(named: &Path, about: &About) -> Result<(), MoveError> {
    // One that is not there yet has none.
    let stored = StateFolder::open(named).map(|state| state.stored()).unwrap_or_default();
    let is_taken = stored.iter().any(|stored| match &stored.what {
        Kind::Session { about: other, .. } => {
            (&other.session, &other.workspace, &other.owner) == (&about.session, &about.workspace, &about.owner)
        }
        _ => false,
    });
    match is_taken {
        true => {
            let (name, workspace) = (about.session.clone(), about.workspace.clone());
            Err(MoveError::Taken { name, workspace, folder: named.to_owned() })
        }
        false => Ok(()),
    }
}

/// Its memory has to find here what it had there.
fn settle(
    about: &About,
    needs: &std::collections::BTreeMap<PathBuf, String>,
    contents: &Contents,
    instead: Option<&Variables>,
) -> Result<(), MoveError> {
    let name = || about.session.clone();
    let tied = |tie: Tie| MoveError::Tied {
        name: name(),
        is_export: false,
        tie: Box::new(tie),
        instead: instead.cloned().map(Box::new),
    };
    // What concerns the whole machine first: it is the better reason.
    image::settle_here(contents.body.as_fd(), about.base).map_err(|refusal| tied(refusal.into()))?;
    // The small ones first: where something differs it is soon found.
    let mut needs: Vec<_> = needs.iter().collect();
    needs.sort_by_key(|(path, _)| fs::metadata(path).map_or(0, |status| status.len()));
    for (path, then) in needs {
        if digest(path).map_err(tied)? != *then {
            return Err(tied(Tie::File { path: path.clone(), is_missing: false }));
        }
    }
    Ok(())
}

/// Its variables alone, which any server can load.
fn by_value(about: &mut About, contents: Contents, wish: &Wish) -> Result<Contents, MoveError> {
    let contents = match contents {
        Contents { base: None, .. } => contents,
        Contents { instead: Some((body, names)), .. } => {
            about.by_value = Some(names);
            Contents { body, base: None, instead: None }
        }
        Contents { instead: None, .. } => return Err(MoveError::NoValues { name: about.session.clone() }),
    };
    // Of whatever environment.
    about.python.clear();
    about.base = image::BaseId::default();
    if let Some(workspace) = wish.workspace {
        about.workspace = workspace.to_string_lossy().into_owned();
    }
    Ok(contents)
}

/// Bytes of memory that are free, as the kernel estimates it.
pub(super) fn free_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kilobytes.map_or(u64::MAX, |kilobytes| kilobytes << 10)
}
