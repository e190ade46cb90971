//! The way into the store: the session falls asleep, its image is sealed and uploaded, and only then the lease says that it is away.
//!
//! Runs in: server. Whatever fails before that, the session is here as it was. Where the answer to the last step does not come, it is
//! neither used nor given up before the store has told whether it was taken.

use std::{
    fs::File,
    io::{self, Seek},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{Away, AwayError};
use crate::{
    server::{
        health::evidence::Phase,
        moves::{age, export, packed},
        sessions::{
            death::DeathReason,
            handle::Session,
            images::{Image, Images, about::About},
            names::DEFAULT,
            orders::{BrokenOff, Departing, SessionError},
        },
        store::{self, Kept, State, Whose},
    },
    sys::{fault, random},
};

/// Between two looks at what rests: a hundredth of the time that is set, within these.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);
/// Sessions that are put away side by side when the server drains.
const SIDE_BY_SIDE: usize = 4;

impl Away {
    /// Puts away what no client has used for so long, until the task is dropped.
    pub(crate) async fn watch(self: Arc<Self>, after: Option<Duration>) {
        let Some(after) = after else { return };
        loop {
            tokio::time::sleep((after / 100).clamp(SHORTEST, LONGEST)).await;
            for session in self.registry.all() {
                if rests(&session, after)
                    && let Err(error) = self.put_away(&session, false).await
                {
                    tracing::debug!(session = %session.id, "is not put away: {error}");
                    let is_called = matches!(
                        error,
                        AwayError::Stays(SessionError::BrokenOff { why: BrokenOff::GivesWay | BrokenOff::Called, .. })
                    );
                    if !is_called {
                        session.shared.update(|status| status.stays = Some((error.to_string(), Instant::now())));
                    }
                }
            }
        }
    }

    /// Puts away all that can be, within this time. Gives the names of those that are.
    pub(crate) async fn put_all_away(&self, limit: Duration) -> Vec<String> {
        use futures::StreamExt;
        let put = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let all = futures::stream::iter(self.registry.all()).for_each_concurrent(SIDE_BY_SIDE, |session| {
            let put = Arc::clone(&put);
            async move {
                match self.put_away(&session, true).await {
                    Ok(()) => put.lock().push(session.id.to_string()),
                    // Nothing is lost with one that was never used.
                    Err(_) if session.shared.get().executed == 0 => {}
                    Err(error) => tracing::warn!(session = %session.id, "ends with its server: {error}"),
                }
            }
        });
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!(?limit, "not all sessions could be put away in the time that there is");
        }
        put.lock().clone()
    }

    /// Puts a session away; `insists`: also while calls wait, and by value where it cannot be put away whole.
    ///
    /// # Errors
    /// [`AwayError`]; it is here as it was, or another server has it.
    pub(crate) async fn put_away(&self, session: &Session, insists: bool) -> Result<(), AwayError> {
        let name = session.id.to_string();
        let not_put = |why: &str| AwayError::NotPut { session: name.clone(), why: why.to_owned() };
        let Some(whose) = self.whose(session.life.owner(), &name) else {
            let is_default = *session.id == *DEFAULT;
            return Err(not_put(match is_default {
                true => "the default session is each server's own",
                false => "its client cannot come again under its name",
            }));
        };
        let _turn = self.turn(&whose).await?;
        let held = self.looked(&whose).await?;
        if held.as_ref().is_some_and(|held| {
            held.lease.state == State::Away || !self.is_me(held) && held.lease.state == State::Awake
        }) {
            self.lost_to_another(session);
            return Err(self.elsewhere(held.as_ref(), &whose));
        }
        let began = Instant::now();
        let (departing, gone) = session.depart(insists).await?;
        let kept = self.uploaded(departing).await.map_err(|why| not_put(&why))?;
        if fault::at("store.uploaded", 0) {
            self.store.discard(&kept.object).await;
            return Err(not_put("a test wants it so"));
        }
        // A call that came meanwhile keeps it. From here on calls do not find it any more, and wait.
        if !insists && session.shared.get().waiting > 0 || !self.registry.let_go(session) {
            self.store.discard(&kept.object).await;
            return Err(not_put("it was used meanwhile"));
        }
        let before = held.as_ref().and_then(|held| held.lease.kept.clone());
        let bytes = kept.bytes;
        match self.handed_over(&whose, held.map_or(0, |held| held.number), (kept, before.clone())).await {
            Handed::Over => {}
            Handed::Back => {
                self.registry.go_on(session.clone());
                return Err(not_put("the store did not take it"));
            }
            Handed::Lost(error) => {
                self.is_gone(session, gone);
                return Err(error);
            }
        }
        let _ = fault::at("store.away", 0);
        self.is_gone(session, gone);
        if let Some(before) = before {
            self.store.discard(&before.object).await;
        }
        tracing::info!(session = name, bytes, took = began.elapsed().as_secs_f64(), "is put away into the store");
        Ok(())
    }

    fn is_gone(&self, session: &Session, gone: oneshot::Sender<()>) {
        self.note_left(session);
        if let Some(whose) = self.whose(session.life.owner(), &session.id) {
            self.sure.lock().remove(&whose);
        }
        let _ = gone.send(());
        self.registry.is_elsewhere(session);
    }

    /// Another server has taken it up although this one had it: here it ends, so that there are not two.
    pub(super) fn lost_to_another(&self, session: &Session) {
        tracing::error!(session = %session.id, "was taken up by another server, which had no sign of life of this one: it ends here");
        if self.registry.let_go(session) {
            self.note_left(session);
            self.registry.is_elsewhere(session);
            let session = session.clone();
            tokio::spawn(async move { session.end(DeathReason::Elsewhere).await });
        }
    }

    /// The last step, until it is known whether it was taken.
    async fn handed_over(&self, whose: &Whose, after: u64, (kept, before): (Kept, Option<Kept>)) -> Handed {
        let away = self.lease(whose, State::Away, Some(kept.clone()));
        let mut error = match self.store.step(whose, after, away.clone()).await {
            Ok(Some(_)) => return Handed::Over,
            Ok(None) => None,
            Err(error) => Some(error),
        };
        loop {
            if let Some(error) = &error {
                let session = &whose.session;
                tracing::warn!(session, "whether it is put away is not known, and it is not used before: {error}");
                tokio::time::sleep(store::beat()).await;
            }
            // That number is taken by this step, or was by the one before.
            match self.store.step(whose, after, self.lease(whose, State::Awake, before.clone())).await {
                Ok(Some(_)) => {
                    self.store.discard(&kept.object).await;
                    return Handed::Back;
                }
                Ok(None) => {}
                Err(failed) => {
                    error = Some(failed);
                    continue;
                }
            }
            match self.store.look(whose).await {
                Ok(Some(held)) if held.number == after + 1 && held.lease == away => return Handed::Over,
                // Others are further: it lay there, or it was taken by force.
                Ok(held) if held.as_ref().is_some_and(|held| held.lease.kept.as_ref() == Some(&kept)) => {
                    return Handed::Over;
                }
                Ok(held) => {
                    self.store.discard(&kept.object).await;
                    return Handed::Lost(self.elsewhere(held.as_ref(), whose));
                }
                Err(failed) => error = Some(failed),
            }
        }
    }

    /// What it has, in the store.
    async fn uploaded(&self, departing: Departing) -> Result<Kept, String> {
        let Departing { image, about } = departing;
        let (passphrase, scratch) = (self.store.passphrase().to_owned(), self.around.scratch.clone());
        let packed = about.clone();
        let file = tokio::task::spawn_blocking(move || {
            let file = tempfile::tempfile_in(scratch).map_err(|error| error.to_string())?;
            pack(file, &image, packed, &passphrase)
        });
        let file = file.await.map_err(|error| error.to_string())??;
        let bytes = file.metadata().map_err(|error| error.to_string())?.len();
        let object = self.store.upload(file).await.map_err(|error| error.to_string())?;
        Ok(Kept {
            object,
            bytes,
            cell: about.cell,
            server: self.here(),
            at: Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
            description: about.description,
            created: about.created,
            executed: about.executed,
        })
    }
}

/// What came of the last step.
enum Handed {
    Over,
    /// It is this server's own, as before.
    Back,
    /// It is another server's.
    Lost(AwayError),
}

/// Whether a session has rested for so long, and can be asked to leave.
fn rests(session: &Session, after: Duration) -> bool {
    let status = session.shared.get();
    let is_still = matches!(status.phase, Phase::Idle | Phase::Asleep) && status.waiting == 0;
    // One that could not go is asked again after as long.
    let was_asked = status.stays.as_ref().is_some_and(|(_, when)| when.elapsed() < after);
    is_still && !was_asked && !session.runs.has_work() && status.used_at.elapsed() >= after && *session.id != *DEFAULT
}

/// Writes all of it to a file, sealed with the key of the store.
fn pack(file: File, image: &Image, about: About, passphrase: &str) -> Result<File, String> {
    let contents = Images::contents(image).map_err(|error| error.to_string())?;
    let instead = contents.instead.as_ref().map(|(_, names)| names.clone());
    let needs = match contents.base.is_some() {
        true => export::needs(&contents, &about, instead.clone()).map_err(|error| error.to_string())?,
        false => Default::default(),
    };
    let manifest = packed::Manifest { about, needs, instead };
    let sealing = (passphrase, age::FOR_KEYS);
    let written = packed::write(io::BufWriter::new(file), sealing, &manifest, contents, random::bytes);
    let file = written.and_then(|to| to.into_inner().map_err(io::IntoInnerError::into_error));
    let mut file = file.map_err(|error| error.to_string())?;
    file.rewind().map_err(|error| error.to_string())?;
    Ok(file)
}
