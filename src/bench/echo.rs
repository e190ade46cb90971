//! The other end of the floors: a process that answers bytes with bytes, and does nothing else.
//!
//! Runs in: a hidden role of this binary, started by `floors.rs`.

use std::io::{self, Read, Write};

/// Bytes that go to and fro.
pub(crate) const PIECE: usize = 64;

/// Answers until the other end closes. Over a pipe pair, standard input and output; over a socket, both are it.
pub(crate) fn run() -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut piece = [0; PIECE];
    while input.read_exact(&mut piece).is_ok() {
        output.write_all(&piece)?;
        output.flush()?;
    }
    Ok(())
}
