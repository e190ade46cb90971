//! The way out of the store: the lease first, so that no other server does the same, then the image.
//!
//! Runs in: server, before a call is answered that names a session. Where something fails after the lease, it is given back; where
//! that fails too, the session stays this server's, and the next call goes on from there.

use std::{
    io::{BufReader, Seek},
    sync::Arc,
};

use super::{
    Away, AwayError, TRIES,
    fit::{Fitted, Here, fitted},
};
use crate::{
    server::{
        moves::{import::free_memory, packed},
        owner::Owner,
        sessions::{
            happened::{Arrival, What, Without},
            images::adopt::Adopted,
        },
        store::{self, Held, Kept, State, StoreError, Whose},
        workers::zygote::Stage,
    },
    sys::fault,
};

/// Why a session did not come.
enum NotCome {
    /// It can be tried again.
    Store(StoreError),
    Other(AwayError),
}

impl Away {
    /// Sees to it that a session is here that a call names, if it is anywhere. One that is nowhere is not found later.
    ///
    /// # Errors
    /// [`AwayError`].
    pub(crate) async fn bring(&self, owner: &Owner, session: &str) -> Result<(), AwayError> {
        let Some(whose) = self.whose(owner, session) else { return Ok(()) };
        if self.registry.has(owner, session) {
            return self.is_sure_of(&whose).await;
        }
        let _turn = self.turn(&whose).await?;
        if self.registry.has(owner, session) {
            return Ok(());
        }
        for _ in 0..TRIES {
            let Some(held) = self.looked(&whose).await? else { return Ok(()) };
            let Some((held, ended)) = self.taken(&whose, held).await? else { continue };
            let Some(held) = held else { return Ok(()) };
            return self.arrives(&whose, held, ended).await;
        }
        Err(AwayError::OnItsWay { session: whose.session })
    }

    /// Where a session is that is not here, without bringing it.
    ///
    /// # Errors
    /// [`AwayError`]: that it is elsewhere, and where.
    pub(crate) async fn look_for(&self, owner: &Owner, session: &str) -> Result<(), AwayError> {
        let Some(whose) = self.whose(owner, session).filter(|_| !self.registry.has(owner, session)) else {
            return Ok(());
        };
        let Some(held) = self.looked(&whose).await? else { return Ok(()) };
        let has_ended =
            held.lease.state == State::Awake && !self.is_me(&held) && self.store.silence_of(&held.lease.holder).1;
        match (held.lease.state, &held.lease.kept) {
            (State::Awake, None) if has_ended => {
                Err(AwayError::Lost { session: whose.session, server: held.lease.holder.name })
            }
            (_, Some(kept)) if held.lease.state == State::Away || has_ended => Err(AwayError::PutAway {
                session: whose.session,
                server: kept.server.clone(),
                at: kept.at.clone(),
                cell: kept.cell,
                bytes: kept.bytes,
            }),
            (State::Awake, _) if !self.is_me(&held) => Err(self.elsewhere(Some(&held), &whose)),
            _ => Ok(()),
        }
    }

    /// Whether a session that is here is still this server's. It is, as long as the others have signs of its life; after a silence of
    /// this server, each session is looked for once.
    async fn is_sure_of(&self, whose: &Whose) -> Result<(), AwayError> {
        let silences = self.store.silences();
        if self.store.in_doubt().is_none() && self.sure.lock().get(whose).copied().unwrap_or(0) == silences {
            return Ok(());
        }
        let held = self.looked(whose).await?;
        if held.as_ref().is_none_or(|held| self.is_me(held)) {
            self.sure.lock().insert(whose.clone(), silences);
            return Ok(());
        }
        let session = self
            .registry
            .all()
            .into_iter()
            .find(|session| *session.id == *whose.session && *session.life.owner() == whose.owner);
        // It may be on its way into the store this very moment.
        if let Ok(_turn) = self.turn(whose).await
            && let Some(session) = session
        {
            self.lost_to_another(&session);
        }
        Err(self.elsewhere(held.as_ref(), whose))
    }

    /// After each silence of this server looks for all its sessions, until the task is dropped: one that another server has taken up
    /// ends at once, with the cell that runs in it.
    pub(crate) async fn keep_to_leases(self: Arc<Self>) {
        let mut sure = 0;
        loop {
            tokio::time::sleep(store::beat()).await;
            let silences = self.store.silences();
            if silences == sure || self.store.in_doubt().is_some() {
                continue;
            }
            let mut all_known = true;
            for session in self.registry.all() {
                if let Some(whose) = self.whose(session.life.owner(), &session.id) {
                    all_known &= !matches!(self.is_sure_of(&whose).await, Err(AwayError::Store { .. }));
                }
            }
            if all_known {
                sure = silences;
            }
        }
    }

    /// Makes the session this server's, if it may be: its lease, none where there is no such session; and the server that had it and
    /// has ended. None when another server was faster.
    async fn taken(&self, whose: &Whose, held: Held) -> Result<Option<(Option<Held>, Option<String>)>, AwayError> {
        let (session, holder) = (whose.session.clone(), &held.lease.holder);
        let ended = match held.lease.state {
            State::Gone => return Ok(Some((None, None))),
            State::Away if self.around.drain.is_on() => {
                return Err(AwayError::Drains { session, here: self.here() });
            }
            State::Away => None,
            State::Awake if self.is_me(&held) => {
                if self.arriving.lock().contains(whose) {
                    return Ok(Some((Some(held), None)));
                }
                // It has ended here.
                return self.gone(whose, &held).await.map(|()| Some((None, None)));
            }
            State::Awake if !self.store.silence_of(holder).1 => return Err(self.elsewhere(Some(&held), whose)),
            State::Awake => Some(holder.name.clone()),
        };
        let Some(kept) = held.lease.kept.clone() else {
            return Err(AwayError::Lost { session, server: ended.unwrap_or_default() });
        };
        let room = self.registry.may_come(&whose.owner);
        room.map_err(|error| AwayError::NoRoom { session, error })?;
        self.arriving.lock().insert(whose.clone());
        let taken = self.stepped(whose, held.number, self.lease(whose, State::Awake, Some(kept))).await?;
        if taken.is_none() {
            self.arriving.lock().remove(whose);
        }
        let _ = fault::at("store.taken", 0);
        Ok(taken.map(|taken| (Some(taken), ended)))
    }

    async fn gone(&self, whose: &Whose, held: &Held) -> Result<(), AwayError> {
        let step = self.stepped(whose, held.number, self.lease(whose, State::Gone, None)).await?;
        if let (Some(_), Some(kept)) = (step, &held.lease.kept) {
            self.store.discard(&kept.object).await;
        }
        Ok(())
    }

    /// Its image comes. What fails gives the lease back.
    async fn arrives(&self, whose: &Whose, held: Held, ended: Option<String>) -> Result<(), AwayError> {
        let Some(kept) = held.lease.kept.clone() else { return Ok(()) };
        let came = self.came(whose, &kept, ended).await;
        let failed = match came {
            Ok(()) => {
                self.arriving.lock().remove(whose);
                return Ok(());
            }
            Err(failed) => failed,
        };
        let given_back = self.store.step(whose, held.number, self.lease(whose, State::Away, Some(kept))).await;
        if given_back.is_ok() {
            self.arriving.lock().remove(whose);
        }
        Err(match failed {
            NotCome::Store(error) => AwayError::Store { session: whose.session.clone(), error },
            NotCome::Other(error) => error,
        })
    }

    async fn came(&self, whose: &Whose, kept: &Kept, ended: Option<String>) -> Result<(), NotCome> {
        let unfit = |why: String, is_damaged: bool| {
            let (session, server) = (whose.session.clone(), kept.server.clone());
            NotCome::Other(AwayError::Unfit { session, server, why, is_damaged })
        };
        let scratch = self.around.scratch.clone();
        let mut file = tempfile::tempfile_in(scratch).map_err(|error| unfit(error.to_string(), false))?;
        let to = file.try_clone().map_err(|error| unfit(error.to_string(), false))?;
        self.store.download(&kept.object, to).await.map_err(|error| match error {
            StoreError::Missing(_) => unfit(error.to_string(), true),
            error => NotCome::Store(error),
        })?;
        self.around.zygote.settled().await;
        let python = match self.around.zygote.stage() {
            Stage::Warm { executable, .. } => Some(executable),
            _ => None,
        };
        let here = Here { workspace: self.around.images.workspace(), python };
        let (passphrase, images) = (self.store.passphrase().to_owned(), self.around.images.clone());
        let opened = tokio::task::spawn_blocking(move || {
            file.rewind().map_err(|error| (error.to_string(), false))?;
            let unpacked = packed::read(BufReader::new(file), &passphrase, free_memory);
            let packed::Unpacked { manifest, contents } = unpacked.map_err(|useless| useless.told())?;
            let Fitted { about, contents, why } = fitted(manifest, contents, &here).map_err(|why| (why, false))?;
            let image = images.receive(&about, contents).map_err(|error| (error.to_string(), false))?;
            Ok((Adopted { about, image, since: None }, why))
        });
        let opened = opened.await.map_err(|error| unfit(error.to_string(), false))?;
        let (mut adopted, why) = opened.map_err(|(why, is_damaged)| unfit(why, is_damaged))?;
        adopted.about.session.clone_from(&whose.session);
        let by_value = adopted.about.kept_by_value().map(std::sync::Arc::new);
        let without = Without { checkpoints: adopted.about.checkpoints.clone(), name: None, by_value };
        let (from, at, cell) = (kept.server.clone(), kept.at.clone(), adopted.about.cell);
        let what = What::TakenUp(Arrival { from, at, cell, ended, without, why });
        let session = whose.session.clone();
        let came = self.registry.come(&whose.owner, adopted, what);
        came.map_err(|error| NotCome::Other(AwayError::NoRoom { session, error }))?;
        tracing::info!(session = whose.session, from = kept.server, "is here, out of the store");
        Ok(())
    }
}
