//! Starting zygotes: our own binary, run again in that role.
//!
//! Runs in: server, one thread that does nothing else.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream as StdStream,
    },
    process::{Command, Stdio},
    sync::Arc,
};

use tokio::sync::oneshot;

use crate::{
    server::workers::children::Children,
    settings::resolve::hide_variables,
    sys::{descriptors, huge_pages, lifeline::Lifeline},
};

/// A thread that lives as long as the server and starts zygotes: the kernel's parent-death signal is tied to the thread
/// that made a process, so a thread of a pool would not do.
#[derive(Debug, Clone)]
pub(crate) struct Spawner {
    orders: std::sync::mpsc::Sender<SpawnOrder>,
    /// Its end, that of the server, starts those of a zygote's that are stopped.
    pub(super) lifeline: Arc<Lifeline>,
}

type SpawnOrder = (StdStream, oneshot::Sender<io::Result<i32>>);

impl Spawner {
    /// Starts the thread. Zygotes are to have none of the hidden variables, not even at their beginning.
    ///
    /// # Errors
    /// When no thread can be made.
    pub(crate) fn start(children: Children, hidden: Vec<String>) -> io::Result<Self> {
        let (sender, orders) = std::sync::mpsc::channel::<SpawnOrder>();
        std::thread::Builder::new().name("zygote-spawner".into()).stack_size(256 << 10).spawn(move || {
            for (socket, reply) in orders {
                let _ = reply.send(spawn_zygote(&socket, &children, &hidden));
            }
        })?;
        Ok(Self { orders: sender, lifeline: Arc::new(Lifeline::new()?) })
    }

    pub(super) async fn spawn(&self, socket: StdStream) -> io::Result<i32> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the spawner thread has ended");
        self.orders.send((socket, reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Runs our own binary in the zygote role. Its stdout is not ours: that one carries MCP.
fn spawn_zygote(socket: &StdStream, children: &Children, hidden: &[String]) -> io::Result<i32> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("__zygote")
        .arg(format!("--socket={}", socket.as_raw_fd()))
        .arg(format!("--server={}", std::process::id()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    if let Some(tunables) = huge_pages::asked(std::env::var_os(huge_pages::VARIABLE).as_deref()) {
        command.env(huge_pages::VARIABLE, tunables).arg("--huge-pages");
    }
    hide_variables(&mut command);
    for name in hidden {
        command.env_remove(name);
    }
    descriptors::pass_on(&mut command, socket.as_fd());
    children.spawn(&mut command)
}
