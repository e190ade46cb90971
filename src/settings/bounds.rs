//! Bounds that hold everywhere, on the command line and in calls.
//!
//! Runs in: server. Pure data.

/// Longest time-out that may be asked for: a week, in seconds.
pub(crate) const MAX_SECONDS: f64 = 7.0 * 24.0 * 3600.0;

/// Largest code of one cell, bytes.
pub(crate) const MAX_CODE: usize = 16 << 20;

/// Largest request, bytes: one line on stdio, one body over HTTP.
pub(crate) const MAX_REQUEST: usize = 64 << 20;

/// A time in seconds, as people write it.
///
/// # Errors
/// In words, when it is none or longer than any time.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=MAX_SECONDS).contains(&value) => Ok(value),
        Ok(_) => Err(format!("must be between 0 and {MAX_SECONDS}")),
        Err(error) => Err(error.to_string()),
    }
}
