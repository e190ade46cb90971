//! An image on its way to another place: what it needs there, and how it is made to fit what is there.
//!
//! Runs in: `forkpy sessions`, a process of its own, which neither writes nor wakes images. That the files of two places are the
//! same, byte by byte, is for the caller to find out; here they are looked at from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use super::{
    format::{BaseId, Description},
    layout::{self, Kind, PAGE},
    mapped::MappedFile,
    refusal::Refusal,
    ties::Ties,
    write::vdso_digest,
};

/// What has to be where an image wakes.
#[derive(Debug)]
pub(crate) struct Needs {
    /// Files that are mapped: the program, libraries.
    pub(crate) mapped: BTreeSet<PathBuf>,
    /// Regular files that are open.
    pub(crate) open: BTreeSet<PathBuf>,
}

/// What an image needs, each as it was when the image was made.
///
/// # Errors
/// [`Refusal`]: it is no image, or something has changed since.
pub(crate) fn needs(image: BorrowedFd<'_>) -> Result<Needs, Refusal> {
    let described = Description::read(&owned(image)?)?;
    for then in &described.mapped {
        if !then.is(&then.path, &status(&then.path)?) {
            return Err(Refusal::FileChanged { path: then.path.clone() });
        }
    }
    let mut open = BTreeSet::new();
    for file in &described.files {
        let Some(then) = file.identity() else { continue };
        let status = status(&file.path)?;
        if then != (status.dev(), status.ino()) {
            return Err(Refusal::FileChanged { path: file.path.clone() });
        }
        if status.is_file() {
            open.insert(PathBuf::from(&file.path));
        }
    }
    Ok(Needs { mapped: described.mapped.iter().map(|file| PathBuf::from(&file.path)).collect(), open })
}

/// Makes an image fit this place, whose files are the same as there. What else it is tied to must be so here.
/// How a process is confined and scheduled is compared when it is woken: that is the server's, and not this process'.
///
/// # Errors
/// [`Refusal`]; the image is of no use then.
pub(crate) fn settle_here(image: BorrowedFd<'_>, base: BaseId) -> Result<(), Refusal> {
    let file = owned(image)?;
    let mut described = Description::read(&file)?;
    if described.base != base {
        return Err(Refusal::Damaged("what came along is not its base"));
    }
    let here = Ties::now()?;
    described.ties.move_to(&here)?;
    if described.vdso != vdso_digest(&layout::own().map_err(|_| Refusal::Untold("its mappings"))?)? {
        return Err(Refusal::Tie { what: "the kernel's own code in processes (vdso)" });
    }
    let directory = &described.state.directory;
    if !fs::metadata(directory).is_ok_and(|status| status.is_dir()) {
        let path = directory.to_string_lossy().into_owned();
        return Err(Refusal::Open { path, source: std::io::ErrorKind::NotFound.into() });
    }
    let mut listed = BTreeMap::new();
    for mapped in &mut described.mapped {
        *mapped = MappedFile::of(&mapped.path, &status(&mapped.path)?);
        listed.insert(mapped.path.clone(), as_mapped(Path::new(&mapped.path))?);
    }
    for region in described.regions.iter_mut().filter(|region| region.kind == Kind::File) {
        let Some((device, inode)) = listed.get(&region.path) else {
            return Err(Refusal::Damaged("a mapped file is not described"));
        };
        (region.device, region.inode) = (*device, *inode);
    }
    for file in described.files.iter_mut().filter(|file| file.identity().is_some()) {
        let status = status(&file.path)?;
        file.identify((status.dev(), status.ino()));
    }
    described.rewrite(&file)
}

fn owned(file: BorrowedFd<'_>) -> Result<File, Refusal> {
    file.try_clone_to_owned().map(File::from).map_err(Refusal::Read)
}

fn status(path: &str) -> Result<fs::Metadata, Refusal> {
    fs::metadata(path).map_err(|source| Refusal::Open { path: path.to_owned(), source })
}

/// Device and number of a file, as the kernel lists mappings of it: where file systems lie upon each other, others than `stat` tells.
fn as_mapped(path: &Path) -> Result<((u32, u32), u64), Refusal> {
    let refused = |source| Refusal::Open { path: path.to_string_lossy().into_owned(), source };
    let file = File::open(path).map_err(refused)?;
    let length = usize::try_from(PAGE).unwrap_or(0);
    // SAFETY: new memory, which is not read.
    let memory =
        unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
    if memory == libc::MAP_FAILED {
        return Err(refused(std::io::Error::last_os_error()));
    }
    let listed = layout::own();
    // SAFETY: mapped above, and nothing refers to it.
    unsafe { libc::munmap(memory, length) };
    let listed = listed.map_err(|_| Refusal::Untold("its mappings"))?;
    let begin = memory.addr() as u64;
    // The kernel may have made one mapping of it and what lies beside it.
    let found = listed.iter().find(|region| region.begin <= begin && begin < region.end);
    found.map(|region| (region.device, region.inode)).ok_or(Refusal::Untold("its mappings"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_as_the_kernel_lists_it() {
        let program = fs::read_link("/proc/self/exe").expect("a program");
        let of_program = layout::own().expect("told").into_iter().find(|region| Path::new(&region.path) == program);
        let of_program = of_program.expect("mapped");
        assert_eq!(as_mapped(&program).expect("mapped"), (of_program.device, of_program.inode));
        assert!(matches!(as_mapped(Path::new("/nowhere")), Err(Refusal::Open { .. })));
    }
}
