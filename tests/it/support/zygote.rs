//! The real binary in its zygote role, driven over its own socket by frames, without a server. `benches/pieces.rs` uses
//! it too.

use std::{
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use forkpy::testing::{
    ConfinementSettings, FromWorker, FromZygote, MAX_CONTROL, MAX_FROM_WORKER, MAX_TO_WORKER, MAX_ZYGOTE,
    PROTOCOL_VERSION, Purpose, ToControl, ToWorker, ToZygote, WorkerExit, WorkerLimits, ZygoteSettings,
    blocking::{self, FrameReader},
    descriptors, frame,
};

pub struct Zygote {
    process: Child,
    socket: Option<UnixStream>,
    reader: FrameReader,
    _workspace: tempfile::TempDir,
}

pub struct Worker {
    pub pid: i32,
    pub cell: UnixStream,
    replies: FrameReader,
    pub control: UnixStream,
    pub reports: FrameReader,
    pub stdout: std::fs::File,
}

fn reader(stream: &UnixStream, cap: usize) -> FrameReader {
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
    FrameReader::new(stream.try_clone().expect("clone"), cap)
}

impl Zygote {
    pub fn start() -> Self {
        let workspace = tempfile::tempdir().expect("tempdir");
        let (ours, theirs) = UnixStream::pair().expect("pair");
        descriptors::close_on_exec(theirs.as_fd(), false).expect("inheritable");
        let process = Command::new(program())
            .arg("__zygote")
            .arg(format!("--socket={}", theirs.as_raw_fd()))
            .arg(format!("--server={}", std::process::id()))
            .stdin(Stdio::null())
            .spawn()
            .expect("the binary starts");
        drop(theirs);
        let path = workspace.path().to_str().expect("UTF-8").to_owned();
        let settings = ZygoteSettings {
            library: None,
            python: super::python(),
            virtual_env: None,
            python_path: Vec::new(),
            preload: Vec::new(),
            outputs: format!("{path}/outputs"),
            own: None,
            workspace: path,
            keep_html: false,
            confinement: ConfinementSettings::default(),
            faults: String::new(),
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

    pub fn socket(&self) -> &UnixStream {
        self.socket.as_ref().expect("open")
    }

    pub fn fork(&mut self) -> Worker {
        let (cell, cell_worker) = UnixStream::pair().expect("pair");
        let (control, control_worker) = UnixStream::pair().expect("pair");
        let (stdout, stdout_worker) = descriptors::pipe().expect("pipe");
        let (_, stderr_worker) = descriptors::pipe().expect("pipe");
        let request = ToZygote::Fork {
            worker: 1,
            purpose: Purpose::Session { name: "default".to_owned() },
            limits: WorkerLimits::default(),
            room: None,
            ground: None,
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

    pub fn exit_of(&mut self, worker: &Worker) -> WorkerExit {
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
    pub fn begin(&self, cell: u64, code: &str) {
        let request = ToWorker::RunCell { cell, code: code.to_owned(), may_ask: false, notebook: None };
        blocking::write(&self.cell, &request, MAX_TO_WORKER).expect("sent");
    }

    pub fn done(&mut self) -> forkpy::testing::CellReport {
        match self.replies.read().expect("a reply") {
            FromWorker::CellDone { report, .. } => report,
            other => panic!("not a cell's end: {other:?}"),
        }
    }

    pub fn run(&mut self, cell: u64, code: &str) -> forkpy::testing::CellReport {
        self.begin(cell, code);
        self.done()
    }

    pub fn tell(&self, message: &ToControl) {
        blocking::write(&self.control, message, MAX_CONTROL).expect("sent");
    }
}

/// The program that is tested: the one that was built with these tests, or the one that `.ci/run` names.
pub fn program() -> PathBuf {
    std::env::var_os("FORKPY_TEST_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_forkpy").into(), PathBuf::from)
}
