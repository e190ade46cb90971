//! Chooses the role of this process and runs it. No runtime and no thread exist before the choice.

use anyhow::{Context, bail};
use clap::Parser;
use forkpy::{
    cli::{Cli, Role},
    config::Settings,
    sys::descriptors,
    zygote,
};

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match cli.role {
        Some(Role::Zygote { socket, server }) => {
            // SAFETY: the server left this descriptor open for this role and tells its number on the command line;
            // nothing else in this process has touched descriptors yet.
            let stream = unsafe { descriptors::inherited_stream(socket) };
            zygote::run(stream, server).context("the zygote ended")
        }
        None => {
            let settings = Settings::resolve(cli)?;
            bail!("the MCP server is not part of this build yet (workspace {})", settings.workspace.root.display())
        }
    }
}
