//! Looking at what a process has written while it runs: the one who follows it answers.
//!
//! Runs in: server. Owns no output: `streams.rs` has it.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::live::Live;

/// What something that runs has written since the last look.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Up to where that goes.
    pub(crate) up_to: [u64; 2],
}

/// For the one who looks.
#[derive(Debug, Clone)]
pub(crate) struct Peephole(mpsc::UnboundedSender<Peek>);

/// For the one who has the output.
#[derive(Debug)]
pub(crate) struct Looks(mpsc::UnboundedReceiver<Peek>);

/// A look: from where on, and where the answer goes.
#[derive(Debug)]
pub(super) struct Peek {
    pub(super) from: [u64; 2],
    pub(super) reply: oneshot::Sender<Look>,
}

/// Who hears of output at once, and who looks at it when asked.
#[derive(Debug, Default)]
pub(crate) struct Audience {
    pub(crate) live: Option<Arc<Live>>,
    pub(crate) looks: Option<Looks>,
}

/// Both ends.
pub(crate) fn peephole() -> (Peephole, Looks) {
    let (ask, asked) = mpsc::unbounded_channel();
    (Peephole(ask), Looks(asked))
}

impl Peephole {
    /// What has been written beyond these bytes of the two streams, while it is being followed.
    pub(crate) async fn look(&self, from: [u64; 2]) -> Option<Look> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Peek { from, reply }).ok()?;
        answer.await.ok()
    }
}

impl Looks {
    /// The next one. Cancel-safe.
    pub(super) async fn next(looks: &mut Option<Self>) -> Peek {
        if let Some(Self(asked)) = looks
            && let Some(peek) = asked.recv().await
        {
            return peek;
        }
        std::future::pending().await
    }
}

/// What several things in a row have written: most of it, from its end.
#[derive(Debug, Default)]
pub(crate) struct Past(Mutex<[Stretch; 2]>);

#[derive(Debug, Default)]
struct Stretch {
    /// The end of it.
    text: String,
    /// Bytes before `text`.
    before: u64,
}

/// Bytes of each stream.
const MAX_PAST: usize = 64 << 10;

impl Past {
    /// The next has ended, and has written this.
    pub(crate) fn add(&self, stdout: &str, stderr: &str) {
        for (stretch, text) in self.0.lock().iter_mut().zip([stdout, stderr]) {
            stretch.text.push_str(text);
            let excess = stretch.text.len().saturating_sub(MAX_PAST);
            let cut = stretch.text.ceil_char_boundary(excess);
            stretch.text.drain(..cut);
            stretch.before += cut as u64;
        }
    }

    pub(crate) fn look(&self, from: [u64; 2]) -> Look {
        let stretches = self.0.lock();
        let since = |stretch: &Stretch, from: u64| {
            let known = usize::try_from(from.saturating_sub(stretch.before)).unwrap_or(usize::MAX);
            let new = stretch.text.get(known.min(stretch.text.len())..).unwrap_or_default();
            let left_out = stretch.before.saturating_sub(from);
            if left_out > 0 { format!("[... {left_out} bytes left out ...]\n{new}") } else { new.to_owned() }
        };
        let [out, err] = &*stretches;
        let up_to = [out, err].map(|stretch| stretch.before + stretch.text.len() as u64);
        Look { stdout: since(out, from[0]), stderr: since(err, from[1]), up_to }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_is_told_once_and_of_a_flood_its_end() {
        let past = Past::default();
        past.add("one\n", "");
        let first = past.look([0, 0]);
        assert_eq!((first.stdout.as_str(), first.up_to), ("one\n", [4, 0]));
        past.add("zwölf\n", "oh");
        let second = past.look(first.up_to);
        assert_eq!((second.stdout.as_str(), second.stderr.as_str()), ("zwölf\n", "oh"));
        past.add(&"ä".repeat(MAX_PAST), "");
        let third = past.look(second.up_to);
        assert!(third.stdout.starts_with("[... ") && third.stdout.len() < MAX_PAST + 100);
        assert_eq!(past.look(third.up_to).stdout, "");
    }
}
