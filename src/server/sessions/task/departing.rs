//! A session leaves this server: it falls asleep, what it has is given out, and it stands still until it is known whether it is gone.
//!
//! Runs in: server, in the session's task. Knows no store: who asks for this puts it there (`moves/away`), and decides. Until then
//! nothing is lost: where the answer is no, or none comes, the session sleeps here and wakes when it is used.

use std::{future::pending, sync::Arc, time::Instant};

use super::{question::turn_away, sleeping::CONFINED, state::Task};
use crate::{
    protocol::Confinement,
    server::{
        health::errand::Errand,
        sessions::{
            death::Fate,
            images::about::{About, packages},
            orders::{BrokenOff, Departing, Departure, SessionError},
        },
    },
};

impl Task {
    /// True when it is gone.
    pub(super) async fn depart(&mut self, departure: Departure) -> bool {
        let Departure { insists, ready, gone } = departure;
        let made = self.made_to_leave(insists).await;
        let is_ready = made.is_ok();
        if ready.send(made).is_err() || !is_ready || gone.await.is_err() {
            return false;
        }
        // An image of which the store has a copy.
        self.asleep = None;
        let words = format!(
            "session {:?} was put away into the store while this waited; it was not run. Call again: the session is brought back",
            self.id
        );
        while let Ok(order) = self.orders.try_recv() {
            turn_away(order, words.clone(), Fate::Kept, &self.shared);
        }
        true
    }

    async fn made_to_leave(&mut self, insists: bool) -> Result<Departing, SessionError> {
        let gives_way = |session: &str| SessionError::BrokenOff {
            session: session.to_owned(),
            errand: Errand::Sleep,
            why: BrokenOff::GivesWay,
        };
        if !insists && !self.orders.is_empty() {
            return Err(gives_way(&self.id));
        }
        let began = Instant::now();
        if self.asleep.is_none() {
            match self.fall_asleep(pending(), !insists).await {
                Ok(_) => {}
                Err(SessionError::Awake { why, .. })
                    if self.worker.is_some() && self.owed.is_none() && (insists || why == [CONFINED]) =>
                {
                    self.fall_asleep_by_value(insists, began).await?;
                }
                Err(error) => return Err(error),
            }
        }
        if !insists && !self.orders.is_empty() {
            return Err(gives_way(&self.id));
        }
        let image = self.asleep.clone().ok_or_else(|| gives_way(&self.id))?;
        let about = match (&self.adopted, &image.base) {
            (Some(about), _) => About { description: self.shared.get().description, ..about.clone() },
            (None, base) => {
                let about = self.about(self.tip);
                let python = about.python.clone();
                let listed = tokio::task::spawn_blocking(move || packages(&python)).await.unwrap_or_default();
                About { base: base.as_ref().map(|base| base.id).unwrap_or_default(), packages: listed, ..about }
            }
        };
        Ok(Departing { image, about })
    }

    /// With its variables alone. Unless the server insists only where none of them is left out.
    async fn fall_asleep_by_value(&mut self, insists: bool, began: Instant) -> Result<(), SessionError> {
        let (image, about) = self.values_of_now(pending()).await?;
        let left_out = about.by_value.iter().flat_map(|(_, left_out)| left_out);
        let named: Vec<String> = left_out.map(|(name, why)| format!("{name} ({why})")).collect();
        if !insists && !named.is_empty() {
            self.settle();
            let why = vec![format!("it can be put away by value only, and not all of it: {}", named.join(", "))];
            let (session, has_worker) = (self.id.to_string(), true);
            return Err(SessionError::Awake { session, why, has_worker });
        }
        debug_assert!(insists || self.limits.confinement != Confinement::Off, "others are put away whole");
        let _ = self.let_go_for(Arc::new(image), began);
        self.adopted = Some(about);
        Ok(())
    }
}
