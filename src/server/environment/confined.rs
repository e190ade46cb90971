//! Installing in the sandbox: the tool runs in a fork of the zygote that may change the environment and reach the indexes, and
//! nothing else that a session may not.
//!
//! Runs in: server. Asks for the indexes before each install: settings of pip and uv may change, and so may the tool. They are
//! the operator's, so their hosts are reached wherever they are; all others have to be in `--allow-net`.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    errand::{errand, failed},
    error::PackageError,
    installer::Tool,
    wanted::Wanted,
};
use crate::{
    protocol::Installing,
    server::{
        output::{peephole::Audience, streams::Followed},
        scripts::{Held, ScriptError, Scripts},
        sessions::context::Surroundings,
        workspace::workplace::Workplace,
    },
    settings::network::Host,
};

/// Looks for the indexes; the file is where the answer goes.
const INDEXES: &str = "import sys\nfrom forkpy_worker.session.installing import indexes\nindexes(sys.argv[1])\n";
/// Runs the tool.
const RUN: &str = "import sys\nfrom forkpy_worker.session.installing import run\nrun(sys.argv[1])\n";
/// Where the tools look for their settings, which is not in the folder that is their home here.
const HOMES: [&str; 3] = ["HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"];

/// What the tools' settings name.
#[derive(Debug, Deserialize)]
struct Indexes {
    hosts: Vec<(String, u16)>,
    /// Files that the tools read for it.
    read: Vec<String>,
    /// Where packages are installed to.
    write: Vec<String>,
}

/// What the lines that run the tool are told.
#[derive(Debug, Serialize)]
struct Order {
    command: Vec<String>,
    directory: PathBuf,
    /// Variables that are set, or taken away.
    environment: BTreeMap<String, Option<String>>,
}

/// Starts the tool. `place` is where it works, if that is not its own folder.
///
/// # Errors
/// [`PackageError`] when there is no process.
pub(super) async fn start(
    (around, scripts): (&Surroundings, &Scripts),
    tool: &Tool,
    (python, wanted): (&str, &Wanted),
    place: Option<&Path>,
    (audience, workplace): (Audience, &Workplace),
) -> Result<(Followed, Held), PackageError> {
    let fail = |source: io::Error| PackageError::Tool { tool: tool.name(), source };
    let indexes: Indexes = errand((around, scripts), INDEXES, &[]).await?;
    let hosts = indexes.hosts.iter().filter_map(|(host, port)| Some((Host::read(host).ok()?, *port)));
    if let Some(egress) = &around.egress {
        egress.set_indexes(hosts.collect());
    }
    let (room, proxy) = around.zygote.for_installing().map_err(fail)?;
    let own = room.path().join("tmp");
    let mut command = tool.command(python, wanted, &own).map_err(fail)?;
    for (name, folder) in [("PIP_CACHE_DIR", "pip"), ("UV_CACHE_DIR", "uv")] {
        command.env(name, own.join("cache").join(folder));
    }
    // It cannot link files of one folder into another.
    command.env("UV_LINK_MODE", "copy");
    for name in HOMES {
        match std::env::var_os(name) {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(proxy) = proxy {
        // Before what its settings say.
        command.env("PIP_PROXY", format!("http://{proxy}"));
    }
    let words = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    let program = words(command.get_program());
    let order = Order {
        command: std::iter::once(program.clone()).chain(command.get_args().map(words)).collect(),
        directory: place.map_or(own, Path::to_owned),
        environment: command.get_envs().map(|(name, value)| (words(name), value.map(words))).collect(),
    };
    let order = serde_json::to_string(&order).map_err(|error| failed(&error))?;
    let (Indexes { read, write, .. }, proxy) = (indexes, proxy.map(|address| address.to_string()));
    // Its own environment lies in the workspace; that of all is not an owner's to change.
    let write = if workplace.environment().is_some() { Vec::new() } else { write };
    let installing = Installing { read, write, run: vec![program], proxy };
    let no_process = |source| ScriptError::NoProcess { path: tool.name().to_owned(), source };
    Ok(scripts.install(RUN, vec![order], (room, installing), (audience, workplace)).await.map_err(no_process)?)
}
