//! The tools: one row each of set, name, effect, the scope that it needs, function and what is told about it.
//!
//! Runs in: server. A family of tools stands in one file with its arguments, its results and its functions; what every call
//! needs is in `call`. Schemas come from the functions' types.

pub(crate) mod call;
pub(crate) mod catalogue;
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
            Within,
            Standard,
            "ping",
            Reads,
            Any,
            place::ping,
            "Answers at once: the server is up. check_kernel_responsiveness asks a session."
        ),
        tool!(
            Within,
            Core,
            "run_python_code",
            Open,
            CellsRun,
            run::run,
            "Runs Python code in a persistent session; gives what it printed, the value of its last expression, any exception. Variables stay for later calls. Long work is fine: give `timeout`; an interrupted cell keeps the variables. Status `running` or `queued`: the code goes on, wait_for_cell has its end; do not send it again. Calls to one session queue."
        ),
        tool!(
            Within,
            Core,
            "wait_for_cell",
            Reads,
            CellsRun,
            kept::wait_for,
            "Waits for a cell that goes on and gives its whole reply, or what it has written since the last look. Also repeats a reply that was missed."
        ),
        tool!(
            Within,
            Standard,
            "interrupt_cell",
            Destroys,
            CellsRun,
            kept::interrupt,
            "Interrupts a running cell (variables survive), or takes a queued one back."
        ),
        tool!(
            Within,
            Core,
            "list_variables",
            Reads,
            CellsRun,
            variables::list,
            "Lists a session's variables: type, short value, shape, dtype, length, bytes; also while a cell runs."
        ),
        tool!(
            Within,
            Standard,
            "code_completion",
            Reads,
            CellsRun,
            lookup::complete,
            "What could stand at a place in code: attributes of living objects, keys, columns, imports, paths. Runs nothing; answers while a cell runs."
        ),
        tool!(
            Within,
            Standard,
            "inspect_object",
            Reads,
            CellsRun,
            lookup::inspect,
            "Signature, type, short value, docstring and source of the object at a place in code. Runs nothing; answers while a cell runs."
        ),
        tool!(
            Within,
            Core,
            "restart_kernel",
            Destroys,
            CellsRun,
            lifecycle::restart,
            "Gives a session a fresh interpreter at once, also when it is busy, hung or dead. Variables are lost unless preserve_state."
        ),
        tool!(
            Within,
            Standard,
            "create_session",
            Changes,
            CellsRun,
            lifecycle::create,
            "Makes an isolated Python interpreter in a process of its own, or returns the one of that name. Use switch_session, or pass session_id."
        ),
        tool!(
            Within,
            Standard,
            "switch_session",
            Changes,
            CellsRun,
            lifecycle::switch,
            "Makes a session the one that calls without session_id go to, for this client only."
        ),
        tool!(
            Within,
            Standard,
            "list_sessions",
            Reads,
            CellsRun,
            lifecycle::list,
            "Lists sessions with state and activity, and which one is active for this client."
        ),
        tool!(
            Within,
            Standard,
            "delete_session",
            Destroys,
            CellsRun,
            lifecycle::delete,
            "Ends a session with its variables and processes. `default` cannot be deleted."
        ),
        tool!(
            Outlasting,
            Standard,
            "checkpoint_session",
            Changes,
            CellsRun,
            checkpoints::checkpoint,
            "Freezes a copy of everything a session has, in milliseconds, for restore_checkpoint. Files and the outside world are not part of it; what is shared is named in warnings. Refused while threads run."
        ),
        tool!(
            Within,
            All,
            "sleep_session",
            Changes,
            CellsRun,
            lifecycle::sleep,
            "Writes a session to disk and ends its process: its memory is free, and the next call that uses it wakes it with everything it has. Refused with the reason where something would not be the same after it, unless by_value."
        ),
        tool!(
            Within,
            All,
            "list_checkpoints",
            Reads,
            CellsRun,
            checkpoints::list,
            "Lists checkpoints with name, session, the cell after which they were made, and the memory that each holds alone."
        ),
        tool!(
            Outlasting,
            Standard,
            "restore_checkpoint",
            Destroys,
            CellsRun,
            checkpoints::restore,
            "Takes a session back to a checkpoint: what was done since is gone, the checkpoint stays. Files are not rolled back."
        ),
        tool!(
            Outlasting,
            Standard,
            "fork_session",
            Changes,
            CellsRun,
            checkpoints::fork,
            "Makes a session that begins as a copy of another, or of a checkpoint. Open files and connections are shared."
        ),
        tool!(
            Within,
            All,
            "delete_checkpoint",
            Destroys,
            CellsRun,
            checkpoints::delete,
            "Deletes a checkpoint and frees the memory that it holds alone."
        ),
        tool!(
            Beyond,
            Standard,
            "run_branches",
            Open,
            CellsRun,
            branches::run,
            "Tries several pieces of code from the same state, side by side, each in a copy of the session. With `keep` the session goes on as one of them, else it is as before. Files are shared and not rolled back."
        ),
        tool!(
            Outlasting,
            All,
            "save_session",
            Overwrites,
            CellsRun,
            saved::save,
            "Writes the variables of a session to a file of the workspace, which load_session reads on another day. Variable by variable: those that cannot be written (open files, generators, threads) are named with the reason. With cloudpickle in the environment functions and classes of cells are included. checkpoint_session is faster and holds everything, but ends with the server."
        ),
        tool!(
            Outlasting,
            All,
            "load_session",
            Open,
            CellsRun,
            saved::load,
            "Brings variables back that save_session wrote. Runs code that is in the file, as unpickling does: load only files that you trust. A file that is damaged, or not forkpy's, or of another Python version, is refused before anything is changed. Variables of the same names are replaced, and named."
        ),
        tool!(
            Within,
            Standard,
            "get_kernel_health",
            Reads,
            CellsRun,
            health::get,
            "Health of a session's process: healthy, dead or zombie; memory, CPU, what it is doing, alerts, how the one before it ended. Answers while a cell runs."
        ),
        tool!(
            Within,
            Former,
            "get_health_report",
            Reads,
            CellsRun,
            health::report_all,
            "Health of all sessions at once, as get_kernel_health gives it for one, with those that are dead or hung named. Needs no switching."
        ),
        tool!(
            Within,
            All,
            "configure_health",
            Changes,
            CellsRun,
            health::configure,
            "Sets thresholds of a session (memory, processor, unresponsiveness) and what happens when it dies or hangs: manual, on-demand or auto. What is left out stays. Returns what is in force."
        ),
        tool!(
            Within,
            Former,
            "dump_stacks",
            Reads,
            CellsRun,
            health::dump_stacks,
            "Now get_kernel_health with stacks. Shows where a session's code is: the stacks of all its Python threads, and what each thread of its process waits for. Works while a cell runs, and also when native code holds the interpreter. Interrupts nothing."
        ),
        tool!(
            Within,
            All,
            "list_crashes",
            Reads,
            CellsRun,
            health::list_crashes,
            "Lists reports on workers that died: why, by which signal, in which cell; with id one report whole, with code, last output, memory curve and stacks. The newest 50 are kept, in outputs/crashes/."
        ),
        tool!(
            Within,
            Standard,
            "check_kernel_responsiveness",
            Reads,
            CellsRun,
            health::check,
            "Asks a session's interpreter to evaluate something trivial, also while a cell runs. One that is hung, stopped or dead does not answer."
        ),
        tool!(
            Within,
            Standard,
            "get_workspace_info",
            Reads,
            Any,
            place::info,
            "Names the directories that sessions work in, and their Python."
        ),
        tool!(
            Within,
            Core,
            "list_files",
            Reads,
            FilesRead,
            files::list,
            "Lists a directory of the workspace; with recursive or tree also what is below. Directories end in '/'. Pass next_offset as offset for the next page."
        ),
        tool!(
            Within,
            Core,
            "read_file",
            Reads,
            FilesRead,
            files::read,
            "Reads a file of the workspace, or a part: text when it is UTF-8, else base64; small pictures also as an image. Pass next_offset as offset to read on."
        ),
        tool!(
            Within,
            Core,
            "write_file",
            Overwrites,
            FilesWrite,
            files::write,
            "Writes a file of the workspace, whole or not at all; makes missing directories."
        ),
        tool!(
            Within,
            Standard,
            "delete_file",
            Destroys,
            FilesWrite,
            files::delete,
            "Deletes a file of the workspace; a directory only with recursive."
        ),
        tool!(
            Within,
            Standard,
            "save_script",
            Overwrites,
            FilesWrite,
            files::save_script,
            "Saves Python code in scripts/ of the workspace."
        ),
        tool!(
            Beyond,
            Standard,
            "run_script",
            Open,
            CellsRun,
            scripts::run,
            "Runs a Python file of the workspace as `python file.py args` would, in a process of its own; gives output and exit code. No session is touched."
        ),
        tool!(
            Beyond,
            Core,
            "install_dependencies",
            Open,
            CellsRun,
            packages::install,
            "Installs Python packages for all sessions, with uv or pip. New ones can be imported at once; a session that has imported an older version is named."
        ),
        tool!(
            Within,
            All,
            "list_packages",
            Reads,
            CellsRun,
            packages::list,
            "Lists the packages that sessions can import, with versions."
        ),
        tool!(
            Within,
            Standard,
            "export_notebook",
            Overwrites,
            CellsRun,
            notebooks::export,
            "Writes what a session has run, with outputs and pictures, as a Jupyter notebook or an HTML page."
        ),
        tool!(
            Beyond,
            Standard,
            "run_notebook",
            Open,
            CellsRun,
            notebooks::run,
            "Runs a Jupyter notebook cell by cell in a session and writes it back with its outputs. Stops at the first cell that raises unless on_error is `continue`."
        ),
    ]
});

/// The tool of this name. Listed or not, it can be called: what is not listed costs no model anything, and programs know
/// their tools by name.
pub(crate) fn find(name: &str) -> Option<&'static Tool> {
    TOOLS.iter().find(|tool| tool.name == name)
}
