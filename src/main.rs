//! Chooses the role of this process and runs it. No runtime and no thread exist before the choice.

use std::io::IsTerminal;

use anyhow::Context;
use forkpy::{
    bench,
    cli::{Cli, Role},
    config::Settings,
    config_file, server,
    sys::descriptors,
    zygote,
};
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    let cli = config_file::parse()?;
    match cli.role {
        Some(Role::Zygote { socket, server }) => {
            // SAFETY: the server left this descriptor open for this role and tells its number on the command line;
            // nothing else in this process has touched descriptors yet.
            let stream = unsafe { descriptors::inherited_stream(socket) };
            zygote::run(stream, server).context("the zygote ended")
        }
        Some(Role::Bench(ref args)) => Ok(bench::run(args, cli.for_same_python(), &cli.preload)?),
        Some(Role::Echo) => bench::echo::run().context("the channel broke"),
        None => serve(cli),
    }
}

/// One thread: a cell's way through the server then needs no hand-over, and children whose life is tied to the thread
/// that made them live as long as the server.
fn serve(cli: Cli) -> anyhow::Result<()> {
    log_to_stderr(&cli.log)?;
    let settings = Settings::resolve(cli)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(server::run(settings));
    runtime.shutdown_background();
    Ok(served?)
}

/// Standard output carries JSON-RPC and nothing else.
fn log_to_stderr(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?} is no filter"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}
