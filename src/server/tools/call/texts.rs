//! Texts of replies: parts under titles, and lengths that clients accept.
//!
//! Runs in: server. Pure.

use std::fmt::Write as _;

/// Most bytes of JSON in a reply, structured content and text together: official clients refuse an event above 1 MiB.
pub(crate) const MAX_REPLY: usize = 900_000;

/// Most bytes of a text for a model: clients cut or store away what is longer (Claude Code: 25,000 tokens).
pub(crate) const MOST_SHOWN: usize = 50_000;

/// A part of the text, under a title.
pub(crate) fn section(text: &mut String, title: &str, body: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let _ = write!(text, "--- {title} ---\n{body}");
}

/// Shortens texts that a reply holds twice, structured and shown, until it stays below [`MAX_REPLY`].
pub(crate) fn fit_texts(texts: &mut [&mut String]) {
    let mut keep = 200_000;
    while 2 * texts.iter().map(|text| json_length(text)).sum::<usize>() > MAX_REPLY && keep > 100 {
        texts.iter_mut().for_each(|text| shorten(text, keep));
        keep /= 2;
    }
}

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
