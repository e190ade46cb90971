//! `forkpy licences`: the licences of all that is inside.
//!
//! Runs in: a process of its own.

use std::io::Write;

use crate::bundle;

/// Prints them.
///
/// # Errors
/// When the bundle's list cannot be read, or nothing can be written.
pub(crate) fn licences(out: &mut dyn Write) -> anyhow::Result<()> {
    out.write_all(bundle::licences::inside(bundle::root().as_deref())?.as_bytes())?;
    Ok(())
}
