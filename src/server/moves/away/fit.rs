//! Whether what came out of the store can wake here as a whole; if not, it comes by value.
//!
//! Runs in: server, on a blocking thread. Looks at files of this machine, and changes none.

use std::{collections::BTreeMap, os::fd::AsFd, path::PathBuf};

use crate::{
    server::{
        moves::{error::Tie, export::digest, packed::Manifest},
        sessions::images::{about::About, outside::Contents},
    },
    sys::image::{self, BaseId},
};

/// What this server is, as far as sessions know it.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) workspace: String,
    /// The interpreter of its environment, once that is known.
    pub(super) python: Option<String>,
}

/// A session as it can be had here, and why not as a whole.
#[derive(Debug)]
pub(super) struct Fitted {
    pub(super) about: About,
    pub(super) contents: Contents,
    pub(super) why: Option<String>,
}

/// Makes it fit.
///
/// # Errors
/// Why it cannot be had at all.
pub(super) fn fitted(manifest: Manifest, contents: Contents, here: &Here) -> Result<Fitted, String> {
    let Manifest { mut about, needs, .. } = manifest;
    let Some(_) = &contents.base else {
        about.workspace.clone_from(&here.workspace);
        return Ok(Fitted { about, contents, why: None });
    };
    let why = match unfit(&about, &needs, &contents, here) {
        Ok(()) => return Ok(Fitted { about, contents, why: None }),
        Err(why) => why,
    };
    let Some((body, names)) = contents.instead else {
        return Err(format!("{why}, and there are no variables by value beside its image"));
    };
    about.by_value = Some(names);
    // Of whatever environment.
    about.python.clear();
    about.base = BaseId::default();
    about.workspace.clone_from(&here.workspace);
    Ok(Fitted { about, contents: Contents { body, base: None, instead: None }, why: Some(why) })
}

fn unfit(about: &About, needs: &BTreeMap<PathBuf, String>, contents: &Contents, here: &Here) -> Result<(), String> {
    if about.workspace != here.workspace {
        return Err(format!("it works in {}, and this server in {}", about.workspace, here.workspace));
    }
    if let Some(python) = here.python.as_ref().filter(|python| **python != about.python && !about.python.is_empty()) {
        return Err(format!(
            "it ran with the Python environment of {}, and this server has that of {python}",
            about.python
        ));
    }
    let tied = |tie: Tie| tie.words();
    // What concerns the whole machine first: it is the better reason.
    image::settle_here(contents.body.as_fd(), about.base).map_err(|refusal| tied(refusal.into()))?;
    for (path, then) in needs {
        if digest(path).map_err(tied)? != *then {
            return Err(tied(Tie::File { path: path.clone(), is_missing: false }));
        }
    }
    Ok(())
}
