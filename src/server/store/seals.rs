//! What is derived from the key of the store: names that tell nothing, small objects that cannot be made or changed without it.
//!
//! Runs in: server. Pure, but for random numbers. A sealed object knows its name, so that none is taken for another.

use std::fmt;

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::error::StoreError;
use crate::{settings::store::StoreKey, sys::random};

const NONCE: usize = 12;

/// What the key is used for.
pub(super) struct Seals {
    objects: ChaCha20Poly1305,
    names: [u8; 32],
    passphrase: String,
}

impl fmt::Debug for Seals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Seals")
    }
}

impl Seals {
    pub(super) fn new(key: &StoreKey) -> Self {
        let objects = ChaCha20Poly1305::new(&derived(key.bytes(), &[b"objects"]).into());
        let passphrase = hex(&derived(key.bytes(), &[b"files"]));
        Self { objects, names: derived(key.bytes(), &[b"names"]), passphrase }
    }

    pub(super) fn passphrase(&self) -> &str {
        &self.passphrase
    }

    /// A name for these words, from which they cannot be told.
    pub(super) fn name(&self, words: &[&[u8]]) -> String {
        hex(&derived(&self.names, words)[..16])
    }

    pub(super) fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        let failed = |error: &dyn fmt::Display| StoreError::Failed(error.to_string());
        let nonce: [u8; NONCE] = random::bytes().map_err(|error| failed(&error))?;
        let payload = Payload { msg: plain, aad: name.as_bytes() };
        let sealed = self.objects.encrypt(&Nonce::from(nonce), payload).map_err(|error| failed(&error))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    pub(super) fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let damaged = || StoreError::Damaged(name.to_owned());
        let (nonce, sealed) = sealed.split_at_checked(NONCE).ok_or_else(damaged)?;
        let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| damaged())?;
        let payload = Payload { msg: sealed, aad: name.as_bytes() };
        self.objects.decrypt(&Nonce::from(nonce), payload).map_err(|_| damaged())
    }
}

/// A number for these words, each with its length, so that no two lists of words are one.
fn derived(key: &[u8], words: &[&[u8]]) -> [u8; 32] {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key).expect("a key");
    for word in words {
        mac.update(&(word.len() as u64).to_le_bytes());
        mac.update(word);
    }
    mac.finalize().into_bytes().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
