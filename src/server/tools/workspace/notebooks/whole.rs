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
            let (text, part) = if let Output::Stream { text, whole: Some(part), .. } = output {
                (text, Some(part.clone()))
            } else if let Some((text, file)) = output.shortened() {
                (text, all_of(files, file))
            } else {
                continue;
            };
            if let Some(read) = part.and_then(|part| read(files, &part, most.min(left)).ok()) {
                left = left.saturating_sub(read.len() as u64);
                *text = read;
            }
        }
        cell.outputs.retain(|output| !output.is_empty());
    }
}

fn all_of(files: &Files, file: String) -> Option<Part> {
    let to = files.open_regular(&file).ok()?.metadata().ok()?.len();
    Some(Part { file, from: 0, to })
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
