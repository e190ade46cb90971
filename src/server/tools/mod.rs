//! The tools: their definitions, and one function each that checks, asks the rooms behind and shapes the reply.
//!
//! Runs in: server. Thin: what a session does is in `session.rs`, what health means in `server/health`, what an outcome looks
//! like in `render.rs`. A refusal is a tool error, in words that a model can act on; only an unknown tool is a protocol
//! error.

pub(crate) mod arguments;
pub(crate) mod call;
pub(crate) mod cells;
pub(crate) mod results;
pub(crate) mod sessions;
pub(crate) mod workspace;

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use jiff::Timestamp;
use rmcp::{
    RoleServer,
    model::{CallToolResponse, CallToolResult, ContentBlock, InputResponses, JsonObject, Tool, ToolAnnotations},
    service::RequestContext,
};
use schemars::JsonSchema;
use serde::Serialize;

use self::{
    call::{notices, schema},
    cells::{branches, lookup, run},
    sessions::{checkpoints, health, lifecycle, saved},
    workspace::{
        files,
        notebooks::{self, document::NotebookError},
        packages, scripts,
    },
};
use super::scripts::ScriptError;
use crate::server::{
    environment::error::PackageError,
    sessions::{
        active::Client,
        checkpoints::CheckpointError,
        handle::Session,
        names::DEFAULT,
        orders::{Caller, SessionError},
        outcome::Fate,
        registry::RegistryError,
    },
    tools::call::server::Server,
    workers::zygote::Stage,
    workspace::handle::FileError,
};

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// The arguments.
    #[error("{0}")]
    Argument(String),
    /// The name of a session, or the number of them.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The session, and what has happened to it.
    #[error("{error}. {news}")]
    Told {
        /// What it refused.
        error: SessionError,
        /// Why, in whole sentences.
        news: String,
    },
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A notebook.
    #[error(transparent)]
    Notebook(#[from] NotebookError),
    /// Packages.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A script.
    #[error(transparent)]
    Script(#[from] ScriptError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A client that cannot be recognised wants to be remembered.
    #[error(
        "this client sends nothing to recognise it by (no cookie, no session header), so its active session cannot be \
         remembered; pass session_id in each call instead"
    )]
    NotRecognised,
    /// A second call for a question that nobody waits with.
    #[error(
        "no running cell waits for this answer: it was answered before, the session was deleted, or the server was \
         started again since. Nothing was run; to run the code anew, call again without requestState"
    )]
    NoQuestion,
    /// The reply could not be made.
    #[error("failed to encode the reply: {0}")]
    Encode(#[from] serde_json::Error),
}

/// One call: who asks, what for, and how to reach them meanwhile.
pub(crate) struct Call {
    /// Who.
    pub client: Client,
    /// The arguments as sent.
    pub arguments: Option<JsonObject>,
    /// Cancellation and progress.
    pub context: RequestContext<RoleServer>,
    /// What it brings if it is the second call for a question (protocol 2026-07-28).
    pub again: Again,
}

/// What a client sends along when a call needed its input, see `asking.rs`.
#[derive(Debug, Default)]
pub(crate) struct Again {
    /// The name that it was given.
    pub request_state: Option<String>,
    /// Its answers.
    pub input_responses: Option<InputResponses>,
}

/// What a tool does to the world, for its annotations.
#[derive(Clone, Copy)]
enum Effect {
    Reads,
    Changes,
    /// Replaces what was there; twice is as once.
    Overwrites,
    Destroys,
    /// Runs anything at all.
    Open,
}

/// All tools, in the order they are listed: the first takes no argument that must be given.
pub(crate) static TOOLS: LazyLock<Vec<Tool>> = LazyLock::new(|| {
    use arguments as a;
    use results as r;
    vec![
        define::<a::Nothing, r::Pong>(
            "ping",
            Effect::Reads,
            "Answers at once. Tells whether the server itself is up; check_kernel_responsiveness tells whether a session is.",
        ),
        define::<a::RunPythonCode, r::Cell>(
            "run_python_code",
            Effect::Open,
            "Runs Python code in a persistent session and returns what it printed, the value of its last expression, and any exception. Variables, imports and definitions stay for later calls. Code that raises is a normal result (`status: \"error\"`, traceback in `stderr`). Long work is fine: give a `timeout`; an interrupted cell keeps the session's variables. Calls to one session queue in order, sessions run side by side.",
        ),
        define::<a::OfSession, r::Variables>(
            "list_variables",
            Effect::Reads,
            "Lists the variables of a session with type, short value and, where it has them, shape, dtype, length and size in bytes. Waits for a running cell to end.",
        ),
        define::<a::CodeCompletion, r::Completion>(
            "code_completion",
            Effect::Reads,
            "Says what could stand at a place in code: names, attributes of living objects, dict keys and table columns, imports, paths in strings, magics. Runs none of the code and no property; answers also while a cell runs.",
        ),
        define::<a::InspectObject, r::Inspection>(
            "inspect_object",
            Effect::Reads,
            "Tells about the object that is named at a place in code: signature, type, value in short, docstring and, with detail_level 1, source. Runs none of the code and no property; answers also while a cell runs.",
        ),
        define::<a::RestartKernel, r::Restart>(
            "restart_kernel",
            Effect::Destroys,
            "Gives a session a fresh interpreter, at once, also when it is busy, hung or dead. All variables are lost unless preserve_state is true. Calls that wait in the session are refused.",
        ),
        define::<a::CreateSession, r::CreatedSession>(
            "create_session",
            Effect::Changes,
            "Makes a session: an isolated Python interpreter in a process of its own. It does not become the active one: use switch_session, or pass session_id in calls. A session of that name that exists is returned as it is.",
        ),
        define::<a::NamedSession, r::SwitchedSession>(
            "switch_session",
            Effect::Changes,
            "Makes a session the active one, to which calls without session_id go. Affects this client only.",
        ),
        define::<a::Nothing, r::Sessions>(
            "list_sessions",
            Effect::Reads,
            "Lists all sessions with health, activity and which one is active for this client.",
        ),
        define::<a::NamedSession, r::DeletedSession>(
            "delete_session",
            Effect::Destroys,
            "Ends a session: its interpreter, its variables and every process it started. `default` cannot be deleted.",
        ),
        define::<a::CheckpointSession, r::MadeCheckpoint>(
            "checkpoint_session",
            Effect::Changes,
            "Freezes a copy of everything a session has (variables, imports, open objects), in milliseconds: restore_checkpoint goes back to it, as often as wanted. Files and the outside world are not part of it, and what the copy shares with them is listed as warnings. Refused while threads run, which a copy would not have.",
        ),
        define::<a::ListCheckpoints, r::CheckpointList>(
            "list_checkpoints",
            Effect::Reads,
            "Lists checkpoints with name, session, the cell after which they were made, and the memory that each holds alone.",
        ),
        define::<a::RestoreCheckpoint, r::RestoredCheckpoint>(
            "restore_checkpoint",
            Effect::Destroys,
            "Takes a session back to a checkpoint: every variable is as it was then, and what was done since is gone. The checkpoint stays. Files and the outside world are not rolled back. Waits for a running cell to end.",
        ),
        define::<a::ForkSession, r::ForkedSession>(
            "fork_session",
            Effect::Changes,
            "Makes a session that begins as a copy of another, or of a checkpoint of it, with all variables; both go on independently. Open files and connections are shared by the two.",
        ),
        define::<a::DeleteCheckpoint, r::DeletedCheckpoint>(
            "delete_checkpoint",
            Effect::Destroys,
            "Deletes a checkpoint and frees the memory that it holds alone.",
        ),
        define::<a::RunBranches, r::Branches>(
            "run_branches",
            Effect::Open,
            "Tries several pieces of code from the same state: the session is copied once for each, they run side by side, and what each came to is returned as run_python_code does. With keep the session then goes on as one of them; otherwise it is as before. Files and the outside world are shared by all branches and are not rolled back.",
        ),
        define::<a::SaveSession, r::SavedSession>(
            "save_session",
            Effect::Overwrites,
            "Writes the variables of a session to a file of the workspace, which load_session reads on another day. Variable by variable: those that cannot be written (open files, generators, threads) are named with the reason. With cloudpickle in the environment functions and classes of cells are included. checkpoint_session is faster and holds everything, but ends with the server.",
        ),
        define::<a::LoadSession, r::LoadedSession>(
            "load_session",
            Effect::Open,
            "Brings variables back that save_session wrote. Runs code that is in the file, as unpickling does: load only files that you trust. A file that is damaged, or not forkpy's, or of another Python version, is refused before anything is changed. Variables of the same names are replaced, and named.",
        ),
        define::<a::GetKernelHealth, r::Health>(
            "get_kernel_health",
            Effect::Reads,
            "Health of a session's worker process: healthy, dead or zombie, with memory, CPU, threads and uptime, what it is doing (idle, busy, waiting_input, blocked in a system call, hung, stopped), alerts, recovery, and how the worker before it ended. Answers at once, also while a cell runs. With history also the series of the past.",
        ),
        define::<a::Nothing, r::HealthReport>(
            "get_health_report",
            Effect::Reads,
            "Health of all sessions at once, as get_kernel_health gives it for one, with those that are dead or hung named. Needs no switching.",
        ),
        define::<a::ConfigureHealth, r::ConfiguredHealth>(
            "configure_health",
            Effect::Changes,
            "Sets thresholds of a session (memory, processor, unresponsiveness) and what happens when it dies or hangs: manual, on-demand or auto. What is left out stays. Returns what is in force.",
        ),
        define::<a::OfSession, r::DumpedStacks>(
            "dump_stacks",
            Effect::Reads,
            "Shows where a session's code is: the stacks of all its Python threads, and what each thread of its process waits for. Works while a cell runs, and also when native code holds the interpreter. Interrupts nothing.",
        ),
        define::<a::ListCrashes, r::CrashList>(
            "list_crashes",
            Effect::Reads,
            "Lists reports on workers that died: why, by which signal, in which cell; with id one report whole, with code, last output, memory curve and stacks. The newest 50 are kept, in outputs/crashes/.",
        ),
        define::<a::CheckResponsiveness, r::Responsiveness>(
            "check_kernel_responsiveness",
            Effect::Reads,
            "Asks a session's interpreter to evaluate something trivial, also while a cell runs. A busy interpreter answers; one that is hung in native code, stopped or dead does not.",
        ),
        define::<a::Nothing, r::WorkspaceInfo>(
            "get_workspace_info",
            Effect::Reads,
            "Names the directories that sessions work in, and the Python they run.",
        ),
        define::<a::ListFiles, r::Files>(
            "list_files",
            Effect::Reads,
            "Lists files of the workspace: one directory, or with recursive or tree also those below it. Paths are relative to the workspace, directories end in '/', the order is stable. Symbolic links are listed, not followed. Long listings come in pages: pass next_offset as offset.",
        ),
        define::<a::ReadFile, r::FilePiece>(
            "read_file",
            Effect::Reads,
            "Reads a file of the workspace, or a part of it: text when it is UTF-8, base64 otherwise. Pass next_offset as offset to read on, or start_line and end_line for some lines. Small PNG, JPEG, GIF and WebP files also come as an image.",
        ),
        define::<a::WriteFile, r::WrittenFile>(
            "write_file",
            Effect::Overwrites,
            "Writes a file of the workspace, whole or not at all; replaces one that exists (its mode stays) and makes missing directories.",
        ),
        define::<a::DeleteFile, r::DeletedFile>(
            "delete_file",
            Effect::Destroys,
            "Deletes a file of the workspace; a directory with everything in it only with recursive. A symbolic link is deleted itself, not what it points to.",
        ),
        define::<a::SaveScript, r::SavedScript>(
            "save_script",
            Effect::Overwrites,
            "Saves Python code as a script in scripts/ of the workspace, replacing one of that name.",
        ),
        define::<a::RunScript, r::ScriptRun>(
            "run_script",
            Effect::Open,
            "Runs a Python file of the workspace from its beginning, as `python file.py args` would: in a process of its own that ends with it, with its own variables. No session is touched or waited for. What it printed and its exit code come back; an exception or sys.exit is a normal result. Every process it leaves behind is ended with it.",
        ),
        define::<a::InstallDependencies, r::Installed>(
            "install_dependencies",
            Effect::Open,
            "Installs Python packages into the environment of all sessions, with uv or pip. New packages can be imported at once, in living sessions too. A session that has already imported a package which changed is named: restart_kernel gives it the new one.",
        ),
        define::<a::ListPackages, r::PackageList>(
            "list_packages",
            Effect::Reads,
            "Lists the packages that sessions can import, with versions.",
        ),
        define::<a::ExportNotebook, r::ExportedNotebook>(
            "export_notebook",
            Effect::Overwrites,
            "Writes what a session has run, with its outputs, pictures and errors, as a Jupyter notebook, or as an HTML page that needs nothing else.",
        ),
        define::<a::RunNotebook, r::NotebookRun>(
            "run_notebook",
            Effect::Open,
            "Runs a Jupyter notebook of the workspace cell by cell in a session, and writes it back with its outputs. Stops at the first cell that raises unless on_error is `continue`. Parameters are set behind the cell tagged `parameters`.",
        ),
    ]
});

fn define<A: JsonSchema, R: JsonSchema + 'static>(
    name: &'static str,
    effect: Effect,
    description: &'static str,
) -> Tool {
    let annotations = ToolAnnotations::new().open_world(matches!(effect, Effect::Open));
    let annotations = match effect {
        Effect::Reads => annotations.read_only(true).destructive(false).idempotent(true),
        Effect::Changes => annotations.read_only(false).destructive(false).idempotent(true),
        Effect::Overwrites => annotations.read_only(false).destructive(true).idempotent(true),
        Effect::Destroys | Effect::Open => annotations.read_only(false).destructive(true).idempotent(false),
    };
    Tool::new(name, description, schema::input::<A>())
        .with_raw_output_schema(schema::output::<R>())
        .with_annotations(annotations)
}

/// Answers a call; `None` when there is no such tool.
pub(crate) async fn call(server: &Server, name: &str, mut call: Call) -> Option<CallToolResponse> {
    let answered = match name {
        "ping" => ping(&mut call),
        "run_python_code" => {
            return Some(run::run_python_code(server, call).await.unwrap_or_else(|e| refusal(&e).into()));
        }
        "list_variables" => run::list_variables(server, call).await,
        "code_completion" => lookup::complete(server, call).await,
        "inspect_object" => lookup::inspect(server, call).await,
        "restart_kernel" => run::restart_kernel(server, call).await,
        "create_session" => lifecycle::create(server, &mut call),
        "switch_session" => lifecycle::switch(server, &mut call),
        "list_sessions" => lifecycle::list(server, &mut call),
        "delete_session" => lifecycle::delete(server, &mut call).await,
        "checkpoint_session" => checkpoints::checkpoint(server, &mut call).await,
        "list_checkpoints" => checkpoints::list(server, &mut call).await,
        "restore_checkpoint" => checkpoints::restore(server, &mut call).await,
        "fork_session" => checkpoints::fork(server, &mut call).await,
        "delete_checkpoint" => checkpoints::delete(server, &mut call),
        "run_branches" => Box::pin(branches::run(server, call)).await,
        "save_session" => Box::pin(saved::save(server, call)).await,
        "load_session" => Box::pin(saved::load(server, call)).await,
        "get_kernel_health" => health::get(server, &mut call).await,
        "get_health_report" => health::report_all(server, &mut call).await,
        "configure_health" => health::configure(server, &mut call),
        "dump_stacks" => health::dump_stacks(server, &mut call).await,
        "list_crashes" => health::list_crashes(server, &mut call).await,
        "check_kernel_responsiveness" => health::check(server, &mut call).await,
        "get_workspace_info" => workspace_info(server, &mut call),
        "list_files" => files::list(server, &mut call).await,
        "read_file" => files::read(server, &mut call).await,
        "write_file" => files::write(server, &mut call).await,
        "delete_file" => files::delete(server, &mut call).await,
        "save_script" => files::save_script(server, &mut call).await,
        "run_script" => scripts::run(server, call).await,
        "install_dependencies" => packages::install(server, call).await,
        "export_notebook" => notebooks::export(server, &mut call).await,
        "run_notebook" => notebooks::run(server, call).await,
        "list_packages" => packages::list(server, &mut call).await,
        _ => return None,
    };
    Some(answered.unwrap_or_else(|error| refusal(&error)).into())
}

fn refusal(error: &ToolError) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(error.to_string())])
}

impl Call {
    /// Who waits for what a session is asked for.
    fn caller(&self) -> Caller {
        Caller { client: self.client.clone(), cancel: self.context.ct.clone() }
    }

    /// What this client has not been told of a session yet, for a reply to something else than a cell: how things stand
    /// with its variables if they are not simply there, and all of it in words.
    fn news_of(&self, session: &Session) -> (Option<&'static str>, Option<String>) {
        let news = session.life.news(&self.client);
        let fate = news.fate();
        ((fate != Fate::Kept).then(|| fate.word()), notices::news(&session.id, &news.events))
    }

    /// Takes and reads the arguments.
    fn read<T: serde::de::DeserializeOwned>(&mut self, tool: &str) -> Result<T, ToolError> {
        let schema = TOOLS.iter().find(|known| known.name == tool).map(|known| Arc::clone(&known.input_schema));
        arguments::read(tool, &schema.unwrap_or_default(), self.arguments.take())
    }
}

impl Server {
    /// The session that a call means: the one it names, else the client's active one.
    fn session(&self, client: &Client, named: Option<&str>) -> Result<Session, ToolError> {
        let session = match (named, self.active.of(client)) {
            (Some(id), _) => self.registry.get(id)?,
            (None, Some(choice)) => self.registry.chosen(&choice)?,
            (None, None) => self.registry.get(DEFAULT)?,
        };
        session.life.used_by(client);
        Ok(session)
    }
}

/// A reply whose text is its JSON.
fn reply<T: Serialize>(value: &T) -> Result<CallToolResult, ToolError> {
    let text = serde_json::to_string(value)?;
    reply_with_text(value, text, false)
}

fn reply_with_text<T: Serialize>(value: &T, text: String, is_error: bool) -> Result<CallToolResult, ToolError> {
    let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
    result.structured_content = Some(serde_json::to_value(value)?);
    result.is_error = Some(is_error);
    Ok(result)
}

fn now() -> String {
    Timestamp::now().to_string()
}

fn ping(call: &mut Call) -> Result<CallToolResult, ToolError> {
    let arguments::Nothing {} = call.read("ping")?;
    reply(&results::Pong { status: "pong", ok: true, timestamp: now() })
}

fn workspace_info(server: &Server, call: &mut Call) -> Result<CallToolResult, ToolError> {
    let arguments::Nothing {} = call.read("get_workspace_info")?;
    let words = |path: &Path| path.to_string_lossy().into_owned();
    let place = &server.workspace;
    let (workspace, scripts) = (words(&place.root), words(&place.scripts()));
    let (outputs, uploads) = (words(&place.outputs()), words(&place.uploads()));
    let (python, python_version) = match server.around.zygote.stage() {
        Stage::Warm { python, executable, .. } => (Some(executable), Some(python)),
        Stage::Starting | Stage::Failed(_) => (None, None),
    };
    reply(&results::WorkspaceInfo {
        workspace_dir: workspace.clone(),
        scripts_dir: scripts.clone(),
        outputs_dir: outputs.clone(),
        uploads_dir: uploads.clone(),
        workspace,
        scripts,
        outputs,
        uploads,
        python,
        python_version,
        server_version: env!("CARGO_PKG_VERSION"),
    })
}
