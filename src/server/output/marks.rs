//! Marks in a session's output streams: they say what was written before a display, and what after it.
//!
//! Runs in: server. Pure, streaming. The worker writes a mark into both streams when a cell displays something or clears
//! its output (`display.py`); pipes keep it in its place among all that cells and their children write. No mark goes on
//! to a client: here they are taken out.

use serde::{Deserialize, Serialize};

const ESCAPE: u8 = 0x1b;
/// An application program command, which terminals do not show.
const BEGIN: &[u8] = b"\x1b_forkpy:";
const END: &[u8] = b"\x1b\\";
/// Longest mark: its begin, a letter, twenty digits, its end.
const MAX_MARK: usize = BEGIN.len() + 1 + 20 + END.len();

/// What a mark stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MarkKind {
    Display,
    /// What came before is taken back.
    Clear,
    /// What came before is taken back when something comes behind it.
    ClearLater,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// What it stands for.
    pub kind: MarkKind,
    /// Displays and clearings of a worker are counted in one row; both streams have the same number.
    pub serial: u64,
}

/// A piece of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Text(&'a [u8]),
    /// A mark between two texts.
    Mark(Mark),
}

/// Takes the marks out of one stream.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Filter {
    /// What may be the beginning of a mark.
    held: Vec<u8>,
}

enum Parsed {
    Mark(Mark, usize),
    Incomplete,
    Other,
}

impl Filter {
    /// Takes what was written and gives it on in pieces. Output without escapes costs one search.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut impl FnMut(Piece<'_>)) {
        if self.held.is_empty() {
            return self.separate(bytes, out);
        }
        let mut joined = std::mem::take(&mut self.held);
        joined.extend_from_slice(bytes);
        self.separate(&joined, out);
    }

    /// What is held back at the end: no mark after all.
    #[must_use]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    fn separate(&mut self, mut bytes: &[u8], out: &mut impl FnMut(Piece<'_>)) {
        let mut from = 0;
        while let Some(found) = memchr::memchr(ESCAPE, &bytes[from..]) {
            let at = from + found;
            match parse(&bytes[at..]) {
                Parsed::Other => from = at + 1,
                Parsed::Incomplete => {
                    self.held = bytes[at..].to_vec();
                    bytes = &bytes[..at];
                    break;
                }
                Parsed::Mark(mark, length) => {
                    text(&bytes[..at], out);
                    out(Piece::Mark(mark));
                    bytes = &bytes[at + length..];
                    from = 0;
                }
            }
        }
        text(bytes, out);
    }
}

fn text(bytes: &[u8], out: &mut impl FnMut(Piece<'_>)) {
    if !bytes.is_empty() {
        out(Piece::Text(bytes));
    }
}

fn parse(bytes: &[u8]) -> Parsed {
    let shared = bytes.len().min(BEGIN.len());
    if bytes[..shared] != BEGIN[..shared] {
        return Parsed::Other;
    }
    let bytes = &bytes[..bytes.len().min(MAX_MARK)];
    let Some(end) = memchr::memmem::find(&bytes[shared..], END).map(|end| shared + end) else {
        return if bytes.len() < MAX_MARK { Parsed::Incomplete } else { Parsed::Other };
    };
    let kind = match bytes.get(BEGIN.len()) {
        Some(b'd') => MarkKind::Display,
        Some(b'c') => MarkKind::Clear,
        Some(b'w') => MarkKind::ClearLater,
        _ => return Parsed::Other,
    };
    let digits = bytes.get(BEGIN.len() + 1..end).and_then(|digits| std::str::from_utf8(digits).ok());
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(serial) => Parsed::Mark(Mark { kind, serial }, end + END.len()),
        None => Parsed::Other,
    }
}

/// Output without its marks.
#[must_use]
pub(crate) fn stripped(output: &[u8]) -> Vec<u8> {
    let mut filter = Filter::default();
    let mut left = Vec::with_capacity(output.len());
    filter.push(output, &mut |piece| {
        if let Piece::Text(text) = piece {
            left.extend_from_slice(text);
        }
    });
    left.extend(filter.rest());
    left
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(chunks: &[&[u8]]) -> (String, Vec<(usize, Mark)>) {
        let mut filter = Filter::default();
        let (mut text, mut marks) = (Vec::new(), Vec::new());
        for chunk in chunks {
            filter.push(chunk, &mut |piece| match piece {
                Piece::Text(bytes) => text.extend_from_slice(bytes),
                Piece::Mark(mark) => marks.push((text.len(), mark)),
            });
        }
        text.extend(filter.rest());
        (String::from_utf8_lossy(&text).into_owned(), marks)
    }

    #[test]
    fn what_is_no_mark_stays() {
        for other in [
            "\u{1b}_forkpy:x1\u{1b}\\",
            "\u{1b}_forkpy:d\u{1b}\\",
            "\u{1b}_forkpy:dx\u{1b}\\",
            "\u{1b}_fork",
            "\u{1b}[31mred",
        ] {
            let single: Vec<&[u8]> = other.as_bytes().chunks(1).collect();
            assert_eq!(pieces(&single), (other.to_owned(), Vec::new()), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn marks_are_found_however_the_stream_is_cut(
            parts in proptest::collection::vec(
                prop_oneof![Just("some text\n"), Just("\u{1b}[1m"), Just("\u{1b}"), Just("\u{1b}_forkpy:d7\u{1b}\\"),
                            Just("\u{1b}_forkpy:w18446744073709551615\u{1b}\\"), Just("ä"), Just("\u{1b}_forkpy:")], 0..30),
            cut in 1_usize..9,
        ) {
            let whole = parts.concat();
            let chunks: Vec<&[u8]> = whole.as_bytes().chunks(cut).collect();
            let found = pieces(&chunks);
            prop_assert_eq!(&found, &pieces(&[whole.as_bytes()]));
            prop_assert_eq!(found.0.len(), stripped(whole.as_bytes()).len());
        }
    }
}
