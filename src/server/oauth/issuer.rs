//! The issuer as this server knows it: its keys, how long they count, and tokens that were good a moment ago.
//!
//! Runs in: server. Owns when the issuer is asked. One question at a time, for all calls that wait:
//!
//! - The keys are asked for at the start, and again every ten minutes, behind a call. When that fails the old ones go on for a
//!   day: an issuer that is down locks out none of those who have a token. A key that the issuer has taken back counts no more
//!   than these ten minutes.
//! - A token whose key is unknown has them asked for at once, but not more often than every 30 s: strangers make up such
//!   tokens at no cost.
//! - Without any keys a call has them asked for, at most every 2 s. Until they are there no token is refused for good.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jsonwebtoken::{get_current_timestamp, jwk::Jwk};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio_rustls::TlsConnector;

use super::{
    published, signatures,
    token::{Candidate, Denied, Granted},
};
use crate::{server::tls, settings::oauth::Oauth};

/// Age from which on keys are asked for again.
const STALE: Duration = Duration::from_secs(600);
/// Age from which on they do not count.
const DEAD: Duration = Duration::from_secs(24 * 3600);
/// Between two questions because of a key that is unknown, and after one that failed while there are old keys.
const PAUSE: Duration = Duration::from_secs(30);
/// After a question that failed, while there are no keys.
const BRIEF_PAUSE: Duration = Duration::from_secs(2);
/// Tokens that are remembered.
const MOST_SEEN: usize = 4096;

type Hash = [u8; 32];

/// Keys, and when they came.
#[derive(Clone)]
struct Keys {
    all: Arc<Vec<Jwk>>,
    came: Instant,
}

#[derive(Default)]
struct State {
    keys: Option<Keys>,
    /// When they could not be had, and why.
    failed: Option<(Instant, String)>,
    /// When they were last asked for because one was unknown.
    unknown: Option<Instant>,
    /// Good tokens, by their hashes: a signature takes longer to check than all else of a small call.
    seen: HashMap<Hash, Granted>,
}

pub(crate) struct Issuer {
    settings: Oauth,
    tls: Option<TlsConnector>,
    state: Mutex<State>,
    asking: tokio::sync::Mutex<()>,
}

impl Issuer {
    /// Has its keys asked for at once, behind. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(crate) fn new(settings: Oauth) -> std::io::Result<Arc<Self>> {
        signatures::install();
        let is_secure = settings.issuer.text.starts_with("https:");
        let tls = is_secure.then(|| tls::connector("--oauth-issuer")).transpose()?;
        let issuer = Arc::new(Self { settings, tls, state: Mutex::default(), asking: tokio::sync::Mutex::default() });
        let first = Arc::clone(&issuer);
        tokio::spawn(async move { first.ask(Instant::now()).await });
        Ok(issuer)
    }

    #[must_use]
    pub(crate) fn settings(&self) -> &Oauth {
        &self.settings
    }

    /// Whether tokens can be checked now.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn is_ready(self: &Arc<Self>) -> Result<(), String> {
        self.keys().await.map(|_| ())
    }

    /// What a token gives.
    ///
    /// # Errors
    /// [`Denied`].
    pub(crate) async fn check(self: &Arc<Self>, token: &str) -> Result<Granted, Denied> {
        let hash: Hash = Sha256::digest(token.as_bytes()).into();
        if let Some(granted) = self.seen(&hash) {
            return Ok(granted);
        }
        let candidate = Candidate::read(token)?;
        let keys = self.keys().await.map_err(Denied::Unreachable)?;
        let granted = match self.check_with(&candidate, &keys) {
            Err(Denied::Key) if self.may_ask_for_unknown() => {
                let keys = self.ask(Instant::now()).await.unwrap_or_else(|_| keys.clone());
                self.check_with(&candidate, &keys)
            }
            checked => checked,
        }?;
        let mut state = self.state.lock();
        // Of other keys it would not be known whether it is still good.
        if state.keys.as_ref().is_some_and(|now| now.all == keys.all) {
            if state.seen.len() >= MOST_SEEN {
                state.seen.clear();
            }
            state.seen.insert(hash, granted.clone());
        }
        Ok(granted)
    }

    fn check_with(&self, candidate: &Candidate<'_>, keys: &Keys) -> Result<Granted, Denied> {
        candidate.check(&keys.all, &self.settings.issuer.text, &self.settings.audience.text)
    }

    /// A token that was good, and has not ended meanwhile. Where keys have to be asked for again it is looked at anew.
    fn seen(&self, hash: &Hash) -> Option<Granted> {
        let state = self.state.lock();
        let is_fresh = state.keys.as_ref().is_some_and(|keys| keys.came.elapsed() < STALE);
        state.seen.get(hash).filter(|granted| is_fresh && granted.ends > get_current_timestamp()).cloned()
    }

    /// The keys that count now. Old ones are asked for again, behind.
    async fn keys(self: &Arc<Self>) -> Result<Keys, String> {
        let now = Instant::now();
        let (keys, failed) = {
            let state = self.state.lock();
            let failed = state.failed.as_ref().map(|(when, why)| (when.elapsed(), why.clone()));
            (state.keys.clone().filter(|keys| keys.came.elapsed() < DEAD), failed)
        };
        match (keys, failed) {
            (Some(keys), failed) => {
                let paused = failed.is_some_and(|(since, _)| since < PAUSE);
                if keys.came.elapsed() >= STALE && !paused {
                    let issuer = Arc::clone(self);
                    tokio::spawn(async move { issuer.ask(now).await });
                }
                Ok(keys)
            }
            (None, Some((since, why))) if since < BRIEF_PAUSE => Err(why),
            (None, _) => self.ask(now).await,
        }
    }

    fn may_ask_for_unknown(&self) -> bool {
        let mut state = self.state.lock();
        let may = state.unknown.is_none_or(|when| when.elapsed() >= PAUSE);
        if may {
            state.unknown = Some(Instant::now());
        }
        may
    }

    /// Asks the issuer, unless that was done since then.
    async fn ask(&self, since: Instant) -> Result<Keys, String> {
        let _alone = self.asking.lock().await;
        {
            let state = self.state.lock();
            if let Some(keys) = state.keys.as_ref().filter(|keys| keys.came >= since) {
                return Ok(keys.clone());
            }
            if let Some((_, why)) = state.failed.as_ref().filter(|(when, _)| *when >= since) {
                return Err(why.clone());
            }
        }
        let asked = published::keys(&self.settings.issuer, self.tls.as_ref()).await;
        let mut state = self.state.lock();
        match asked {
            Ok(all) => {
                if state.keys.as_ref().is_none_or(|before| *before.all != all) {
                    tracing::info!("the issuer {} publishes {} keys", self.settings.issuer.text, all.len());
                    state.seen.clear();
                }
                let keys = Keys { all: Arc::new(all), came: Instant::now() };
                state.failed = None;
                state.keys = Some(keys.clone());
                Ok(keys)
            }
            Err(error) => {
                let why = error.to_string();
                tracing::warn!("the keys of the issuer {} cannot be had: {why}", self.settings.issuer.text);
                state.failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }
}
