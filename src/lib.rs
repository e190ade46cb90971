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
//! | [`server`] | server | tokio, rmcp, sysinfo, cap-std | pyo3, fork |
//! | [`zygote`] | zygote, one thread | pyo3, sys | tokio, a second thread at the moment of a fork |
//! | [`front`] | front, one thread | libc, nix, the protocol's outer side | tokio, Python, what a message asks for |
//! | [`worker`] | worker, entered by fork | pyo3, crossbeam-channel, parking_lot | tokio |
//! | [`fault`] | zygote, worker, checkpoint | nix | release builds |
//! | [`bench`], [`setup`] | processes of their own | as any client, forkpy over stdio | pyo3, the protocol, policy |
//! | [`bundle`] | any, before its role is chosen | pyo3's `Py_BytesMain` | servers and sessions |
//! | [`embed`] | zygote, once | – | names of Python functions (`worker/python.rs` knows them) |
//!
//! # One call of `run_python_code`, in ten steps
//! 1. A line (`server/mcp/stdio/mod.rs`) or a request (`server/mcp/http/mod.rs`: token, Host, Origin, cookie) becomes a message for rmcp.
//! 2. rmcp calls `server/mcp/handler.rs`, which knows the caller (`server/sessions/active.rs`) and hands over to `server/tools`.
//! 3. The table in `server/tools/mod.rs` finds the tool; `tools/call/arguments.rs` reads what was sent; `server/sessions/registry.rs` finds the session.
//! 4. The session's task (`server/sessions/task/mod.rs`) takes the cell when its turn comes. No worker yet: `server/workers/zygote.rs`
//!    asks the zygote, with five descriptors attached, and waits for the worker's `Hello`.
//! 5. `zygote/fork.rs` forks between CPython's hooks; `worker/mod.rs` makes the new process its own.
//! 6. The session sends `RunCell` (`server/sessions/task/cell.rs`) and listens to reply, output, clock, cancellation and death.
//! 7. The worker's main thread runs it: `worker/gate.rs` names the running cell, `worker/python.rs` calls
//!    `python/forkpy_worker/cell/run.py`.
//! 8. Output flows through pipes into `server/output/capture.rs`: past `screen.rs` (bars), into head, tail, and a file when it
//!    is much (`spill.rs`); to a client that wants it at once by `live.rs`.
//! 9. One ending: the reply, an interrupt, a kill, or a death that the zygote reports; as one type, `server/sessions/outcome.rs`.
//! 10. `server/tools/cells/reply.rs` makes the structured reply and its text, within what clients accept; `server/tools/cells/pictures.rs` scales
//!     what was displayed.
//!
//! A call may be answered before 9, when it has waited as long as its client can: the cell goes on (`tools/cells/following.rs`), what
//! comes of it is kept (`server/sessions/runs.rs`), and `wait_for_cell` brings it (`tools/cells/kept.rs`).
//!
//! Behind `forkpy attach` the line of step 1 comes from a front (`front/pass.rs`) over a Unix socket (`server/mcp/fronts.rs`): one
//! connection a client, and a server that outlives them. Where they meet is `sys/rendezvous.rs`, their first words
//! `protocol/attach.rs`.
//!
//! A cell that asks for input is between 8 and 9: its question comes over the cell socket (`worker/input.rs`), goes to the
//! client (`server/tools/call/asking.rs`), and the answer takes the way back.
//!
//! Meanwhile `server/watch/supervisor.rs` samples and pings. What it sees is judged in `server/health` (`verdict.rs`, `alerts.rs`,
//! `recovery.rs`: pure), remembered (`record.rs`, `history.rs`) and told (`report.rs`, to tools and resources). It acts on
//! nothing itself: a wish goes to the session's task, which makes, proves, buries and replaces workers
//! (`session/recover.rs`). Evidence comes through the black box (`server/workers/black_box.rs`, `worker/control.rs`,
//! `sys/crash.rs`) and ends in `health/crashes.rs`.
//!
//! Tools for files (`server/workspace/handle.rs`) need no session: they go through one handle on the workspace, on blocking threads.
//! Resources are `server/mcp/resources/mod.rs`, packages `server/environment/packages.rs`, notebooks `server/notebook.rs`.
//!
//! `server/workers/spares.rs` has workers made ahead, for sessions to come. A checkpoint is a fork of an idle worker that stands still (`worker/checkpoint.rs`); what it wakes is a fork of it again
//! (`worker/mod.rs`, `wake`). `sys/sibling.rs` makes it a child of the server and not of the worker; `server/checkpoints`
//! keeps them; `session/rollback.rs` makes a session go back to one, or on from one when its worker has died.
//!
//! A script (`server/scripts.rs`) is a fork of the zygote too, but no worker: `worker/script.rs` runs one file and ends as
//! `python` does. No frames travel; what the server holds of it are its output pipes, its pidfd and a lifeline.
//!
//! Before any of this, `main.rs` lets the single file of a bundle go on as what it unpacks (`bundle/launcher.rs`), and a
//! program that is called `python` be one (`bundle/python.rs`). `bundle/make.rs` makes bundles; `bench` and `setup` are
//! clients of servers that they start.
//!
//! Limits are `settings/limits.rs`; those that no kernel keeps are kept by `server/watch/guard.rs` and `server/watch/cleaner.rs`. What operators
//! see comes from `server/counters.rs`, `exposition.rs`, `probes.rs` and `service_manager.rs`.
//!
//! # Words
//! *Session*: the user's lasting thing. *Worker*: the process serving it now. *Zygote*: parent of all workers.
//! *Checkpoint*: a frozen fork of a worker. *Cell*: one submitted piece of code. *Frame*: bytes with a length. *Outcome*: how a cell ended.
//!
//! # Decisions that shape the code
//! - Every worker is a *subreaper*, and so is the server: whatever a session starts, daemons included, is a descendant of
//!   its worker while that lives. A child of the server that the server did not register can only be a dead worker's.
//! - The worker has three threads: main (cells), control (never takes the GIL: heartbeats, interrupts, loss of the
//!   server), pinger (waits for the GIL, for pings and dumps; starts with the first). A ping that waits cannot delay an interrupt.
//! - A worker's sockets lie at the top of its descriptor table and frames begin with a magic: user code that writes to
//!   every small descriptor does not reach them, and one that reaches them breaks its own session only.
//! - The server runs on one thread: a cell's way through it needs no hand-over, and what could block it (ending families,
//!   waiting for an environment) runs elsewhere.
//! - A worker that nobody has taken over yet is a *lease*: whoever waits for it may be called away at any await, and the
//!   worker is then ended and reaped.
//! - A worker has a *black box*, a file in memory that the server holds too: stacks get there by the interpreter, by a
//!   signal handler that needs no lock, or by the handler of a fatal signal, and outlive the worker.
//! - A worker that replaces another counts when a ping and an evaluation have come back from it, not before.
//! - Frames are postcard, not JSON: large texts are copied, never escaped.
//! - A dead worker stays a zombie, its pid taken, until the server has seen its end and says `Reap`.

#![warn(unreachable_pub)]

mod bench;
mod bundle;
mod commands;
mod front;
mod protocol;
mod server;
mod settings;
mod sys;
#[doc(hidden)]
pub mod testing;
mod worker;
mod zygote;

pub use self::commands::run;
