//! Starting CPython inside this process, as if the session environment's own `python` had been started.
//!
//! Runs in: zygote, once, before any fork.

use std::{
    ffi::{CString, OsString, c_int, c_void},
    path::Path,
};

use pyo3::{
    PyResult, Python, ffi,
    types::{PyAnyMethods, PyBytes, PyDict, PyDictMethods, PyInt, PyListMethods},
};

use super::error::ZygoteError;
use crate::{
    protocol::{Confinement, Library, ZygoteSettings},
    sys::huge_pages::{self, Arenas},
    zygote::embed,
};

/// Starts the interpreter, installs the embedded package and the environment that children of sessions inherit.
pub(crate) fn start(settings: &ZygoteSettings, huge_pages: bool) -> Result<(), ZygoteError> {
    set_environment(settings, huge_pages);
    initialize(settings)?;
    Python::attach(|py| install(py, settings)).map_err(|error| ZygoteError::Interpreter(error.to_string()))
}

/// What sessions and all they start inherit: the environment as its `activate` would set it.
pub(super) fn set_environment(settings: &ZygoteSettings, huge_pages: bool) {
    let mut changes = Vec::new();
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
    if huge_pages {
        let users = std::env::var_os(huge_pages::VARIABLE).and_then(|value| huge_pages::without(&value));
        // SAFETY: as above.
        unsafe {
            match users {
                Some(value) => std::env::set_var(huge_pages::VARIABLE, value),
                None => std::env::remove_var(huge_pages::VARIABLE),
            }
        }
    }
}

static ARENAS: Arenas = Arenas::new();

extern "C" fn give_arena(_context: *mut c_void, size: usize) -> *mut c_void {
    ARENAS.give(size).cast()
}

extern "C" fn take_arena(_context: *mut c_void, arena: *mut c_void, size: usize) {
    // SAFETY: CPython gives back what it has had from `give_arena`, or mapped itself before that was known to it.
    unsafe { Arenas::take(arena.cast(), size) };
}

/// Small objects lie in arenas: theirs are huge pages too, once there are many.
fn use_huge_arenas() {
    let mut arenas =
        ffi::PyObjectArenaAllocator { ctx: std::ptr::null_mut(), alloc: Some(give_arena), free: Some(take_arena) };
    // SAFETY: Python has not started, and what is given is copied.
    unsafe { ffi::PyObject_SetArenaAllocator(&raw mut arenas) };
}

fn initialize(settings: &ZygoteSettings) -> Result<(), ZygoteError> {
    let mut config = Config::new();
    config.0.site_import = c_int::from(!holds_back(settings));
    config.set(|config| &raw mut config.program_name, &settings.python)?;
    config.set(|config| &raw mut config.executable, &settings.python)?;
    if let Some(library) = &settings.library {
        // As PYTHONHOME does: the standard library is this one, whatever the executable's installation has.
        config.set(|config| &raw mut config.home, &library.base)?;
    }
    use_huge_arenas();
    // SAFETY: the config is complete, and it happens once, on the only thread. Afterwards the GIL is released, so that
    // `Python::attach` works as it does in any other process.
    unsafe {
        checked(&ffi::Py_InitializeFromConfig(&raw const config.0))?;
        ffi::PyEval_SaveThread();
    }
    Ok(())
}

/// What CPython is told before it starts.
struct Config(ffi::PyConfig);

impl Config {
    fn new() -> Self {
        // SAFETY: zeroed memory is what the call wants; it fills all of it.
        let mut config = unsafe {
            let mut config = std::mem::zeroed::<ffi::PyConfig>();
            ffi::PyConfig_InitPythonConfig(&raw mut config);
            config
        };
        config.install_signal_handlers = 1;
        config.parse_argv = 0;
        config.buffered_stdio = 1;
        Self(config)
    }

    fn set(
        &mut self,
        field: impl FnOnce(&mut ffi::PyConfig) -> *mut *mut libc::wchar_t,
        value: &str,
    ) -> Result<(), ZygoteError> {
        let value = c_string(value)?;
        let place = field(&mut self.0);
        // SAFETY: the place is a field of this config; the call copies the string.
        checked(&unsafe { ffi::PyConfig_SetBytesString(&raw mut self.0, place, value.as_ptr()) })
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`.
        unsafe { ffi::PyConfig_Clear(&raw mut self.0) };
    }
}

fn c_string(text: &str) -> Result<CString, ZygoteError> {
    CString::new(text).map_err(|_| ZygoteError::Interpreter("NUL in a path".to_owned()))
}

fn checked(status: &ffi::PyStatus) -> Result<(), ZygoteError> {
    // SAFETY: a status that CPython returned, by value; its message is a constant of CPython's.
    let words = unsafe {
        if ffi::PyStatus_Exception(std::ptr::read(status)) == 0 {
            return Ok(());
        }
        if status.err_msg.is_null() {
            "CPython gave no reason".into()
        } else {
            std::ffi::CStr::from_ptr(status.err_msg).to_string_lossy()
        }
    };
    Err(ZygoteError::Interpreter(words.into_owned()))
}

/// Whether packages may be sessions' own: their code, which Python runs at its start, is then run where it is confined.
fn holds_back(settings: &ZygoteSettings) -> bool {
    settings.confinement.mode != Confinement::Off
}

fn install(py: Python<'_>, settings: &ZygoteSettings) -> PyResult<()> {
    install_package(py)?;
    let startup = holds_back(settings).then(|| py.import("forkpy_worker.session.startup")).transpose()?;
    if let Some(startup) = &startup {
        startup.call_method0("hold")?;
        forget_no_site(py)?;
    }
    let path = py.import("sys")?.getattr("path")?;
    let path = path.cast::<pyo3::types::PyList>()?;
    for directory in settings.python_path.iter().rev() {
        path.insert(0, directory)?;
    }
    if let Some(library) = &settings.library {
        borrow_packages(py, library)?;
    }
    let packages = settings.library.iter().flat_map(|library| &library.packages);
    let given: Vec<&String> = settings.python_path.iter().chain(packages).collect();
    startup.map_or(Ok(()), |startup| startup.call_method1("release", (given,)).map(drop))
}

/// `site` has run, if late: `sys.flags` would have `multiprocessing` start Pythons that do without.
fn forget_no_site(py: Python<'_>) -> PyResult<()> {
    let flags = py.import("sys")?.getattr("flags")?;
    let names: Vec<String> = flags.get_type().getattr("__match_args__")?.extract()?;
    let place = names.iter().position(|name| name == "no_site").and_then(|place| place.try_into().ok());
    if let Some(place) = place {
        // SAFETY: the flags are a struct sequence with that many fields, which takes the reference.
        unsafe { ffi::PyStructSequence_SetItem(flags.as_ptr(), place, PyInt::new(py, 0).into_ptr()) };
    }
    Ok(())
}

/// Has the embedded package be found.
fn install_package(py: Python<'_>) -> PyResult<()> {
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

/// Packages of the environment and no others: `site` has found them itself where `pyvenv.cfg` lies beside the executable.
fn borrow_packages(py: Python<'_>, library: &Library) -> PyResult<()> {
    let (sys, site) = (py.import("sys")?, py.import("site")?);
    let path = sys.getattr("path")?;
    if sys.getattr("prefix")?.extract::<String>()? != library.prefix {
        for own in site.getattr("getsitepackages")?.call0()?.try_iter()? {
            let own = own?;
            if path.contains(&own)? && !library.packages.contains(&own.extract()?) {
                path.call_method1("remove", (own,))?;
            }
        }
        sys.setattr("prefix", &library.prefix)?;
        sys.setattr("exec_prefix", &library.prefix)?;
    }
    // Debian's directories have names of their own.
    for directory in &library.packages {
        if !path.contains(directory)? {
            site.getattr("addsitedir")?.call1((directory,))?;
        }
    }
    Ok(())
}

/// Version and executable, as sessions will see them.
///
/// # Errors
/// When `sys` lacks them, which no CPython does.
pub(crate) fn describe(py: Python<'_>) -> PyResult<(String, String)> {
    let sys = py.import("sys")?;
    let version: String = sys.getattr("version")?.extract()?;
    let executable: String = sys.getattr("executable")?.extract()?;
    Ok((version.split_whitespace().next().unwrap_or_default().to_owned(), executable))
}
