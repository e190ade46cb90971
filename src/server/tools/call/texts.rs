//! Texts of replies: parts under titles, and lengths that clients accept.
//!
//! Runs in: server. Pure.

use std::{fmt::Write as _, io};

use serde::Serialize;

/// Most bytes of JSON in a reply, structured content and text together: official clients refuse an event above 1 MiB.
pub(crate) const MAX_REPLY: usize = 900_000;

/// Most bytes of a text for a model: clients cut or store away what is longer (Claude Code: 25,000 tokens).
pub(crate) const MOST_SHOWN: usize = 50_000;

/// Most tokens of such a text (Claude Code, MAX_MCP_OUTPUT_TOKENS, 2026-11).
const MOST_TOKENS: usize = 25_000;

/// Shortens a text for a model to head and tail, until it has at most `most` bytes and is no longer than a client takes
/// in tokens.
pub(crate) fn fit_model(text: &mut String, most: usize) {
    shorten(text, most);
    // There are never more tokens than bytes. A text that may be longer than usual was asked for.
    while most <= MOST_SHOWN && text.len() > MOST_TOKENS {
        let tokens = tokens(text);
        if tokens <= MOST_TOKENS {
            break;
        }
        let share = MOST_TOKENS * 100 / tokens;
        shorten(text, (text.len() / 100 * share).saturating_sub(100));
    }
}

/// About as many tokens as a text has, rather too many: words are cut after four letters and at capitals, digits into threes, one
/// blank belongs to the word behind it, and each other sign or character beyond ASCII is one.
fn tokens(text: &str) -> usize {
    let (mut count, mut last, mut length) = (0, 0, 0);
    for letter in text.chars() {
        let (kind, most) = match letter {
            'a'..='z' => (1, 4),
            'A'..='Z' => (2, 4),
            '0'..='9' => (3, 3),
            ' ' => (4, 16),
            _ => (0, 1),
        };
        length = if kind == last && length < most { length + 1 } else { 1 };
        count += usize::from(length == if letter == ' ' { 2 } else { 1 });
        last = kind;
    }
    count
}

/// A part of the text, under a title.
pub(crate) fn section(text: &mut String, title: &str, body: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let _ = write!(text, "--- {title} ---\n{body}");
}

/// Shortens texts that a reply holds twice, structured and shown, until it stays below [`MAX_REPLY`].
pub(crate) fn fit_texts(texts: &mut [&mut String]) {
    fit_within(texts, MAX_REPLY);
}

/// The same until it stays below `most`, beside pictures say.
pub(crate) fn fit_within(texts: &mut [&mut String], most: usize) {
    let mut keep = 200_000;
    while 2 * texts.iter().map(|text| json_length(text)).sum::<usize>() > most && keep > 100 {
        texts.iter_mut().for_each(|text| shorten(text, keep));
        keep /= 2;
    }
}

/// Bytes of JSON that a value comes to, without making them.
pub(crate) fn size_of_json(value: &impl Serialize) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

/// The same of a text, without its quotes.
pub(crate) fn json_length(text: &str) -> usize {
    text.bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
            0..=0x1f => 6,
            _ => 1,
        })
        .sum()
}

pub(crate) fn shorten(text: &mut String, keep: usize) {
    if text.len() <= keep {
        return;
    }
    let head = text.floor_char_boundary(keep / 2);
    let tail = text.ceil_char_boundary(text.len() - keep / 2);
    let left_out = tail - head;
    let shorter = format!("{}\n[... {left_out} bytes left out of this reply ...]\n{}", &text[..head], &text[tail..]);
    *text = shorter;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_for_a_model_has_head_and_tail_within_bytes_and_tokens() {
        let fitted = |text: String| {
            let mut text = text;
            fit_model(&mut text, MOST_SHOWN);
            text
        };
        let prose = fitted("plain words and more of them ".repeat(1700));
        assert!(!prose.contains("left out"), "{}", prose.len());
        let numbers: String = (0..20_000).map(|n| format!("{n} 0.{n}\n")).collect();
        for dense in [numbers, "漢字\n".repeat(60_000), "!?".repeat(90_000), "aB3".repeat(50_000)] {
            let tail = dense.ceil_char_boundary(dense.len() - 6);
            let (head, tail) = (dense[..6].to_owned(), dense[tail..].to_owned());
            let shown = fitted(dense);
            assert!(shown.len() <= MOST_SHOWN + 100 && tokens(&shown) <= MOST_TOKENS, "{} bytes", shown.len());
            assert!(tokens(&shown) > MOST_TOKENS / 2, "no shorter than it must be: {}", tokens(&shown));
            assert!(shown.contains("left out") && shown.starts_with(&head) && shown.ends_with(&tail));
        }
        assert_eq!(tokens("hello world"), 4);
        let mut asked_for = "漢字\n".repeat(60_000);
        fit_model(&mut asked_for, 400_000);
        assert!(asked_for.len() > 390_000, "who allows more gets more");
    }
}
