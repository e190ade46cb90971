//! What stands ready while rows are timed: servers, other ends, other programs; each started when its first row comes.
//!
//! Runs in: bench. Owns every process that is measured; all end with it.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::json;

use super::{
    BenchError,
    against::{Kernel, Other},
    behind::Behind,
    client::Client,
    floors::{Chain, Pipe, Socket},
    options::BenchArgs,
};

/// The session of plain cells.
pub(crate) const SESSION: &str = "default";
/// Where forks are timed.
pub(crate) const FORKS: &str = "forks";
pub(crate) const KEPT: &str = "kept";
/// What a server does behind may take so long.
const BEHIND: Duration = Duration::from_secs(60);
/// Servers that begin from an image of Python's start.
pub(super) const WITH_IMAGE: &[&str] = &["--zygote-image", "on"];
/// An image of Python's start is there after so long, or never.
const IMAGE: Duration = Duration::from_secs(10);
/// What is preloaded for the rows that say so, as far as it is installed.
const SCIENCE: [&str; 3] = ["numpy", "pandas", "matplotlib"];

const PROBE: &str = "\
import importlib.util as _util, json as _json, platform as _platform, sys as _sys
_names = ('numpy', 'pandas', 'matplotlib', 'ipykernel', 'jupyter_client')
print(_json.dumps({'executable': _sys.executable, 'version': _platform.python_version(),
                   'modules': [name for name in _names if _util.find_spec(name)]}))";

const FORK: &str = "\
import os, time
def fork():
    ours, theirs = os.pipe()
    began = time.perf_counter_ns()
    child = os.fork()
    if child == 0:
        os.write(theirs, b'x')
        os._exit(0)
    os.read(ours, 1)
    took = time.perf_counter_ns() - began
    os.waitpid(child, 0)
    os.close(ours)
    os.close(theirs)
    return took";

/// What the sessions' interpreter is.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Interpreter {
    pub executable: PathBuf,
    pub version: String,
    /// Those of the modules that rows use.
    pub modules: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Stage {
    /// Options of the servers.
    args: Vec<String>,
    against: Option<String>,
    against_tool: String,
    against_argument: String,
    pub(super) interpreter: Interpreter,
    pub(super) main: Client,
    pipe: Option<Pipe>,
    socket: Option<Socket>,
    chain: Option<Chain>,
    cold: Option<Client>,
    confined: Option<Client>,
    preloaded: Option<Client>,
    second_day: Option<Client>,
    many: Option<Client>,
    kernel: Option<Kernel>,
    other: Option<Other>,
    behind: Option<Behind>,
    has_image: bool,
    serial: u32,
    // Last: servers work in it until they end.
    workspace: tempfile::TempDir,
}

impl Stage {
    /// Starts the server that most rows are about.
    pub(crate) fn new(args: &BenchArgs, server: Vec<String>) -> Result<Self, BenchError> {
        let workspace = tempfile::tempdir().map_err(BenchError::system("make a workspace"))?;
        let mut main = Client::forkpy(&workspace.path().join("main"), &server)?;
        main.run(PROBE, SESSION)?;
        let reply = main.reply();
        let interpreter = serde_json::from_str(reply["stdout"].as_str().unwrap_or_default()).map_err(|_| {
            BenchError::Server { who: "forkpy".to_owned(), what: format!("ran the first cell badly: {reply}") }
        })?;
        main.first(FORKS, FORK)?;
        main.first(KEPT, "x = 1")?;
        Ok(Self {
            args: server,
            against: args.against.clone(),
            against_tool: args.against_tool.clone(),
            against_argument: args.against_argument.clone(),
            interpreter,
            main,
            pipe: None,
            socket: None,
            chain: None,
            cold: None,
            confined: None,
            preloaded: None,
            second_day: None,
            many: None,
            kernel: None,
            other: None,
            behind: None,
            has_image: false,
            serial: 0,
            workspace,
        })
    }

    /// Whether the interpreter has this module.
    #[must_use]
    pub(crate) fn has(&self, module: &str) -> bool {
        self.interpreter.modules.iter().any(|known| known == module)
    }

    /// What is measured beside forkpy.
    #[must_use]
    pub(crate) fn against(&self) -> Option<&str> {
        self.against.as_deref()
    }

    /// A name that no session has had.
    pub(crate) fn fresh(&mut self) -> String {
        self.serial += 1;
        format!("fresh-{}", self.serial)
    }

    /// A server of its own, with further options.
    pub(crate) fn server(&mut self, more: &[&str]) -> Result<Client, BenchError> {
        let workspace = self.workspace().join(self.fresh());
        Client::forkpy(&workspace, &[self.args.clone(), more.iter().map(|arg| (*arg).to_owned()).collect()].concat())
    }

    /// Options of a server over HTTP.
    #[must_use]
    pub(crate) fn args(&self) -> &[String] {
        &self.args
    }

    /// Where servers have their workspaces.
    #[must_use]
    pub(crate) fn workspace(&self) -> PathBuf {
        self.workspace.path().to_owned()
    }

    /// The option that preloads what is installed of numpy, pandas and matplotlib.
    #[must_use]
    pub(crate) fn science(&self) -> String {
        SCIENCE.into_iter().filter(|module| self.has(module)).collect::<Vec<_>>().join(",")
    }

    /// Two processes and pipes.
    pub(crate) fn pipe(&mut self) -> Result<&mut Pipe, BenchError> {
        if self.pipe.is_none() {
            self.pipe = Some(Pipe::start()?);
        }
        self.pipe.as_mut().ok_or_else(|| BenchError::Option("no pipes".to_owned()))
    }

    /// Two processes and a socket.
    pub(crate) fn socket(&mut self) -> Result<&mut Socket, BenchError> {
        if self.socket.is_none() {
            self.socket = Some(Socket::start()?);
        }
        self.socket.as_mut().ok_or_else(|| BenchError::Option("no socket".to_owned()))
    }

    /// The processes of the chain.
    pub(crate) fn chain(&mut self) -> Result<&mut Chain, BenchError> {
        if self.chain.is_none() {
            self.chain = Some(Chain::start()?);
        }
        self.chain.as_mut().ok_or_else(|| BenchError::Option("no chain".to_owned()))
    }

    /// The server without spare workers.
    pub(crate) fn cold(&mut self) -> Result<&mut Client, BenchError> {
        if self.cold.is_none() {
            let mut client = self.server(&["--max-spares", "0"])?;
            client.run("1", SESSION)?;
            self.cold = Some(client);
        }
        self.cold.as_mut().ok_or_else(|| BenchError::Option("no server".to_owned()))
    }

    /// The same whose sessions are confined.
    pub(crate) fn confined(&mut self) -> Result<&mut Client, BenchError> {
        if self.confined.is_none() {
            let mut client = self.server(&["--max-spares", "0", "--sandbox", "workspace", "--sandbox-best-effort"])?;
            client.run("1", SESSION)?;
            self.confined = Some(client);
        }
        self.confined.as_mut().ok_or_else(|| BenchError::Option("no server".to_owned()))
    }

    /// The server with numpy and the like preloaded.
    pub(crate) fn preloaded(&mut self) -> Result<&mut Client, BenchError> {
        if self.preloaded.is_none() {
            let science = self.science();
            let mut client = self.server(&["--preload", &science])?;
            client.run("1", SESSION)?;
            self.preloaded = Some(client);
        }
        self.preloaded.as_mut().ok_or_else(|| BenchError::Option("no server".to_owned()))
    }

    /// Whether sessions have an environment that was there before, and is not forkpy's to make.
    #[must_use]
    pub(crate) fn has_own_python(&self) -> bool {
        self.args.iter().any(|arg| ["--python", "--venv"].iter().any(|option| arg.starts_with(option)))
    }

    /// A server that has warmed what sessions of an earlier one have imported.
    pub(crate) fn second_day(&mut self) -> Result<&mut Client, BenchError> {
        if self.second_day.is_none() {
            let notes = self.workspace().join("notes");
            let folder = notes.to_string_lossy().into_owned();
            let args = ["--preload", "auto", "--env-dir", folder.as_str()];
            let mut first = self.server(&args)?;
            first.run("import pandas", SESSION)?;
            let is_noted = || {
                let files = std::fs::read_dir(&notes).into_iter().flatten().flatten();
                files.filter_map(|file| std::fs::read_to_string(file.path()).ok()).any(|text| text.contains("pandas"))
            };
            until("what was imported was not noted", || Ok(is_noted()))?;
            drop(first);
            let mut second = self.server(&args)?;
            second.run("1", SESSION)?;
            until("pandas was not warmed", || {
                second.call("get_workspace_info", &json!({}))?;
                Ok(second.reply()["preload"]["added"].to_string().contains("pandas"))
            })?;
            self.second_day = Some(second);
        }
        self.second_day.as_mut().ok_or_else(|| BenchError::Option("no server".to_owned()))
    }

    /// A server that bears more sessions than one does unless it is told.
    pub(crate) fn many(&mut self) -> Result<&mut Client, BenchError> {
        if self.many.is_none() {
            let mut client = self.server(&["--max-sessions", "200"])?;
            client.run("x = 1", SESSION)?;
            self.many = Some(client);
        }
        self.many.as_mut().ok_or_else(|| BenchError::Option("no server".to_owned()))
    }

    /// The next servers begin from an image of Python's start, where there can be one.
    pub(crate) fn leave_an_image(&mut self) -> Result<(), BenchError> {
        if std::mem::replace(&mut self.has_image, true) {
            return Ok(());
        }
        let mut first = self.server(WITH_IMAGE)?;
        first.run("1", SESSION)?;
        let began = Instant::now();
        while began.elapsed() < IMAGE {
            let mut next = self.server(WITH_IMAGE)?;
            next.run("1", SESSION)?;
            next.call("get_workspace_info", &json!({}))?;
            let started = &next.reply()["python_start"];
            // It says why there can be none.
            let is_to_come = started["why"].as_str().is_some_and(|why| why.contains("no image yet"));
            if started["from"] == "image" || !is_to_come {
                break;
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    pub(crate) fn other(&mut self) -> Result<&mut Other, BenchError> {
        if self.other.is_none() {
            let command = self.against.clone().unwrap_or_default();
            self.other = Some(Other::start(&command, &self.against_tool, &self.against_argument)?);
        }
        self.other.as_mut().ok_or_else(|| BenchError::Option("no other server".to_owned()))
    }

    /// The server behind a front.
    pub(crate) fn behind(&mut self) -> Result<&mut Behind, BenchError> {
        if self.behind.is_none() {
            let mut behind = Behind::start(&self.workspace().join("behind"), &self.args)?;
            behind.client()?.run("1", SESSION)?;
            self.behind = Some(behind);
        }
        self.behind.as_mut().ok_or_else(|| BenchError::Option("no front".to_owned()))
    }

    pub(crate) fn kernel(&mut self) -> Result<&mut Kernel, BenchError> {
        if self.kernel.is_none() {
            self.kernel = Some(Kernel::start(&self.interpreter.executable)?);
        }
        self.kernel.as_mut().ok_or_else(|| BenchError::Option("no ipykernel".to_owned()))
    }

    /// Nanoseconds of a fork in a session.
    pub(crate) fn fork(&mut self) -> Result<u64, BenchError> {
        self.main.call("run_python_code", &json!({"code": "fork()", "session_id": FORKS}))?;
        let reply = self.main.reply();
        reply["results"][0].as_str().and_then(|result| result.parse().ok()).ok_or_else(|| BenchError::Server {
            who: "forkpy".to_owned(),
            what: format!("could not fork in a session: {reply}"),
        })
    }
}

/// Waits for what happens behind.
fn until(what: &str, mut is_so: impl FnMut() -> Result<bool, BenchError>) -> Result<(), BenchError> {
    let began = Instant::now();
    while !is_so()? {
        if began.elapsed() > BEHIND {
            let what = format!("{what} within {} s", BEHIND.as_secs());
            return Err(BenchError::Server { who: "forkpy".to_owned(), what });
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
