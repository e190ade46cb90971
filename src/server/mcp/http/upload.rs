//! `POST /files/upload`: one file in the multipart field `file`, streamed into `uploads/`.
//!
//! Runs in: server; a blocking thread writes what this hands over, never more than a few pieces ahead of the disk.
//!
//! The name is the client's, cleaned (`files/receive.rs`); a file that has it is replaced, whole, and the reply says so.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{
        Multipart, State,
        multipart::{Field, MultipartError, MultipartRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    Shelf, bodies,
    failures::{failure, refusal},
};
use crate::server::{
    mcp::identity::Known,
    workspace::{
        handle::{FileError, Files},
        receive::{Part, Received},
        uri,
    },
};

/// The field that holds the file.
const FIELD: &str = "file";
/// Pieces between the network and the disk.
const AHEAD: usize = 4;
/// What the form around a file may take.
pub(crate) const FORM: u64 = 64 << 10;

/// Why nothing was saved.
#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error("failed to read the form: {0}")]
    Form(#[from] MultipartError),
    #[error("the form has no field `file`: send the file as multipart/form-data, curl -F file=@NAME")]
    NoFile,
    #[error("field `file` has no filename: send it as a file, curl -F file=@NAME")]
    NoName,
    #[error("the form has more than one field `file`: send one file at a time")]
    Several,
    #[error("the file has more than {0} bytes, the most this server takes (--max-upload)")]
    TooLarge(u64),
    #[error(transparent)]
    File(#[from] FileError),
}

pub(crate) async fn upload(
    State(shelf): State<Arc<Shelf>>,
    headers: HeaderMap,
    known: Option<Extension<Known>>,
    form: Result<Multipart, MultipartRejection>,
) -> Response {
    // What would be refused at its end is refused before it begins.
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > shelf.max_upload.saturating_add(FORM)) {
        return UploadError::TooLarge(shelf.max_upload).into_response();
    }
    if let Err(error) = shelf.has_room(known.as_ref()) {
        return refusal(StatusCode::INSUFFICIENT_STORAGE, &error.to_string());
    }
    let files = match shelf.files(known) {
        Ok(files) => files,
        Err(error) => return failure(&error),
    };
    let taken = match form {
        Ok(form) => take(&shelf, &files, form).await,
        Err(_) => Err(UploadError::NoFile),
    };
    match taken {
        Ok(received) => shown(&files, received),
        Err(error) => error.into_response(),
    }
}

/// Takes the file out of the form. It gets its name when the whole form has arrived.
async fn take(shelf: &Shelf, files: &Files, mut form: Multipart) -> Result<Received, UploadError> {
    while let Some(field) = form.next_field().await? {
        if field.name() != Some(FIELD) {
            continue;
        }
        let name = field.file_name().ok_or(UploadError::NoName)?.to_owned();
        let (parts, incoming) = mpsc::channel(AHEAD);
        let files = files.clone();
        let writing = tokio::task::spawn_blocking(move || files.receive(&name, incoming));
        let mut given = hand_over(field, &parts, shelf.max_upload).await;
        if given.is_ok() {
            given = only_one(&mut form).await;
        }
        if given.is_ok() {
            // Fails when the writer has given up; it tells why.
            let _ = parts.send(Part::End).await;
        }
        drop(parts);
        let written = writing.await.map_err(FileError::Lost)?;
        return match given {
            Ok(()) => Ok(written?),
            Err(error) => Err(error),
        };
    }
    Err(UploadError::NoFile)
}

/// Gives the pieces to the writer, until it has all of them or has given up.
async fn hand_over(mut field: Field<'_>, parts: &mpsc::Sender<Part>, most: u64) -> Result<(), UploadError> {
    let mut size = 0;
    while let Some(bytes) = field.chunk().await? {
        size += bytes.len() as u64;
        if size > most {
            return Err(UploadError::TooLarge(most));
        }
        if parts.send(Part::Data(bytes)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads what comes after the file.
async fn only_one(form: &mut Multipart) -> Result<(), UploadError> {
    while let Some(field) = form.next_field().await? {
        if field.name() == Some(FIELD) {
            return Err(UploadError::Several);
        }
    }
    Ok(())
}

fn shown(files: &Files, received: Received) -> Response {
    let Received { name, written, replaced } = received;
    let uri = uri::of(files.root(), &written.path);
    let full_path = written.full_path.to_string_lossy();
    Json(json!({
        "filename": name,
        "path": written.path,
        "full_path": full_path,
        "size": written.size,
        "replaced": replaced,
        "uri": uri,
    }))
    .into_response()
}

impl IntoResponse for UploadError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::File(FileError::NotAFile { .. }) => StatusCode::CONFLICT,
            Self::File(error) => return failure(error),
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Form(error) if bodies::is_too_slow(error) => StatusCode::REQUEST_TIMEOUT,
            Self::Form(error) => error.status(),
            Self::NoFile | Self::NoName | Self::Several => StatusCode::BAD_REQUEST,
        };
        refusal(status, &self.to_string())
    }
}
