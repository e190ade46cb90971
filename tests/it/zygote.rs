//! The real binary in its zygote role, driven over its own socket: warm-up, fork, cells, ping, interrupt, death, reaping.

use forkpy::testing::{CellStatus, FromControl, ToControl, Urgency, WorkerExit};

use crate::support::zygote::Zygote;

#[test]
fn cells_share_a_namespace_and_print_into_the_pipe() {
    let mut zygote = Zygote::start();
    let mut worker = zygote.fork();
    assert_eq!(worker.run(1, "x = 40").status, CellStatus::Ok);
    let report = worker.run(2, "import os\nprint('a', end='')\nos.write(1, b'b')\nx + 2");
    assert_eq!(report.results[0].text, "42");
    let mut written = [0; 2];
    std::io::Read::read_exact(&mut worker.stdout, &mut written).expect("output");
    assert_eq!(&written, b"ab");
}

#[test]
fn a_busy_loop_answers_pings_and_an_interrupt_keeps_the_variables() {
    let mut zygote = Zygote::start();
    let mut worker = zygote.fork();
    worker.run(1, "x = 1");
    worker.begin(2, "while True: x += 1");
    worker.tell(&ToControl::Ping { nonce: 7 });
    assert_eq!(worker.reports.read::<FromControl>().expect("heartbeat"), FromControl::Heartbeat { nonce: 7 });
    assert_eq!(worker.reports.read::<FromControl>().expect("pong"), FromControl::Pong { nonce: 7, value: 2 });
    worker.tell(&ToControl::Interrupt { cell: 2, urgency: Urgency::First });
    assert_eq!(worker.done().status, CellStatus::Interrupted);
    assert_eq!(worker.run(3, "x > 0").results[0].text, "True");
}

/// An interrupt for a cell that has ended once raised in the next one; each is tied to its cell now.
#[test]
fn an_interrupt_that_comes_late_does_not_reach_the_next_cell() {
    let mut zygote = Zygote::start();
    let mut worker = zygote.fork();
    for cell in 1..200 {
        worker.begin(cell, "1");
        worker.tell(&ToControl::Interrupt { cell, urgency: Urgency::First });
        let status = worker.done().status;
        assert!(matches!(status, CellStatus::Ok | CellStatus::Interrupted), "{status:?}");
        worker.tell(&ToControl::Interrupt { cell, urgency: Urgency::First });
        assert_eq!(worker.run(1000 + cell, "sum(range(1000))").status, CellStatus::Ok);
        worker.tell(&ToControl::Interrupt { cell: 0, urgency: Urgency::First });
    }
}

#[test]
fn deaths_are_reported_with_their_signal_and_code() {
    let mut zygote = Zygote::start();
    let worker = zygote.fork();
    worker.begin(1, "import os; os._exit(3)");
    assert_eq!(zygote.exit_of(&worker), WorkerExit::Code(3));
    let mut worker = zygote.fork();
    worker.begin(1, "import ctypes; ctypes.string_at(0)");
    let crash = FromControl::Crashing { signal: libc::SIGSEGV, stack_overflow: false };
    assert_eq!(worker.reports.read::<FromControl>().expect("a report"), crash);
    assert_eq!(zygote.exit_of(&worker), WorkerExit::Signal(libc::SIGSEGV));
}

#[test]
fn closing_the_cell_socket_ends_the_worker_gracefully() {
    let mut zygote = Zygote::start();
    let mut worker = zygote.fork();
    worker.run(1, "import atexit; atexit.register(print, 'bye')");
    worker.cell.shutdown(std::net::Shutdown::Write).expect("half-closed");
    assert_eq!(zygote.exit_of(&worker), WorkerExit::Code(0));
    let mut written = String::new();
    std::io::Read::read_to_string(&mut worker.stdout, &mut written).expect("output");
    assert_eq!(written, "bye\n");
}
