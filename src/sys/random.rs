//! Bytes that cannot be guessed.
//!
//! Runs in: all processes.

use std::io;

/// From the kernel.
///
/// # Errors
/// When it gives none.
pub(crate) fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}
