//! `forkpy bundle`: makes the directory, the single file and the archive.
//!
//! Runs in: a process of its own. From forkpy's sources it builds a forkpy with libpython inside and lays the standard
//! library beside it; from a bundle it takes that bundle. `packages.rs` installs into what is laid out.

use crate::bundle::steps::copy_tree;

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use clap::Args;
use sha2::{Digest, Sha256};

use super::{
    BundleError,
    floor::{
        Source,
        machine::Machine,
        symbols::{self, Version},
    },
    licences, manifest, mcpb,
    packages::{self, Installer},
    payload::{Part, Payload},
    sources::{self, Wanted},
};

/// What `forkpy bundle` is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct BundleArgs {
    /// Packages to put in, as pip names them; wheels only
    #[arg(long = "with", value_name = "PACKAGE,...", value_delimiter = ',')]
    pub with: Vec<String>,

    /// Directory for what is made
    #[arg(long, value_name = "DIR", default_value = "dist")]
    pub output: PathBuf,

    /// CPython to build in: one with a static library (libpython3.X.a), which most that are compiled from source have.
    /// Without it the one that this forkpy was built with
    #[arg(long, value_name = "EXE")]
    pub python: Option<PathBuf>,

    /// The oldest C library that what is made is to run with, such as 2.28 (RHEL 8, Debian 10, Ubuntu 20.04). CPython and the
    /// libraries are then built from their sources, by zig's compiler. Without it: what this machine has
    #[arg(long, value_name = "VERSION", conflicts_with = "python")]
    pub glibc: Option<Version>,

    /// The machine that it is for. Another one than this takes what --glibc takes, and Rust's standard library for it; without
    /// --glibc its floor is 2.28. What is made is not run here
    #[arg(long, value_name = "MACHINE", conflicts_with = "python")]
    pub target: Option<Machine>,

    /// Sources of CPython for --glibc: a directory, or an archive. Without it Debian's
    #[arg(long, value_name = "PATH", requires = "glibc")]
    pub python_source: Option<PathBuf>,

    /// SHA-256 of the archive that --python-source names
    #[arg(long, value_name = "HEX", requires = "python_source")]
    pub python_source_sha256: Option<String>,

    /// Make a wheel too: what `uvx forkpy` and `pip install forkpy` are to get
    #[arg(long)]
    pub wheel: bool,

    /// Make an .mcpb file too, which desktop clients install
    #[arg(long)]
    pub mcpb: bool,

    /// How hard the single file is packed: 1 is quick, 19 small
    #[arg(long, value_name = "N", default_value_t = 19, value_parser = clap::value_parser!(i32).range(1..=22))]
    pub level: i32,
}

/// The floor of what is made for another machine: this one's C library says nothing about it.
const FLOOR: Version = Version(2, 28);

/// What was made.
#[derive(Debug)]
pub(crate) struct Made {
    /// One executable file.
    pub single: PathBuf,
    /// The same as an archive of a directory.
    pub archive: PathBuf,
    /// What else was asked for.
    pub more: Vec<PathBuf>,
}

/// Makes a bundle; `say` is told what is done.
///
/// # Errors
/// [`BundleError`].
pub(crate) fn make(args: &BundleArgs, say: &mut dyn FnMut(&str)) -> Result<Made, BundleError> {
    let machine = args.target.unwrap_or(Machine::OWN);
    let name = format!("forkpy-{}-linux-{}", env!("CARGO_PKG_VERSION"), machine.name());
    let output = std::path::absolute(&args.output).map_err(BundleError::file("cannot find", &args.output))?;
    let directory = output.join(&name).with_added_extension("d");
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(BundleError::file("cannot clear", &directory)(error));
        }
        _ => {}
    }
    fs::create_dir_all(&directory).map_err(BundleError::file("cannot make", &directory))?;
    let workshop = match super::root() {
        Some(_) if args.wheel => {
            return Err(BundleError::Lacking("a wheel is made from forkpy's sources, not from a bundle".to_owned()));
        }
        Some(_) if !machine.is_own() => {
            return Err(BundleError::Lacking(format!(
                "one for {} is made from forkpy's sources, not from a bundle",
                machine.name()
            )));
        }
        Some(own) => {
            super::rest::wait()?;
            say("taking this bundle");
            copy_tree(&own, &directory, &|_| true)?;
            None
        }
        None => Some(sources::lay_out(&wanted(args), &directory, say)?),
    };
    let foreign = workshop.as_ref().and_then(|workshop| workshop.foreign.as_ref());
    let installer = Installer::new(&directory, foreign)?;
    if workshop.is_some() {
        installer.install_helpers(say)?;
    }
    installer.install(&args.with, say)?;
    licences::collect(&directory, &packages::library(&directory)?, workshop.as_ref(), say)?;
    finish(&directory, &installer)?;
    let glibc = check_floor(&directory, floor(args), say)?;
    if !machine.is_own() {
        say(&format!("it is for {}, and was not run here: `doctor` says there whether it works", machine.name()));
    }
    say("packing");
    let single = output.join(&name);
    let archive = output.join(format!("{name}.tar.gz"));
    write_single(&directory, &single, args.level)?;
    write_archive(&directory, &archive, &name)?;
    let mut more = Vec::new();
    if let Some(workshop) = workshop.filter(|_| args.wheel) {
        say("making the wheel");
        more.push(workshop.wheel(&single, glibc, &output)?);
    }
    if args.mcpb {
        let target = output.join(format!("{name}.mcpb"));
        mcpb::write(&single, &target)?;
        more.push(target);
    }
    Ok(Made { single, archive, more })
}

/// The C library that is asked for, if one is.
fn floor(args: &BundleArgs) -> Option<Version> {
    let is_foreign = args.target.is_some_and(|machine| !machine.is_own());
    args.glibc.or(is_foreign.then_some(FLOOR))
}

fn wanted(args: &BundleArgs) -> Wanted<'_> {
    let source = args.python_source.clone();
    let source = source.map(|path| Source { path, sha256: args.python_source_sha256.clone() });
    match floor(args) {
        Some(version) => Wanted::Floor(version, args.target.unwrap_or(Machine::OWN), source),
        None => Wanted::Installed(args.python.as_deref()),
    }
}

/// Says how old a system may be, and refuses a file that needs a newer one than was asked for. The floor: what was asked for,
/// else what was found.
fn check_floor(root: &Path, asked: Option<Version>, say: &mut dyn FnMut(&str)) -> Result<Version, BundleError> {
    let found = symbols::of_bundle(root).map_err(BundleError::file("cannot read the files of", root))?;
    let Some((version, path)) = found else {
        return Err(BundleError::Lacking(format!("no file in {} is linked with glibc", root.display())));
    };
    if let Some(asked) = asked.filter(|asked| version > *asked) {
        let path = path.display();
        return Err(BundleError::Lacking(format!("{path} needs glibc {version}, which is newer than {asked}")));
    }
    let floor = asked.unwrap_or(version);
    say(&format!("it runs with glibc {floor} and newer"));
    Ok(floor)
}

/// Compiles all modules, names what is trusted, and lists it.
fn finish(root: &Path, installer: &Installer<'_>) -> Result<(), BundleError> {
    installer.remove_scripts()?;
    let library = packages::library(root)?;
    for path in manifest::files(&library).map_err(BundleError::file("cannot list", &library))? {
        // Windows programs that pip copies on Windows.
        if path.extension().is_some_and(|end| end == "exe") {
            fs::remove_file(&path).map_err(BundleError::file("cannot remove", &path))?;
        }
    }
    let certificates = library.join("site-packages/pip/_vendor/certifi/cacert.pem");
    let own = root.join("lib/cacert.pem");
    fs::copy(&certificates, &own).map_err(BundleError::file("cannot copy", &certificates))?;
    installer.compile()?;
    let complete = root.join(manifest::COMPLETE);
    fs::write(&complete, "").map_err(BundleError::file("cannot write", &complete))?;
    manifest::write(root)
}

/// The launcher, the packed parts and the trailer, in one executable file.
fn write_single(root: &Path, single: &Path, level: i32) -> Result<(), BundleError> {
    let fail = BundleError::file("cannot write", single);
    let written = pack_all(root, level).and_then(|parts| {
        let launcher = fs::read(root.join(manifest::LAUNCHER))?;
        let mut hash = Sha256::new();
        for part in [&launcher].into_iter().chain(parts.iter().map(|part| &part.0)) {
            hash.update(part);
        }
        let payload = Payload {
            launcher: launcher.len() as u64,
            parts: [0, 1, 2].map(|index| parts[index].0.len() as u64),
            program: parts[0].1,
            unpacked: parts[1].1 + parts[2].1,
            hash: hash.finalize().into(),
        };
        let draft = single.with_added_extension("new");
        let mut file = File::create(&draft)?;
        for part in [&launcher, &parts[0].0, &parts[1].0, &parts[2].0, &payload.trailer()] {
            file.write_all(part)?;
        }
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        drop(file);
        fs::rename(draft, single)
    });
    written.map_err(fail)
}

/// The packed parts in their order, each with the bytes that are in it.
fn pack_all(root: &Path, level: i32) -> io::Result<[(Vec<u8>, u64); 3]> {
    // One beside the other: each takes a core.
    std::thread::scope(|scope| {
        let program = scope.spawn(|| pack_program(root, level));
        let rest = scope.spawn(|| pack(root, Part::Rest, level));
        let library = pack(root, Part::Library, level)?;
        let died = || Err(io::Error::other("a thread died"));
        let program = program.join().unwrap_or_else(|_| died())?;
        Ok([program, library, rest.join().unwrap_or_else(|_| died())?])
    })
}

fn pack_program(root: &Path, level: i32) -> io::Result<(Vec<u8>, u64)> {
    let program = fs::read(root.join("bin/forkpy"))?;
    Ok((zstd::encode_all(&program[..], level)?, program.len() as u64))
}

/// The library or the rest, and the bytes of its files. Times are [`manifest::TIME`].
fn pack(root: &Path, part: Part, level: i32) -> io::Result<(Vec<u8>, u64)> {
    let mut encoder = zstd::Encoder::new(Vec::new(), level)?;
    // A window over all of it: compiled modules are much like their neighbours.
    encoder.long_distance_matching(true)?;
    let mut builder = tar::Builder::new(encoder);
    let mut unpacked = 0;
    for path in manifest::files(&root.join("lib"))? {
        let name = path.strip_prefix(root).unwrap_or(&path);
        if name == Path::new(manifest::COMPLETE) || manifest::is_for_later(name) != (part == Part::Rest) {
            continue;
        }
        let mut file = File::open(&path)?;
        let found = file.metadata()?;
        unpacked += found.len();
        append(&mut builder, header(found.len(), found.permissions().mode()), name, &mut file)?;
    }
    Ok((builder.into_inner()?.finish()?, unpacked))
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(if mode & 0o100 == 0 { 0o644 } else { 0o755 });
    header.set_mtime(manifest::TIME);
    header
}

fn append<W: io::Write>(
    builder: &mut tar::Builder<W>,
    mut header: tar::Header,
    name: &Path,
    content: &mut dyn io::Read,
) -> io::Result<()> {
    header.set_entry_type(tar::EntryType::Regular);
    builder.append_data(&mut header, name, content)
}

fn write_archive(root: &Path, archive: &Path, name: &str) -> Result<(), BundleError> {
    let written = File::create(archive).and_then(|file| {
        let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(file, flate2::Compression::best()));
        for path in manifest::files(root)? {
            let mut file = File::open(&path)?;
            let found = file.metadata()?;
            let place = Path::new(name).join(path.strip_prefix(root).unwrap_or(&path));
            append(&mut builder, header(found.len(), found.permissions().mode()), &place, &mut file)?;
        }
        for link in ["python", "python3"] {
            let mut header = header(0, 0o755);
            header.set_entry_type(tar::EntryType::Symlink);
            builder.append_link(&mut header, Path::new(name).join("bin").join(link), "forkpy")?;
        }
        builder.into_inner()?.finish().map(drop)
    });
    written.map_err(BundleError::file("cannot write", archive))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One file of a bundle that needs a newer symbol is enough, wherever it lies.
    #[test]
    fn a_file_that_needs_a_newer_glibc_is_refused_by_its_name() {
        let place = tempfile::tempdir().expect("a directory");
        let root = place.path();
        let check = |asked| check_floor(root, asked, &mut |_| {}).map_err(|error| error.to_string());
        fs::create_dir_all(root.join("lib/python3.11/site-packages/pack/deep")).expect("made");
        fs::write(root.join("lib/python3.11/os.py"), "GLIBC_2.99").expect("written");
        assert!(check(Some(Version(2, 28))).expect_err("nothing to run").contains("linked with glibc"));
        let own = std::env::current_exe().expect("known");
        let needed = symbols::needed(&own).expect("read").expect("it is linked with glibc");
        fs::copy(&own, root.join("lib/python3.11/site-packages/pack/deep/module.so")).expect("copied");
        let Version(major, minor) = needed;
        let words = check(Some(Version(major, minor - 1))).expect_err("a newer one is needed");
        assert!(words.contains("pack/deep/module.so") && words.contains(&needed.to_string()), "{words}");
        assert_eq!((check(Some(needed)), check(None)), (Ok(needed), Ok(needed)));
        assert_eq!(
            check(Some(Version(major, minor + 1))),
            Ok(Version(major, minor + 1)),
            "what was promised is the floor"
        );
        fs::write(root.join("lib/broken.so"), b"\x7fELF and no more").expect("written");
        assert!(check(Some(needed)).is_err(), "what cannot be read is not passed over");
    }
}
