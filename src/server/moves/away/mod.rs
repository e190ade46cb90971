//! Sessions go into the store (`--store`), and come out of it on whichever server is asked for them next.
//!
//! Runs in: server. A session is a server's own from when it is made, or brought back, until it is put away: this stands in its lease
//! (`server/store`), and is asked before anything is done. One thing at a time is done with a session.
//!
//! | file | has |
//! |---|---|
//! | `put.rs` | the way into the store: when a session has rested long, when the server drains or ends |
//! | `take.rs` | the way out, when a call names a session that is not here |
//! | `fit.rs` | whether what came can wake here, or comes by value |
//! | `error.rs` | why a session is not here |
//!
//! `default` is each server's own, and so are sessions of clients that cannot come again under their name.

mod error;
mod fit;
mod put;
mod take;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

pub(crate) use self::error::AwayError;
use crate::{
    server::{
        owner::Owner,
        sessions::{
            context::Surroundings,
            handle::Session,
            images::about::Lasting,
            names::{DEFAULT, is_name},
            registry::Registry,
        },
        store::{Held, Lease, State, Store, Whose},
    },
    sys::fault,
};

/// How long a call waits for what is being done with its session.
const PATIENCE: Duration = Duration::from_secs(20);
/// Sessions that left, of which it is remembered for clients to whom they were the active one.
const LEFT: usize = 10_000;
/// How often a step is tried that another server takes at the same time.
pub(super) const TRIES: usize = 4;

/// One lock for each session with which something is being done.
type Turns = Mutex<HashMap<Whose, Arc<tokio::sync::Mutex<()>>>>;

/// What goes into the store and comes out of it.
#[derive(Debug)]
pub(crate) struct Away {
    store: Store,
    registry: Arc<Registry>,
    around: Arc<Surroundings>,
    turns: Turns,
    /// Sessions that are this server's by their lease and are not here yet.
    arriving: Mutex<HashSet<Whose>>,
    /// After which silence of this server it was last known that a session is its own.
    sure: Mutex<HashMap<Whose, u64>>,
    /// Lives of sessions that have left.
    left: Mutex<HashSet<u64>>,
}

impl Away {
    #[must_use]
    pub(crate) fn new(store: Store, registry: Arc<Registry>, around: Arc<Surroundings>) -> Self {
        let (turns, arriving, sure, left) = Default::default();
        Self { store, registry, around, turns, arriving, sure, left }
    }

    /// Whether a session can be anywhere else than here.
    #[must_use]
    pub(crate) fn can_move(session: &Session) -> bool {
        *session.id != *DEFAULT && Lasting::of(session.life.owner()).is_some()
    }

    fn whose(&self, owner: &Owner, session: &str) -> Option<Whose> {
        let moves = session != DEFAULT && is_name(session) && Lasting::of(owner).is_some();
        moves.then(|| Whose { owner: owner.clone(), session: session.to_owned() })
    }

    /// Waits until nothing else is being done with it.
    async fn turn(&self, whose: &Whose) -> Result<OwnedMutexGuard<()>, AwayError> {
        let lock = {
            let mut turns = self.turns.lock();
            turns.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(turns.entry(whose.clone()).or_default())
        };
        let waits = tokio::time::timeout(fault::limit(PATIENCE), lock.lock_owned()).await;
        waits.map_err(|_| AwayError::OnItsWay { session: whose.session.clone() })
    }

    fn here(&self) -> String {
        self.store.me().name.clone()
    }

    fn is_me(&self, held: &Held) -> bool {
        held.lease.holder == *self.store.me()
    }

    fn lease(&self, whose: &Whose, state: State, kept: Option<crate::server::store::Kept>) -> Lease {
        Lease { session: whose.session.clone(), holder: self.store.me().clone(), state, kept }
    }

    /// A session of this name is to be made: makes it this server's, unless it is another's or lies in the store, from where it is
    /// brought back then.
    ///
    /// # Errors
    /// [`AwayError`].
    pub(crate) async fn claim(&self, owner: &Owner, session: &str) -> Result<(), AwayError> {
        let Some(whose) = self.whose(owner, session) else { return Ok(()) };
        match self.bring(owner, session).await {
            // This one takes its place.
            Ok(()) | Err(AwayError::Lost { .. }) => {}
            Err(error) => return Err(error),
        }
        let _turn = self.turn(&whose).await?;
        if self.registry.has(owner, session) {
            return Ok(());
        }
        for _ in 0..TRIES {
            let held = self.looked(&whose).await?;
            if held.as_ref().is_some_and(|held| !self.is_free(held)) {
                return Err(self.elsewhere(held.as_ref(), &whose));
            }
            let after = held.map_or(0, |held| held.number);
            if self.stepped(&whose, after, self.lease(&whose, State::Awake, None)).await?.is_some() {
                return Ok(());
            }
        }
        Err(AwayError::OnItsWay { session: whose.session })
    }

    /// Whether there is no session any more.
    fn is_free(&self, held: &Held) -> bool {
        match held.lease.state {
            State::Gone => true,
            State::Away => false,
            State::Awake if self.is_me(held) => true,
            State::Awake => held.lease.kept.is_none() && self.store.silence_of(&held.lease.holder).1,
        }
    }

    /// A session has ended here, or was not made after all. What is in the store of it is removed.
    pub(crate) async fn ended(&self, owner: &Owner, session: &str) {
        let Some(whose) = self.whose(owner, session).filter(|_| !self.registry.has(owner, session)) else { return };
        if let Err(error) =
            self.give_up(&whose, |this, held| held.lease.state == State::Awake && this.is_me(held)).await
        {
            tracing::warn!(session, "has ended, which could not be written into the store: {error}");
        }
    }

    /// Deletes a session that lies in the store. False when there is none.
    ///
    /// # Errors
    /// [`AwayError`].
    pub(crate) async fn delete(&self, owner: &Owner, session: &str) -> Result<bool, AwayError> {
        let Some(whose) = self.whose(owner, session) else { return Ok(false) };
        if self.registry.has(owner, session) {
            return Ok(false);
        }
        self.give_up(&whose, |_, held| held.lease.state == State::Away).await
    }

    async fn give_up(&self, whose: &Whose, is_it: impl Fn(&Self, &Held) -> bool) -> Result<bool, AwayError> {
        let _turn = self.turn(whose).await?;
        let Some(held) = self.looked(whose).await?.filter(|held| is_it(self, held)) else { return Ok(false) };
        if self.stepped(whose, held.number, self.lease(whose, State::Gone, None)).await?.is_none() {
            return Err(AwayError::OnItsWay { session: whose.session.clone() });
        }
        if let Some(kept) = &held.lease.kept {
            self.store.discard(&kept.object).await;
        }
        Ok(true)
    }

    /// Sessions of an owner that are not here: name, where, in words.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(crate) async fn others_of(&self, owner: &Owner) -> Result<Vec<(String, String)>, AwayError> {
        if Lasting::of(owner).is_none() {
            return Ok(Vec::new());
        }
        let all = self.store.sessions_of(owner).await;
        let all = all.map_err(|error| AwayError::Store { session: "(all)".to_owned(), error })?;
        let others = all.into_iter().filter(|held| !self.registry.has(owner, &held.lease.session));
        let told = others.filter_map(|Held { lease, .. }| {
            let words = match (lease.state, &lease.kept) {
                (State::Away, Some(kept)) => format!(
                    "in the store, put away by server {:?} at {} after cell {} ({} bytes)",
                    kept.server, kept.at, kept.cell, kept.bytes
                ),
                (State::Awake, _) if lease.holder != *self.store.me() => format!("on server {:?}", lease.holder.name),
                _ => return None,
            };
            Some((lease.session, words))
        });
        Ok(told.collect())
    }

    /// The server ends.
    pub(crate) async fn leave(&self) {
        self.store.leave().await;
    }

    /// Whether a session left, by its life: one of its name may be another.
    #[must_use]
    pub(crate) fn has_left(&self, life: u64) -> bool {
        self.left.lock().contains(&life)
    }

    fn note_left(&self, session: &Session) {
        let mut left = self.left.lock();
        if left.len() >= LEFT {
            left.clear();
        }
        left.insert(session.life.number());
    }

    async fn looked(&self, whose: &Whose) -> Result<Option<Held>, AwayError> {
        let session = || whose.session.clone();
        self.store.look(whose).await.map_err(|error| AwayError::Store { session: session(), error })
    }

    async fn stepped(&self, whose: &Whose, after: u64, lease: Lease) -> Result<Option<Held>, AwayError> {
        let session = || whose.session.clone();
        self.store.step(whose, after, lease).await.map_err(|error| AwayError::Store { session: session(), error })
    }

    /// That another server has it.
    fn elsewhere(&self, held: Option<&Held>, whose: &Whose) -> AwayError {
        let Some(held) = held else { return AwayError::OnItsWay { session: whose.session.clone() } };
        let (silent, _) = self.store.silence_of(&held.lease.holder);
        AwayError::Elsewhere {
            session: whose.session.clone(),
            server: held.lease.holder.name.clone(),
            here: self.here(),
            silent: (silent > crate::server::store::beat() * 2).then_some(silent),
        }
    }
}
