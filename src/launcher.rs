//! The small program that the single file of a bundle begins with: unpacks forkpy once and goes on as it.
//!
//! Runs in: the process that was started, until forkpy takes it over. A program of its own, without Python: it is what every start
//! of the single file pays for. `forkpy bundle` builds it (feature `launcher`) from the same modules.

#![allow(dead_code, reason = "forkpy itself uses the other half of these modules")]

/// What it shares with forkpy of the room `bundle`.
mod bundle {
    mod error;
    pub(crate) mod launcher;
    mod manifest;
    mod payload;

    pub(crate) use self::error::BundleError;
}

/// What it shares with forkpy of the room `sys`.
mod sys {
    pub(crate) mod private;
}

use std::{io::Write as _, process::ExitCode};

fn main() -> ExitCode {
    let error = bundle::launcher::go_on_unpacked();
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::FAILURE
}
