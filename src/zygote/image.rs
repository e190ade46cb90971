//! A zygote's image: a zygote is written to files, and a process that has just begun becomes it.
//!
//! Runs in: a zygote that is made for it and serves no client (`write`); a fresh process of our binary (`become_zygote`); and, from
//! where the first was written, the zygote that the other has become (`go_on`). How a process is written and woken is `sys/image`.
//!
//! What is written has the variables that an interpreter's start depends on and no others (`server/workers/zygote/image.rs`), runs no
//! code but CPython's and ours, and has forked nothing. What a woken one is to have of its own is said to it: settings and variables
//! by the server; limits, priority, working directory and standard descriptors are those of the process that it is woken in.

use std::{
    ffi::OsString,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
        unix::{ffi::OsStringExt, net::UnixStream},
    },
};

use pyo3::{
    PyResult, Python, ffi,
    types::{PyAnyMethods, PyBytes},
};

use super::{embed, error::ZygoteError, fork, interpreter, link::Link, preload};
use crate::{
    protocol::{FromZygote, MAX_ZYGOTE, ToZygote, ZygoteSettings, blocking, frame},
    sys::{
        fault,
        forks::Bystanders,
        guarded,
        image::{self, Surroundings, Written},
        memory,
    },
    worker::EXIT_START_FAILED,
};

/// Where a zygote that was to be written is then.
pub(super) enum Side {
    /// It was written, or was not, and the server knows: it ends.
    Done,
    /// In one that was woken.
    Woken(Box<ZygoteSettings>),
}

/// Becomes the zygote of an image. What stands in the way is told, and this process ends.
pub(super) fn become_zygote(link: Link, faults: &str) -> ! {
    fault::arm(faults);
    let _ = fault::at("zygote.wake", 0);
    let failed = |message: String| FromZygote::Failed { message };
    let half = failed("the system refused a step of the way back".to_owned());
    let half = frame::encode(&half, MAX_ZYGOTE).unwrap_or_default();
    let (stream, refusal) = match <[OwnedFd; 2]>::try_from(link.received) {
        Err(_) => (link.stream, "the files did not come along".to_owned()),
        Ok([image, base]) => {
            // SAFETY: this process has one thread, and ends here whatever comes of it.
            let (refusal, stream) =
                unsafe { image::wake((image, base), link.stream.into(), &half, Surroundings::Wakers) };
            // SAFETY: the number that the socket has now, and no other value has it.
            (unsafe { UnixStream::from_raw_fd(stream) }, refusal.to_string())
        }
    };
    let _ = blocking::write(&stream, &failed(refusal), MAX_ZYGOTE);
    // SAFETY: no preconditions; it does not return.
    unsafe { libc::_exit(EXIT_START_FAILED) }
}

/// Warms up all there is, and writes this zygote to the files that have come along. Comes back in this process, and in each that is
/// woken from what was written.
pub(super) fn write(
    py: Python<'_>,
    link: &mut Link,
    bystanders: &mut Bystanders,
    huge_pages: bool,
) -> Result<Side, ZygoteError> {
    let Ok([output, base]) = <[OwnedFd; 2]>::try_from(std::mem::take(&mut link.received)) else {
        return say(link, FromZygote::Failed { message: "the files did not come along".to_owned() });
    };
    let prepared = prepare(py).map_err(|error| error.to_string());
    let (origins, foreign) = match prepared {
        Ok(found) => found,
        Err(message) => return say(link, FromZygote::Failed { message }),
    };
    if !foreign.is_empty() {
        return say(link, FromZygote::Written { bytes: 0, origins, foreign });
    }
    let _ = fault::at("zygote.image", 0);
    if let Err(message) = write_base(bystanders, &base) {
        return say(link, FromZygote::Failed { message });
    }
    // Numbers, and no values that close them: a woken process does not have them.
    let (output, base) = (output.into_raw_fd(), base.into_raw_fd());
    // SAFETY: one thread: the base could not have been written with more. What this zygote knows of descriptors is its socket.
    let written = unsafe { image::write((output, base), link.stream.as_raw_fd(), &[], Surroundings::Wakers) };
    match written {
        Ok(Written::Woken) => Ok(Side::Woken(Box::new(go_on(py, link, huge_pages)?))),
        Ok(Written::Done { bytes, common, .. }) => {
            say(link, FromZygote::Written { bytes: bytes + common * 4096, origins, foreign })
        }
        Err(refusal) => say(link, FromZygote::Failed { message: refusal.to_string() }),
    }
}

fn say(link: &Link, message: FromZygote) -> Result<Side, ZygoteError> {
    link.send(&message)?;
    Ok(Side::Done)
}

/// Everything that a zygote imports before and behind its first fork; with what it is made of.
fn prepare(py: Python<'_>) -> PyResult<(Vec<String>, Vec<String>)> {
    let mut behind = preload::second_stage(py)?;
    while let Some(module) = behind.pop_front() {
        preload::import_behind(py, &module, behind.is_empty());
    }
    memory::leave_room();
    let found = py.import("forkpy_worker.session.origins")?.getattr("origins")?.call0()?;
    let (mut origins, foreign): (Vec<String>, Vec<String>) = found.extract()?;
    origins.extend(embed::files());
    Ok((origins, foreign))
}

fn write_base(bystanders: &mut Bystanders, base: &OwnedFd) -> Result<(), String> {
    match fork::fork_bare(bystanders).map_err(|error| error.to_string())? {
        fork::Side::Child => {
            let code = i32::from(image::write_base(base.as_fd(), image::Which::WithoutZero).is_err());
            // SAFETY: no preconditions; it does not return.
            unsafe { libc::_exit(code) }
        }
        fork::Side::Parent { child } => {
            let mut status = 0;
            // SAFETY: a child of ours that no other code waits for.
            let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
            if (waited, status) == (child, 0) { Ok(()) } else { Err("its base could not be written".to_owned()) }
        }
    }
}

/// In a woken zygote: what depends on the number of a process is renewed as after a fork, and it takes what it is told.
fn go_on(py: Python<'_>, link: &mut Link, huge_pages: bool) -> Result<ZygoteSettings, ZygoteError> {
    // SAFETY: the GIL is held; this process has one thread, and is to the other as a fork of it.
    unsafe {
        ffi::PyOS_BeforeFork();
        ffi::PyOS_AfterFork_Child();
    }
    link.send(&FromZygote::Woken)?;
    let ToZygote::GoOn { settings, environment, words } = link.read()? else {
        return Err(ZygoteError::Version { theirs: None });
    };
    fault::arm(&settings.faults);
    let _ = fault::at("zygote.woken", 0);
    take_environment(py, &settings, environment, huge_pages)
        .map_err(|error| ZygoteError::Interpreter(error.to_string()))?;
    let variables = variables();
    image::show(&words, &variables).map_err(|refusal| ZygoteError::Interpreter(refusal.to_string()))?;
    guarded::close_to_others();
    Ok(settings)
}

fn take_environment(
    py: Python<'_>,
    settings: &ZygoteSettings,
    environment: Vec<(Vec<u8>, Vec<u8>)>,
    huge_pages: bool,
) -> PyResult<()> {
    // SAFETY: one thread; `environ` is the C library's, and null is an environment without variables.
    unsafe { libc::clearenv() };
    for (name, value) in environment {
        let [name, value] = [name, value].map(OsString::from_vec);
        // SAFETY: one thread.
        unsafe { std::env::set_var(name, value) };
    }
    interpreter::set_environment(settings, huge_pages);
    let bytes = |text: &[u8]| PyBytes::new(py, text).unbind();
    let held: Vec<_> = variables().iter().map(|(name, value)| (bytes(name), bytes(value))).collect();
    py.import("forkpy_worker.session.origins")?.getattr("take_environment")?.call1((held,))?;
    Ok(())
}

fn variables() -> Vec<(Vec<u8>, Vec<u8>)> {
    std::env::vars_os().map(|(name, value)| (name.into_vec(), value.into_vec())).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn debug_builds_name_the_package_s_files() {
        let files = embed::files();
        assert_eq!(files.is_empty(), !cfg!(debug_assertions));
        assert!(files.iter().all(|file| Path::new(file).exists()), "{files:?}");
    }
}
