//! Writes files whole or not at all: a temporary file in the same directory, which then takes the name.
//!
//! Owns encodings of content. What is there already is replaced only when it is a regular file.
//!
//! Runs in: server, on its blocking threads.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use cap_std::fs::{Dir, PermissionsExt};
use cap_tempfile::TempFile;
use nix::{
    fcntl::AtFlags,
    unistd::{AccessFlags, faccessat},
};

use crate::server::workspace::handle::{FileError, Files, Shown, checked, kind, place, split, trouble};

/// Padding may be left out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const SCRIPTS: &str = "scripts";
const LINK_TO_NOWHERE: &str = "a symbolic link to something that does not exist";

#[derive(Debug, Clone)]
pub(crate) struct Body {
    /// Text, or base64.
    pub content: String,
    /// It is base64.
    pub base64: bool,
    /// Of text; UTF-8 when left out.
    pub encoding: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Written {
    /// Relative to the workspace.
    pub path: String,
    pub full_path: PathBuf,
    /// Bytes.
    pub size: u64,
}

impl Files {
    /// Writes a file, and makes the directories it is in.
    ///
    /// # Errors
    /// [`FileError`]; what was there before is then still there, whole.
    pub(crate) fn write(&self, path: &str, body: &Body) -> Result<Written, FileError> {
        let bytes = body.bytes(path)?;
        let relative = write_in(&self.dir, path, &bytes)?;
        Ok(self.written(relative, bytes.len()))
    }

    /// Writes a script into `scripts/`, which its name cannot leave.
    pub(crate) fn save_script(&self, name: &str, content: &str) -> Result<Written, FileError> {
        checked(name)?;
        let name = if name.ends_with(".py") { name.to_owned() } else { format!("{name}.py") };
        let fail = |source| trouble("open", SCRIPTS, source);
        self.dir.create_dir_all(SCRIPTS).map_err(fail)?;
        let scripts = self.dir.open_dir(SCRIPTS).map_err(fail)?;
        let relative = write_in(&scripts, &name, content.as_bytes())?;
        Ok(self.written(format!("{SCRIPTS}/{relative}"), content.len()))
    }

    /// Writes a file from one of ours, piece by piece, and makes the directories it is in. A new one is its user's alone:
    /// it holds a session's variables.
    pub(crate) fn write_from(&self, path: &str, source: &mut std::fs::File) -> Result<Written, FileError> {
        let mut size = 0;
        let relative = write_with(&self.dir, path, |file| {
            file.as_file().set_permissions(PermissionsExt::from_mode(0o600))?;
            io::copy(source, file).map(|copied| size = copied)
        })?;
        Ok(self.written(relative, usize::try_from(size).unwrap_or(usize::MAX)))
    }

    pub(super) fn written(&self, path: String, size: usize) -> Written {
        Written { full_path: self.root.join(&path), path, size: size as u64 }
    }
}

/// Writes below a directory; comes back with the path from there.
fn write_in(base: &Dir, path: &str, bytes: &[u8]) -> Result<String, FileError> {
    write_with(base, path, |file| file.write_all(bytes))
}

/// The same, with what fills the file.
fn write_with(
    base: &Dir,
    path: &str,
    fill: impl FnOnce(&mut TempFile<'_>) -> io::Result<()>,
) -> Result<String, FileError> {
    checked(path)?;
    let fail = |source| trouble("write", path, source);
    if path.ends_with('/') {
        return Err(FileError::Unusable { path: Shown::new(path), reason: "it names a directory" });
    }
    let (parent, name) =
        split(path).ok_or_else(|| FileError::Unusable { path: Shown::new(path), reason: "it names no file" })?;
    // Asked first: what is made over a link that leads out is told as existing, not as outside.
    match base.open_dir(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => base.create_dir_all(parent).map_err(fail)?,
        opened => drop(opened.map_err(fail)?),
    }
    let relative = place(base, parent, name).map_err(fail)?;
    // A link within the workspace stays, and what it points to is written.
    let target = match base.symlink_metadata(path) {
        Ok(there) if there.is_symlink() => base.canonicalize(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => FileError::NotAFile { path: Shown::new(path), kind: LINK_TO_NOWHERE },
            _ => fail(source),
        })?,
        _ => parent.join(name),
    };
    let target_parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let target_name = target.file_name().map(Path::new).unwrap_or(name);
    let directory = base.open_dir(target_parent).map_err(fail)?;
    replace(&directory, target_name, path, fill)?;
    Ok(relative)
}

fn replace(
    directory: &Dir,
    name: &Path,
    path: &str,
    fill: impl FnOnce(&mut TempFile<'_>) -> io::Result<()>,
) -> Result<(), FileError> {
    let fail = |source| trouble("write", path, source);
    // Before the work, for what could not take its name.
    mode_of(directory, name, path)?;
    let mut file = TempFile::new(directory).map_err(fail)?;
    fill(&mut file).map_err(fail)?;
    give_name(directory, file, name, path).map(drop)
}

/// The mode of the regular file of that name; `None` where there is nothing, an error where there is something else.
pub(super) fn mode_of(directory: &Dir, name: &Path, path: &str) -> Result<Option<u32>, FileError> {
    match directory.symlink_metadata(name) {
        Ok(there) if there.is_file() => Ok(Some(there.permissions().mode() & 0o777)),
        Ok(there) => Err(FileError::NotAFile { path: Shown::new(path), kind: kind(there.file_type()) }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(trouble("write", path, error)),
    }
}

/// Gives a written file its name, with the mode of the one that had it; whether there was one.
pub(super) fn give_name(directory: &Dir, file: TempFile<'_>, name: &Path, path: &str) -> Result<bool, FileError> {
    let fail = |source| trouble("write", path, source);
    let mode = mode_of(directory, name, path)?;
    if let Some(mode) = mode {
        // A rename asks for no right to write to what it replaces; the user does.
        faccessat(directory, name, AccessFlags::W_OK, AtFlags::AT_EACCESS).map_err(|error| fail(error.into()))?;
        file.as_file().set_permissions(PermissionsExt::from_mode(mode)).map_err(fail)?;
    }
    file.replace(name).map_err(fail)?;
    Ok(mode.is_some())
}

impl Body {
    fn bytes(&self, path: &str) -> Result<Vec<u8>, FileError> {
        let encoding = self.encoding.as_deref().unwrap_or("utf-8");
        let encoded = encode(path, if self.base64 { "" } else { &self.content }, encoding)?;
        if !self.base64 {
            return Ok(encoded);
        }
        let packed: Vec<u8> = self.content.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        BASE64.decode(packed).map_err(|source| FileError::Base64 { path: Shown::new(path), source })
    }
}

/// Text in an encoding, by the names that Python has for them.
fn encode(path: &str, text: &str, encoding: &str) -> Result<Vec<u8>, FileError> {
    let single = |name, most| {
        let encode = |(index, character): (usize, char)| match u8::try_from(u32::from(character)) {
            Ok(byte) if byte <= most => Ok(byte),
            _ => Err(FileError::NotEncodable { path: Shown::new(path), character, index, encoding: name }),
        };
        text.chars().enumerate().map(encode).collect()
    };
    match encoding.to_ascii_lowercase().replace('_', "-").as_str() {
        "utf-8" | "utf8" => Ok(text.as_bytes().to_vec()),
        "latin-1" | "latin1" | "iso-8859-1" | "iso8859-1" => single("latin-1", 0xff),
        "ascii" | "us-ascii" => single("ascii", 0x7f),
        // As Python writes it on such a machine: a byte order mark, then the low byte first.
        "utf-16" | "utf16" => Ok([0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()),
        "utf-16-le" | "utf-16le" => Ok(text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        "utf-16-be" | "utf-16be" => Ok(text.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        _ => Err(FileError::UnknownEncoding { path: Shown::new(path), encoding: Shown::new(encoding) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_pythons() {
        let encoded = |text, encoding| encode("f", text, encoding).expect("encodable");
        assert_eq!(encoded("é", "UTF_8"), "é".as_bytes());
        assert_eq!(encoded("é", "latin-1"), [0xe9]);
        assert_eq!(encoded("é", "utf-16"), [0xff, 0xfe, 0xe9, 0x00]);
        assert_eq!(encoded("é", "utf-16-be"), [0x00, 0xe9]);
        let error = encode("f", "a€", "latin-1").expect_err("no euro").to_string();
        assert!(error.contains("'€'") && error.contains("number 1"), "{error}");
        assert!(encode("f", "", "klingon").expect_err("unknown").to_string().contains("\"klingon\""));
    }
}
