//! Notebooks: the two tools, the format, its older versions, and pages of HTML.
//!
//! Runs in: server.

pub(crate) mod document;
mod gallery;
mod html;
mod markup;
pub(crate) mod tools;
mod upgrade;
mod whole;
