//! Which C library a file needs: read from the file itself.
//!
//! Runs in: `forkpy bundle`, and its tests. Pure but for reading; starts no process.

use std::{fmt, fs, io, path::Path, str::FromStr};

use object::{Endianness, elf::FileHeader64, read::elf::FileHeader};

use crate::bundle::manifest;

/// A version of glibc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.0, self.1)
    }
}

impl FromStr for Version {
    type Err = String;

    /// `2.28`; of `2.2.5` the first two.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.').map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self(major, minor)),
            _ => Err(format!("{text:?} is no version of glibc, such as 2.28")),
        }
    }
}

/// The newest version of a symbol of glibc's that a file needs, with its name; none for what is no ELF file, and for one that
/// needs none.
///
/// # Errors
/// When it cannot be read, or is a damaged ELF file.
pub(crate) fn needed(path: &Path) -> io::Result<Option<Version>> {
    let content = fs::read(path)?;
    if !content.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    of_elf(&content).map_err(io::Error::other)
}

fn of_elf(content: &[u8]) -> object::Result<Option<Version>> {
    let header = FileHeader64::<Endianness>::parse(content)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, content)?;
    let Some((mut libraries, link)) = sections.gnu_verneed(endian, content)? else { return Ok(None) };
    let strings = sections.strings(endian, content, link)?;
    let mut newest = None;
    while let Some((_, mut versions)) = libraries.next()? {
        while let Some(version) = versions.next()? {
            let name = String::from_utf8_lossy(version.name(endian, strings)?).into_owned();
            newest = newest.max(asked_by(&name));
        }
    }
    Ok(newest)
}

/// The C library that brought this name of a symbol's version. Most are numbers. Some only say what the loader must know, and
/// an older one refuses the file. `GLIBC_PRIVATE` is in all of them.
fn asked_by(name: &str) -> Option<Version> {
    match name.strip_prefix("GLIBC_")? {
        "PRIVATE" => None,
        "ABI_DT_RELR" => Some(Version(2, 36)),
        "ABI_GNU_TLS" | "ABI_GNU2_TLS" => Some(Version(2, 42)),
        // One that came later than this was written.
        mark if mark.starts_with("ABI_") => Some(Version(2, 43)),
        version => version.parse().ok(),
    }
}

/// The newest version that any file of a bundle needs, and the file that needs it.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn of_bundle(root: &Path) -> io::Result<Option<(Version, std::path::PathBuf)>> {
    let mut newest = None;
    for path in manifest::files(root)? {
        newest = newest.max(needed(&path)?.map(|version| (version, path)));
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_and_not_text() {
        let of = |text: &str| text.parse::<Version>();
        assert!(of("2.9").expect("one") < of("2.28").expect("one"));
        assert_eq!(of("2.2.5"), Ok(Version(2, 2)));
        for nonsense in ["", "2", "PRIVATE", "a.b", "2."] {
            assert!(of(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn what_the_loader_must_know_counts_too() {
        assert_eq!(asked_by("GLIBC_2.2.5"), Some(Version(2, 2)));
        assert_eq!(asked_by("GLIBC_ABI_DT_RELR"), Some(Version(2, 36)));
        assert!(asked_by("GLIBC_ABI_OF_ANOTHER_DAY") > asked_by("GLIBC_ABI_GNU2_TLS"));
        for none in ["GLIBC_PRIVATE", "GCC_3.0", "GLIBCXX_3.4.30", "CXXABI_1.3"] {
            assert_eq!(asked_by(none), None, "{none}");
        }
    }

    /// This very program says what it needs, and objdump, where it is there, says the same.
    #[test]
    fn what_a_program_needs_is_what_objdump_says() {
        let own = std::env::current_exe().expect("known");
        let found = needed(&own).expect("read").expect("it is linked with glibc");
        assert!(found >= Version(2, 2) && found < Version(3, 0), "{found}");
        if let Ok(said) = std::process::Command::new("objdump").arg("-p").arg(&own).output() {
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            let versions = said.split_whitespace().filter_map(|word| word.strip_prefix("GLIBC_")?.parse().ok());
            assert_eq!(versions.max(), Some(found));
        }
        let place = tempfile::tempdir().expect("a directory");
        let (text, broken) = (place.path().join("text"), place.path().join("broken"));
        fs::write(&text, "GLIBC_2.99").expect("written");
        fs::write(&broken, b"\x7fELF and no more").expect("written");
        assert_eq!(needed(&text).expect("read"), None);
        assert!(needed(&broken).is_err(), "a damaged program is not passed over");
    }
}
