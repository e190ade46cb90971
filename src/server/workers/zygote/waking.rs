//! A zygote that begins as the image of another one, and how an image is made for the next start.
//!
//! Runs in: server, in the owner task (`look`, `wake`) or beside it (`make_image`). What an image depends on is `image.rs`; what a zygote
//! does for it is `zygote/image.rs`.

use std::{os::fd::AsFd, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    image::{Files, Found, Head, Look, Store, bytes, name_of, not_for, read_at_the_start, since_1970},
    spawner::{self, Environment},
    starting::{Process, Starter, send},
};
use crate::{
    protocol::{FromZygote, PROTOCOL_VERSION, ToZygote, ZygoteSettings},
    sys::descriptors,
};

/// How long after a start an image is made: then no client waits for the server's first answers.
const REST: Duration = Duration::from_secs(1);
/// No process that is woken or written takes so long, on whatever machine.
const LONGEST: Duration = Duration::from_secs(20);

impl Starter {
    /// Looks for an image.
    pub(super) async fn look(&self, settings: &ZygoteSettings, is_wanted: bool) -> Found {
        let Some(store) = self.store.clone().filter(|_| is_wanted) else { return Found::None(None) };
        if let Some(why) = not_for(settings) {
            return Found::None(Some(why));
        }
        let (settings, environment) = (settings.clone(), self.spawner.environment());
        let looked = tokio::task::spawn_blocking(move || {
            let name = name_of(&settings, environment)?;
            match store.open(&name, &Head::agrees) {
                Ok(Some(files)) => Ok((name, files)),
                Ok(None) => Err("there is no image yet".to_owned()),
                Err(why) => Err(format!("the image is of no use: {why}")),
            }
        });
        match looked.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok((name, files)) => Found::Files(name, files),
            Err(why) => Found::None(Some(why)),
        }
    }

    /// Has a process that has just begun become the zygote of an image. `number` is that of its socket in it. Gives Python's version
    /// and the interpreter.
    pub(super) async fn wake(
        &self,
        process: &mut Process,
        (image, base): &Files,
        settings: &ZygoteSettings,
        number: i32,
    ) -> Result<(String, String), String> {
        let waking = async {
            let words = |error: &dyn std::fmt::Display| error.to_string();
            let wake = ToZygote::Wake { version: PROTOCOL_VERSION, faults: settings.faults.clone() };
            let passed = [self.spawner.lifeline.as_fd(), image.as_fd(), base.as_fd()];
            send(&process.socket, &wake, &passed).map_err(|error| words(&error))?;
            match process.reader.read().await.map_err(|error| format!("it ended on the way ({error})"))? {
                FromZygote::Woken => {}
                FromZygote::Failed { message } => return Err(message),
                other => return Err(format!("it answered out of turn: {other:?}")),
            }
            let (settings, environment) = (settings.clone(), bytes(self.spawner.environment()));
            let go_on = ToZygote::GoOn { settings, environment, words: spawner::words(number).0 };
            send(&process.socket, &go_on, &[]).map_err(|error| words(&error))?;
            match process.reader.read().await.map_err(|error| format!("it ended once it was woken ({error})"))? {
                FromZygote::Warm { version: PROTOCOL_VERSION, python, executable, .. } => Ok((python, executable)),
                FromZygote::Failed { message } => Err(message),
                other => Err(format!("it answered out of turn: {other:?}")),
            }
        };
        let late = || Err(format!("it did not answer within {} s", LONGEST.as_secs()));
        tokio::time::timeout(LONGEST, waking).await.unwrap_or_else(|_| late())
    }

    /// Makes an image for the next server, once this one has come to rest. What stands in the way is logged.
    pub(super) async fn make_image(self, settings: ZygoteSettings, stop: CancellationToken) {
        let Some(store) = self.store.clone().filter(|_| not_for(&settings).is_none()) else { return };
        tokio::select! {
            () = tokio::time::sleep(REST) => {}
            () = stop.cancelled() => return,
        }
        match self.make(store, settings, &stop).await {
            Ok((bytes, took)) => {
                tracing::info!(bytes, took_ms = took.as_millis(), "the zygote's image is kept for the next start");
            }
            Err(why) => tracing::info!("there is no image of the zygote for the next start: {why}"),
        }
    }

    /// A process that is being made when it is to stop is ended before it comes back.
    async fn make(
        &self,
        store: Arc<dyn Store>,
        settings: ZygoteSettings,
        stop: &CancellationToken,
    ) -> Result<(u64, Duration), String> {
        let began = since_1970();
        let words = |error: std::io::Error| error.to_string();
        let environment = self.spawner.environment();
        let file = || descriptors::sealable_memory_file(c"forkpy-zygote").map_err(words);
        let files = (file()?, file()?);
        let origins = self.seed(&settings, &files, read_at_the_start(environment.clone()), stop).await?;
        self.prove(&settings, &files, stop).await?;
        let kept = tokio::task::spawn_blocking(move || {
            let name = name_of(&settings, environment)?;
            let looked = |path: String| {
                let look = Look::at(&path);
                (path, look)
            };
            let head = Head { written: began, origins: origins.into_iter().map(looked).collect() };
            let is_new =
                |(_, look): &&(String, Option<Look>)| look.as_ref().is_some_and(|look| look.changed() >= began);
            if let Some((path, _)) = head.origins.iter().find(is_new) {
                return Err(format!("{path} has changed meanwhile"));
            }
            let head = postcard::to_stdvec(&head).map_err(|error| error.to_string())?;
            store.keep(&name, &head, files)
        });
        let bytes = kept.await.map_err(|error| error.to_string())??;
        Ok((bytes, since_1970().saturating_sub(began)))
    }

    /// Starts a zygote that writes itself to the files and ends. Gives the paths of which it was made.
    async fn seed(
        &self,
        settings: &ZygoteSettings,
        (image, base): &Files,
        environment: Environment,
        stop: &CancellationToken,
    ) -> Result<Vec<String>, String> {
        let (mut process, _) = self.spawn(Some(environment)).await.map_err(|error| error.to_string())?;
        let writing = async {
            let seed = ToZygote::Seed { version: PROTOCOL_VERSION, settings: settings.clone() };
            let passed = [self.spawner.lifeline.as_fd(), image.as_fd(), base.as_fd()];
            send(&process.socket, &seed, &passed).map_err(|error| error.to_string())?;
            match process.reader.read().await.map_err(|error| format!("its process ended ({error})"))? {
                FromZygote::Written { origins, foreign, .. } if foreign.is_empty() => Ok(origins),
                FromZygote::Written { foreign, .. } => {
                    Err(format!("code runs in it that may look at anything: {}", foreign.join(", ")))
                }
                FromZygote::Failed { message } => Err(message),
                other => Err(format!("it answered out of turn: {other:?}")),
            }
        };
        let written = until(stop, writing).await;
        self.bury(process).await;
        written
    }

    /// An image of which no process has been woken is none.
    async fn prove(&self, settings: &ZygoteSettings, files: &Files, stop: &CancellationToken) -> Result<(), String> {
        let (mut process, number) = self.spawn(None).await.map_err(|error| error.to_string())?;
        let woken = until(stop, self.wake(&mut process, files, settings, number)).await;
        self.bury(process).await;
        woken.map(drop).map_err(|why| format!("it does not wake: {why}"))
    }
}

async fn until<T>(stop: &CancellationToken, what: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::select! {
        done = what => done,
        () = stop.cancelled() => Err("the server ends".to_owned()),
        () = tokio::time::sleep(LONGEST) => Err(format!("it took longer than {} s", LONGEST.as_secs())),
    }
}
