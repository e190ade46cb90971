//! Who has a session: numbered objects, of which the highest counts.
//!
//! Runs in: server. A step is the object with the next number, which can be made once: of two servers that take the same step, one
//! makes it, and the other learns it. The number is what fences: who stands at an older one cannot take a step any more. The
//! highest is never removed, not even that of a session that is gone, so that no number comes twice.

use std::collections::HashMap;

use super::{
    error::StoreError,
    facts::{Held, Lease, State, Whose},
    handle::Store,
};
use crate::server::owner::Owner;

/// Sessions of an owner that are listed.
const LISTED: usize = 500;
/// How often a number is looked for that is removed while it is looked for.
const LOOKS: usize = 5;

impl Store {
    fn owners(&self, owner: &Owner) -> String {
        let (kind, text) = owner.pack();
        format!("sessions/{}", self.0.seals.name(&[b"owner", &[kind], text.as_bytes()]))
    }

    fn folder(&self, whose: &Whose) -> String {
        let (kind, text) = whose.owner.pack();
        let name = self.0.seals.name(&[b"session", &[kind], text.as_bytes(), whose.session.as_bytes()]);
        format!("{}/{name}", self.owners(&whose.owner))
    }

    /// Who has a session, if any server ever had one of that name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn look(&self, whose: &Whose) -> Result<Option<Held>, StoreError> {
        let folder = self.folder(whose);
        for _ in 0..LOOKS {
            let Some(number) = self.numbers_in(&folder).await?.into_iter().max() else {
                self.0.numbers.check(&folder, 0)?;
                return self.is_there().await.map(|()| None);
            };
            self.0.numbers.check(&folder, number)?;
            // Another step may have been taken meanwhile, and this one removed.
            if let Some(lease) = self.read(&folder, number).await? {
                return Ok(Some(Held { number, lease }));
            }
        }
        Err(StoreError::Failed("what it lists cannot be read".to_owned()))
    }

    async fn numbers_in(&self, folder: &str) -> Result<Vec<u64>, StoreError> {
        let listed = self.0.objects.list(folder).await?;
        Ok(listed.iter().filter_map(|listed| listed.name.parse().ok()).collect())
    }

    async fn read(&self, folder: &str, number: u64) -> Result<Option<Lease>, StoreError> {
        let name = numbered(folder, number);
        let Some(sealed) = self.0.objects.get(&name).await? else { return Ok(None) };
        let plain = self.0.seals.open(&name, &sealed)?;
        serde_json::from_slice(&plain).map(Some).map_err(|_| StoreError::Damaged(name))
    }

    /// Takes the step after that number. None when another server has taken it; then nothing has changed.
    ///
    /// # Errors
    /// [`StoreError`]; then it is not known whether the step was taken, until it is looked again.
    pub(crate) async fn step(&self, whose: &Whose, after: u64, lease: Lease) -> Result<Option<Held>, StoreError> {
        let (folder, number) = (self.folder(whose), after + 1);
        let name = numbered(&folder, number);
        let plain = serde_json::to_vec(&lease).map_err(|error| StoreError::Failed(error.to_string()))?;
        let made = self.0.objects.create(&name, self.0.seals.seal(&name, &plain)?).await?;
        // It may be ours all the same: made by a request whose answer did not come.
        if !made && self.read(&folder, number).await?.is_none_or(|there| there != lease) {
            return Ok(None);
        }
        self.is_there().await?;
        let numbers = self.numbers_in(&folder).await?;
        if numbers.iter().any(|other| *other > number) {
            // Others have been further for long: this number was free because they had removed it.
            if made {
                let _ = self.0.objects.remove(&name).await;
            }
            return Ok(None);
        }
        self.0.numbers.check(&folder, number)?;
        for old in numbers.into_iter().filter(|old| *old < after) {
            let _ = self.0.objects.remove(&numbered(&folder, old)).await;
        }
        Ok(Some(Held { number, lease }))
    }

    /// Sessions of an owner that servers have, or that lie in the store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn sessions_of(&self, owner: &Owner) -> Result<Vec<Held>, StoreError> {
        let below = self.owners(owner);
        let mut newest: HashMap<String, u64> = HashMap::new();
        for listed in self.0.objects.list(&below).await? {
            if let Some((session, number)) = listed.name.split_once('/')
                && let Ok(number) = number.parse()
            {
                let known = newest.entry(session.to_owned()).or_insert(number);
                *known = number.max(*known);
            }
        }
        let asked = newest.into_iter().take(LISTED).map(|(session, number)| {
            let folder = format!("{below}/{session}");
            async move { self.read(&folder, number).await.ok().flatten().map(|lease| Held { number, lease }) }
        });
        let all = futures::future::join_all(asked).await;
        if all.is_empty() {
            self.is_there().await?;
        }
        Ok(all.into_iter().flatten().filter(|held| held.lease.state != State::Gone).collect())
    }
}

fn numbered(folder: &str, number: u64) -> String {
    format!("{folder}/{number:012}")
}
