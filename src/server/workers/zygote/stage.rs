//! What the zygote is doing, for those who wait for it.
//!
//! Runs in: server. Pure data.

/// What the zygote is doing, for those who wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Environment or interpreter still being prepared.
    Starting,
    /// Forks are welcome.
    Warm {
        /// Process id.
        pid: i32,
        /// Python's version.
        python: String,
        /// `sys.executable` of sessions.
        executable: String,
    },
    /// It cannot start, and why.
    Failed(String),
}
