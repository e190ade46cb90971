//! What a stream of output comes to on a terminal: progress bars and spinners leave the last state of their line.
//!
//! Runs in: server. Pure, streaming: what can still change is held back (some rows, each of bounded length), all else
//! goes on at once. Output without control characters costs one search and no copy but of its last, unfinished line.
//!
//! Known are carriage return, backspace, "erase line" and "cursor up" (tqdm's nested bars). `\r\n` stays as it is, and so
//! does every other escape sequence. Text after a carriage return replaces the line whole, where a terminal would
//! leave what sticks out behind a shorter text: writers pad with spaces to hide just that.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Longest line that can still be overwritten; a longer one goes out as it comes.
const MAX_ROW: usize = 4 << 10;
/// Most lines that wait for a cursor that may come up again.
const MAX_ROWS: usize = 16;
/// Longest escape sequence that is understood.
const MAX_ESCAPE: usize = 16;

const ESCAPE: u8 = 0x1b;
const BACKSPACE: u8 = 8;

/// One stream of one cell.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Screen {
    rows: VecDeque<Row>,
    /// The row that the cursor is in.
    at: usize,
    next: Next,
    /// An escape sequence whose end has not come yet.
    escape: Vec<u8>,
    /// The last row was too long: its beginning is out, the rest follows until the line ends.
    overlong: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Row {
    text: Vec<u8>,
    /// Something was overwritten in it, or will be: a bar rather than a line of text.
    is_bar: bool,
}

/// What the next character does to the cursor's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Next {
    Appends,
    /// After a carriage return.
    Replaces,
    /// After a move to a row that has a text already.
    ReplacesOther,
}

/// What may still change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The rows, without a newline after the last.
    pub text: Vec<u8>,
    /// One of them is a bar.
    pub is_bar: bool,
}

impl Default for Screen {
    fn default() -> Self {
        let rows = VecDeque::from([Row::default()]);
        Self { rows, at: 0, next: Next::Appends, escape: Vec::new(), overlong: false }
    }
}

impl Screen {
    /// Takes what was written; gives to `out`, in order, what cannot change any more.
    pub(crate) fn push(&mut self, mut bytes: &[u8], out: &mut impl FnMut(&[u8])) {
        while let Some(&first) = bytes.first() {
            let taken = match first {
                _ if self.overlong => self.pass_on(bytes, out),
                _ if !self.escape.is_empty() => {
                    self.continue_escape(first, out);
                    1
                }
                b'\n' => {
                    self.end_line(out);
                    1
                }
                b'\r' => {
                    self.carriage_return();
                    1
                }
                BACKSPACE => {
                    self.backspace();
                    1
                }
                ESCAPE => {
                    self.escape.push(ESCAPE);
                    1
                }
                _ => self.write_run(bytes, out),
            };
            bytes = &bytes[taken..];
        }
    }

    /// What was held back.
    #[must_use]
    pub(crate) fn tail(&self) -> Tail {
        let mut text = Vec::new();
        for (number, row) in self.rows.iter().enumerate() {
            if number > 0 {
                text.push(b'\n');
            }
            text.extend_from_slice(&row.text);
        }
        text.extend_from_slice(&self.escape);
        Tail { text, is_bar: self.rows.iter().any(|row| row.is_bar) }
    }

    /// How much of what is held back stands: all but a bar that is still being drawn.
    #[must_use]
    pub(crate) fn drawn(&self) -> usize {
        let rows: usize = self.rows.iter().map(|row| row.text.len() + 1).sum();
        match self.rows.back() {
            Some(last) if last.is_bar => rows - 1 - last.text.len(),
            _ => rows - 1 + self.escape.len(),
        }
    }

    /// The end of a line whose beginning is out already.
    fn pass_on(&mut self, bytes: &[u8], out: &mut impl FnMut(&[u8])) -> usize {
        let end = memchr::memchr(b'\n', bytes);
        self.overlong = end.is_none();
        let taken = end.map_or(bytes.len(), |end| end + 1);
        out(&bytes[..taken]);
        taken
    }

    /// Text up to the next control character; whole lines at once where none of them can change any more.
    fn write_run(&mut self, bytes: &[u8], out: &mut impl FnMut(&[u8])) -> usize {
        let end = memchr::memchr3(b'\r', BACKSPACE, ESCAPE, bytes).unwrap_or(bytes.len());
        let is_plain = self.rows.len() == 1 && !self.rows[0].is_bar && self.next == Next::Appends;
        if is_plain && let Some(last) = memchr::memrchr(b'\n', &bytes[..end]) {
            out(&self.rows[0].text);
            self.rows[0].text.clear();
            out(&bytes[..=last]);
            return last + 1;
        }
        let end = memchr::memchr(b'\n', &bytes[..end]).unwrap_or(end);
        self.write(&bytes[..end], out);
        end
    }

    /// Text without control characters.
    fn write(&mut self, text: &[u8], out: &mut impl FnMut(&[u8])) {
        if self.next != Next::Appends {
            self.next = Next::Appends;
            let row = &mut self.rows[self.at];
            row.is_bar = true;
            row.text.clear();
        }
        if self.rows[self.at].text.len() + text.len() <= MAX_ROW {
            self.rows[self.at].text.extend_from_slice(text);
            return;
        }
        self.at = self.rows.len() - 1;
        self.commit(self.rows.len(), out);
        out(text);
        self.overlong = true;
    }

    /// Lets go of the first `count` rows, with a newline after each but the last of all.
    fn commit(&mut self, count: usize, out: &mut impl FnMut(&[u8])) {
        for _ in 0..count {
            let Some(row) = self.rows.pop_front() else { break };
            out(&row.text);
            if !self.rows.is_empty() {
                out(b"\n");
            }
        }
        self.at = self.at.saturating_sub(count);
        if self.rows.is_empty() {
            self.rows.push_back(Row::default());
        }
    }

    fn end_line(&mut self, out: &mut impl FnMut(&[u8])) {
        let explicit = std::mem::replace(&mut self.next, Next::Appends) == Next::Replaces;
        if self.at + 1 < self.rows.len() {
            self.at += 1;
            self.next = Next::ReplacesOther;
            return;
        }
        let row = &mut self.rows[self.at];
        if explicit && !row.is_bar {
            row.text.push(b'\r');
        }
        let is_bar = row.is_bar;
        self.rows.push_back(Row::default());
        self.at += 1;
        let excess = if is_bar { self.rows.len().saturating_sub(MAX_ROWS) } else { self.rows.len() - 1 };
        self.commit(excess, out);
    }

    fn carriage_return(&mut self) {
        self.next = Next::Replaces;
        let row = &mut self.rows[self.at];
        // How bars are wiped: over with spaces, and back.
        if row.is_bar && row.text.iter().all(|byte| *byte == b' ') {
            row.text.clear();
        }
    }

    /// Takes the last character away: a terminal's cursor steps back, and what is written next lies over it.
    fn backspace(&mut self) {
        if self.next == Next::Appends {
            let row = &mut self.rows[self.at];
            while row.text.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
        }
    }

    fn continue_escape(&mut self, byte: u8, out: &mut impl FnMut(&[u8])) {
        self.escape.push(byte);
        match self.escape.as_slice() {
            [_, b'['] => {}
            [_, b'[', .., b'0'..=b'?'] if self.escape.len() < MAX_ESCAPE => {}
            [_, b'[', .., b'A'] => {
                self.move_up();
                self.escape.clear();
            }
            [_, b'[', .., b'K'] => self.erase(),
            _ => {
                let sequence = std::mem::take(&mut self.escape);
                // Not a sequence, perhaps a control character: it has its own meaning.
                let (last, before) = sequence.split_last().unwrap_or((&0, &[]));
                if *last < b' ' {
                    self.write(before, out);
                    self.push(&[*last], out);
                } else {
                    self.write(&sequence, out);
                }
            }
        }
    }

    fn parameter(&self, missing: usize) -> usize {
        let digits = &self.escape[2..self.escape.len() - 1];
        std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(missing)
    }

    fn move_up(&mut self) {
        let steps = self.parameter(1).max(1);
        self.at = self.at.saturating_sub(steps);
        self.next = Next::Appends;
    }

    fn erase(&mut self) {
        let whole = self.parameter(0) == 2;
        self.escape.clear();
        let row = &mut self.rows[self.at];
        if whole || self.next != Next::Appends {
            row.is_bar = true;
            row.text.clear();
        }
    }
}

/// What is left of `output` as a whole.
#[must_use]
pub(crate) fn settled(output: &[u8]) -> Vec<u8> {
    let mut screen = Screen::default();
    let mut text = Vec::with_capacity(output.len());
    screen.push(output, &mut |bytes| text.extend_from_slice(bytes));
    text.extend(screen.tail().text);
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(chunks: &[&[u8]]) -> String {
        let mut screen = Screen::default();
        let mut text = Vec::new();
        for chunk in chunks {
            screen.push(chunk, &mut |bytes| text.extend_from_slice(bytes));
        }
        text.extend(screen.tail().text);
        String::from_utf8(text).expect("text")
    }

    #[test]
    fn what_a_terminal_would_leave() {
        let cases: &[(&str, &str)] = &[
            ("plain\nlines\n\nand a rest", "plain\nlines\n\nand a rest"),
            ("10%\r20%\r100%\ndone\n", "100%\ndone\n"),
            ("\r  0%|   |\r 50%|##  |\r100%|####|\n", "100%|####|\n"),
            ("working\r       \rdone\n", "done\n"),
            ("bar\r   \r", ""),
            ("50%\r", "50%"),
            ("a,b\r\nc,d\r\n", "a,b\r\nc,d\r\n"),
            ("1\r2\r\nnext", "2\nnext"),
            ("|\u{8}/\u{8}-\u{8} \u{8}ok", "ok"),
            ("1/10\u{8}\u{8}\u{8}\u{8}\r2/10\n", "2/10\n"),
            ("ä\u{8}ö", "ö"),
            ("long text\r\u{1b}[Kshort\n", "short\n"),
            ("long text\u{1b}[2K\rshort\n", "short\n"),
            ("\u{1b}[31mred\u{1b}[0m\n", "\u{1b}[31mred\u{1b}[0m\n"),
            ("\u{1b}]8;;x\u{7}link\n", "\u{1b}]8;;x\u{7}link\n"),
            ("never ended \u{1b}[3", "never ended \u{1b}[3"),
            ("above\n\u{1b}[Ax\n", "above\nx\n"),
            // Nested tqdm: the outer bar, then the inner one below it, again and again; a line of text after both.
            ("\router 0\n\rinner 0\u{1b}[A\n\rinner 9\u{1b}[A\router 1\n\rinner 5\u{1b}[A", "outer 1\ninner 5"),
            ("\router 0\n\rinner 0\u{1b}[A\router 9\n\n\ntext\n", "outer 9\ninner 0\n\ntext\n"),
        ];
        for (written, left) in cases {
            assert_eq!(shown(&[written.as_bytes()]), *left, "{written:?}");
            let single: Vec<&[u8]> = written.as_bytes().chunks(1).collect();
            assert_eq!(shown(&single), *left, "{written:?} byte by byte");
        }
    }

    #[test]
    fn a_line_too_long_to_be_a_bar_goes_through_with_its_carriage_returns() {
        let line = format!("{}\rend\nbar 1\rbar 2\n", "x".repeat(3 * MAX_ROW));
        assert_eq!(shown(&[line.as_bytes()]), line.replace("bar 1\r", ""));
    }

    proptest! {
        #[test]
        fn memory_is_bounded_and_plain_output_is_left_alone(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..40),
            plain in "[ -~\n]{0,9000}",
        ) {
            let mut screen = Screen::default();
            let mut written = 0;
            for chunk in &chunks {
                screen.push(chunk, &mut |bytes| written += bytes.len());
                prop_assert!(screen.tail().text.len() <= MAX_ROWS * (MAX_ROW + 2) + MAX_ESCAPE);
            }
            prop_assert!(written <= chunks.concat().len() + 1);
            let pieces: Vec<&[u8]> = plain.as_bytes().chunks(700).collect();
            prop_assert_eq!(shown(&pieces), plain);
        }

        #[test]
        fn how_output_is_cut_into_chunks_does_not_matter(
            parts in proptest::collection::vec(
                prop_oneof![Just("\r"), Just("\n"), Just("\u{8}"), Just("\u{1b}[A"), Just("\u{1b}[K"), Just("\u{1b}[1m"),
                            Just("x"), Just("some text"), Just("ä")], 0..60),
            cut in 1_usize..7,
        ) {
            let whole = parts.concat();
            let pieces: Vec<&[u8]> = whole.as_bytes().chunks(cut).collect();
            prop_assert_eq!(shown(&pieces), shown(&[whole.as_bytes()]));
        }
    }
}
