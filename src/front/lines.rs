//! Messages on their way, both directions: what is open, what is whole, and what the client is told when the server ends.
//!
//! Runs in: front. Pure: bytes in, bytes out.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::{
    attach::{GO_ON, HOLD},
    outline::Outline,
};

/// Most of a client's line that is kept to be read: introductions and cancellations are short.
const SHORT: usize = 64 << 10;
/// Most of a server's line that is held until it is whole; of a longer one the pieces go on as they come.
const MOST_HELD: usize = 1 << 20;
/// Buffers that grew beyond this are given back.
const KEEP: usize = 64 << 10;

/// The way from the client to the server.
#[derive(Debug, Default)]
pub(super) struct Up {
    line: Outline,
    begun: bool,
    /// The line so far, while it is short.
    text: Vec<u8>,
    /// Why the line does not go on, if it does not.
    skipped: Option<&'static str>,
    /// Ids of requests that are not answered.
    open: Vec<Vec<u8>>,
    /// What the client listens to: a new server must be asked for it again.
    standing: Vec<Standing>,
    /// Ids of the server's own requests that the client has not answered.
    asked: Vec<Vec<u8>>,
    /// Ids of requests that were made again for a new server.
    unheard: Vec<Vec<u8>>,
    initialize: Option<Opened>,
    initialized: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Opened {
    id: Vec<u8>,
    line: Vec<u8>,
}

/// A request that is to hold for as long as the connection does.
#[derive(Debug)]
struct Standing {
    id: Vec<u8>,
    /// It is open as long as it holds (`subscriptions/listen`); else it holds since it was answered.
    lasts: bool,
    line: Vec<u8>,
}

/// Most of them; a client has one or two.
const MOST_STANDING: usize = 1024;

/// What the client has said to open the connection, for a new server.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) id: Vec<u8>,
    pub(super) initialize: Vec<u8>,
    pub(super) initialized: Option<Vec<u8>>,
}

/// What becomes of a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Passed {
    On,
    Dropped,
    /// It is the end of a line that did not go on: what its sender is told.
    Refused(Vec<u8>),
}

#[derive(Deserialize)]
struct Cancelled<'a> {
    #[serde(borrow)]
    params: CancelledId<'a>,
}

#[derive(Deserialize)]
struct CancelledId<'a> {
    #[serde(borrow, rename = "requestId")]
    id: &'a RawValue,
}

/// A request about a resource.
#[derive(Deserialize)]
struct About {
    params: Resource,
}

#[derive(Deserialize)]
struct Resource {
    uri: String,
}

impl Up {
    pub(super) fn is_at_a_beginning(&self) -> bool {
        !self.begun
    }

    /// No answer is expected, in either direction; streams of events apart.
    pub(super) fn is_quiet(&self) -> bool {
        let lasts = |id: &Vec<u8>| self.standing.iter().any(|standing| standing.lasts && standing.id == *id);
        self.asked.is_empty() && self.open.iter().all(lasts)
    }

    /// What a new server is to be asked for. Answers to what was answered before are for no client.
    pub(super) fn standing(&mut self) -> Vec<u8> {
        let mut lines = Vec::new();
        for standing in &self.standing {
            if !standing.lasts {
                self.unheard.push(standing.id.clone());
            }
            lines.extend_from_slice(&standing.line);
            lines.push(b'\n');
        }
        lines
    }

    /// Requests without an answer.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// The line that begins, or has begun, does not go on.
    pub(super) fn skip(&mut self, why: &'static str) {
        self.skipped = Some(why);
    }

    /// A piece of one line, perhaps with its end.
    pub(super) fn add(&mut self, piece: &[u8]) -> Passed {
        self.begun = true;
        let (text, is_end) = match piece.split_last() {
            Some((b'\n', text)) => (text, true),
            _ => (piece, false),
        };
        self.line.add(text);
        if self.text.len() + text.len() <= SHORT {
            self.text.extend_from_slice(text);
        }
        if !is_end {
            return if self.skipped.is_some() { Passed::Dropped } else { Passed::On };
        }
        let line = std::mem::take(&mut self.line);
        let text = std::mem::take(&mut self.text);
        self.begun = false;
        match self.skipped.take() {
            Some(why) => match (line.method().is_some(), line.id()) {
                (true, Some(id)) => Passed::Refused(refusal(id, why)),
                _ => Passed::Dropped,
            },
            None => {
                self.passed(line, text);
                Passed::On
            }
        }
    }

    fn passed(&mut self, line: Outline, text: Vec<u8>) {
        match (line.method(), line.id()) {
            (Some("initialize"), Some(id)) => {
                self.initialize = Some(Opened { id: id.to_vec(), line: text });
                self.initialized = None;
            }
            (Some("notifications/initialized"), _) => self.initialized = Some(text),
            (Some(method @ ("resources/subscribe" | "subscriptions/listen")), Some(id))
                if self.standing.len() < MOST_STANDING =>
            {
                let lasts = method == "subscriptions/listen";
                self.standing.retain(|standing| standing.lasts || standing.line != text);
                self.standing.push(Standing { id: id.to_vec(), lasts, line: text });
            }
            (Some("resources/unsubscribe"), _) => {
                let uri = |line: &[u8]| serde_json::from_slice::<About>(line).ok().map(|about| about.params.uri);
                let gone = uri(&text);
                self.standing.retain(|standing| standing.lasts || uri(&standing.line) != gone);
            }
            (Some("notifications/cancelled"), _) => {
                if let Ok(cancelled) = serde_json::from_slice::<Cancelled<'_>>(&text) {
                    let id = cancelled.params.id.get().as_bytes();
                    self.open.retain(|open| open != id);
                    self.standing.retain(|standing| !standing.lasts || standing.id != id);
                }
            }
            (None, Some(id)) => self.asked.retain(|asked| asked != id),
            _ => {}
        }
        if line.method().is_some()
            && let Some(id) = line.into_id()
        {
            self.open.push(id);
        }
    }

    /// The server is gone. The client is told of each request that is open, and that its answers are not wanted any more.
    pub(super) fn server_ended(&mut self, words: &str, out: &mut Vec<u8>) {
        if self.begun {
            self.skipped = Some("the forkpy server ended before it had this message whole, so nothing was run");
        }
        for id in self.open.drain(..) {
            out.extend_from_slice(&refusal(&id, words));
        }
        for id in self.asked.drain(..) {
            out.extend_from_slice(br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"#);
            out.extend_from_slice(&id);
            out.extend_from_slice(b",\"reason\":\"the forkpy server has ended\"}}\n");
        }
    }

    /// Whether this is the answer to a request that was made again.
    fn take_unheard(&mut self, id: Option<&[u8]>) -> bool {
        let place = self.unheard.iter().position(|unheard| Some(unheard.as_slice()) == id);
        place.map(|place| self.unheard.swap_remove(place)).is_some()
    }

    /// How the client opened the connection, if it did.
    pub(super) fn opening(&self) -> Option<Opening> {
        let Opened { id, line } = self.initialize.as_ref()?;
        let whole = |text: &[u8]| [text, b"\n"].concat();
        Some(Opening { id: id.clone(), initialize: whole(line), initialized: self.initialized.as_deref().map(whole) })
    }
}

/// The way from the server to the client.
#[derive(Debug, Default)]
pub(super) struct Down {
    line: Outline,
    held: Vec<u8>,
    /// The line is so long that a part of it has gone on.
    flows: bool,
    /// The server has said that it is to be replaced, or that it is not.
    hold: Option<bool>,
}

impl Down {
    /// Whole lines go out, and requests that they answer are not open any more.
    pub(super) fn add(&mut self, mut bytes: &[u8], up: &mut Up, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |place| place + 1);
            let (piece, rest) = bytes.split_at(end);
            bytes = rest;
            let is_end = piece.ends_with(b"\n");
            self.line.add(if is_end { &piece[..piece.len() - 1] } else { piece });
            let is_word = |word: &'static [u8]| word.strip_prefix(self.held.as_slice()) == Some(piece);
            if !self.flows && (is_word(HOLD) || is_word(GO_ON)) {
                self.hold = Some(is_word(HOLD));
                self.held.clear();
                self.line = Outline::default();
                continue;
            }
            if is_end && !self.flows && self.line.is_answer() && up.take_unheard(self.line.id()) {
                self.held.clear();
                self.line = Outline::default();
                continue;
            }
            if is_end || self.flows {
                out.append(&mut self.held);
                out.extend_from_slice(piece);
            } else {
                self.held.extend_from_slice(piece);
                if self.held.len() > MOST_HELD {
                    self.flows = true;
                    out.append(&mut self.held);
                }
            }
            if is_end {
                self.flows = false;
                self.held.shrink_to(KEEP);
                let line = std::mem::take(&mut self.line);
                let is_answer = line.is_answer();
                if let Some(id) = line.into_id() {
                    match is_answer {
                        true => up.open.retain(|open| *open != id),
                        false => up.asked.push(id),
                    }
                }
            }
        }
    }

    pub(super) fn take_hold(&mut self) -> Option<bool> {
        self.hold.take()
    }

    pub(super) fn is_at_a_beginning(&self) -> bool {
        self.held.is_empty() && !self.flows
    }

    /// Nothing more comes: what was not whole is not passed on, and what had begun ends as a line of its own.
    pub(super) fn cut_off(&mut self, out: &mut Vec<u8>) {
        if self.flows {
            out.push(b'\n');
        }
        *self = Self::default();
    }
}

/// The answer to a request that no server will answer.
fn refusal(id: &[u8], words: &str) -> Vec<u8> {
    let mut line = br#"{"jsonrpc":"2.0","id":"#.to_vec();
    line.extend_from_slice(id);
    let error = serde_json::json!({ "code": -32000, "message": words });
    line.extend_from_slice(format!(",\"error\":{error}}}\n").as_bytes());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(lines: &[&str]) -> Up {
        let mut up = Up::default();
        for line in lines {
            assert_eq!(up.add(format!("{line}\n").as_bytes()), Passed::On);
        }
        up
    }

    #[test]
    fn what_is_open_is_answered_when_the_server_ends_and_nothing_else() {
        let mut up = up(&[
            r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            r#"{"jsonrpc":"2.0","id":"a","method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#,
        ]);
        let (mut down, mut out) = (Down::default(), Vec::new());
        down.add(b"{\"id\":0,\"result\":{}}\n{\"id\":5,\"method\":\"elicitation/create\"}\n{\"half", &mut up, &mut out);
        assert!(out.ends_with(b"create\"}\n"), "half a line stays here");
        out.clear();
        down.cut_off(&mut out);
        up.server_ended("gone", &mut out);
        let lines: Vec<serde_json::Value> =
            out.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!((&lines[0]["id"], &lines[0]["error"]["message"]), (&"a".into(), &"gone".into()));
        assert_eq!(lines[1]["params"]["requestId"], 5);
        let opening = up.opening().expect("it was opened");
        assert!(opening.initialize.ends_with(b"}\n") && opening.initialized.is_some());
    }

    #[test]
    fn a_line_that_had_begun_when_the_server_ended_is_refused_at_its_end() {
        let mut up = Up::default();
        assert_eq!(up.add(br#"{"id":7,"meth"#), Passed::On);
        up.server_ended("gone", &mut Vec::new());
        assert_eq!(up.add(br#"od":"tools/ca"#), Passed::Dropped);
        let Passed::Refused(reply) = up.add(b"ll\"}\n") else { panic!("it is refused") };
        assert!(String::from_utf8_lossy(&reply).contains("nothing was run"));
        assert_eq!(up.add(b"{\"id\":8,\"method\":\"ping\"}\n"), Passed::On);
    }

    #[test]
    fn a_long_line_flows_and_is_ended_when_it_is_torn() {
        let (mut up, mut down, mut out) = (Up::default(), Down::default(), Vec::new());
        down.add(b"{\"id\":1,\"result\":\"", &mut up, &mut out);
        for _ in 0..40 {
            down.add(&[b'x'; CHUNK], &mut up, &mut out);
        }
        assert!(out.len() > MOST_HELD);
        down.cut_off(&mut out);
        assert!(out.ends_with(b"x\n"));
    }

    #[test]
    fn what_a_client_listens_to_is_asked_for_again_and_answered_once() {
        let mut up = up(&[
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"a://b"}}"#,
            r#"{"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"a://c"}}"#,
            r#"{"jsonrpc":"2.0","id":3,"method":"subscriptions/listen","params":{}}"#,
            r#"{"jsonrpc":"2.0","id":4,"method":"resources/unsubscribe","params":{"uri":"a://c"}}"#,
        ]);
        let (mut down, mut out) = (Down::default(), Vec::new());
        assert!(!up.is_quiet());
        let answers = "{\"id\":1,\"result\":{}}\n{\"id\":2,\"result\":{}}\n{\"id\":4,\"result\":{}}\n";
        down.add(answers.as_bytes(), &mut up, &mut out);
        assert!(up.is_quiet() && out == answers.as_bytes(), "a stream of events is no answer that is awaited");
        // The word of the server may come in pieces, and no client sees it.
        out.clear();
        down.add(&HOLD[..5], &mut up, &mut out);
        assert_eq!((down.take_hold(), down.is_at_a_beginning()), (None, false));
        down.add(&HOLD[5..], &mut up, &mut out);
        assert_eq!((down.take_hold(), out.len()), (Some(true), 0));
        down.add(GO_ON, &mut up, &mut out);
        assert_eq!((down.take_hold(), out.len()), (Some(false), 0));
        let again = String::from_utf8(up.standing()).expect("text");
        assert!(again.contains("a://b") && again.contains("listen") && !again.contains("a://c"), "{again}");
        down.add(b"{\"id\":1,\"result\":{}}\n{\"id\":9,\"result\":{}}\n", &mut up, &mut out);
        assert_eq!(out, b"{\"id\":9,\"result\":{}}\n");
    }

    const CHUNK: usize = 32 << 10;
}
