//! What Python is told of its confinement: the terms on which it goes on.
//!
//! Runs in: worker and script, once after the fork. Pure data: `confinement.rs` makes it, `python.rs` passes it on.

use std::{collections::BTreeMap, path::Path};

use crate::protocol::Confinement;

/// What Python is told of its confinement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub mode: Confinement,
    /// Its own folder.
    pub room: &'a Path,
    /// Where the server's proxy is.
    pub proxy: Option<&'a str>,
    /// Variables to set, or to take away.
    pub secrets: &'a BTreeMap<String, Option<String>>,
}
