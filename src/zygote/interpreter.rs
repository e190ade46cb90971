//! Starting CPython inside this process, as if the session environment's own `python` had been started.
//!
//! Runs in: zygote, once, before any fork.

use std::{
    ffi::{CString, OsString},
    path::Path,
};

use pyo3::{
    PyResult, Python, ffi,
    types::{PyAnyMethods, PyBytes, PyDict, PyDictMethods, PyListMethods},
};

use super::ZygoteError;
use crate::{protocol::ZygoteSettings, zygote::embed};

/// Starts the interpreter, installs the embedded package and the environment that children of sessions inherit.
///
/// # Errors
/// [`ZygoteError::Interpreter`] with CPython's words.
pub fn start(settings: &ZygoteSettings) -> Result<(), ZygoteError> {
    set_environment(settings);
    initialize(&settings.python)?;
    Python::attach(|py| install(py, settings)).map_err(|error| ZygoteError::Interpreter(error.to_string()))
}

/// What sessions and all they start inherit: the server's mark, and the environment as its `activate` would set it.
fn set_environment(settings: &ZygoteSettings) {
    let mut changes = vec![("FORKPY_SERVER", OsString::from(&settings.cookie))];
    if let Some(root) = &settings.virtual_env {
        let own = [Path::new(root).join("bin")];
        let rest = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(own.into_iter().chain(std::env::split_paths(&rest)));
        changes.extend(path.map(|path| ("PATH", path)));
        changes.push(("VIRTUAL_ENV", OsString::from(root)));
    }
    for (name, value) in changes {
        // SAFETY: this process has one thread, and Python, which copies the environment, has not started.
        unsafe { std::env::set_var(name, value) };
    }
}

fn initialize(python: &str) -> Result<(), ZygoteError> {
    let executable = CString::new(python).map_err(|_| ZygoteError::Interpreter("NUL in a path".to_owned()))?;
    // SAFETY: the config is initialised before use and cleared after; strings outlive the calls; it happens once, on the
    // only thread. Afterwards the GIL is released, so that `Python::attach` works as it does in any other process.
    unsafe {
        let mut config = std::mem::zeroed::<ffi::PyConfig>();
        ffi::PyConfig_InitPythonConfig(&raw mut config);
        config.install_signal_handlers = 1;
        config.parse_argv = 0;
        config.buffered_stdio = 1;
        let program: *mut *mut libc::wchar_t = &raw mut config.program_name;
        let own: *mut *mut libc::wchar_t = &raw mut config.executable;
        let mut status = ffi::PyConfig_SetBytesString(&raw mut config, program, executable.as_ptr());
        if ffi::PyStatus_Exception(status) == 0 {
            status = ffi::PyConfig_SetBytesString(&raw mut config, own, executable.as_ptr());
        }
        if ffi::PyStatus_Exception(status) == 0 {
            status = ffi::Py_InitializeFromConfig(&raw const config);
        }
        ffi::PyConfig_Clear(&raw mut config);
        if ffi::PyStatus_Exception(status) != 0 {
            let words = if status.err_msg.is_null() {
                "CPython gave no reason".into()
            } else {
                std::ffi::CStr::from_ptr(status.err_msg).to_string_lossy()
            };
            return Err(ZygoteError::Interpreter(words.into_owned()));
        }
        ffi::PyEval_SaveThread();
    }
    Ok(())
}

fn install(py: Python<'_>, settings: &ZygoteSettings) -> PyResult<()> {
    let path = py.import("sys")?.getattr("path")?;
    let path = path.cast::<pyo3::types::PyList>()?;
    for directory in settings.python_path.iter().rev() {
        path.insert(0, directory)?;
    }
    let sources = embed::sources();
    let table = PyDict::new(py);
    let bootstrap_name = format!("{}._bootstrap", embed::PACKAGE);
    for source in sources.iter().filter(|source| source.name != bootstrap_name) {
        let code = source.code.map(|code| PyBytes::new(py, code));
        table.set_item(&source.name, (&source.text, &source.origin, source.is_package, code))?;
    }
    let Some(bootstrap) = sources.iter().find(|source| source.name == bootstrap_name) else {
        return Err(pyo3::exceptions::PyRuntimeError::new_err("the embedded package has no _bootstrap module"));
    };
    let globals = PyDict::new(py);
    globals.set_item("SOURCES", table)?;
    globals.set_item("MAGIC", PyBytes::new(py, embed::MAGIC))?;
    globals.set_item("__builtins__", py.import("builtins")?)?;
    globals.set_item("__name__", &bootstrap_name)?;
    let code = py.import("builtins")?.getattr("compile")?.call1((&bootstrap.text, &bootstrap.origin, "exec"))?;
    py.import("builtins")?.getattr("exec")?.call1((code, &globals))?;
    Ok(())
}

/// Version and executable, as sessions will see them.
///
/// # Errors
/// When `sys` lacks them, which no CPython does.
pub fn describe(py: Python<'_>) -> PyResult<(String, String)> {
    let sys = py.import("sys")?;
    let version: String = sys.getattr("version")?.extract()?;
    let executable: String = sys.getattr("executable")?.extract()?;
    Ok((version.split_whitespace().next().unwrap_or_default().to_owned(), executable))
}
