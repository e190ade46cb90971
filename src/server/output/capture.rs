//! A cell's output under a cap: head and tail in memory, the whole in a file once it is too much.
//!
//! Runs in: server. Memory is bounded by the cap whatever a cell prints. What is kept, in the file too, is what a terminal
//! would show in the end (`screen.rs`): of a progress bar its last state.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    live::{Live, Stream},
    marks::{Filter, Mark, MarkKind, Piece},
    screen::Screen,
    spill::Spill,
};
use crate::server::output::{captured::CapturedText, pipe::Output};

/// Most bytes of one stream of one cell that are kept on disk.
const MAX_FILE: u64 = 1 << 30;
/// Displays of one cell are fewer.
const MAX_MARKS: usize = 1000;
/// Most that is read of a stream after the end: what a pipe can hold, with room for a writer that goes on.
const MAX_DRAIN: usize = 1 << 20;
/// Bytes of one stream after which others have their turn.
const TURN: usize = 256 << 10;

/// Collects one stream of one cell.
#[derive(Debug)]
pub(crate) struct Capture {
    filter: Filter,
    screen: Screen,
    /// Who hears of it at once.
    live: Option<(Arc<Live>, Stream)>,
    /// Bytes that came in.
    written: u64,
    /// Bytes since others had their turn.
    turn: usize,
    kept: Kept,
}

/// What came through the screen.
#[derive(Debug)]
struct Kept {
    cap: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
    /// Displays and clearings, by what had come before them.
    marks: Vec<(u64, Mark)>,
    /// The whole, once it is too much.
    spill: Option<Spill>,
    /// Where the whole goes: directory of outputs and file name.
    place: (PathBuf, String),
}

/// What has been captured, on its way to the program that this server becomes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PackedCapture {
    filter: Filter,
    screen: Screen,
    written: u64,
    cap: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
    marks: Vec<(u64, Mark)>,
    /// The file with the whole, as far as it goes; or why there is none.
    spilled: Option<Result<String, String>>,
    name: String,
}

impl Capture {
    /// Takes it along, when all that there is of the file is written. It may be used on.
    pub(crate) async fn pack(&mut self) -> io::Result<PackedCapture> {
        let Self { filter, screen, written, kept, .. } = self;
        let spilled = match kept.spill.take() {
            Some(spill) => {
                let done = spill.finish().await.map_err(|error| error.to_string());
                kept.spill = Some(Spill::go_on(&kept.place.0, done.clone()));
                Some(done)
            }
            None => None,
        };
        let copy = postcard::to_stdvec(&(filter, screen)).map_err(io::Error::other)?;
        let (filter, screen) = postcard::from_bytes(&copy).map_err(io::Error::other)?;
        Ok(PackedCapture {
            filter,
            screen,
            written: *written,
            cap: kept.cap,
            head: kept.head.clone(),
            tail: kept.tail.clone(),
            total: kept.total,
            marks: kept.marks.clone(),
            spilled,
            name: kept.place.1.clone(),
        })
    }

    /// Goes on with it.
    pub(crate) fn unpack(packed: PackedCapture, outputs: &Path) -> Self {
        let PackedCapture { filter, screen, written, cap, head, tail, total, marks, spilled, name } = packed;
        let spill = spilled.map(|spilled| Spill::go_on(outputs, spilled));
        let kept = Kept { cap, head, tail, total, marks, spill, place: (outputs.to_owned(), name) };
        Self { filter, screen, live: None, written, turn: 0, kept }
    }

    /// Keeps up to `cap` bytes in memory and the whole, if it is more, in `outputs/name`.
    #[must_use]
    pub(crate) fn new(cap: usize, outputs: &Path, name: String) -> Self {
        let kept = Kept {
            cap,
            head: Vec::new(),
            tail: VecDeque::new(),
            total: 0,
            marks: Vec::new(),
            spill: None,
            place: (outputs.to_owned(), name),
        };
        Self { filter: Filter::default(), screen: Screen::default(), live: None, written: 0, turn: 0, kept }
    }

    /// Lets a listener hear of it while it comes in.
    pub(crate) fn tell(&mut self, live: Arc<Live>, stream: Stream) {
        self.live = Some((live, stream));
    }

    /// Waits until there is output to read; waits first for a disk that is behind. Cancel-safe.
    ///
    /// # Errors
    /// When the pipe fails, which a pipe does not.
    pub(crate) async fn ready(&self, output: &Output) -> io::Result<()> {
        if let Some(spill) = &self.kept.spill {
            spill.catch_up().await;
        }
        output.readable().await
    }

    /// Reads some of what lies in the pipe and adds it; `seen` is shown the piece.
    pub(crate) fn take(&mut self, output: &mut Output, mut seen: impl FnMut(&[u8])) {
        output.take_known(|piece| {
            self.turn += piece.len();
            self.push(piece);
            seen(piece);
        });
    }

    /// Reads what lies in the pipe now and adds it; `seen` is shown each piece. With `known` only where the reactor knows of
    /// something.
    pub(crate) fn drain(&mut self, output: &mut Output, known: bool, mut seen: impl FnMut(&[u8])) {
        let mut drained = 0;
        loop {
            let taken = |piece: &[u8]| {
                self.push(piece);
                seen(piece);
                drained += piece.len();
            };
            let more = if known { output.take_known(taken) } else { output.take_now(taken) };
            if !more || drained >= MAX_DRAIN {
                return;
            }
        }
    }

    /// Lets other tasks have their turn after much output: a pipe that is always full never makes its reader wait.
    pub(crate) async fn pause(&mut self) {
        if self.turn > TURN {
            self.turn = 0;
            tokio::task::yield_now().await;
        }
    }

    /// Adds what was read.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let Self { filter, screen, live, written, kept, .. } = self;
        filter.push(bytes, &mut |piece| match piece {
            Piece::Mark(mark) => kept.mark(mark, screen),
            Piece::Text(text) => {
                *written += text.len() as u64;
                screen.push(text, &mut |bytes| {
                    if let Some((live, stream)) = live {
                        live.add(*stream, bytes);
                    }
                    kept.push(bytes);
                });
            }
        });
        if let Some((live, stream)) = live {
            live.settle(*stream, screen.tail());
        }
    }

    /// What has come beyond the first `from` bytes, as far as memory holds it, and how many there are now. The line that
    /// may still change is part of the text and not of the number.
    pub(in crate::server) fn since(&self, from: u64) -> (String, u64) {
        let Kept { head, tail, total, .. } = &self.kept;
        let tail_begin = total - tail.len() as u64;
        let after = |begin: u64, len: usize| usize::try_from(from.saturating_sub(begin)).unwrap_or(len).min(len);
        let mut bytes = head[after(0, head.len())..].to_vec();
        let gap = tail_begin.saturating_sub(from.max(head.len() as u64));
        if gap > 0 {
            bytes.extend_from_slice(format!("\n[... {gap} bytes left out ...]\n").as_bytes());
        }
        bytes.extend(tail.iter().skip(after(tail_begin, tail.len())));
        bytes.extend_from_slice(&self.screen.tail().text);
        (String::from_utf8_lossy(trim_start(&bytes)).into_owned(), *total)
    }

    /// The text for a reply, when the file is written.
    pub(crate) async fn finish(mut self) -> CapturedText {
        let rest = self.filter.rest();
        self.written += rest.len() as u64;
        let kept = &mut self.kept;
        self.screen.push(&rest, &mut |bytes| kept.push(bytes));
        kept.push(&self.screen.tail().text);
        CapturedText { total: self.written, ..self.kept.finish().await }
    }
}

impl Kept {
    fn push(&mut self, bytes: &[u8]) {
        let fits_in_head = (self.cap / 2).saturating_sub(self.head.len()).min(bytes.len());
        let was_whole = self.is_whole();
        let before = self.total;
        self.total += bytes.len() as u64;
        if was_whole && !self.is_whole() {
            self.open_spill();
        }
        if before < MAX_FILE
            && let Some(spill) = &self.spill
        {
            spill.write(bytes);
        }
        let (first, rest) = bytes.split_at(fits_in_head);
        self.head.extend_from_slice(first);
        let keep = self.cap - self.cap / 2;
        let rest = &rest[rest.len().saturating_sub(keep)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(keep);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// Remembers what has come so far. A bar that is still being drawn counts as what comes later.
    fn mark(&mut self, mark: Mark, screen: &Screen) {
        let at = self.total + screen.drawn() as u64;
        // Where that was which is taken back is of no use any more: this keeps the list short.
        match mark.kind {
            MarkKind::Display => {}
            MarkKind::Clear => self.marks.clear(),
            MarkKind::ClearLater => {
                let last = self.marks.iter().rposition(|(_, earlier)| earlier.kind == MarkKind::ClearLater);
                if let Some(last) = last {
                    if last + 1 == self.marks.len() && self.marks[last].0 == at {
                        return;
                    }
                    self.marks.drain(..last);
                }
            }
        }
        if self.marks.len() < MAX_MARKS {
            self.marks.push((at, mark));
        }
    }

    fn is_whole(&self) -> bool {
        self.total <= self.cap as u64
    }

    /// Begins the file with what memory holds, which is everything until now.
    fn open_spill(&mut self) {
        let (directory, name) = &self.place;
        let spill = Spill::begin(directory, name);
        spill.write(&self.head);
        let (front, back) = self.tail.as_slices();
        spill.write(front);
        spill.write(back);
        self.spill = Some(spill);
    }

    async fn finish(self) -> CapturedText {
        let is_whole = self.is_whole();
        let Some(spill) = self.spill.filter(|_| !is_whole) else {
            let mut bytes = self.head;
            bytes.extend(self.tail);
            let marks = self.marks.into_iter().map(|(at, mark)| (at as usize, mark)).collect();
            let (text, marks) = lossy(&bytes, marks);
            return CapturedText { text, total: self.total, marks, ..CapturedText::default() };
        };
        let head = String::from_utf8_lossy(trim_end(&self.head)).into_owned();
        let tail_bytes: Vec<u8> = self.tail.into();
        let tail = String::from_utf8_lossy(trim_start(&tail_bytes)).into_owned();
        let omitted = self.total.saturating_sub((head.len() + tail.len()) as u64);
        let (whole, file) = match spill.finish().await {
            Ok(name) if self.total <= MAX_FILE => {
                (format!("the whole is in outputs/{name}"), Some(format!("outputs/{name}")))
            }
            Ok(name) => (format!("the first {MAX_FILE} bytes are in outputs/{name}"), Some(format!("outputs/{name}"))),
            Err(reason) => (format!("it could not be saved: {reason}"), None),
        };
        let before = format!("{head}\n[... {omitted} of {} bytes left out; {whole} ...]\n", self.total);
        let skipped = self.total.saturating_sub(tail.len() as u64);
        let file_size = self.total.min(MAX_FILE);
        let marks_in_file = self.marks.iter().map(|(at, _)| *at).collect();
        let marks = self.marks.iter().map(|(at, mark)| {
            let at = if *at <= head.len() as u64 { *at } else { before.len() as u64 + at.saturating_sub(skipped) };
            (at as usize, *mark)
        });
        let text = before.clone() + &tail;
        let marks = marks.map(|(at, mark)| (text.floor_char_boundary(at), mark)).collect();
        CapturedText { text, total: self.total, file, marks, marks_in_file, file_size }
    }
}

/// Bytes as text, and where its marks are in that.
fn lossy(bytes: &[u8], marks: Vec<(usize, Mark)>) -> (String, Vec<(usize, Mark)>) {
    let mut text = String::with_capacity(bytes.len());
    let mut places = Vec::with_capacity(marks.len());
    let mut done = 0;
    for (at, mark) in marks {
        let at = at.clamp(done, bytes.len());
        text.push_str(&String::from_utf8_lossy(&bytes[done..at]));
        places.push((text.len(), mark));
        done = at;
    }
    text.push_str(&String::from_utf8_lossy(&bytes[done..]));
    (text, places)
}

/// Without a character that the cut went through.
fn trim_end(bytes: &[u8]) -> &[u8] {
    let back = bytes.iter().rev().take(4).position(|byte| byte & 0xc0 != 0x80);
    match back {
        Some(back) if bytes[bytes.len() - 1 - back] >= 0xc0 => {
            let start = bytes.len() - 1 - back;
            if std::str::from_utf8(&bytes[start..]).is_ok() { bytes } else { &bytes[..start] }
        }
        _ => bytes,
    }
}

fn trim_start(bytes: &[u8]) -> &[u8] {
    let skip = bytes.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
    &bytes[skip..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capture(cap: usize, directory: &Path) -> Capture {
        Capture::new(cap, directory, "x.txt".to_owned())
    }

    proptest! {
        #[test]
        fn the_file_holds_every_byte_and_memory_stays_under_the_cap(
            chunks in proptest::collection::vec(
                proptest::collection::vec(prop_oneof![9 => b' '..=255, 1 => Just(b'\n')], 0..50), 0..20)
        ) {
            let directory = tempfile::tempdir().expect("tempdir");
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let _inside = runtime.enter();
            let mut capture = capture(64, directory.path());
            for chunk in &chunks {
                capture.push(chunk);
                prop_assert!(capture.kept.head.len() + capture.kept.tail.len() <= 64);
            }
            let whole = chunks.concat();
            let text = runtime.block_on(capture.finish());
            prop_assert_eq!(text.total, whole.len() as u64);
            if whole.len() > 64 {
                prop_assert_eq!(std::fs::read(directory.path().join("x.txt")).expect("file"), whole);
                prop_assert_eq!(text.file.as_deref(), Some("outputs/x.txt"));
            } else {
                prop_assert_eq!(text.text, String::from_utf8_lossy(&whole).into_owned());
                prop_assert!(text.file.is_none());
            }
        }
    }

    #[tokio::test]
    async fn a_cut_through_a_character_leaves_no_replacement_mark() {
        let directory = tempfile::tempdir().expect("tempdir");
        let mut capture = capture(9, directory.path());
        capture.push("ääääääääää".as_bytes());
        assert!(!capture.finish().await.text.contains('\u{fffd}'));
    }

    #[tokio::test]
    async fn a_bar_leaves_its_last_state_also_in_the_file() {
        let directory = tempfile::tempdir().expect("tempdir");
        let mut capture = capture(64, directory.path());
        for step in 0..1000 {
            capture.push(format!("\rstep {step}").as_bytes());
        }
        capture.push(b"\n");
        capture.push(&[b'x'; 100]);
        let text = capture.finish().await;
        assert_eq!(text.total, 1000 * 6 + 2890 + 101);
        let whole = std::fs::read_to_string(directory.path().join("x.txt")).expect("file");
        assert_eq!(whole, format!("step 999\n{}", "x".repeat(100)));
    }

    #[tokio::test]
    async fn an_earlier_output_of_the_same_name_stays() {
        let directory = tempfile::tempdir().expect("tempdir");
        for expected in ["outputs/x.txt", "outputs/x-2.txt"] {
            let mut capture = capture(8, directory.path());
            capture.push(&[b'a'; 100]);
            assert_eq!(capture.finish().await.file.as_deref(), Some(expected));
        }
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_written_is_said_in_the_text() {
        let mut capture = Capture::new(8, Path::new("/proc/nowhere"), "x.txt".to_owned());
        capture.push(&[b'a'; 100]);
        let text = capture.finish().await;
        assert!(text.text.contains("could not be saved") && text.file.is_none());
    }
}
