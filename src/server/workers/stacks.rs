//! Evidence from a worker that lives, or is about to be killed: Python stacks and what each thread waits for.
//!
//! Runs in: server. Asks the worker by its control socket and reads `/proc` on a blocking thread. Bounded in time: some
//! 0.4 s when the worker answers nothing at all.

use crate::server::{health::evidence::Stacks, workers::view::WorkerView};

use crate::{
    protocol::DumpRoute,
    server::workers::black_box::Dump,
    sys::threads::{self},
};

/// A ping that has waited this long says that the interpreter is held.
const HELD: std::time::Duration = std::time::Duration::from_millis(500);

/// Takes them from a living worker.
pub(crate) async fn take(worker: &WorkerView) -> Stacks {
    let pid = worker.pid;
    let native = tokio::task::spawn_blocking(move || threads::of(pid));
    let held = worker.control.unanswered().is_some_and(|ping| ping.waited >= HELD);
    let Dump { text, route } = worker.black_box.dump(&worker.control, held).await;
    let route = match route {
        Some(DumpRoute::Interpreter) => "interpreter",
        Some(DumpRoute::Signal) => "signal",
        None => "none",
    };
    Stacks { python: text, route: route.to_owned(), threads: native.await.unwrap_or_default() }
}

/// What the handler of a fatal signal left behind.
#[must_use]
pub(crate) fn of_crash(python: String) -> Stacks {
    Stacks { python, route: "crash".to_owned(), threads: Vec::new() }
}
