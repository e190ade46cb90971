//! What clients are shown: which form replies have, which tools are listed, which files are made beside what is displayed.
//!
//! Runs in: server, and commands before they start one. Knows no tool by name.

use clap::{Args, ValueEnum};

/// What clients are shown.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Replies")]
pub(crate) struct ReplyOptions {
    /// Whether replies hold structured content and tools an output schema. auto: all clients get it but those that are
    /// known to show their model JSON instead of text and pictures
    #[arg(long, value_enum, env = "FORKPY_STRUCTURED", default_value = "auto")]
    pub structured: Structured,

    /// Tools that are listed: standard, core, all, or names with commas between them
    #[arg(long, value_name = "TOOLS", env = "FORKPY_TOOLS", default_value = "standard")]
    pub tools: String,

    /// Save the HTML of what is displayed as a file also where its text is in the reply: tables, estimators
    #[arg(long, env = "FORKPY_KEEP_HTML", value_parser = clap::builder::BoolishValueParser::new(), num_args = 0..=1,
          default_missing_value = "true", default_value_t = false)]
    pub keep_html: bool,
}

/// When replies hold structured content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Structured {
    /// As the client needs it
    Auto,
    /// For every client
    Always,
    /// For none
    Never,
}
