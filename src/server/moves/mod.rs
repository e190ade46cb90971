//! Sessions that move: out of `--state-dir` into a file that is sealed with a passphrase, and into another one from there; and, in a
//! server, into the store that it shares with others and out of it (`away`).
//!
//! Runs in: all but `away` in `forkpy sessions`, a process of its own, which is no server. A server may run meanwhile: what it has is copied and never
//! changed. How images lie in the folder is `sessions/images`; what they are tied to is `sys/image`.
//!
//! | file | has |
//! |---|---|
//! | `list.rs` | what lies in a folder; which of it a name means; deleting it |
//! | `export.rs`, `import.rs` | the two ways |
//! | `packed.rs` | what lies in a file, and in which order |
//! | `away` | the store |
//! | `age.rs` | how it is sealed |
//! | `digests.rs` | what the files hold that a session's memory needs |
//! | `error.rs` | why it was not done |

mod age;
pub(crate) mod away;
mod digests;
mod error;
mod export;
mod import;
mod list;
mod packed;

pub(crate) use self::{
    error::{MoveError, Secret, Variables},
    export::{Exported, export},
    import::{Imported, Wish, import},
    list::{Held, Listed, Named, delete, list},
};
