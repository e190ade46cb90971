//! What `forkpy doctor` is told.
//!
//! Runs in: a process of its own, while it reads its command line.

use clap::Args;

/// What `forkpy doctor` is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorArgs {
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}
