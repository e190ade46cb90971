//! How clients of protocols up to 2025-11-25 opened their sessions: rmcp opens them again by it, in the program that this server
//! becomes.
//!
//! Runs in: server. Owns these openings and nothing else; which clients there are is `clients.rs`.

use std::collections::HashMap;

use parking_lot::Mutex;
use rmcp::transport::streamable_http_server::session::{SessionState, SessionStore, SessionStoreError};

/// All of them, by session.
#[derive(Default)]
pub(super) struct Remembered(Mutex<HashMap<String, SessionState>>);

impl Remembered {
    pub(super) fn forget(&self, id: &str) {
        self.0.lock().remove(id);
    }

    /// As text, for the program that this server becomes.
    pub(super) fn pack(&self) -> Vec<(String, String)> {
        let all = self.0.lock();
        all.iter().filter_map(|(id, state)| Some((id.clone(), serde_json::to_string(state).ok()?))).collect()
    }

    pub(super) fn unpack(packed: Vec<(String, String)>) -> Self {
        let state = |(id, text): (String, String)| Some((id, serde_json::from_str(&text).ok()?));
        Self(Mutex::new(packed.into_iter().filter_map(state).collect()))
    }

    pub(super) fn ids(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }
}

#[async_trait::async_trait]
impl SessionStore for Remembered {
    async fn load(&self, id: &str) -> Result<Option<SessionState>, SessionStoreError> {
        Ok(self.0.lock().get(id).cloned())
    }

    async fn store(&self, id: &str, state: &SessionState) -> Result<(), SessionStoreError> {
        self.0.lock().insert(id.to_owned(), state.clone());
        Ok(())
    }

    async fn delete(&self, id: &str) -> Result<(), SessionStoreError> {
        self.forget(id);
        Ok(())
    }
}
