//! The bundle: forkpy, CPython and the standard library in one directory or in one file, and forkpy as a Python.
//!
//! Runs in: any process, before its role is chosen, while it has one thread; `make.rs` in `forkpy bundle`. Knows nothing of
//! servers and sessions.
//!
//! A bundle's directory is `bin/forkpy`, `bin/python3` (a link to it), `lib/python3.11/`, `lib/*.so`, `lib/MANIFEST`. The
//! single file is a small program (`src/launcher.rs`), the packed directory, and a trailer (`payload.rs`).

#[allow(dead_code, reason = "the launcher has reasons of its own")]
mod error;
mod floor;
#[cfg(test)]
#[allow(dead_code, reason = "the launcher's, of which forkpy runs the tests only")]
mod launcher;
pub(crate) mod licences;
pub(crate) mod make;
mod manifest;
mod mcpb;
mod packages;
#[allow(dead_code, reason = "the launcher uses the other half")]
mod payload;
pub(crate) mod python;
pub(crate) mod rest;
mod sources;
pub(crate) mod steps;
mod wheel;

use std::path::{Path, PathBuf};

pub(crate) use self::error::BundleError;

/// The directory of the bundle that this process runs from.
#[must_use]
pub(crate) fn root() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let root = own.parent()?.parent()?;
    root.join(manifest::NAME).exists().then(|| root.to_owned())
}

/// Files of this bundle that are not what was packed, by their content; none outside of a bundle.
#[must_use]
pub(crate) fn damaged() -> Vec<PathBuf> {
    root().and_then(|root| manifest::damaged(&root, manifest::Thoroughness::All)).unwrap_or_default()
}

#[must_use]
pub(crate) fn python() -> Option<PathBuf> {
    root().map(|root| root.join("bin/python3"))
}

/// The single file that this process was started from.
#[must_use]
pub(crate) fn single_file() -> Option<PathBuf> {
    root()?;
    std::env::var_os(payload::SINGLE_FILE).map(PathBuf::from)
}

/// Libraries that wheels may expect of a system besides libc's family (the manylinux policy, PEP 600), as far as numpy and its
/// like do.
const PROMISED: [&str; 2] = ["libstdc++.so.6", "libz.so.1"];
/// Where systems keep theirs.
const SYSTEM_LIBRARIES: [&str; 6] = if cfg!(target_arch = "aarch64") {
    ["/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/lib64", "/usr/lib", "/lib"]
} else {
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/lib64", "/usr/lib", "/lib"]
};

/// In a bundle, on a system that lacks them: loads the bundle's own. Extension modules find a loaded library by its name,
/// wherever they look for it themselves.
pub(crate) fn supply_libraries() {
    let Some(root) = root() else { return };
    for name in PROMISED {
        if SYSTEM_LIBRARIES.iter().any(|place| Path::new(place).join(name).exists()) {
            continue;
        }
        if let Ok(path) = std::ffi::CString::new(root.join("lib").join(name).into_os_string().into_encoded_bytes()) {
            // SAFETY: a path with its NUL; what these libraries run as they are loaded is theirs, and no thread exists. One
            // that is not to be had is missed by the code that needs it, in words of its own.
            unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY) };
        }
    }
}

/// Where systems keep the certificates that they trust.
const SYSTEM_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// In a bundle: names the system's certificates, else the bundle's, to its OpenSSL and all that is started from here.
pub(crate) fn find_certificates() {
    let Some(root) = root() else { return };
    if std::env::var_os("SSL_CERT_FILE").is_some() || std::env::var_os("SSL_CERT_DIR").is_some() {
        return;
    }
    let own = root.join("lib/cacert.pem");
    let found = SYSTEM_CERTIFICATES.iter().map(PathBuf::from).find(|path| path.exists()).unwrap_or(own);
    // SAFETY: called from `main` before any thread exists.
    unsafe { std::env::set_var("SSL_CERT_FILE", found) };
}
