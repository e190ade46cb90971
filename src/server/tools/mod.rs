//! The tools: one row each of name, effect, function and what is told about it.
//!
//! Runs in: server. A family of tools stands in one file with its arguments, its results and its functions; what every call
//! needs is in `call`. Schemas come from the functions' types.

pub(crate) mod call;
pub(crate) mod cells;
pub(crate) mod sessions;
pub(crate) mod workspace;

use std::sync::LazyLock;

use self::{
    call::tool::{Tool, tool},
    cells::{branches, kept, lookup, run, variables},
    sessions::{checkpoints, health, lifecycle, saved},
    workspace::{files, notebooks::tools as notebooks, packages, place, scripts},
};

/// All tools, in the order they are listed: the first takes no argument that must be given.
pub(crate) static TOOLS: LazyLock<Vec<Tool>> = LazyLock::new(|| {
    vec![
        tool!(
            "ping",
            Reads,
            place::ping,
            "Answers at once. Tells whether the server itself is up; check_kernel_responsiveness tells whether a session is."
        ),
        tool!(
            "run_python_code",
            Open,
            run::run,
            "Runs Python code in a persistent session and returns what it printed, the value of its last expression, and any exception. Variables, imports and definitions stay for later calls. Code that raises is a normal result (`status: \"error\"`, traceback in `stderr`). Long work is fine: give a `timeout`; an interrupted cell keeps the session's variables. A reply with status `running` or `queued` is no failure: the code goes on, wait_for_cell has its end; do not send it again. Calls to one session queue in order, sessions run side by side."
        ),
        tool!(
            "wait_for_cell",
            Reads,
            kept::wait_for,
            "Waits for a cell that run_python_code left running or queued, and returns its whole reply, pictures included; while it runs, what it has written since the last look. Also gives the reply again that a client missed: replies are kept for an hour."
        ),
        tool!(
            "interrupt_cell",
            Destroys,
            kept::interrupt,
            "Interrupts a running cell (KeyboardInterrupt; variables survive), or takes a queued one back, and returns what it came to. Its worker is killed only when no interrupt reaches it."
        ),
        tool!(
            "list_variables",
            Reads,
            variables::list,
            "Lists the variables of a session with type, short value and, where it has them, shape, dtype, length and size in bytes. While a cell runs, those of that moment; an interpreter that native code holds is `busy`."
        ),
        tool!(
            "code_completion",
            Reads,
            lookup::complete,
            "Says what could stand at a place in code: names, attributes of living objects, dict keys and table columns, imports, paths in strings, magics. Runs none of the code and no property; answers also while a cell runs."
        ),
        tool!(
            "inspect_object",
            Reads,
            lookup::inspect,
            "Tells about the object that is named at a place in code: signature, type, value in short, docstring and, with detail_level 1, source. Runs none of the code and no property; answers also while a cell runs."
        ),
        tool!(
            "restart_kernel",
            Destroys,
            lifecycle::restart,
            "Gives a session a fresh interpreter, at once, also when it is busy, hung or dead. All variables are lost unless preserve_state is true. Calls that wait in the session are refused."
        ),
        tool!(
            "create_session",
            Changes,
            lifecycle::create,
            "Makes a session: an isolated Python interpreter in a process of its own. It does not become the active one: use switch_session, or pass session_id in calls. A session of that name that exists is returned as it is."
        ),
        tool!(
            "switch_session",
            Changes,
            lifecycle::switch,
            "Makes a session the active one, to which calls without session_id go. Affects this client only."
        ),
        tool!(
            "list_sessions",
            Reads,
            lifecycle::list,
            "Lists all sessions with health, activity and which one is active for this client."
        ),
        tool!(
            "delete_session",
            Destroys,
            lifecycle::delete,
            "Ends a session: its interpreter, its variables and every process it started. `default` cannot be deleted."
        ),
        tool!(
            "checkpoint_session",
            Changes,
            checkpoints::checkpoint,
            "Freezes a copy of everything a session has (variables, imports, open objects), in milliseconds: restore_checkpoint goes back to it, as often as wanted. Files and the outside world are not part of it, and what the copy shares with them is listed as warnings. Refused while threads run, which a copy would not have."
        ),
        tool!(
            "list_checkpoints",
            Reads,
            checkpoints::list,
            "Lists checkpoints with name, session, the cell after which they were made, and the memory that each holds alone."
        ),
        tool!(
            "restore_checkpoint",
            Destroys,
            checkpoints::restore,
            "Takes a session back to a checkpoint: every variable is as it was then, and what was done since is gone. The checkpoint stays. Files and the outside world are not rolled back. Waits for a running cell to end."
        ),
        tool!(
            "fork_session",
            Changes,
            checkpoints::fork,
            "Makes a session that begins as a copy of another, or of a checkpoint of it, with all variables; both go on independently. Open files and connections are shared by the two."
        ),
        tool!(
            "delete_checkpoint",
            Destroys,
            checkpoints::delete,
            "Deletes a checkpoint and frees the memory that it holds alone."
        ),
        tool!(
            "run_branches",
            Open,
            branches::run,
            "Tries several pieces of code from the same state: the session is copied once for each, they run side by side, and what each came to is returned as run_python_code does. With keep the session then goes on as one of them; otherwise it is as before. Files and the outside world are shared by all branches and are not rolled back."
        ),
        tool!(
            "save_session",
            Overwrites,
            saved::save,
            "Writes the variables of a session to a file of the workspace, which load_session reads on another day. Variable by variable: those that cannot be written (open files, generators, threads) are named with the reason. With cloudpickle in the environment functions and classes of cells are included. checkpoint_session is faster and holds everything, but ends with the server."
        ),
        tool!(
            "load_session",
            Open,
            saved::load,
            "Brings variables back that save_session wrote. Runs code that is in the file, as unpickling does: load only files that you trust. A file that is damaged, or not forkpy's, or of another Python version, is refused before anything is changed. Variables of the same names are replaced, and named."
        ),
        tool!(
            "get_kernel_health",
            Reads,
            health::get,
            "Health of a session's worker process: healthy, dead or zombie, with memory, CPU, threads and uptime, what it is doing (idle, busy, waiting_input, blocked in a system call, hung, stopped), alerts, recovery, and how the worker before it ended. Answers at once, also while a cell runs. With history also the series of the past."
        ),
        tool!(
            "get_health_report",
            Reads,
            health::report_all,
            "Health of all sessions at once, as get_kernel_health gives it for one, with those that are dead or hung named. Needs no switching."
        ),
        tool!(
            "configure_health",
            Changes,
            health::configure,
            "Sets thresholds of a session (memory, processor, unresponsiveness) and what happens when it dies or hangs: manual, on-demand or auto. What is left out stays. Returns what is in force."
        ),
        tool!(
            "dump_stacks",
            Reads,
            health::dump_stacks,
            "Shows where a session's code is: the stacks of all its Python threads, and what each thread of its process waits for. Works while a cell runs, and also when native code holds the interpreter. Interrupts nothing."
        ),
        tool!(
            "list_crashes",
            Reads,
            health::list_crashes,
            "Lists reports on workers that died: why, by which signal, in which cell; with id one report whole, with code, last output, memory curve and stacks. The newest 50 are kept, in outputs/crashes/."
        ),
        tool!(
            "check_kernel_responsiveness",
            Reads,
            health::check,
            "Asks a session's interpreter to evaluate something trivial, also while a cell runs. A busy interpreter answers; one that is hung in native code, stopped or dead does not."
        ),
        tool!(
            "get_workspace_info",
            Reads,
            place::info,
            "Names the directories that sessions work in, and the Python they run."
        ),
        tool!(
            "list_files",
            Reads,
            files::list,
            "Lists files of the workspace: one directory, or with recursive or tree also those below it. Paths are relative to the workspace, directories end in '/', the order is stable. Symbolic links are listed, not followed. Long listings come in pages: pass next_offset as offset."
        ),
        tool!(
            "read_file",
            Reads,
            files::read,
            "Reads a file of the workspace, or a part of it: text when it is UTF-8, base64 otherwise. Pass next_offset as offset to read on, or start_line and end_line for some lines. Small PNG, JPEG, GIF and WebP files also come as an image."
        ),
        tool!(
            "write_file",
            Overwrites,
            files::write,
            "Writes a file of the workspace, whole or not at all; replaces one that exists (its mode stays) and makes missing directories."
        ),
        tool!(
            "delete_file",
            Destroys,
            files::delete,
            "Deletes a file of the workspace; a directory with everything in it only with recursive. A symbolic link is deleted itself, not what it points to."
        ),
        tool!(
            "save_script",
            Overwrites,
            files::save_script,
            "Saves Python code as a script in scripts/ of the workspace, replacing one of that name."
        ),
        tool!(
            "run_script",
            Open,
            scripts::run,
            "Runs a Python file of the workspace from its beginning, as `python file.py args` would: in a process of its own that ends with it, with its own variables. No session is touched or waited for. What it printed and its exit code come back; an exception or sys.exit is a normal result. Every process it leaves behind is ended with it."
        ),
        tool!(
            "install_dependencies",
            Open,
            packages::install,
            "Installs Python packages into the environment of all sessions, with uv or pip. New packages can be imported at once, in living sessions too. A session that has already imported a package which changed is named: restart_kernel gives it the new one."
        ),
        tool!("list_packages", Reads, packages::list, "Lists the packages that sessions can import, with versions."),
        tool!(
            "export_notebook",
            Overwrites,
            notebooks::export,
            "Writes what a session has run, with its outputs, pictures and errors, as a Jupyter notebook, or as an HTML page that needs nothing else."
        ),
        tool!(
            "run_notebook",
            Open,
            notebooks::run,
            "Runs a Jupyter notebook of the workspace cell by cell in a session, and writes it back with its outputs. Stops at the first cell that raises unless on_error is `continue`. Parameters are set behind the cell tagged `parameters`."
        ),
    ]
});

/// The tool of this name.
pub(crate) fn find(name: &str) -> Option<&'static Tool> {
    TOOLS.iter().find(|tool| tool.listed.name == name)
}
