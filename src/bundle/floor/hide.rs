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
