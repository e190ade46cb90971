//! Makes the symbols of a static library visible to the program that it is linked into only. The program exports its symbols for
//! extension modules; those of OpenSSL, liblzma or libffi would then take the place of the ones that wheels bring along.
//!
//! Runs in: `forkpy bundle --glibc`. Changes one byte a symbol, in place.

use std::{fs, io, path::Path};

use object::{
    Endianness, U16,
    elf::{FileHeader64, SHT_SYMTAB},
    read::{
        archive::ArchiveFile,
        elf::{FileHeader, SectionHeader},
    },
};

/// Of a symbol's 24 bytes: its binding and kind, its visibility, its section.
const SYMBOL: usize = 24;
const INFO: usize = 4;
const OTHER: usize = 5;
const SECTION: usize = 6;
/// What stands there for a symbol that is of its file only, for one that other files define, and for one that a program keeps to itself.
const LOCAL: u8 = 0;
const UNDEFINED: u16 = 0;
const HIDDEN: u8 = 2;

/// Hides all that the members of an archive define.
///
/// # Errors
/// When it cannot be read or written, or is damaged.
pub(super) fn hide_symbols(archive: &Path) -> io::Result<usize> {
    let mut content = fs::read(archive)?;
    let places = places(&content).map_err(io::Error::other)?;
    let mut changed = 0;
    for place in places {
        if content[place] & 3 != HIDDEN {
            content[place] = content[place] & !3 | HIDDEN;
            changed += 1;
        }
    }
    if changed > 0 {
        fs::write(archive, content)?;
    }
    Ok(changed)
}

/// Where the visibility of each global symbol stands that a member defines.
fn places(content: &[u8]) -> object::Result<Vec<usize>> {
    let mut places = Vec::new();
    for member in ArchiveFile::parse(content)?.members() {
        let (begin, size) = member?.file_range();
        let range = |begin: u64, size: u64| Some(usize::try_from(begin).ok()?..usize::try_from(begin + size).ok()?);
        let Some(object) = range(begin, size).and_then(|range| content.get(range)) else { continue };
        if object.starts_with(b"\x7fELF") {
            let begin = usize::try_from(begin).unwrap_or(usize::MAX);
            places.extend(of_object(object)?.into_iter().map(|place| begin + place));
        }
    }
    Ok(places)
}

fn of_object(object: &[u8]) -> object::Result<Vec<usize>> {
    let header = FileHeader64::<Endianness>::parse(object)?;
    let endian = header.endian()?;
    let mut places = Vec::new();
    for section in header.sections(endian, object)?.iter().filter(|section| section.sh_type(endian) == SHT_SYMTAB) {
        let begin = usize::try_from(section.sh_offset(endian)).unwrap_or(usize::MAX);
        let symbols = section.data(endian, object)?;
        for (index, symbol) in symbols.chunks_exact(SYMBOL).enumerate() {
            let section = U16::<Endianness>::from_bytes([symbol[SECTION], symbol[SECTION + 1]]).get(endian);
            if symbol[INFO] >> 4 != LOCAL && section != UNDEFINED {
                places.push(begin + index * SYMBOL + OTHER);
            }
        }
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn run(program: &str, words: &[&str], place: &Path) -> String {
        let output =
            Command::new(program).args(words).current_dir(place).output().expect("it is there, as Rust needs it");
        assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// OpenSSL's symbols in the program would take the place of those that a wheel brings along.
    #[test]
    fn a_program_does_not_export_what_was_hidden_and_still_uses_it() {
        let place = tempfile::tempdir().expect("a directory");
        let place = place.path();
        let library =
            "int from_data = 5; static int own(void) { return 1; } int from_code(void) { return own() + from_data; }";
        let other = "int from_code(void); int from_other(void) { return from_code(); }";
        let program =
            "int from_other(void); int kept(void) { return 36; } int main(void) { return from_other() + kept(); }";
        for (name, text) in [("library.c", library), ("other.c", other), ("program.c", program)] {
            fs::write(place.join(name), text).expect("written");
        }
        run("cc", &["-c", "-fPIC", "library.c", "other.c"], place);
        // An archive's members begin at even places, and have names of any length.
        fs::write(place.join("notes"), "no object").expect("written");
        run("ar", &["rcs", "libx.a", "notes", "library.o", "other.o"], place);
        let exports = |made: &str| {
            run("cc", &["-rdynamic", "program.c", "libx.a", "-o", made], place);
            assert_eq!(Command::new(place.join(made)).status().expect("it runs").code(), Some(42));
            run("nm", &["--dynamic", "--defined-only", made], place)
        };
        assert!(exports("before").contains(" from_code"));
        assert_eq!(hide_symbols(&place.join("libx.a")).expect("read"), 3, "data, code, and the other's code");
        let after = exports("after");
        assert!(after.contains(" kept") && !after.contains(" from_"), "{after}");
        assert_eq!(hide_symbols(&place.join("libx.a")).expect("read"), 0, "twice is once");
        fs::write(place.join("broken.a"), "!<arch>\nno more").expect("written");
        assert!(hide_symbols(&place.join("broken.a")).is_err());
    }
}
