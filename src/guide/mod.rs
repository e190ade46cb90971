//! The guide for users: one chapter for each subject.
//!
//! On a terminal `forkpy guide` shows it; agents read it as resources, `forkpy://guide/sessions` and so on.
//!
//! Owns the chapters' texts and their order. Runs in: any process. Never: how a chapter is shown (`commands/guide.rs`,
//! `server/mcp/resources/guide.rs`).

/// A chapter.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chapter {
    /// What it is asked for by.
    pub name: &'static str,
    /// What it tells of.
    pub about: &'static str,
    /// Its text, as Markdown.
    pub text: &'static str,
}

/// One list: what programs read, and a page of the documentation for each chapter. Links between chapters lead to pages there;
/// the first definition of a link is the one that counts.
macro_rules! chapters {
    ($($module:ident: $name:literal, $about:literal;)*) => {
        /// All chapters, in the order in which they are read.
        pub(crate) const CHAPTERS: &[Chapter] =
            &[$(Chapter { name: $name, about: $about, text: include_str!(concat!($name, ".md")) }),*];
        $(
            #[cfg(doc)]
            #[doc = include_str!("pages.txt")]
            #[doc = include_str!(concat!($name, ".md"))]
            pub mod $module {}
        )*
    };
}

chapters! {
    sessions: "sessions", "sessions and cells: how a cell ends, output, interrupts, input, servers that outlive their clients";
    files: "files", "files and packages: the workspace, resources, uploads and downloads, scripts, installing";
    notebooks: "notebooks", "what of a notebook's habits works here; running and writing notebook files";
    health: "health", "health and recovery: states, alerts, policies, why a worker died";
    checkpoints: "checkpoints", "checkpoints and branches: coming back from a crash, trying several ways, saving for another day";
    long_work: "long-work", "work longer than a call: running, queued, wait_for_cell";
    sandbox: "sandbox", "what confined sessions cannot reach, what a sandbox does not keep, and when to take a virtual machine";
    limits: "limits", "limits and security: what forkpy does not protect from, memory, time, processes";
    clients: "clients", "how a client is connected, by a command and by hand";
    hosting: "hosting", "over HTTP: tokens, probes, metrics, systemd";
    bundle: "bundle", "one file that needs no Python; wheel, container";
    settings: "settings", "options, variables and defaults";
    tools: "tools", "all tools with their arguments";
    troubleshooting: "troubleshooting", "what you see, why, and what to do";
}

/// The chapter of this name.
pub(crate) fn chapter(name: &str) -> Option<&'static Chapter> {
    CHAPTERS.iter().find(|chapter| chapter.name == name)
}
