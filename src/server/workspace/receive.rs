//! Takes files that arrive in pieces into `uploads/`, whole or not at all.
//!
//! Owns how a client's file name becomes one here. Nothing outside `uploads/` is written: the directory must be one itself,
//! and what is in it is replaced, links included only by an error.
//!
//! Runs in: server, on its blocking threads.

use std::{
    io::{self, Write},
    path::Path,
};

use bytes::Bytes;
use cap_fs_ext::DirExt;
use cap_std::fs::Dir;
use cap_tempfile::TempFile;
use tokio::sync::mpsc::Receiver;

use super::write::{give_name, mode_of};
use crate::server::workspace::{
    handle::{FileError, Files, Shown, trouble},
    write::Written,
};

const UPLOADS: &str = "uploads";
/// Most bytes of a name: less than file systems take, so that there is room for what others append.
const MAX_NAME: usize = 200;
/// Of a name that is none.
const NAMELESS: &str = "upload";

/// A piece of a file.
#[derive(Debug)]
pub(crate) enum Part {
    Data(Bytes),
    End,
}

/// A file that has arrived.
#[derive(Debug)]
pub(crate) struct Received {
    /// Its name in `uploads/`.
    pub name: String,
    pub written: Written,
    /// A file of that name was there.
    pub replaced: bool,
}

impl Files {
    /// Writes the pieces as they come; the file has its name only after [`Part::End`].
    ///
    /// # Errors
    /// [`FileError`]; what was there before is then still there, whole.
    pub(crate) fn receive(&self, name: &str, mut parts: Receiver<Part>) -> Result<Received, FileError> {
        let name = clean(name);
        let path = format!("{UPLOADS}/{name}");
        let fail = |source| trouble("write", &path, source);
        let uploads = self.uploads()?;
        mode_of(&uploads, Path::new(&name), &path)?;
        let mut file = TempFile::new(&uploads).map_err(fail)?;
        let mut size = 0;
        loop {
            match parts.blocking_recv() {
                Some(Part::Data(bytes)) => {
                    file.write_all(&bytes).map_err(fail)?;
                    size += bytes.len();
                }
                Some(Part::End) => break,
                None => return Err(FileError::Unfinished(Shown::new(&path))),
            }
        }
        let replaced = give_name(&uploads, file, Path::new(&name), &path)?;
        Ok(Received { written: self.written(path, size), name, replaced })
    }

    /// A link in its place is refused: it may lead to files that were not meant to be replaced.
    fn uploads(&self) -> Result<Dir, FileError> {
        let fail = |source| trouble("open", UPLOADS, source);
        match self.dir.open_dir_nofollow(UPLOADS) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.dir.create_dir(UPLOADS).map_err(fail)?;
                self.dir.open_dir_nofollow(UPLOADS).map_err(fail)
            }
            opened => opened.map_err(fail),
        }
    }
}

/// A name of one file, from what a client calls it: its last part, without what terminals and shells would take amiss.
fn clean(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let kept: String = last.chars().filter(|character| !is_unwelcome(*character)).collect();
    // Leading dots hide a file, and `..` is none; a leading `-` is an option.
    let kept = kept.trim().trim_start_matches(['.', '-', ' ']).trim_end_matches(['.', ' ']);
    if kept.is_empty() { NAMELESS.to_owned() } else { shortened(kept) }
}

/// Control characters, also those that turn the direction of text around.
fn is_unwelcome(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Cut before its extension.
fn shortened(name: &str) -> String {
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    let extension = name.rfind('.').map(|at| &name[at..]).filter(|extension| extension.len() <= 20).unwrap_or_default();
    let keep = name.floor_char_boundary(MAX_NAME - extension.len());
    format!("{}{extension}", &name[..keep])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_become_names_of_one_file() {
        for (given, cleaned) in [
            ("a b.csv", "a b.csv"),
            ("../../etc/passwd", "passwd"),
            ("C:\\Users\\me\\x.txt", "x.txt"),
            ("/abs/x", "x"),
            (".bashrc", "bashrc"),
            ("..", NAMELESS),
            ("", NAMELESS),
            ("dir/", NAMELESS),
            ("-rf", "rf"),
            ("a\nb\0c", "abc"),
            ("x\u{202e}gpj.exe", "xgpj.exe"),
            ("漢.txt", "漢.txt"),
        ] {
            assert_eq!(clean(given), cleaned, "{given:?}");
        }
        let long = clean(&format!("{}.tar", "é".repeat(300)));
        assert!(long.len() <= MAX_NAME && long.ends_with(".tar"), "{long}");
        assert!(clean(&"x.".repeat(300)).len() <= MAX_NAME);
    }

    proptest! {
        #[test]
        fn a_clean_name_is_one_name_and_stays_clean(name in any::<String>()) {
            let cleaned = clean(&name);
            prop_assert!(!cleaned.is_empty() && cleaned.len() <= MAX_NAME);
            prop_assert!(!cleaned.starts_with('.') && !cleaned.contains(['/', '\\', '\0']));
            prop_assert_eq!(Path::new(&cleaned).components().count(), 1);
        }
    }
}
