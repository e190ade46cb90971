//! Why the store did not do what was asked.
//!
//! Runs in: server. Names no session: the caller does.

use std::time::Duration;

/// Why it was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the store (--store) did not answer within {} s", .0.as_secs())]
    Slow(Duration),
    #[error("the store (--store) did not do it: {0}")]
    Failed(String),
    #[error("the object {0} is not in the store (--store) any more")]
    Missing(String),
    #[error("the object {0} in the store (--store) was changed, cut short, or sealed with another key")]
    Damaged(String),
    #[error(
        "the store (--store) gives old data: it had number {known} of this session, and now shows {shown} as the newest"
    )]
    Old { known: u64, shown: u64 },
    #[error("the store (--store) is empty: it is not there, or not mounted")]
    Empty,
    #[error("the key in --store-key is another than that with which this store was begun")]
    OtherKey,
    #[error(
        "the store does not keep conditions: it wrote over an object that was to be made only if it was not there. Two servers \
         could then have one session. It needs `If-None-Match` (S3 has it; so has a folder)"
    )]
    NoConditions,
}
