//! Kinds of machines that a bundle can be made for, and what others call them.
//!
//! Runs in: `forkpy bundle`. Asks rustc what it has for one; changes nothing.

use std::{path::Path, process::Command};

use clap::ValueEnum;

use crate::bundle::BundleError;

/// What a bundle is to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Machine {
    /// Also called amd64.
    #[value(name = "x86_64")]
    X86_64,
    /// Also called arm64.
    Aarch64,
}

impl Machine {
    /// The one that this program was built for.
    pub(crate) const OWN: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// As the kernel, zig and wheels name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Rust's name; cargo keeps what it builds for it in a folder of that name.
    pub(in crate::bundle) fn triple(self) -> String {
        format!("{}-unknown-linux-gnu", self.name())
    }

    /// Debian's name for packages.
    pub(super) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Whether what is built for it runs here.
    pub(in crate::bundle) fn is_own(self) -> bool {
        self == Self::OWN
    }
}

/// Whether the Rust in `sources` can build for it: its standard library is a download of its own.
pub(super) fn is_known_to_rust(machine: Machine, sources: &Path) -> Result<(), BundleError> {
    let triple = machine.triple();
    let program = || format!("rustc --print target-libdir --target {triple}");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--print", "target-libdir", "--target", &triple]).current_dir(sources);
    let output = rustc.output().map_err(|error| BundleError::Program { program: program(), how: error.to_string() })?;
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && Path::new(&folder).is_dir() {
        return Ok(());
    }
    Err(BundleError::Lacking(format!(
        "Rust has no standard library for {triple} here (no {folder}): `rustup target add {triple}` fetches it"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_the_names_that_others_give_it() {
        assert_eq!(Machine::OWN.name(), std::env::consts::ARCH);
        let arm = Machine::from_str("aarch64", false).expect("known");
        assert_eq!((arm.debian(), arm.triple().as_str()), ("arm64", "aarch64-unknown-linux-gnu"));
        assert!(Machine::from_str("riscv64", false).is_err());
    }

    /// What runs this test was built by the same Rust.
    #[test]
    fn rust_can_build_for_the_machine_that_it_runs_on() {
        is_known_to_rust(Machine::OWN, Path::new(env!("CARGO_MANIFEST_DIR"))).expect("it has built this");
    }
}
