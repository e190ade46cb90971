//! The log: to standard error, because standard output carries JSON-RPC and nothing else; and without secrets.
//!
//! Runs in: server. Every line goes through [`Discreet`], its source does not matter: this program, rmcp, or what they print of a
//! request. Hidden are the server's token, bearer tokens, the ids by which HTTP clients are known, and what stands before
//! the `@` of a URL.

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
    sync::OnceLock,
};

use crate::progress;
use tracing_subscriber::{EnvFilter, filter::ParseError};

/// What the server's own token is replaced with, and other secrets.
const HIDDEN: &str = "[hidden]";
/// An id keeps so much of itself that lines about the same client can be found.
const ID_SHOWN: usize = 4;
/// Lengths of the parts of a client's id.
const ID_PARTS: [usize; 5] = [8, 4, 4, 4, 12];

static TOKEN: OnceLock<String> = OnceLock::new();

/// Begins to log what `filter` lets through.
///
/// # Errors
/// When it is no filter.
pub(crate) fn to_stderr(filter: &str) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(|| Discreet)
        .init();
    Ok(())
}

/// Whether this can be a filter.
pub(crate) fn check(filter: &str) -> Result<(), ParseError> {
    EnvFilter::try_new(filter).map(drop)
}

/// From now on this token is hidden wherever it appears.
pub(crate) fn hide(token: &str) {
    let _ = TOKEN.set(token.to_owned());
}

/// Standard error without secrets. A line comes in one piece.
struct Discreet;

impl Write for Discreet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let text = discreet(&text, TOKEN.get().map(String::as_str));
        progress::aside(|| io::stderr().write_all(text.as_bytes()))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn discreet<'a>(text: &'a str, token: Option<&str>) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(text);
    if let Some(token) = token {
        // As it is, and as `{:?}` writes it, once and twice.
        let once = token.escape_default().to_string();
        let twice = once.escape_default().to_string();
        for form in [twice.as_str(), &once, token] {
            if text.contains(form) {
                text = Cow::Owned(text.replace(form, HIDDEN));
            }
        }
    }
    for (sign, hide) in SIGNS {
        if find(&text, sign, 0).is_some() {
            text = Cow::Owned(rewritten(&text, sign, *hide));
        }
    }
    if text.bytes().filter(|byte| *byte == b'-').nth(3).is_some() {
        text = Cow::Owned(without_ids(&text));
    }
    text
}

/// What a secret is recognised by, and which part of the rest of the line is one.
type Hide = fn(&str) -> Option<usize>;
const SIGNS: &[(&str, Hide)] = &[("bearer ", word), ("forkpy_client=", word), ("://", before_at)];

fn word(rest: &str) -> Option<usize> {
    let end = rest.find(|letter: char| letter.is_whitespace() || "\"'`,;)}]\\".contains(letter)).unwrap_or(rest.len());
    (end > 0).then_some(end)
}

fn before_at(rest: &str) -> Option<usize> {
    let end = rest.find(|letter: char| letter.is_whitespace() || "/?#\"'\\".contains(letter)).unwrap_or(rest.len());
    rest[..end].rfind('@')
}

fn find(text: &str, sign: &str, from: usize) -> Option<usize> {
    let (bytes, sign) = (text.as_bytes(), sign.as_bytes());
    bytes[from..].windows(sign.len()).position(|window| window.eq_ignore_ascii_case(sign)).map(|place| from + place)
}

fn rewritten(text: &str, sign: &str, hide: Hide) -> String {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    while let Some(place) = find(text, sign, done) {
        let begin = place + sign.len();
        out += &text[done..begin];
        done = begin;
        if let Some(length) = hide(&text[begin..]) {
            out += HIDDEN;
            done += length;
        }
    }
    out + &text[done..]
}

/// Shortens what looks as rmcp's ids of HTTP sessions do.
fn without_ids(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    let mut place = 0;
    while place < text.len() {
        match id_at(&text.as_bytes()[place..]) {
            Some(length) => {
                out += &text[done..place + ID_SHOWN];
                out += "…";
                place += length;
                done = place;
            }
            None => place += 1,
        }
    }
    out + &text[done..]
}

fn id_at(bytes: &[u8]) -> Option<usize> {
    let mut place = 0;
    for (index, length) in ID_PARTS.into_iter().enumerate() {
        if index > 0 {
            (bytes.get(place) == Some(&b'-')).then_some(())?;
            place += 1;
        }
        let part = bytes.get(place..place + length)?;
        part.iter().all(u8::is_ascii_hexdigit).then_some(())?;
        place += length;
    }
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_get_into_the_log() {
        for (text, expected) in [
            ("nothing here", "nothing here"),
            ("a sesam\"e b", "a [hidden] b"),
            (r#"code: "sesam\"e""#, r#"code: "[hidden]""#),
            ("Authorization: Bearer abc.def-1, x", "Authorization: Bearer [hidden], x"),
            ("\"bearer abc\" BEARER q", "\"bearer [hidden]\" BEARER [hidden]"),
            ("cookie: forkpy_client=0123; b", "cookie: forkpy_client=[hidden]; b"),
            ("https://me:pass@pypi.example/simple a@b", "https://[hidden]@pypi.example/simple a@b"),
            ("https://pypi.example/a@b", "https://pypi.example/a@b"),
            ("id=6f910fdf-d5ee-426e-b291-bd5ca3e0c442}", "id=6f91…}"),
            ("ü6f910fdf-d5ee-426e-b291-bd5ca3e0c44 x", "ü6f910fdf-d5ee-426e-b291-bd5ca3e0c44 x"),
        ] {
            assert_eq!(discreet(text, Some("sesam\"e")), expected, "{text}");
        }
    }
}
