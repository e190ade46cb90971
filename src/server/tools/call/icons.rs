//! The sign of each family of tools, for clients that show one.
//!
//! Runs in: server. Pure. A picture of a few letters within its address: nothing is loaded, and `tools/list` stays small.

use rmcp::model::Icon;

/// A family, and its shape on a square of 8 by 8.
const SHAPES: [(&str, &str); 14] = [
    ("run", "M1 0l6 4-6 4z"),
    ("kept", "M1 0l6 4-6 4z"),
    ("variables", "M0 1h8v2H0zM0 5h8v2H0z"),
    ("lookup", "M0 1h8v2H0zM0 5h8v2H0z"),
    ("lifecycle", "M0 1h8v6H0z"),
    ("checkpoints", "M2 0h4v8L4 6 2 8z"),
    ("saved", "M2 0h4v8L4 6 2 8z"),
    ("branches", "M3 8V4L0 0h2l2 3 2-3h2L5 4v4z"),
    ("health", "M3 0h2v3h3v2H5v3H3V5H0V3h3z"),
    ("place", "M4 0l4 4H7v4H1V4H0z"),
    ("files", "M1 0h4l2 2v6H1z"),
    ("scripts", "M1 0h4l2 2v6H1z"),
    ("packages", "M4 0l4 2v4L4 8 0 6V2z"),
    ("notebooks", "M0 0h2v8H0zM3 0h5v8H3z"),
];

/// The sign of the family that a function is of, as the table of tools names it: `files::read`.
pub(super) fn of(function: &str) -> Option<Icon> {
    let family = function.split("::").next()?.trim();
    let (_, shape) = SHAPES.iter().find(|(name, _)| *name == family)?;
    let shape = shape.replace(' ', "%20");
    Some(Icon::new(format!(
        "data:image/svg+xml,%3Csvg%20xmlns='http://www.w3.org/2000/svg'%20viewBox='0,0,8,8'%3E\
         %3Cpath%20d='{shape}'/%3E%3C/svg%3E"
    )))
}
