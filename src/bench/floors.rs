//! What the machine takes for the least that any such program must do.
//!
//! Runs in: bench. The other end of pipe and socket is `echo.rs` in a process of its own.

use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    BenchError,
    echo::{self, PIECE},
};

/// Two processes and a pair of pipes.
#[derive(Debug)]
pub(crate) struct Pipe {
    process: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
}

/// Two processes and a socket pair.
#[derive(Debug)]
pub(crate) struct Socket {
    process: Child,
    stream: Option<UnixStream>,
}

fn command() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("__echo");
    command
}

/// Three processes: this one, by pipes, one that stands where the server does, and by a socket, one where the worker does. What
/// a call through a server and a worker takes on this machine at the least.
#[derive(Debug)]
pub(crate) struct Chain(Pipe);

impl Chain {
    /// Starts both other processes.
    pub(crate) fn start() -> Result<Self, BenchError> {
        let mut server = command();
        server.arg("server");
        Pipe::to(server).map(Self)
    }

    /// To the end of the chain and back, with work in each process.
    ///
    /// # Errors
    /// When one of the others is gone.
    pub(crate) fn turn(&mut self) -> Result<Duration, BenchError> {
        let began = Instant::now();
        self.0.turn()?;
        echo::work();
        Ok(began.elapsed())
    }
}

impl Pipe {
    /// Starts the other end.
    pub(crate) fn start() -> Result<Self, BenchError> {
        Self::to(command())
    }

    fn to(mut command: Command) -> Result<Self, BenchError> {
        let fail = BenchError::system("start the other end of a pipe");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(&fail)?;
        match (process.stdin.take(), process.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self { process, input: Some(input), output }),
            _ => Err(fail(std::io::Error::other("no pipes"))),
        }
    }

    /// There and back.
    ///
    /// # Errors
    /// When the other end is gone.
    pub(crate) fn turn(&mut self) -> Result<Duration, BenchError> {
        let fail = BenchError::system("use a pipe");
        let mut piece = [7; PIECE];
        let began = Instant::now();
        if let Some(input) = &mut self.input {
            input.write_all(&piece).map_err(&fail)?;
        }
        self.output.read_exact(&mut piece).map_err(fail)?;
        Ok(began.elapsed())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.process.wait();
    }
}

impl Socket {
    /// Starts the other end.
    pub(crate) fn start() -> Result<Self, BenchError> {
        let fail = BenchError::system("start the other end of a socket");
        let (ours, theirs) = UnixStream::pair().map_err(&fail)?;
        let input = OwnedFd::from(theirs);
        let output = input.try_clone().map_err(&fail)?;
        let process = command().stdin(File::from(input)).stdout(File::from(output)).spawn().map_err(fail)?;
        Ok(Self { process, stream: Some(ours) })
    }

    /// There and back.
    ///
    /// # Errors
    /// When the other end is gone.
    pub(crate) fn turn(&mut self) -> Result<Duration, BenchError> {
        let fail = BenchError::system("use a socket");
        let mut piece = [7; PIECE];
        let began = Instant::now();
        if let Some(stream) = &mut self.stream {
            stream.write_all(&piece).map_err(&fail)?;
            stream.read_exact(&mut piece).map_err(fail)?;
        }
        Ok(began.elapsed())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.stream = None;
        let _ = self.process.wait();
    }
}

/// A fork of this process to the child's first byte.
pub(crate) fn fork() -> Result<Duration, BenchError> {
    let fail = BenchError::system("fork");
    let (read, write) = nix::unistd::pipe().map_err(|errno| fail(errno.into()))?;
    let began = Instant::now();
    // SAFETY: the child makes two system calls and ends; it takes no lock.
    match unsafe { nix::unistd::fork() }.map_err(|errno| fail(errno.into()))? {
        nix::unistd::ForkResult::Child => {
            let _ = nix::unistd::write(&write, b"x");
            // SAFETY: no preconditions.
            unsafe { libc::_exit(0) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            let mut byte = [0];
            nix::unistd::read(&read, &mut byte).map_err(|errno| fail(errno.into()))?;
            let took = began.elapsed();
            let _ = nix::sys::wait::waitpid(child, None);
            Ok(took)
        }
    }
}
