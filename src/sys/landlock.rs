//! Landlock: what of the file system, of TCP and of other processes a process and all it starts may still reach.
//!
//! Runs in: server and `forkpy doctor` (asks for the version), zygote (opens what is allowed, once), worker and script (shut
//! themselves in, after the fork and before any code that is not forkpy's). Owns no policy: what is allowed is said in
//! `worker/confinement.rs`.
//!
//! A fence is a list of open handles with rights: making the kernel's ruleset of it takes no path. The kernel identifies
//! what a handle leads to, so a path that is replaced later opens nothing.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
};

/// `LANDLOCK_CREATE_RULESET_VERSION`: asks, and makes nothing.
const VERSION: u32 = 1;
/// The first version that keeps signals and abstract sockets within.
pub(crate) const WHOLE: i32 = 6;

/// The version of its interface.
///
/// # Errors
/// The kernel's reason for having none.
pub(crate) fn abi() -> io::Result<i32> {
    // SAFETY: asks for a version: no attributes, no size.
    match unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) } {
        abi if abi > 0 => Ok(i32::try_from(abi).unwrap_or(i32::MAX)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What may be done with a file, or with all below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Read, and list.
    Look,
    /// Read, list, and run as a program.
    Run,
    /// All but making devices.
    Change,
    /// All but making devices and running programs.
    Keep,
    /// A device: read, written, and given its commands.
    Device,
    /// A folder with devices in it: changed, and they are given their commands; none is made, and no program is run.
    Devices,
    /// Files are made, read and removed by those who know their names; nothing is listed.
    Exchange,
}

impl Reach {
    fn rights(self, abi: ABI, is_folder: bool) -> BitFlags<AccessFs> {
        let known = AccessFs::from_all(abi);
        self.wanted(known) & if is_folder { known } else { AccessFs::from_file(abi) }
    }

    fn wanted(self, known: BitFlags<AccessFs>) -> BitFlags<AccessFs> {
        let look = make_bitflags!(AccessFs::{ReadFile | ReadDir});
        let devices = make_bitflags!(AccessFs::{MakeChar | MakeBlock | IoctlDev});
        match self {
            Self::Look => look,
            Self::Run => look | AccessFs::Execute,
            Self::Change => known & !devices,
            Self::Keep => known & !devices & !AccessFs::Execute,
            Self::Device => make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev | Truncate}),
            Self::Devices => known & !make_bitflags!(AccessFs::{MakeChar | MakeBlock | Execute}),
            Self::Exchange => {
                make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir})
            }
        }
    }
}

/// What is allowed; all else is not.
#[derive(Debug)]
pub(crate) struct Fence {
    version: u8,
    abi: ABI,
    gates: Vec<(OwnedFd, BitFlags<AccessFs>)>,
}

impl Fence {
    /// One that allows nothing yet, of what this version can keep.
    #[must_use]
    pub(crate) fn new(abi: i32) -> Self {
        Self { version: u8::try_from(abi).unwrap_or(0), abi: ABI::from(abi), gates: Vec::new() }
    }

    /// Its version; 0 where there is none.
    #[must_use]
    pub(crate) fn version(&self) -> u8 {
        self.version
    }

    /// Allows something below a path, or at it. Links on the way are followed now, and never again.
    ///
    /// # Errors
    /// When there is no such path.
    pub(crate) fn allow(&mut self, path: &Path, reach: Reach) -> io::Result<()> {
        let handle = open(path)?;
        self.gates.push((handle.0, reach.rights(self.abi, handle.1)));
        Ok(())
    }

    /// Shuts this process in, for good, with one folder more that it may change. It must have one thread.
    ///
    /// # Errors
    /// The kernel's refusal, or what it could not keep of this.
    pub(crate) fn shut(&self, own: &Path, reach: Reach) -> io::Result<()> {
        if self.abi == ABI::Unsupported {
            return Ok(());
        }
        let failed = |error: &dyn std::error::Error| io::Error::other(format!("Landlock: {error}"));
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(self.abi))
            .map_err(|error| failed(&error))?;
        if self.abi >= ABI::V4 {
            ruleset = ruleset.handle_access(AccessNet::from_all(self.abi)).map_err(|error| failed(&error))?;
        }
        if self.abi >= ABI::V6 {
            ruleset = ruleset.scope(Scope::from_all(self.abi)).map_err(|error| failed(&error))?;
        }
        let (own, is_folder) = open(own)?;
        let mut ruleset = ruleset.create().map_err(|error| failed(&error))?;
        let gates = self.gates.iter().map(|(handle, rights)| (handle, *rights));
        for (handle, rights) in gates.chain([(&own, reach.rights(self.abi, is_folder))]) {
            ruleset = ruleset.add_rule(PathBeneath::new(handle.as_fd(), rights)).map_err(|error| failed(&error))?;
        }
        let status = ruleset.restrict_self().map_err(|error| failed(&error))?;
        if status.ruleset == RulesetStatus::FullyEnforced {
            return Ok(());
        }
        Err(io::Error::other(format!("Landlock keeps only a part of it: {:?}", status.ruleset)))
    }
}

/// A handle that can neither read nor write, and whether it is a folder.
fn open(path: &Path) -> io::Result<(OwnedFd, bool)> {
    let file = File::options().read(true).custom_flags(libc::O_PATH).open(path)?;
    let is_folder = file.metadata()?.is_dir();
    Ok((file.into(), is_folder))
}
