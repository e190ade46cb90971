//! Signs of life. A server writes its own object again and again; the others see that it changes, and count for themselves how
//! long it has not.
//!
//! Runs in: server. No clock of another machine is read. A server whose own sign could not be written for a while is in doubt: others
//! may count it as ended soon, so it has to ask the store before it goes on with a session. It is in doubt long before that.

use std::{
    fs,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{
    error::StoreError,
    facts::{Holder, beat, sign_of},
    handle::Store,
};

/// Signs that may be missing before a server is in doubt of itself, and before others count it as ended.
const DOUBT: u32 = 3;
const ENDED: u32 = 12;
/// Before what it has left is removed.
const FORGOTTEN: u32 = 720;

/// How long the machine is up, its sleep included.
fn uptime() -> Duration {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

impl Store {
    /// Gives a sign of life.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn beat(&self) -> Result<(), StoreError> {
        let beats = &self.0.beats;
        // As of now, not as of when it has been written.
        let now = uptime();
        self.is_there().await?;
        let count = beats.last.lock().1 + 1;
        let sealed = self.0.seals.seal(&beats.own, &count.to_le_bytes())?;
        self.0.objects.put(&beats.own, sealed).await?;
        // Not into what is there instead since a moment ago.
        self.is_there().await?;
        let mut last = beats.last.lock();
        if last.1 > 0 && uptime().saturating_sub(last.0) > beat() * DOUBT {
            beats.silences.fetch_add(1, Ordering::Relaxed);
        }
        *last = (now, count);
        Ok(())
    }

    /// Looks at those of the others.
    async fn watch(&self) -> Result<(), StoreError> {
        let listed = self.0.objects.list("servers").await?;
        let mut old = Vec::new();
        {
            let mut seen = self.0.beats.seen.lock();
            for listed in listed {
                let (tag, since) = seen.entry(listed.name.clone()).or_insert((None, Instant::now()));
                if tag.as_ref() != Some(&listed.tag) {
                    (*tag, *since) = (Some(listed.tag), Instant::now());
                } else if since.elapsed() > beat() * FORGOTTEN {
                    old.push(listed.name);
                }
            }
            seen.retain(|_, (_, since)| since.elapsed() < beat() * FORGOTTEN * 2);
        }
        for instance in old {
            let _ = self.0.objects.remove(&sign_of(&instance)).await;
        }
        Ok(())
    }

    /// Gives signs and looks at others, until the task is dropped.
    pub(crate) async fn live(self) {
        let mut is_lost = false;
        loop {
            tokio::time::sleep(beat()).await;
            let done = match self.beat().await {
                Ok(()) => self.watch().await,
                Err(error) => Err(error),
            };
            match (&done, is_lost) {
                (Err(error), false) => tracing::warn!("no sign of life in the store: {error}"),
                (Ok(()), true) => tracing::info!("the store answers again"),
                _ => {}
            }
            is_lost = done.is_err();
        }
    }

    /// The server ends: no sign comes any more.
    pub(crate) async fn leave(&self) {
        let _ = self.0.objects.remove(&self.0.beats.own).await;
    }

    /// For how long this server has given no sign, when that is long enough for doubt.
    #[must_use]
    pub(crate) fn in_doubt(&self) -> Option<Duration> {
        let silent = uptime().saturating_sub(self.0.beats.last.lock().0);
        (silent > beat() * DOUBT).then_some(silent)
    }

    /// How often this server was silent for so long that others may have counted it as ended, and has given signs again.
    #[must_use]
    pub(crate) fn silences(&self) -> u64 {
        self.0.beats.silences.load(Ordering::Relaxed)
    }

    /// For how long no sign of a server has come, and whether it counts as ended.
    #[must_use]
    pub(crate) fn silence_of(&self, holder: &Holder) -> (Duration, bool) {
        let mut seen = self.0.beats.seen.lock();
        // One that has never been seen is watched from now on.
        let (_, since) = seen.entry(holder.instance.clone()).or_insert((None, Instant::now()));
        let silent = since.elapsed();
        (silent, silent > beat() * ENDED)
    }
}
