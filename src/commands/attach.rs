//! What `forkpy attach` is told, and the server that it starts.
//!
//! Runs in: front and server, before either has begun.

use std::{
    fs::{self, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::OpenOptionsExt, unix::net::UnixListener},
    path::PathBuf,
    time::Duration,
};

use clap::Args;

use crate::{
    front::{self, AttachError, Meeting},
    settings::{bounds::seconds, host::Host, options::ServeOptions},
    sys::{
        descriptors,
        rendezvous::{self, Place},
    },
};

/// What `forkpy attach` is told.
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// Name of the server; one for each workspace when left out
    #[arg(long, value_name = "NAME", env = "FORKPY_NAME", help_heading = "Attach")]
    pub name: Option<String>,

    /// Time without clients and running cells after which the server ends, in seconds; 0 means never
    #[arg(long, value_name = "SECONDS", env = "FORKPY_IDLE_EXIT", default_value_t = 43_200.0, value_parser = seconds,
          help_heading = "Attach")]
    pub idle_exit: f64,

    /// How the server is to be, if it is started.
    #[command(flatten)]
    pub serve: ServeOptions,
}

/// What the front tells the server that it starts.
#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    /// Descriptor of the socket.
    #[arg(long)]
    pub listener: i32,
    /// The socket's directory.
    #[arg(long)]
    pub socket_dir: PathBuf,
    /// Its name.
    #[arg(long)]
    pub socket_name: String,
    /// As the front was told.
    #[command(flatten)]
    pub attach: AttachArgs,
}

/// What of it is not the server's.
#[derive(Debug)]
pub(crate) struct Meant {
    listener: i32,
    socket_dir: PathBuf,
    socket_name: String,
    idle_exit: f64,
    /// It is in the place of another program, and behind already.
    is_behind: bool,
}

impl HostArgs {
    /// The server's options, and where it is met.
    #[must_use]
    pub(crate) fn into_parts(self) -> (ServeOptions, Meant) {
        let Self { listener, socket_dir, socket_name, attach: AttachArgs { idle_exit, serve, .. } } = self;
        let is_behind = serve.adopt.is_some();
        (serve, Meant { listener, socket_dir, socket_name, idle_exit, is_behind })
    }
}

/// Passes messages on until the client goes.
///
/// # Errors
/// When no server can be had.
pub(crate) fn attach(args: &AttachArgs) -> Result<(), AttachError> {
    let name = args.name.clone().unwrap_or_else(|| rendezvous::name_for(&args.serve.workspace));
    let words = std::env::args_os().skip_while(|word| word != "attach").skip(1).collect();
    front::run(&Meeting::new(&name, words)?)
}

/// Becomes a server in the background, of which the process that started it need not know any more.
///
/// # Errors
/// When the system refuses, or the log cannot be written.
pub(crate) fn go_behind(args: Meant) -> io::Result<Host> {
    let Meant { listener, socket_dir, socket_name, idle_exit, is_behind } = args;
    let place = Place::at(socket_dir, socket_name);
    if !is_behind {
        let _ = fs::rename(place.log(), place.log().with_extension("log.old"));
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(place.log());
        let log = log.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", place.log().display())))?;
        nix::unistd::daemon(true, true)?;
        descriptors::redirect(log.as_fd(), 2)?;
        descriptors::null_stdin()?;
    }
    // SAFETY: the front left this descriptor open for this role and tells its number on the command line; nothing else in
    // this process uses it.
    let listener = UnixListener::from(unsafe { descriptors::inherited(listener) });
    descriptors::close_on_exec(listener.as_fd(), true)?;
    let words = std::env::args().skip_while(|word| word != "--socket-name").skip(2);
    let words = words.filter(|word| !word.starts_with("--adopt=")).collect();
    let idle_exit = (idle_exit > 0.0).then(|| Duration::from_secs_f64(idle_exit));
    Ok(Host { listener, place, args: words, idle_exit })
}
