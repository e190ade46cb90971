//! A cell's output under a cap: head and tail in memory, the whole in a file once it is too much.
//!
//! Runs in: server. Memory is bounded by the cap whatever a cell prints. What is kept, in the file too, is what a terminal
//! would show in the end (`screen.rs`): of a progress bar its last state.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    live::{Live, Stream},
    outcome::CapturedText,
    screen::Screen,
};

/// Most bytes of one stream of one cell that are kept on disk.
const MAX_FILE: u64 = 1 << 30;
/// Most files of one name, told apart by a number.
const MAX_NAMESAKES: u32 = 10_000;

/// Collects one stream of one cell.
#[derive(Debug)]
pub struct Capture {
    screen: Screen,
    /// Who hears of it at once.
    live: Option<(Arc<Live>, Stream)>,
    /// Bytes that came in.
    written: u64,
    kept: Kept,
}

/// What came through the screen.
#[derive(Debug)]
struct Kept {
    cap: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
    spill: Spill,
    /// Where the whole goes: directory of outputs and file name.
    place: (PathBuf, String),
}

#[derive(Debug)]
enum Spill {
    NotNeeded,
    Open(File),
    Failed(String),
}

impl Capture {
    /// Keeps up to `cap` bytes in memory and the whole, if it is more, in `outputs/name`.
    #[must_use]
    pub fn new(cap: usize, outputs: &Path, name: String) -> Self {
        let kept = Kept {
            cap,
            head: Vec::new(),
            tail: VecDeque::new(),
            total: 0,
            spill: Spill::NotNeeded,
            place: (outputs.to_owned(), name),
        };
        Self { screen: Screen::default(), live: None, written: 0, kept }
    }

    /// Lets somebody hear of it while it comes in.
    pub fn tell(&mut self, live: Arc<Live>, stream: Stream) {
        self.live = Some((live, stream));
    }

    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        let kept = &mut self.kept;
        let Some((live, stream)) = &self.live else { return self.screen.push(bytes, &mut |bytes| kept.push(bytes)) };
        self.screen.push(bytes, &mut |bytes| {
            live.add(*stream, bytes);
            kept.push(bytes);
        });
        live.settle(*stream, self.screen.tail());
    }

    /// The text for a reply.
    #[must_use]
    pub fn finish(mut self) -> CapturedText {
        self.kept.push(&self.screen.tail().text);
        CapturedText { total: self.written, ..self.kept.finish() }
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
            && let Spill::Open(file) = &mut self.spill
            && let Err(error) = file.write_all(bytes)
        {
            self.spill = Spill::Failed(error.to_string());
        }
        let (first, rest) = bytes.split_at(fits_in_head);
        self.head.extend_from_slice(first);
        let keep = self.cap - self.cap / 2;
        let rest = &rest[rest.len().saturating_sub(keep)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(keep);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    fn is_whole(&self) -> bool {
        self.total <= self.cap as u64
    }

    /// Begins the file with what memory holds, which is everything until now.
    fn open_spill(&mut self) {
        let (directory, name) = &self.place;
        let begun = create(directory, name).and_then(|(mut file, name)| {
            file.write_all(&self.head)?;
            let (front, back) = self.tail.as_slices();
            file.write_all(front)?;
            file.write_all(back)?;
            Ok((file, name))
        });
        self.spill = match begun {
            Ok((file, name)) => {
                self.place.1 = name;
                Spill::Open(file)
            }
            Err(error) => Spill::Failed(error.to_string()),
        };
    }

    fn finish(self) -> CapturedText {
        if self.is_whole() {
            let mut bytes = self.head;
            bytes.extend(self.tail);
            return CapturedText { text: lossy(bytes), total: self.total, file: None };
        }
        let head = String::from_utf8_lossy(trim_end(&self.head)).into_owned();
        let tail_bytes: Vec<u8> = self.tail.into();
        let tail = String::from_utf8_lossy(trim_start(&tail_bytes)).into_owned();
        let omitted = self.total.saturating_sub((head.len() + tail.len()) as u64);
        let file = format!("outputs/{}", self.place.1);
        let (whole, file) = match &self.spill {
            Spill::Open(_) if self.total <= MAX_FILE => (format!("the whole is in {file}"), Some(file)),
            Spill::Open(_) => (format!("the first {MAX_FILE} bytes are in {file}"), Some(file)),
            Spill::Failed(reason) => (format!("it could not be saved: {reason}"), None),
            Spill::NotNeeded => (String::new(), None),
        };
        let text = format!("{head}\n[... {omitted} of {} bytes left out; {whole} ...]\n{tail}", self.total);
        CapturedText { text, total: self.total, file }
    }
}

/// A new file: an earlier server on this workspace numbered its cells alike, and its outputs stay.
fn create(directory: &Path, name: &str) -> io::Result<(File, String)> {
    std::fs::create_dir_all(directory)?;
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, "txt"));
    for number in 1..MAX_NAMESAKES {
        let name = if number == 1 { name.to_owned() } else { format!("{stem}-{number}.{ending}") };
        match File::create_new(directory.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (file, name)),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{MAX_NAMESAKES} files of this name exist")))
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
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
            let mut capture = capture(64, directory.path());
            for chunk in &chunks {
                capture.push(chunk);
                prop_assert!(capture.kept.head.len() + capture.kept.tail.len() <= 64);
            }
            let whole = chunks.concat();
            let text = capture.finish();
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

    #[test]
    fn a_cut_through_a_character_leaves_no_replacement_mark() {
        let directory = tempfile::tempdir().expect("tempdir");
        let mut capture = capture(9, directory.path());
        capture.push("ääääääääää".as_bytes());
        assert!(!capture.finish().text.contains('\u{fffd}'));
    }

    #[test]
    fn a_bar_leaves_its_last_state_also_in_the_file() {
        let directory = tempfile::tempdir().expect("tempdir");
        let mut capture = capture(64, directory.path());
        for step in 0..1000 {
            capture.push(format!("\rstep {step}").as_bytes());
        }
        capture.push(b"\n");
        capture.push(&[b'x'; 100]);
        let text = capture.finish();
        assert_eq!(text.total, 1000 * 6 + 2890 + 101);
        let whole = std::fs::read_to_string(directory.path().join("x.txt")).expect("file");
        assert_eq!(whole, format!("step 999\n{}", "x".repeat(100)));
    }

    #[test]
    fn an_earlier_output_of_the_same_name_stays() {
        let directory = tempfile::tempdir().expect("tempdir");
        for expected in ["outputs/x.txt", "outputs/x-2.txt"] {
            let mut capture = capture(8, directory.path());
            capture.push(&[b'a'; 100]);
            assert_eq!(capture.finish().file.as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_said_in_the_text() {
        let mut capture = Capture::new(8, Path::new("/proc/nowhere"), "x.txt".to_owned());
        capture.push(&[b'a'; 100]);
        let text = capture.finish();
        assert!(text.text.contains("could not be saved") && text.file.is_none());
    }
}
