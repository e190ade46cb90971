//! What the zygote is doing, for those who wait for it.
//!
//! Runs in: server. Pure data.

use super::image::Begun;

/// What the zygote is doing, for those who wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Environment or interpreter still being prepared.
    Starting,
    Warm {
        pid: i32,
        python: String,
        executable: String,
        /// What it has imported of its own accord, beside what `--preload` names.
        modules: Vec<String>,
        begun: Begun,
    },
    /// It cannot start, and why.
    Failed(String),
}
