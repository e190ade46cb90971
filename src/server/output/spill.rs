//! A file that output is written to behind the back of who reads it: a slow disk holds up one cell, not the server.
//!
//! Runs in: server, in a task that hands its writes to blocking threads. What is under way is bounded by asking
//! [`Spill::is_behind`] before reading more: then the pipe fills, and with it the cell waits.

use std::{
    io::{self, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use cap_std::fs::File;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};

use crate::server::workspace::outputs;

/// Bytes on the way to the disk from which on nothing more should be read.
const MUCH: usize = 2 << 20;
/// Most chunks that are written at a time.
const MANY: usize = 64;
/// Most files of one name, told apart by a number.
const MAX_NAMESAKES: u32 = 10_000;

/// A file in the making.
#[derive(Debug)]
pub(crate) struct Spill {
    chunks: mpsc::UnboundedSender<Vec<u8>>,
    level: Arc<Level>,
    writing: JoinHandle<io::Result<String>>,
}

/// How much is on its way.
#[derive(Debug, Default)]
struct Level {
    bytes: AtomicUsize,
    fell: Notify,
}

impl Spill {
    /// Begins a file of this name, or of one like it when that exists. Must be called inside a tokio runtime.
    #[must_use]
    pub(crate) fn begin(directory: &Path, name: &str) -> Self {
        let (chunks, incoming) = mpsc::unbounded_channel();
        let level = Arc::new(Level::default());
        let (directory, name) = (directory.to_owned(), name.to_owned());
        let writing = tokio::spawn(write_all(incoming, Arc::clone(&level), move || create(&directory, &name)));
        Self { chunks, level, writing }
    }

    /// Goes on with a file that was begun, or with the reason why there is none.
    #[must_use]
    pub(crate) fn go_on(directory: &Path, begun: Result<String, String>) -> Self {
        let (chunks, incoming) = mpsc::unbounded_channel();
        let (level, directory) = (Arc::<Level>::default(), directory.to_owned());
        let open = move || {
            let name = begun.map_err(io::Error::other)?;
            Ok((outputs::append(&outputs::open(&directory)?, &name)?, name))
        };
        let writing = tokio::spawn(write_all(incoming, Arc::clone(&level), open));
        Self { chunks, level, writing }
    }

    /// Adds to it. What went wrong is told in the end.
    pub(crate) fn write(&self, bytes: &[u8]) {
        self.level.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        let _ = self.chunks.send(bytes.to_vec());
    }

    /// Whether the disk is slower than the cell.
    #[must_use]
    pub(crate) fn is_behind(&self) -> bool {
        self.level.bytes.load(Ordering::Relaxed) > MUCH
    }

    /// Waits until it is not. Cancel-safe.
    pub(crate) async fn catch_up(&self) {
        while self.is_behind() {
            let fell = self.level.fell.notified();
            if self.is_behind() {
                fell.await;
            }
        }
    }

    /// Waits until all is written; the name of the file.
    ///
    /// # Errors
    /// The first thing that went wrong.
    pub(crate) async fn finish(self) -> io::Result<String> {
        drop(self.chunks);
        self.writing.await.unwrap_or_else(|error| Err(error.into()))
    }
}

async fn write_all(
    mut incoming: mpsc::UnboundedReceiver<Vec<u8>>,
    level: Arc<Level>,
    open: impl FnOnce() -> io::Result<(File, String)> + Send + 'static,
) -> io::Result<String> {
    let mut result = blocking(open).await;
    let mut batch = Vec::new();
    while incoming.recv_many(&mut batch, MANY).await > 0 {
        let chunks = std::mem::take(&mut batch);
        let size: usize = chunks.iter().map(Vec::len).sum();
        if let Ok((file, name)) = result {
            result = blocking(move || {
                let mut file = file;
                chunks.iter().try_for_each(|chunk| file.write_all(chunk))?;
                Ok((file, name))
            })
            .await;
        }
        level.bytes.fetch_sub(size, Ordering::Relaxed);
        level.fell.notify_waiters();
    }
    result.map(|(_, name)| name)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.into()))
}

/// A new file: an earlier server on this workspace numbered its cells alike, and its outputs stay.
fn create(directory: &Path, name: &str) -> io::Result<(File, String)> {
    let folder = outputs::open(directory)?;
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, "txt"));
    for number in 1..MAX_NAMESAKES {
        let name = if number == 1 { name.to_owned() } else { format!("{stem}-{number}.{ending}") };
        match outputs::create(&folder, &name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (file, name)),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{MAX_NAMESAKES} files of this name exist")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_writes_faster_than_the_disk_is_told_to_wait_and_nothing_is_lost() {
        let directory = tempfile::tempdir().expect("tempdir");
        let spill = Spill::begin(directory.path(), "x.txt");
        let mut whole = Vec::new();
        for number in 0..64_u8 {
            spill.catch_up().await;
            assert!(!spill.is_behind());
            let chunk = vec![number; MUCH / 4];
            spill.write(&chunk);
            whole.extend(chunk);
        }
        // This thread has had no turn to write since.
        spill.write(&vec![b'x'; MUCH]);
        assert!(spill.is_behind());
        whole.extend(vec![b'x'; MUCH]);
        assert_eq!(spill.finish().await.expect("written"), "x.txt");
        assert!(std::fs::read(directory.path().join("x.txt")).expect("a file") == whole);
    }
}
