//! What a JSON-RPC message is, seen from outside: its id, its method, and whether it is whole.
//!
//! Runs in: server and front. Pure. For messages that are too large to be held, that are broken, or that are only passed on.

use serde_json::Value;

/// Longest id or method that is kept.
const MAX_ID: usize = 1 << 10;

/// What a JSON object has at its top level, found in one pass with little memory, from as many pieces as it comes in.
/// Stops at the first thing that cannot be JSON; what was seen before that stands.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// A string has just ended, and only punctuation may follow.
    after_string: bool,
    /// Top level: a value is being read, not a key.
    in_value: bool,
    /// Top level: the key or the id that is being read.
    token: Vec<u8>,
    /// Top level: the value that is being read is kept.
    keeps: Keeps,
    ids: usize,
    id: Option<Vec<u8>>,
    has_method: bool,
    method: Option<String>,
    answer: bool,
    state: Extent,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Keeps {
    #[default]
    Nothing,
    Id,
    Method,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Extent {
    #[default]
    Open,
    Complete,
    Broken,
}

impl Outline {
    /// Looks at the next piece.
    pub(crate) fn add(&mut self, mut bytes: &[u8]) {
        while let Some((byte, rest)) = bytes.split_first() {
            if self.state == Extent::Broken {
                return;
            }
            self.take(*byte);
            // Most of a message is text deep inside it, of which only the end matters.
            let is_plain = |byte: &u8| *byte >= b' ' && *byte != b'"' && *byte != b'\\';
            let skipped = if self.in_string && self.depth > 1 && !self.escaped {
                rest.iter().take_while(|byte| is_plain(byte)).count()
            } else {
                0
            };
            bytes = &rest[skipped..];
        }
    }

    /// A method and no id, in a whole object.
    pub(crate) fn is_notification(&self) -> bool {
        self.state == Extent::Complete && self.has_method && self.ids == 0
    }

    /// It has what only an answer has.
    pub(crate) fn is_answer(&self) -> bool {
        self.answer && !self.has_method
    }

    /// The method, as far as it is a short text.
    pub(crate) fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    /// The id as it was written, when it can be one: a number or a text, and short.
    pub(crate) fn id(&self) -> Option<&[u8]> {
        self.id.as_deref()
    }

    /// The same, to keep.
    pub(crate) fn into_id(self) -> Option<Vec<u8>> {
        self.id
    }

    fn take(&mut self, byte: u8) {
        if self.in_string {
            return self.take_in_string(byte);
        }
        let punctuation = matches!(byte, b',' | b':' | b'}' | b']');
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => return,
            _ if self.state == Extent::Complete || (self.after_string && !punctuation) => self.state = Extent::Broken,
            b'{' | b'[' => self.open(byte),
            b'}' | b']' => self.close(byte),
            b':' if self.depth == 1 && !self.in_value => self.end_key(),
            b',' if self.depth == 1 => self.end_value(),
            b',' | b':' if self.depth > 1 => {}
            b'"' if self.depth > 0 => {
                self.in_string = true;
                self.keep(byte);
            }
            b'0'..=b'9' | b'a'..=b'z' | b'E' | b'+' | b'-' | b'.' if self.depth > 0 => self.keep(byte),
            _ => self.state = Extent::Broken,
        }
        self.after_string = false;
    }

    fn take_in_string(&mut self, byte: u8) {
        self.keep(byte);
        if self.escaped {
            self.escaped = false;
        } else if byte == b'\\' {
            self.escaped = true;
        } else if byte == b'"' {
            self.in_string = false;
            self.after_string = true;
        } else if byte < b' ' {
            self.state = Extent::Broken;
        }
    }

    /// One byte more than [`MAX_ID`] is kept, by which [`Self::end_value`] knows that there were too many.
    fn keep(&mut self, byte: u8) {
        if self.depth == 1 && (self.keeps != Keeps::Nothing || !self.in_value) && self.token.len() <= MAX_ID {
            self.token.push(byte);
        }
    }

    fn open(&mut self, byte: u8) {
        match self.depth {
            0 if byte == b'[' => self.state = Extent::Broken,
            // An object is no id: what is kept must not look like one.
            1 => self.keep(byte),
            _ => {}
        }
        self.depth += 1;
    }

    fn close(&mut self, byte: u8) {
        match self.depth {
            0 => return self.state = Extent::Broken,
            1 if byte == b'}' => {
                self.end_value();
                self.state = Extent::Complete;
            }
            1 => self.state = Extent::Broken,
            _ => {}
        }
        self.depth -= 1;
    }

    fn end_key(&mut self) {
        // Through serde, because a key may be written with escapes.
        let key = serde_json::from_slice::<String>(&self.token).unwrap_or_default();
        self.token.clear();
        self.in_value = true;
        self.keeps = match key.as_str() {
            "id" => Keeps::Id,
            "method" => Keeps::Method,
            _ => Keeps::Nothing,
        };
        self.has_method |= key == "method";
        self.answer |= key == "result" || key == "error";
    }

    fn end_value(&mut self) {
        let value = || (self.token.len() <= MAX_ID).then(|| serde_json::from_slice(&self.token).ok()).flatten();
        match self.keeps {
            Keeps::Id => {
                let usable = self.ids == 0 && matches!(value(), Some(Value::Number(_) | Value::String(_)));
                self.id = usable.then(|| self.token.clone());
                self.ids += 1;
            }
            Keeps::Method => self.method = value().and_then(|value: Value| value.as_str().map(str::to_owned)),
            Keeps::Nothing => {}
        }
        self.token.clear();
        self.in_value = false;
        self.keeps = Keeps::Nothing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> Outline {
        let mut outline = Outline::default();
        for piece in text.as_bytes().chunks(3) {
            outline.add(piece);
        }
        outline
    }

    #[test]
    fn only_what_stands_at_the_top_counts() {
        let outline = seen(
            r#"{"params": {"id": 8, "text": "a\"b } \\", "method": "no"}, "id": "seven", "method": "tools/call"}"#,
        );
        assert_eq!((outline.id(), outline.method()), (Some(&br#""seven""#[..]), Some("tools/call")));
        assert!(!outline.is_notification() && !outline.is_answer());
        assert!(seen(r#"{"method": "notifications/initialized"}"#).is_notification());
        let answer = seen(r#"{"id": 3, "result": {"id": 4}}"#);
        assert_eq!((answer.is_answer(), answer.into_id()), (true, Some(b"3".to_vec())));
    }

    #[test]
    fn what_cannot_be_an_id_is_none() {
        for text in [r#"{"id": null}"#, r#"{"id": {"a": 1}}"#, r#"{"id": 1, "id": 2}"#, r#"{"id": [1]}"#] {
            assert_eq!(seen(text).id(), None, "{text}");
        }
    }
}
