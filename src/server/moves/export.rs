//! A session that sleeps becomes a file, sealed with a passphrase. The session itself stays where it is.
//!
//! Runs in: `forkpy sessions export`, a process of its own. A server may wake the session meanwhile: what is exported then would be
//! of a past that it has left, so it is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{
    age, digests,
    error::{MoveError, Secret, Tie, Variables, folder},
    list::{Named, find},
    packed::{self, Manifest},
};
use crate::{
    server::sessions::images::{
        about::About,
        outside::{Contents, Kind, StateFolder, Stored},
    },
    sys::{image, random},
};

/// What was exported.
#[derive(Debug)]
pub(crate) struct Exported {
    pub(crate) bytes: u64,
    pub(crate) cell: u64,
    /// Cells that ran after that.
    pub(crate) lost: Option<(u64, u64)>,
    pub(crate) is_memory: bool,
    /// Variables by value: beside the memory, or all there is.
    pub(crate) variables: Option<Variables>,
}

/// Where a file goes.
pub(super) enum Goal<'a> {
    File { path: &'a Path, replaces: bool },
    Output,
}

/// Writes a session to a file; `-` is standard output.
///
/// # Errors
/// [`MoveError`]: no file has been written, and an older one of that name is as it was.
pub(crate) fn export(
    named: &Path,
    wanted: &Named,
    (file, replaces): (&Path, bool),
    only_values: bool,
    secret: &Secret,
) -> Result<Exported, MoveError> {
    let goal = match file == Path::new("-") {
        true => Goal::Output,
        false => Goal::File { path: file, replaces },
    };
    if let Goal::File { path, replaces: false } = goal
        && path.exists()
    {
        return Err(MoveError::Exists(path.to_owned()));
    }
    let state = folder(named, StateFolder::open)?;
    let (stored, mut about) = find(state.stored(), wanted, named)?;
    secret.is_out_of(&about.workspace)?;
    let Kind::Session { since, instead, .. } = &stored.what else {
        return Err(MoveError::NoValues { name: about.session.clone() });
    };
    if let (Some(server), Some(cell)) = (stored.server, *since) {
        return Err(MoveError::GoneOn { name: about.session.clone(), server, cell });
    }
    let with_memory = about.by_value.is_none() && !only_values;
    if about.by_value.is_none() && only_values && instead.is_none() {
        return Err(MoveError::NoValues { name: about.session.clone() });
    }
    let contents = read(&state, &stored, &about, with_memory)?;
    about.last_cell = about.last_cell.max(since.unwrap_or(0));
    let needs = match with_memory {
        true => needs(&contents, &about, instead.clone())?,
        false => BTreeMap::new(),
    };
    if !with_memory {
        about.by_value = about.by_value.take().or_else(|| instead.clone());
    }
    let beside = contents.instead.as_ref().map(|(_, names)| names.clone());
    let variables = about.by_value.clone().or_else(|| beside.clone());
    let manifest = Manifest { about: *about, needs, instead: beside };
    let is_there = || match stored.path.exists() {
        true => Ok(()),
        false => Err(MoveError::Woken { name: wanted.name.to_owned(), server: stored.server }),
    };
    let bytes = write(&goal, &secret.passphrase, &manifest, contents, &is_there)?;
    let About { cell, last_cell, .. } = manifest.about;
    let lost = (cell < last_cell).then_some((cell + 1, last_cell));
    Ok(Exported { bytes, cell, lost, is_memory: with_memory, variables })
}

fn read(state: &StateFolder, stored: &Stored, about: &About, with_memory: bool) -> Result<Contents, MoveError> {
    let name = about.session.clone();
    state.read(stored, about, with_memory).map_err(|error| match stored.path.exists() {
        true => MoveError::Image { name, why: error.to_string() },
        false => MoveError::Woken { name, server: stored.server },
    })
}

/// Digests of the files that its memory needs.
pub(super) fn needs(
    contents: &Contents,
    about: &About,
    instead: Option<Variables>,
) -> Result<BTreeMap<PathBuf, String>, MoveError> {
    let tied = |tie: Tie| MoveError::Tied {
        name: about.session.clone(),
        is_export: true,
        tie: Box::new(tie),
        instead: instead.map(Box::new),
    };
    let found = image::needs(contents.body.as_fd()).map_err(Tie::from).and_then(|needs| {
        let files: BTreeSet<PathBuf> = needs.mapped.into_iter().chain(needs.open).collect();
        files.into_iter().map(|path| digest(&path).map(|digest| (path, digest))).collect()
    });
    found.map_err(tied)
}

/// What a file holds, as a number.
pub(super) fn digest(path: &Path) -> Result<String, Tie> {
    digests::of(path)
        .map_err(|source| Tie::from(image::Refusal::Open { path: path.to_string_lossy().into_owned(), source }))
}

/// Writes the file, which has its name when it is whole.
fn write(
    goal: &Goal,
    passphrase: &str,
    manifest: &Manifest,
    contents: Contents,
    is_there: &dyn Fn() -> Result<(), MoveError>,
) -> Result<u64, MoveError> {
    let (path, replaces) = match goal {
        Goal::Output => {
            // All of it, or nothing.
            let failed = |source| MoveError::Write { path: "-".into(), source };
            let whole = packed::write(Vec::new(), (passphrase, age::WORK), manifest, contents, random::bytes)
                .map_err(failed)?;
            is_there()?;
            let mut output = io::stdout().lock();
            output.write_all(&whole).and_then(|()| output.flush()).map_err(failed)?;
            return Ok(whole.len() as u64);
        }
        Goal::File { path, replaces } => (*path, *replaces),
    };
    let failed = |source| MoveError::Write { path: path.to_owned(), source };
    let beside = path.with_file_name(format!(
        ".{}.{}",
        path.file_name().unwrap_or_default().to_string_lossy(),
        uuid::Uuid::new_v4().simple()
    ));
    let written = || -> Result<u64, MoveError> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(&beside).map_err(failed)?;
        let to = io::BufWriter::new(file);
        let to = packed::write(to, (passphrase, age::WORK), manifest, contents, random::bytes).map_err(failed)?;
        let file = to.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        is_there()?;
        let bytes = file.metadata().map_err(failed)?.len();
        match replaces {
            true => fs::rename(&beside, path).map_err(failed)?,
            false => fs::hard_link(&beside, path).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => MoveError::Exists(path.to_owned()),
                _ => failed(error),
            })?,
        }
        Ok(bytes)
    };
    let written = written();
    let _ = fs::remove_file(&beside);
    written
}
