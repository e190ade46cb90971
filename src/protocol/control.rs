//! The messages of the control socket, which server and worker exchange at any time, also while a cell runs.
//!
//! Runs in: server and worker. As in `message.rs`, a change means a new `PROTOCOL_VERSION`.

use serde::{Deserialize, Serialize};

/// How much an interrupt insists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Urgency {
    /// SIGINT, as Ctrl-C sends it.
    First,
    /// That did not end the cell: SIGTERM to what the cell has started.
    Second,
    /// Nor did that: SIGKILL to what the cell has started. Next the worker is killed.
    Last,
}

/// Server → worker, control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToControl {
    Ping {
        /// Comes back in both answers.
        nonce: u64,
    },
    /// Answer a question about the session's code and objects, also while a cell runs.
    Ask {
        /// Comes back in the answer.
        nonce: u64,
        question: Question,
    },
    /// Interrupt this cell and no other: one that has ended is left alone.
    Interrupt {
        cell: u64,
        /// How much is left to try.
        urgency: Urgency,
    },
    /// Packages have changed on the disk: forget what was cached of it, and say which of these modules are imported.
    Refresh { nonce: u64, modules: Vec<String> },
    /// Write the stacks of all Python threads to the black box.
    DumpStacks {
        /// Comes back in the answer.
        nonce: u64,
        /// How to get at them.
        route: DumpRoute,
    },
}

/// How stacks are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DumpRoute {
    /// With the GIL: exact, and waits for it.
    Interpreter,
    /// Without, from a signal handler: works when native code holds the GIL, whose owner's frames then stand still.
    Signal,
}

/// A question that needs the interpreter and not the main thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// What could stand at the cursor?
    Complete {
        code: String,
        /// Characters before the cursor.
        cursor: u64,
    },
    /// What is at the cursor?
    Inspect {
        code: String,
        /// Characters before the cursor.
        cursor: u64,
        /// 0, or 1 for the source too.
        detail: u8,
    },
    /// Which variables are there, at this moment?
    Variables,
}

/// Worker → server, control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromControl {
    /// The process is scheduled; says nothing about the GIL.
    Heartbeat { nonce: u64 },
    /// The interpreter evaluated `1+1`.
    Pong {
        nonce: u64,
        /// What it came to: 2.
        value: i64,
    },
    Refreshed {
        nonce: u64,
        /// Those of its modules that are imported.
        imported: Vec<String>,
    },
    /// The black box has what [`ToControl::DumpStacks`] asked for.
    StacksDumped { nonce: u64 },
    /// The answer to [`ToControl::Ask`].
    Answered {
        nonce: u64,
        /// A JSON object, or the reason that there is none.
        answer: Result<String, String>,
    },
    /// A fatal signal is about to end the process; written by the signal handler.
    Crashing {
        signal: i32,
        /// The faulting address lies at the end of the main thread's stack.
        stack_overflow: bool,
    },
}
