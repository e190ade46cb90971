//! Numbers of JSON that `serde_json` would change: they travel as marked strings and are written as they were.
//!
//! Runs in: server. Pure. Two uses: the arguments of `run_notebook` (integers beyond 64 bits, and what Python writes for
//! floats that are no numbers), and notebooks, where every number but a small integer stays letter by letter.

use std::borrow::Cow;

use serde_json::Value;

/// How a marked string begins: a private-use character, and a name.
const MARK: &str = "\u{f8ff}forkpy-number:";
/// Integers of fewer digits are the same in `serde_json`.
const SMALL: usize = 18;
/// What Python writes, and reads, beside JSON's numbers.
const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// Which numbers are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Those that no number of `serde_json` has room for.
    Impossible,
    /// All that might be written in other letters.
    Letters,
}

/// JSON text in which the numbers to keep are marked strings.
#[must_use]
pub(crate) fn mark(text: &str, keep: Keep) -> Cow<'_, str> {
    let mut marked = String::new();
    let mut done = 0;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_string(bytes, at + 1),
            b'-' | b'0'..=b'9' | b'N' | b'I' => {
                let end = end_of_number(bytes, at);
                let number = &text[at..end];
                if must_be_marked(number, keep) {
                    marked.push_str(&text[done..at]);
                    marked.push('"');
                    marked.push_str(MARK);
                    marked.push_str(number);
                    marked.push('"');
                    done = end;
                }
                at = end.max(at + 1);
            }
            _ => at += 1,
        }
    }
    if done == 0 {
        return Cow::Borrowed(text);
    }
    marked.push_str(&text[done..]);
    Cow::Owned(marked)
}

fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(found) = memchr::memchr2(b'"', b'\\', &bytes[at.min(bytes.len())..]) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

fn end_of_number(bytes: &[u8], at: usize) -> usize {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
    at + bytes[at..].iter().take_while(|byte| is_part(byte)).count()
}

fn must_be_marked(number: &str, keep: Keep) -> bool {
    if WORDS.contains(&number) {
        return true;
    }
    let digits = number.strip_prefix('-').unwrap_or(number);
    let is_integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_integer {
        // `-0` is an integer for Python, and a float for serde.
        let fits = number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
        return match keep {
            Keep::Impossible => !fits && is_number(number),
            Keep::Letters => (digits.len() > SMALL || number == "-0") && is_number(number),
        };
    }
    is_number(number) && (keep == Keep::Letters || number.parse::<f64>().is_ok_and(f64::is_infinite))
}

/// As JSON has it: what is none is left for the parser to complain of.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit() {
        return false;
    }
    let (whole, exponent) = match digits.split_once(['e', 'E']) {
        Some((whole, exponent)) => (whole, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (digits, None),
    };
    let (whole, fraction) = match whole.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (whole, None),
    };
    [Some(whole), fraction, exponent]
        .into_iter()
        .flatten()
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The number that a marked string stands for.
#[must_use]
pub(crate) fn marked(text: &str) -> Option<&str> {
    text.strip_prefix(MARK).filter(|number| WORDS.contains(number) || is_number(number))
}

/// Reads JSON, Python's words for floats included, and keeps every number.
///
/// # Errors
/// When it is no JSON.
pub(crate) fn read(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(&mark(text, Keep::Letters))
}

/// JSON text with its numbers as they were.
#[must_use]
pub(crate) fn unmark(text: String) -> String {
    if memchr::memmem::find(text.as_bytes(), MARK.as_bytes()).is_none() {
        return text;
    }
    let begin = format!("\"{MARK}");
    let mut written = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find(&begin) {
        let number = &rest[at + 1..];
        let end = number.find('"').unwrap_or(number.len());
        match marked(&number[..end]) {
            Some(found) => {
                written.push_str(&rest[..at]);
                written.push_str(found);
                rest = &rest[at + 1 + (end + 1).min(number.len())..];
            }
            None => {
                written.push_str(&rest[..=at]);
                rest = number;
            }
        }
    }
    written.push_str(rest);
    written
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_would_change_is_marked() {
        let text = r#"{"a-1": [1, -2, 3.5, "NaN 1e999", "\"1e999", 18446744073709551615], "b": 18446744073709551616, "c": NaN, "d": -Infinity, "e": 1e400, "f": -9223372036854775809}"#;
        let parsed: Value = serde_json::from_str(&mark(text, Keep::Impossible)).expect("JSON");
        for (key, number) in [
            ("b", "18446744073709551616"),
            ("c", "NaN"),
            ("d", "-Infinity"),
            ("e", "1e400"),
            ("f", "-9223372036854775809"),
        ] {
            assert_eq!(parsed[key].as_str().and_then(marked), Some(number), "{key}");
        }
        assert_eq!(parsed["a-1"], serde_json::json!([1, -2, 3.5, "NaN 1e999", "\"1e999", 18446744073709551615_u64]));
    }

    #[test]
    fn what_is_no_json_stays_so() {
        for text in
            ["[01]", "[1.]", "[NaNs]", "[-]", "[+1]", "[0123456789012345678901]", "[Infinity1]", "[.5]", "[--1]"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_number_is_written_as_it_was_read(
            numbers in proptest::collection::vec("-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,25})?([eE][-+]?[0-9]{1,4})?", 1..9),
            words in "[ -~]{0,20}",
        ) {
            let text = format!("[{},{}]", numbers.join(","), Value::from(words));
            prop_assert_eq!(unmark(read(&text).expect("JSON").to_string()), text);
        }
    }
}
