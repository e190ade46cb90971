//! Starting zygotes: our own binary, run again in that role.
//!
//! Runs in: server, one thread that does nothing else.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::net::UnixStream as StdStream,
    },
    process::{Command, Stdio},
    sync::Arc,
};

use tokio::sync::oneshot;

use crate::{
    server::workers::children::Children,
    settings::resolve::{hide_variables, is_hidden},
    sys::{descriptors, huge_pages, lifeline::Lifeline},
};

/// A thread that lives as long as the server and starts zygotes: the kernel's parent-death signal is tied to the thread
/// that made a process, so a thread of a pool would not do.
#[derive(Debug, Clone)]
pub(crate) struct Spawner {
    orders: std::sync::mpsc::Sender<SpawnOrder>,
    /// Variables that no zygote has.
    hidden: Arc<[String]>,
    /// Its end, that of the server, starts those of a zygote's that are stopped.
    pub(super) lifeline: Arc<Lifeline>,
}

/// The variables of a process, where it is not to have the server's.
pub(super) type Environment = Vec<(OsString, OsString)>;

type SpawnOrder = (StdStream, Option<Environment>, oneshot::Sender<io::Result<i32>>);

impl Spawner {
    /// Starts the thread. Zygotes are to have none of the hidden variables, not even at their beginning.
    ///
    /// # Errors
    /// When no thread can be made.
    pub(crate) fn start(children: Children, hidden: Vec<String>) -> io::Result<Self> {
        let (sender, orders) = std::sync::mpsc::channel::<SpawnOrder>();
        let hidden: Arc<[String]> = hidden.into();
        let not_passed = Arc::clone(&hidden);
        std::thread::Builder::new().name("zygote-spawner".into()).stack_size(256 << 10).spawn(move || {
            for (socket, environment, reply) in orders {
                let _ = reply.send(spawn_zygote(&socket, &children, &not_passed, environment));
            }
        })?;
        Ok(Self { orders: sender, hidden, lifeline: Arc::new(Lifeline::new()?) })
    }

    /// Starts one, with the server's variables or with those that are given.
    pub(super) async fn spawn(&self, socket: StdStream, environment: Option<Environment>) -> io::Result<i32> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the spawner thread has ended");
        self.orders.send((socket, environment, reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// The variables that a zygote has from this server.
    pub(super) fn environment(&self) -> Environment {
        let is_passed = |name: &OsString| !is_hidden(name) && !self.hidden.iter().any(|hidden| name == hidden.as_str());
        std::env::vars_os().filter(|(name, _)| is_passed(name)).collect()
    }
}

/// The command line of a zygote that has its socket under this number; whether glibc is told of huge pages, and how.
pub(super) fn words(socket: RawFd) -> (Vec<String>, Option<OsString>) {
    let tunables = huge_pages::asked(std::env::var_os(huge_pages::VARIABLE).as_deref());
    let program = ["/proc/self/exe".to_owned(), "__zygote".to_owned()];
    let numbers = [format!("--socket={socket}"), format!("--server={}", std::process::id())];
    let huge = tunables.is_some().then(|| "--huge-pages".to_owned());
    (program.into_iter().chain(numbers).chain(huge).collect(), tunables)
}

/// Runs our own binary in the zygote role. Its stdout is not ours: that one carries MCP.
fn spawn_zygote(
    socket: &StdStream,
    children: &Children,
    hidden: &[String],
    environment: Option<Environment>,
) -> io::Result<i32> {
    let (words, tunables) = words(socket.as_raw_fd());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    match environment {
        Some(environment) => drop(command.env_clear().envs(environment)),
        None => {
            hide_variables(&mut command);
            for name in hidden {
                command.env_remove(name);
            }
        }
    }
    if let Some(tunables) = tunables {
        command.env(huge_pages::VARIABLE, tunables);
    }
    descriptors::pass_on(&mut command, socket.as_fd());
    children.spawn(&mut command)
}
