//! The black box of one worker: a file in memory that the worker writes stacks to and the server reads, also when the
//! worker is gone.
//!
//! Runs in: server. Owns the file; what is asked of the worker is `worker_link.rs`. Both processes share the file's
//! position, so clearing it here makes the next dump begin at the start.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::Arc,
    time::Duration,
};

use tokio::sync::Mutex;

use crate::{protocol::DumpRoute, server::workers::control::Control, sys::descriptors};

/// Most bytes of stacks that are looked at: faulthandler itself stops at 100 threads of 100 frames.
const MAX_TEXT: usize = 256 << 10;
/// How long the interpreter may take to be asked politely. A pure-Python loop lets others in within 10 ms or so.
const POLITE: Duration = Duration::from_millis(150);
/// How long a signal handler may take.
const BLUNT: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(crate) struct BlackBox {
    file: File,
    /// One dump at a time.
    turn: Mutex<()>,
}

/// Python stacks, and how they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dump {
    /// As faulthandler writes them.
    pub text: String,
    /// `None`: the worker wrote nothing, since none of its threads gets to run.
    pub route: Option<DumpRoute>,
}

impl BlackBox {
    /// An empty one, and the descriptor for the worker.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub(crate) fn new() -> io::Result<(Self, OwnedFd)> {
        let file = File::from(descriptors::memory_file(c"forkpy:black-box")?);
        let theirs = file.try_clone()?.into();
        Ok((Self { file, turn: Mutex::new(()) }, theirs))
    }

    /// One that was held before an exec.
    pub(super) fn held(file: OwnedFd) -> Self {
        Self { file: file.into(), turn: Mutex::new(()) }
    }

    /// The file, for those who take it along.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// What has been written.
    #[must_use]
    pub(crate) fn read(&self) -> String {
        let mut bytes = vec![0; MAX_TEXT];
        let count = self.file.read_at(&mut bytes, 0).unwrap_or(0);
        bytes.truncate(count);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Asks the living worker for its stacks: with the interpreter's lock when that can be had, else from a signal
    /// handler. `held` says that a ping has been waiting already, so asking for the lock would be a waste of time.
    pub(crate) async fn dump(&self, control: &Arc<Control>, held: bool) -> Dump {
        let _turn = self.turn.lock().await;
        for (route, limit) in [(DumpRoute::Interpreter, POLITE), (DumpRoute::Signal, BLUNT)] {
            if held && route == DumpRoute::Interpreter {
                continue;
            }
            self.clear();
            if control.dump_stacks(route, limit).await {
                return Dump { text: self.read(), route: Some(route) };
            }
        }
        Dump { text: String::new(), route: None }
    }

    fn clear(&self) {
        let _ = self.file.set_len(0);
        let _ = (&self.file).seek(SeekFrom::Start(0));
    }
}
