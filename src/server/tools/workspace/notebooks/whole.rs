//! Whole outputs for an exported notebook: what a reply had no room for is read from the file that holds it.
//!
//! Runs in: server, on a blocking thread. Changes nothing; where a file is gone, the text that the reply had stays.

use std::io::{self, Read, Seek, SeekFrom};

use crate::server::{
    sessions::{
        history::Recorded,
        outputs::{Output, Part},
    },
    workspace::handle::Files,
};

/// Puts in the whole of each stream and of each value, up to `most` bytes of each, and `most_of_all` of all.
pub(super) fn fill(cells: &mut [Recorded], files: &Files, most: u64, most_of_all: u64) {
    let mut left = most_of_all;
    for cell in cells {
        for output in &mut cell.outputs {
            let (text, part) = match output {
                Output::Stream { text, whole: Some(part), .. } => (text, Some(part.clone())),
                Output::Shown { display, result: Some(_) } => {
                    let part = shortened(&display.text).and_then(|file| all_of(files, file));
                    (&mut display.text, part)
                }
                _ => continue,
            };
            if let Some(read) = part.and_then(|part| read(files, &part, most.min(left)).ok()) {
                left = left.saturating_sub(read.len() as u64);
                *text = read;
            }
        }
        cell.outputs.retain(|output| !output.is_empty());
    }
}

/// The file with the whole text of a value, as `python/forkpy_worker/display/results.py` names it where it shortens one.
fn shortened(text: &str) -> Option<&str> {
    let file = text.lines().find_map(|line| {
        let (_, place) = line.strip_prefix("... ")?.split_once(" characters left out; the whole is in ")?;
        place.strip_suffix(" ...")
    })?;
    let own = file.strip_prefix("outputs/cell-")?.strip_suffix(".txt")?;
    (own.contains("-result") && !own.contains('/')).then_some(file)
}

fn all_of(files: &Files, file: &str) -> Option<Part> {
    let to = files.open_regular(file).ok()?.metadata().ok()?.len();
    Some(Part { file: file.to_owned(), from: 0, to })
}

/// The part, or its head and tail.
fn read(files: &Files, part: &Part, most: u64) -> io::Result<String> {
    let mut file = files.open_regular(&part.file).map_err(io::Error::other)?;
    if file.metadata()?.len() < part.to {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut piece = |from: u64, to: u64| {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(from))?;
        file.by_ref().take(to - from).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let size = part.to - part.from;
    if size <= most {
        return piece(part.from, part.to);
    }
    let (head, tail) = (piece(part.from, part.from + most / 2)?, piece(part.to - most / 2, part.to)?);
    let left_out = size - most / 2 * 2;
    Ok(format!("{head}\n[... {left_out} of {size} bytes left out; the whole is in {} ...]\n{tail}", part.file))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_file_of_a_shortened_value_is_found_and_no_other() {
        let shortened = |file: &str| {
            let text = format!("'aaa\n... 12 characters left out; the whole is in {file} ...\nbbb'");
            super::shortened(&text).map(str::to_owned)
        };
        assert_eq!(shortened("outputs/cell-3-result.txt").as_deref(), Some("outputs/cell-3-result.txt"));
        assert_eq!(shortened("outputs/cell-3-result-2.txt").as_deref(), Some("outputs/cell-3-result-2.txt"));
        for other in ["secret.txt", "outputs/cell-3-result/../../x.txt", "outputs/cell-3-stdout.txt", "/etc/passwd"] {
            assert_eq!(shortened(other), None);
        }
        assert_eq!(super::shortened("'plain'"), None);
    }
}
