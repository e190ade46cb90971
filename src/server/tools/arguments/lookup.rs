//! What clients may send to `code_completion` and `inspect_object`.
//!
//! Runs in: server. Pure.

use schemars::JsonSchema;
use serde::Deserialize;

use super::ToolError;

/// Longest code that is looked at, bytes; it travels in one frame.
const MAX_LOOKED_AT: usize = 400 << 10;

/// `code_completion`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct CodeCompletion {
    /// The code as far as it is written; it is not run.
    pub code: String,
    /// Where the cursor is: the number of characters (Unicode code points) before it.
    pub cursor_pos: u64,
    /// Session whose names are known; the active one when left out.
    pub session_id: Option<String>,
}

/// `inspect_object`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct InspectObject {
    /// The code that names the object; it is not run.
    pub code: String,
    /// Where the cursor is, in or behind the name or within the parentheses of its call: the number of characters
    /// (Unicode code points) before it.
    pub cursor_pos: u64,
    /// 0, or 1 for the source too. Default 0.
    pub detail_level: Option<u8>,
    /// Session to look in; the active one when left out.
    pub session_id: Option<String>,
}

/// The place of a cursor that lies in the code.
///
/// # Errors
/// When it does not, or the code is too long.
pub(crate) fn cursor(code: &str, cursor: u64) -> Result<u64, ToolError> {
    if code.len() > MAX_LOOKED_AT {
        let (size, most) = (code.len() >> 10, MAX_LOOKED_AT >> 10);
        return Err(ToolError::Argument(format!(
            "`code` has {size} KiB and may have {most}: send the part around the cursor"
        )));
    }
    let characters = code.chars().count() as u64;
    if cursor > characters {
        let words = format!("`cursor_pos` is {cursor} and `code` has {characters} characters");
        return Err(ToolError::Argument(words));
    }
    Ok(cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_counted_in_characters() {
        assert_eq!(cursor("😀.x", 3).expect("at the end"), 3);
        assert!(cursor("😀.x", 4).expect_err("beyond").to_string().contains("has 3 characters"));
        assert!(cursor(&"#".repeat(MAX_LOOKED_AT + 1), 0).expect_err("too long").to_string().contains("400"));
    }
}
