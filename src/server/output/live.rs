//! New output of a running cell, on its way to a client that asked for progress.
//!
//! Runs in: server. Filled by the session's task (through `capture.rs`), emptied by the call (`tools/run.rs`). Holds a
//! bounded amount: what the client is too slow for is left out of the messages, not of the reply.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::screen::Tail;

/// Most bytes of new output in one message.
const MAX_MESSAGE: usize = 8 << 10;

/// Which of a cell's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// The way from one cell to one client.
#[derive(Debug, Default)]
pub(crate) struct Live {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What is new and cannot change any more, in the order of its arrival.
    news: VecDeque<(Stream, Vec<u8>)>,
    held: usize,
    left_out: u64,
    tails: [Tail; 2],
    /// What the last message said of each tail.
    shown: [Vec<u8>; 2],
}

impl Live {
    /// Notes output that cannot change any more.
    pub(crate) fn add(&self, stream: Stream, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.state.lock().add(stream, bytes);
        }
    }

    /// Notes the lines that may still change, and wakes the waiting task.
    pub(crate) fn settle(&self, stream: Stream, tail: Tail) {
        self.state.lock().tails[stream as usize] = tail;
        self.changed.notify_one();
    }

    /// Waits for something new. Cancel-safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What is new since the last call, as text; a bar comes whole, in its present state.
    #[must_use]
    pub(crate) fn take(&self) -> Option<String> {
        self.state.lock().take()
    }
}

impl State {
    fn add(&mut self, stream: Stream, bytes: &[u8]) {
        match self.news.back_mut() {
            Some((last, text)) if *last == stream => text.extend_from_slice(bytes),
            _ => self.news.push_back((stream, bytes.to_vec())),
        }
        self.held += bytes.len();
        while self.held > MAX_MESSAGE {
            let Some((stream, text)) = self.news.front_mut() else { break };
            let excess = (self.held - MAX_MESSAGE).min(text.len());
            // What is left out can no longer be compared with what was shown.
            self.shown[*stream as usize].clear();
            text.drain(..excess);
            self.held -= excess;
            self.left_out += excess as u64;
            if text.is_empty() {
                self.news.pop_front();
            }
        }
    }

    fn take(&mut self) -> Option<String> {
        let mut tails = self.tails.clone();
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.leave_out_shown(stream, &mut tails[stream as usize]);
        }
        let mut text: Vec<u8> = Vec::new();
        for (_, bytes) in self.news.drain(..) {
            text.extend_from_slice(&bytes);
        }
        for tail in tails {
            if tail.is_bar && !tail.text.is_empty() && text.last().is_some_and(|last| *last != b'\n') {
                text.push(b'\n');
            }
            text.extend_from_slice(&tail.text);
        }
        self.held = 0;
        let left_out = std::mem::take(&mut self.left_out);
        self.shown = self.tails.clone().map(|tail| tail.text);
        if text.is_empty() {
            return None;
        }
        let text = String::from_utf8_lossy(&text);
        Some(if left_out > 0 {
            format!("[... {left_out} bytes left out of this message ...]\n{text}")
        } else {
            text.into_owned()
        })
    }

    /// Takes away from the beginning of a stream's news and tail what the last message had of it already.
    fn leave_out_shown(&mut self, stream: Stream, tail: &mut Tail) {
        let shown = &self.shown[stream as usize];
        let mut now: Vec<u8> = Vec::new();
        for (of, bytes) in &self.news {
            if *of == stream {
                now.extend_from_slice(bytes);
            }
        }
        now.extend_from_slice(&tail.text);
        let Some(rest) = now.strip_prefix(shown.as_slice()) else { return };
        // A bar that grew is another text, which happens to begin alike.
        if tail.is_bar && !(rest.is_empty() || rest[0] == b'\n') {
            return;
        }
        let mut left = shown.len();
        for (_, bytes) in self.news.iter_mut().filter(|(of, _)| *of == stream) {
            let known = left.min(bytes.len());
            bytes.drain(..known);
            left -= known;
        }
        tail.text.drain(..left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(text: &str, is_bar: bool) -> Tail {
        Tail { text: text.into(), is_bar }
    }

    #[test]
    fn a_line_in_pieces_is_told_once() {
        let live = Live::default();
        live.settle(Stream::Stdout, tail("loading ", false));
        assert_eq!(live.take().as_deref(), Some("loading "));
        assert_eq!(live.take(), None, "nothing new");
        live.add(Stream::Stdout, b"loading ");
        live.add(Stream::Stdout, b"done\n");
        live.settle(Stream::Stdout, tail("ne", false));
        assert_eq!(live.take().as_deref(), Some("done\nne"));
        live.settle(Stream::Stdout, tail("next", false));
        assert_eq!(live.take().as_deref(), Some("xt"));
    }

    #[test]
    fn a_bar_is_told_whole_whenever_it_has_changed() {
        let live = Live::default();
        for state in ["#", "##", "###"] {
            live.settle(Stream::Stderr, tail(state, true));
            assert_eq!(live.take().as_deref(), Some(state));
            assert_eq!(live.take(), None);
        }
        live.settle(Stream::Stderr, tail("###\n", true));
        assert_eq!(live.take().as_deref(), Some("\n"));
    }

    #[test]
    fn both_streams_keep_their_order() {
        let live = Live::default();
        live.add(Stream::Stdout, b"one\n");
        live.add(Stream::Stderr, b"two\n");
        live.add(Stream::Stdout, b"three\n");
        live.settle(Stream::Stdout, tail("four", false));
        live.settle(Stream::Stderr, tail("50%", true));
        assert_eq!(live.take().as_deref(), Some("one\ntwo\nthree\nfour\n50%"));
    }

    #[test]
    fn a_flood_leaves_its_end_and_a_count() {
        let live = Live::default();
        for number in 0..10_000 {
            live.add(Stream::Stdout, format!("{number}\n").as_bytes());
            assert!(live.state.lock().held <= MAX_MESSAGE);
        }
        let message = live.take().expect("news");
        assert!(message.len() < MAX_MESSAGE + 100 && message.ends_with("\n9999\n"), "{message}");
        assert!(message.starts_with("[... 40698 bytes left out"), "{message}");
    }
}
