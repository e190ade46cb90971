//! Options of `forkpy bench`.
//!
//! Runs in: bench.

use std::path::PathBuf;

use clap::Args;

/// What to measure, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArgs {
    /// Print the result as JSON, for --compare
    #[arg(long)]
    pub json: bool,

    /// Show beside each row what it was in an earlier run with --json, and the ratio
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub compare: Option<PathBuf>,

    /// Write the result as a page too, with charts and without anything from outside; the chart alone into a FILE.svg
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Take the figures of an earlier run with --json, and measure nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["only", "quick", "against"])]
    pub from: Option<PathBuf>,

    /// Measure beside this: the command of another MCP server that speaks stdio, or `ipykernel`
    #[arg(long, value_name = "COMMAND")]
    pub against: Option<String>,

    /// The tool of the other server that runs code
    #[arg(long, value_name = "NAME", default_value = "run_python_code")]
    pub against_tool: String,

    /// The argument of that tool that takes the code
    #[arg(long, value_name = "NAME", default_value = "code")]
    pub against_argument: String,

    /// Rows to measure, by their names; all when left out
    #[arg(long, value_name = "ROW,...", value_delimiter = ',')]
    pub only: Vec<String>,

    /// Rounds: how often each row has its turn
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,

    /// A few seconds instead of most of a minute: less to say about noise
    #[arg(long)]
    pub quick: bool,

    /// Say what each row times, and measure nothing
    #[arg(long)]
    pub explain: bool,
}
