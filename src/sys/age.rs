//! Moments on their way to another program: by the clock on the wall, since the one that measures has no number that could be written.
//!
//! Runs in: server. For serde: `#[serde(with = "age")]`. A moment that is yet to come arrives as now.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is written of a moment: when it was, since 1970.
fn written(moment: Instant) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(moment.elapsed())
}

fn read(when: Duration) -> Instant {
    before(SystemTime::now().duration_since(UNIX_EPOCH + when).unwrap_or_default())
}

pub(crate) fn serialize<S: Serializer>(moment: &Instant, serializer: S) -> Result<S::Ok, S::Error> {
    written(*moment).serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Instant, D::Error> {
    Duration::deserialize(deserializer).map(read)
}

/// What was so long ago.
pub(crate) fn before(age: Duration) -> Instant {
    Instant::now().checked_sub(age).unwrap_or_else(Instant::now)
}

/// The same for what may not be.
pub(crate) mod option {
    use super::{Deserialize, Deserializer, Duration, Instant, Serialize, Serializer, read, written};

    pub(crate) fn serialize<S: Serializer>(moment: &Option<Instant>, serializer: S) -> Result<S::Ok, S::Error> {
        moment.map(written).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Instant>, D::Error> {
        Ok(Option::<Duration>::deserialize(deserializer)?.map(read))
    }
}

/// The same for many.
pub(crate) mod many {
    use std::collections::VecDeque;

    use super::{Deserialize, Deserializer, Duration, Instant, Serializer, read, written};

    pub(crate) fn serialize<S: Serializer>(moments: &VecDeque<Instant>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(moments.iter().copied().map(written))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<VecDeque<Instant>, D::Error> {
        Ok(Vec::<Duration>::deserialize(deserializer)?.into_iter().map(read).collect())
    }
}
