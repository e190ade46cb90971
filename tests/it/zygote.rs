//! The real binary in its zygote role, driven over its own socket: warm-up, fork, cells, ping, interrupt, death, reaping.

use std::{
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    process::{Child, Command, Stdio},
    time::Duration,
};

use forkpy::{
    protocol::{
        CellStatus, FromControl, FromWorker, FromZygote, MAX_CONTROL, MAX_FROM_WORKER, MAX_TO_WORKER, MAX_ZYGOTE,
        PROTOCOL_VERSION, Purpose, ToControl, ToWorker, ToZygote, WorkerExit, WorkerLimits, ZygoteSettings,
        blocking::{self, FrameReader},
        frame,
    },
    sys::descriptors,
};

struct Zygote {
    process: Child,
    socket: Option<UnixStream>,
    reader: FrameReader,
    _workspace: tempfile::TempDir,
}

struct Worker {
    pid: i32,
    cell: UnixStream,
    replies: FrameReader,
    control: UnixStream,
    reports: FrameReader,
    stdout: std::fs::File,
}

fn reader(stream: &UnixStream, cap: usize) -> FrameReader {
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
    FrameReader::new(stream.try_clone().expect("clone"), cap)
}

impl Zygote {
    fn start() -> Self {
        let workspace = tempfile::tempdir().expect("tempdir");
        let (ours, theirs) = UnixStream::pair().expect("pair");
        descriptors::close_on_exec(theirs.as_fd(), false).expect("inheritable");
        let process = Command::new(env!("CARGO_BIN_EXE_forkpy"))
            .arg("__zygote")
            .arg(format!("--socket={}", theirs.as_raw_fd()))
            .arg(format!("--server={}", std::process::id()))
            .stdin(Stdio::null())
            .spawn()
            .expect("the binary starts");
        drop(theirs);
        let path = workspace.path().to_str().expect("UTF-8").to_owned();
        let settings = ZygoteSettings {
            python: env!("FORKPY_BUILD_PYTHON").to_owned(),
            virtual_env: None,
            python_path: Vec::new(),
            preload: Vec::new(),
            outputs: format!("{path}/outputs"),
            workspace: path,
            cookie: "test".to_owned(),
        };
        let start = ToZygote::Start { version: PROTOCOL_VERSION, settings };
        blocking::write(&ours, &start, MAX_ZYGOTE).expect("sent");
        let mut reader = reader(&ours, MAX_ZYGOTE);
        match reader.read().expect("an answer") {
            FromZygote::Warm { version, .. } => assert_eq!(version, PROTOCOL_VERSION),
            other => panic!("not warm: {other:?}"),
        }
        Self { process, socket: Some(ours), reader, _workspace: workspace }
    }

    fn socket(&self) -> &UnixStream {
        self.socket.as_ref().expect("open")
    }

    fn fork(&mut self) -> Worker {
        let (cell, cell_worker) = UnixStream::pair().expect("pair");
        let (control, control_worker) = UnixStream::pair().expect("pair");
        let (stdout, stdout_worker) = descriptors::pipe().expect("pipe");
        let (_, stderr_worker) = descriptors::pipe().expect("pipe");
        let request = ToZygote::Fork {
            worker: 1,
            purpose: Purpose::Session { name: "default".to_owned() },
            limits: WorkerLimits::default(),
        };
        let bytes = frame::encode(&request, MAX_ZYGOTE).expect("small");
        let black_box = descriptors::memory_file(c"box").expect("memory");
        let ours = [&cell_worker, &control_worker].map(AsFd::as_fd);
        let passed = [ours[0], ours[1], stdout_worker.as_fd(), stderr_worker.as_fd(), black_box.as_fd()];
        descriptors::send_with(self.socket(), &bytes, &passed).expect("sent");
        let pid = match self.reader.read().expect("an answer") {
            FromZygote::Forked { pid, .. } => pid,
            other => panic!("no worker: {other:?}"),
        };
        let mut replies = reader(&cell, MAX_FROM_WORKER);
        let hello: FromWorker = replies.read().expect("a hello");
        assert_eq!(hello, FromWorker::Hello { version: PROTOCOL_VERSION, pid });
        let reports = reader(&control, MAX_CONTROL);
        Worker { pid, cell, replies, control, reports, stdout: stdout.into() }
    }

    fn exit_of(&mut self, worker: &Worker) -> WorkerExit {
        let exit = match self.reader.read().expect("a report") {
            FromZygote::Exited { pid, exit } if pid == worker.pid => exit,
            other => panic!("not an exit: {other:?}"),
        };
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", worker.pid)).expect("still there");
        assert!(stat.contains(") Z "), "a reported worker stays a zombie until it is reaped: {stat}");
        blocking::write(self.socket(), &ToZygote::Reap { pid: worker.pid }, MAX_ZYGOTE).expect("sent");
        exit
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.socket = None;
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Worker {
    fn begin(&self, cell: u64, code: &str) {
        let request = ToWorker::RunCell { cell, code: code.to_owned(), may_ask: false };
        blocking::write(&self.cell, &request, MAX_TO_WORKER).expect("sent");
    }

    fn done(&mut self) -> forkpy::protocol::CellReport {
        match self.replies.read().expect("a reply") {
            FromWorker::CellDone { report, .. } => report,
            other => panic!("not a cell's end: {other:?}"),
        }
    }

    fn run(&mut self, cell: u64, code: &str) -> forkpy::protocol::CellReport {
        self.begin(cell, code);
        self.done()
    }

    fn tell(&self, message: &ToControl) {
        blocking::write(&self.control, message, MAX_CONTROL).expect("sent");
    }
}

#[test]
fn cells_share_a_namespace_and_print_into_the_pipe() {
    let mut zygote = Zygote::start();
    let mut worker = zygote.fork();
    assert_eq!(worker.run(1, "x = 40").status, CellStatus::Ok);
    let report = worker.run(2, "import os\nprint('a', end='')\nos.write(1, b'b')\nx + 2");
    assert_eq!(report.results, ["42"]);
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
    worker.tell(&ToControl::Interrupt { cell: 2 });
    assert_eq!(worker.done().status, CellStatus::Interrupted);
    assert_eq!(worker.run(3, "x > 0").results, ["True"]);
}

/// An interrupt for a cell that has ended once raised in the next one; each is tied to its cell now.
#[test]
fn an_interrupt_that_comes_late_does_not_reach_the_next_cell() {
    let mut zygote = Zygote::start();
    let mut worker = zygote.fork();
    for cell in 1..200 {
        worker.begin(cell, "1");
        worker.tell(&ToControl::Interrupt { cell });
        let status = worker.done().status;
        assert!(matches!(status, CellStatus::Ok | CellStatus::Interrupted), "{status:?}");
        worker.tell(&ToControl::Interrupt { cell });
        assert_eq!(worker.run(1000 + cell, "sum(range(1000))").status, CellStatus::Ok);
        worker.tell(&ToControl::Interrupt { cell: 0 });
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
