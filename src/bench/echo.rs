//! The other end of the floors: a process that answers bytes with bytes, and does nothing else; or, for the chain, what stands
//! where the server and the worker stand, with a fixed piece of work where theirs is.
//!
//! Runs in: a hidden role of this binary, started by `floors.rs`, and by itself for the end of the chain.

use std::{
    fs::File,
    hint::black_box,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
};

use clap::ValueEnum;

/// Bytes that go to and fro.
pub(crate) const PIECE: usize = 64;

/// Steps of the work that each process of the chain does, each of which waits for the one before: 5 cycles of a processor, so
/// that the four turns of work in a chain take 26 µs at 3 GHz.
const STEPS: u32 = 4000;

/// What the process is in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Link {
    /// Between a client, by pipes, and a worker, by a socket.
    Server,
    Worker,
}

/// Answers until the other end closes. Over a pipe pair, standard input and output; over a socket, both are it.
pub(crate) fn run(link: Option<Link>) -> io::Result<()> {
    match link {
        None => answer(|| {}),
        Some(Link::Worker) => answer(work),
        Some(Link::Server) => hand_on(),
    }
}

/// A fixed amount of computation that touches no memory.
pub(crate) fn work() {
    let mut value = black_box(0x9e37_79b9_7f4a_7c15_u64);
    for _ in 0..STEPS {
        value = (value ^ (value >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    black_box(value);
}

fn answer(mut work: impl FnMut()) -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut piece = [0; PIECE];
    while input.read_exact(&mut piece).is_ok() {
        work();
        output.write_all(&piece)?;
        output.flush()?;
    }
    Ok(())
}

fn hand_on() -> io::Result<()> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let input = OwnedFd::from(theirs);
    let output = input.try_clone()?;
    let mut worker = Command::new("/proc/self/exe");
    worker.args(["__echo", "worker"]).stdin(Stdio::from(File::from(input))).stdout(Stdio::from(File::from(output)));
    let mut process = worker.spawn()?;
    // It holds the other ends until it is gone, and the worker is to see the end of ours.
    drop(worker);
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut piece = [0; PIECE];
    while input.read_exact(&mut piece).is_ok() {
        work();
        ours.write_all(&piece)?;
        ours.read_exact(&mut piece)?;
        work();
        output.write_all(&piece)?;
        output.flush()?;
    }
    drop(ours);
    process.wait().map(drop)
}
