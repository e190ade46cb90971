//! Errors of the routes for files, as HTTP says them: a status, and the words as JSON.
//!
//! Runs in: server. Pure.

use std::io::ErrorKind;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::server::workspace::handle::FileError;

/// A refusal in words.
pub(crate) fn refusal(status: StatusCode, words: &str) -> Response {
    (status, Json(json!({ "error": words }))).into_response()
}

/// A file that cannot be had or made.
pub(crate) fn failure(error: &FileError) -> Response {
    refusal(status(error), &error.to_string())
}

fn status(error: &FileError) -> StatusCode {
    match error {
        // Outside counts as a mistake of the caller, not as something that is not there.
        FileError::Io { source, .. } => match source.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => StatusCode::NOT_FOUND,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StatusCode::FORBIDDEN,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            ErrorKind::InvalidFilename | ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
            // Links that go round in circles have no kind of error of their own yet.
            _ if source.raw_os_error() == Some(libc::ELOOP) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        },
        FileError::Lost(_) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}
