//! Notebooks: what a session has run, kept and written as one; and existing ones, read, run and written back.
//!
//! Runs in: server. Knows the notebook format (nbformat 4.5), no sessions and no files: `tools/notebooks.rs` brings them
//! together. What may be large is done on blocking threads by whoever calls.

pub mod document;
pub mod history;
pub mod html;
pub mod outputs;

pub use self::{
    document::{Document, NotebookError},
    history::{History, Recorded},
    outputs::Output,
};
