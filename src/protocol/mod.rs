//! The protocol between the three processes: what travels, in which layout, who speaks when.
//!
//! Runs in: all three. Holds no policy and knows neither pyo3 nor rmcp.
//!
//! # Channels
//!
//! | channel | between | carries |
//! |---|---|---|
//! | zygote socket | server ⇄ zygote | [`ToZygote`] / [`FromZygote`]; a `Fork` comes with descriptors (`SCM_RIGHTS`), for a worker or a script |
//! | cell socket | server ⇄ worker, main thread | [`ToWorker`] / [`FromWorker`], request, then reply; a running cell may ask in between |
//! | control socket | server ⇄ worker, control thread | [`ToControl`] / [`FromControl`], at any time, also while a cell runs |
//! | checkpoint socket | server ⇄ checkpoint | [`ToCheckpoint`] / [`FromCheckpoint`]; a `Wake` comes with a worker's descriptors |
//! | output pipes | worker and its children → server | raw bytes of descriptors 1 and 2 |
//! | black box | worker → server | a file in memory with stacks as text: on request, and before a fatal signal ends the worker |
//!
//! All sockets are `AF_UNIX` stream pairs made by the server; no name in the file system, nothing to connect to.
//!
//! # Frame
//!
//! ```text
//! offset 0  4 bytes   magic "fpy1"
//! offset 4  u32 LE    length of the body
//! offset 8  body      one message, postcard encoding of the enum of this direction
//! ```
//!
//! The magic is there for one reason: user code can write to any descriptor it can guess. A stray byte then shows at once
//! as a [`FrameError::BadMagic`], which costs that worker and no other one, instead of a length that never fills.
//! The server believes nothing a worker says beyond what decodes: bodies are capped ([`MAX_TO_WORKER`],
//! [`MAX_FROM_WORKER`], [`MAX_CONTROL`]), and a frame that is too long, cut short or does not decode is an error value.
//!
//! # Order of talk
//!
//! 1. Server → zygote [`ToZygote::Start`] (first frame, names the protocol version); zygote → server
//!    [`FromZygote::Warm`] or [`FromZygote::Failed`], and before that [`FromZygote::Preloading`] for each module that it
//!    imports, or [`FromZygote::Unforkable`]: then the server starts another one without that module.
//! 2. Server → zygote [`ToZygote::Fork`] with `[cell, control, stdout, stderr, black box]`; zygote → server
//!    [`FromZygote::Forked`] or [`FromZygote::ForkFailed`], in the order asked. For a script they are
//!    `[source, lifeline, stdout, stderr]`, steps 3 to 5 are left out, and the end of the lifeline ends it.
//! 3. Worker → server, on the cell socket: [`FromWorker::Hello`] with its protocol version. The server refuses another.
//! 4. Cell socket: one [`ToWorker`] request, one [`FromWorker`] reply, in turn. Half-closing it asks the worker to end.
//!    Before its reply a cell may send `InputWanted`, one at a time, each answered by an `Input` with its number.
//! 5. Control socket: [`ToControl::Ping`] is answered twice, [`FromControl::Heartbeat`] without the GIL, then
//!    [`FromControl::Pong`] with it; [`ToControl::Refresh`] once, with it, and so is [`ToControl::Ask`], by a thread of
//!    its own. [`ToControl::DumpStacks`] is answered once the black box is written, or never when the GIL cannot be had. Its
//!    EOF means that the server is gone: the worker ends itself and its children.
//! 6. A checkpoint: server → worker [`ToWorker::Checkpoint`] with the far end of a new socket; worker → server
//!    [`FromWorker::Checkpointed`]. From then on the server speaks to the checkpoint: [`ToCheckpoint::Settle`], answered by
//!    [`FromCheckpoint::Frozen`], and any number of [`ToCheckpoint::Wake`] with `[cell, control, stdout, stderr, black box]`,
//!    each answered by [`FromCheckpoint::Woken`]; what was woken says [`FromWorker::Hello`] on its cell socket, as in 3. The
//!    end of the socket ends the checkpoint. Checkpoints and what they wake are children of the server.
//! 7. The image of a zygote: [`ToZygote::Seed`] in place of `Start`, answered by [`FromZygote::Written`]; the process ends. Another one
//!    is told [`ToZygote::Wake`], says [`FromZygote::Woken`] as the zygote of the image, is told [`ToZygote::GoOn`], and is warm.
//! 8. A worker's death: zygote → server [`FromZygote::Exited`]; the process stays a zombie, and its pid stays taken,
//!    until server → zygote [`ToZygote::Reap`].

pub(crate) mod asynchronous;
pub(crate) mod attach;
pub(crate) mod blocking;
pub(crate) mod confinement;
pub(crate) mod control;
pub(crate) mod frame;
pub(crate) mod message;
pub(crate) mod outline;
pub(crate) mod report;
pub(crate) mod zygote;

pub(crate) use confinement::{Confinement, ConfinementSettings};
pub(crate) use control::{DumpRoute, FromControl, Question, ToControl, Urgency};
pub(crate) use frame::{FrameError, MAX_CONTROL, MAX_FROM_WORKER, MAX_TO_WORKER, MAX_ZYGOTE};
pub(crate) use message::{
    Answer, ERRAND, FromCheckpoint, FromWorker, Missed, NotebookCell, PROTOCOL_VERSION, ToCheckpoint, ToWorker,
    list_missed,
};
pub(crate) use report::{
    CellError, CellReport, CellStatus, Display, Imported, PlainResult, Representation, StateReport, Variable,
};
pub(crate) use zygote::{
    FromZygote, Ground, Installing, Library, Purpose, Script, ToZygote, WorkerExit, WorkerLimits, ZygoteSettings,
};
