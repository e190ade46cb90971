//! forkpy: Python in persistent, watched sessions, for MCP clients. This page is the map.
//!
//! ```text
//! MCP client ── stdio / streamable HTTP ──▶ server ──(spawn, zygote socket)──▶ zygote ──fork──▶ worker (one a session)
//!                                             ▲                                                   │
//!                                             └───────── cell socket + control socket, framed ────┘
//! ```
//!
//! | room | runs in | may use | never |
//! |---|---|---|---|
//! | [`protocol`] | all three | serde, postcard | pyo3, rmcp, policy |
//! | [`sys`] | all three | libc, nix | Python, MCP, the protocol |
//! | [`server`] | server | tokio, rmcp, sysinfo | pyo3, fork |
//! | [`zygote`] | zygote, one thread | pyo3, sys | tokio, a second thread at the moment of a fork |
//! | [`worker`] | worker, entered by fork | pyo3, crossbeam-channel, parking_lot | tokio |
//! | [`fault`] | zygote, worker | nix | release builds |
//! | [`embed`] | zygote, once | – | names of Python functions (`worker/python.rs` knows them) |
//!
//! # Words
//! *Session*: the user's lasting thing. *Worker*: the process serving it now. *Zygote*: parent of all workers.
//! *Cell*: one submitted piece of code. *Frame*: bytes with a length. *Outcome*: how a cell ended.
//!
//! # Decisions that shape the code
//! - Every worker is a *subreaper*, and so is the server: whatever a session starts, daemons included, is a descendant of
//!   its worker while that lives. A child of the server that the server did not register can only be a dead worker's.
//! - The worker has three threads: main (cells), control (never takes the GIL: heartbeats, interrupts, loss of the
//!   server), pinger (waits for the GIL; starts with the first ping). A ping that waits cannot delay an interrupt.
//! - A worker's sockets lie at the top of its descriptor table and frames begin with a magic: user code that writes to
//!   every small descriptor does not reach them, and one that reaches them breaks its own session only.
//! - A dead worker stays a zombie, its pid taken, until the server has seen its end and says `Reap`.

pub mod cli;
pub mod config;
pub mod embed;
pub mod fault;
pub mod protocol;
pub mod server;
pub mod sys;
pub mod worker;
pub mod zygote;
