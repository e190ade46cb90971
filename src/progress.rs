//! What a person sees on a terminal while something takes long: a line on standard error that is gone when it is done.
//!
//! Runs in: any process with a person before it. Nothing is shown where standard error is no terminal that can rewrite a line.
//! What else is written there goes through [`aside`], so that it does not end up in that line.

use std::{
    env,
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

/// The line that is shown, for [`aside`].
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);
const TICK: Duration = Duration::from_millis(120);

/// A line that is shown as long as it lives.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

fn can_rewrite() -> bool {
    let term = env::var("TERM").unwrap_or_default();
    io::stderr().is_terminal() && !term.is_empty() && term != "dumb"
}

/// A line with what is going on, and for how long.
pub(crate) fn of(words: impl Into<String>) -> Progress {
    // Hidden first: a terminal that cannot do it sees nothing at all.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed:>4}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    show(bar, words.into())
}

/// A bar of so many steps.
pub(crate) fn steps(count: u64) -> Progress {
    let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::hidden());
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    show(bar, String::new())
}

fn show(bar: ProgressBar, words: String) -> Progress {
    bar.set_message(words);
    if can_rewrite() {
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.enable_steady_tick(TICK);
        *SHOWN.lock() = Some(bar.clone());
    }
    Progress(bar)
}

impl Progress {
    /// What is going on now.
    pub(crate) fn say(&self, words: impl Into<String>) {
        self.0.set_message(words.into());
    }

    /// So many steps are done.
    pub(crate) fn forward(&self, steps: u64) {
        self.0.inc(steps);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
        *SHOWN.lock() = None;
    }
}

/// Writes to standard error or output beside the line that is shown.
pub(crate) fn aside<R>(write: impl FnOnce() -> R) -> R {
    let shown = SHOWN.lock().clone();
    match shown {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}
